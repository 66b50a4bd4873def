"""Bugs: whom each affects, where nobody can tell, and what was rerun."""

from __future__ import annotations

from collections import Counter

import streamlit as st
from sqlalchemy import Engine

from dashboards.page import box, link, plain, show
from db import bug_reads
from orchestrator.report.document import Cell, Row, table
from orchestrator.report.gather import BugMaterial, bug_materials
from orchestrator.report.run_sections import UNSEEN

STATES = ("affected", "unknown", "waived", "resolved")
MOST_MARKS = 300


def draw(engine: Engine) -> None:
    st.subheader("Bugs")
    applied = bug_reads.bugs(engine)
    if not applied:
        st.info(
            "No bug rule was applied yet: `aqn bugs list` shows those that are shipped, `aqn bugs check BUG` whom one"
            " affects, `aqn bugs apply BUG` marks them.",
            icon=":material/bug_report:",
        )
        return
    counts = bug_reads.mark_counts(engine)
    judged, _ = bug_reads.stamp(engine)
    rows: list[Row] = [
        (
            Cell(bug.bug, href=link("bugs", bug=bug.bug), note=bug.title), bug.status, bug.disposition,
            *(str(counts.get(bug.bug, {}).get(state, 0)) for state in STATES),
            f"{judged - sum(counts.get(bug.bug, {}).get(state, 0) for state in STATES):,}",
        )
        for bug in applied
    ]  # fmt: skip
    columns = ("bug", "status", "to be done", *STATES, "clean")
    caption = "Marks by state. Clean: of the runs that ended and the claims, those that the rule does not mark."
    show(table(columns, rows, right=columns[3:], caption=caption))
    name = box(st, "bug", "a bug's marks", [bug.bug for bug in applied], applied[0].bug)
    found = next((one for one in bug_materials(engine, None) if one.bug.bug == name), None)
    if found is None:
        st.warning(f"No bug {plain(name)} was applied.")
    else:
        _marks(engine, found)


def _marks(engine: Engine, found: BugMaterial) -> None:
    """Whom it marks, by which facts, and what was rerun."""
    st.markdown(
        f"**{plain(found.bug.title.rstrip('.'))}.** Version {found.bug.version}, {found.bug.status};"
        f" by {plain(found.bug.by)}."
    )
    states = Counter(mark.state for mark in found.marks)
    wanted = st.pills(
        "marks", [s for s in STATES if states[s]], selection_mode="multi", default=[s for s in STATES if states[s]]
    )
    names = bug_reads.names(engine)
    claims = {claim.id for claim in bug_reads.claims(engine, ids=[mark.subject for mark in found.marks])}
    shown = [mark for mark in found.marks if mark.state in wanted]
    marked: list[Row] = []
    for mark in shown[:MOST_MARKS]:
        again = found.reruns.get(mark.subject, ())
        made = ", ".join(f"{run[:10]} {verdict or state}" for run, state, verdict in again)
        unseen = any(UNSEEN in fact for fact in mark.facts)
        marked.append(
            (
                Cell(
                    names.get(mark.subject, mark.subject),
                    href="" if mark.subject in claims else link("run", run=mark.subject),
                    note="a claim: aqn show has it" if mark.subject in claims else "",
                ),
                mark.state,
                Cell("; ".join(mark.facts), note="rests on something that was never recorded" if unseen else ""),
                Cell(made, href=link("run", run=again[-1][0])) if made else Cell("not rerun"),
                mark.why or "–",
            )
        )
    if len(shown) > MOST_MARKS:
        st.caption(f"The first {MOST_MARKS} of {len(shown)} marks.")
    show(table(("run or claim", "mark", "by these facts", "rerun", "why"), marked))
    st.caption(
        f"`aqn rerun-tagged {found.bug.bug} --dry-run` says what would be run anew;"
        f" `aqn bugs check {found.bug.bug}` lists the clean ones too."
    )
