"""Search: what looks for the noise that helps has found, and what of it was confirmed."""

from __future__ import annotations

import streamlit as st
from sqlalchemy import Engine

from dashboards import figures, search_figures
from dashboards.page import box, chart, lead, link, plain, show
from db import browse
from db.bug_reads import reading
from orchestrator.comparison import recorded_answers
from orchestrator.report.search_sections import confirmed_table, trials_table, withheld
from orchestrator.search.answer import answer
from orchestrator.search.importance import importances
from orchestrator.search.state import read_state


def draw(engine: Engine) -> None:
    st.subheader("Search")
    with reading(engine) as rows:
        searches = [sweep.name for sweep in browse.sweeps(rows, 0.0) if sweep.searches]
    name = box(st, "search", "search", searches, searches[0]) if searches else ""
    state = read_state(engine, name) if searches else None
    if state is None:
        st.info("Nothing was searched yet: `aqn search SPEC` does that.", icon=":material/search:")
        return
    if state.about:
        st.markdown(plain(state.about))
    lead("its runs", link("sweeps", sweep=name))
    with st.spinner("comparing what was confirmed"):
        found = answer(state, recorded_answers(engine))
    if found is None:
        st.warning("Nothing of it is confirmed yet: no score of it is one to report.")
    else:
        st.success(plain(found.sentence))
        if found.pick is not None:
            st.caption(f"Where one has to be taken, selection and confirmation together speak for {found.pick}.")
        show(confirmed_table(state, found))
        compared = [(c.label, c.gain) for c in found.candidates if c.gain is not None]
        if any(gain.treatment.difference is not None for _, gain in compared):
            chart(figures.forest(compared), "forest")
    if not state.trials:
        return
    if state.surface.order:
        st.subheader("History")
        chart(search_figures.history(state), "history")
        st.subheader("Slices through the space")
        chart(search_figures.slices(state), "slices")
        if (drawn := search_figures.plane(state)) is not None:
            st.subheader("What all trials together say, and how surely")
            chart(drawn, "plane")
        if important := importances(state):
            st.subheader("Which field matters")
            chart(search_figures.importance(state, important), "importance")
    st.subheader("Trials")
    show(trials_table(state))
    for line in withheld(state):
        st.caption(plain(line))
