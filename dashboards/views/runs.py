"""Runs: any field filters, a page at a time, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import streamlit as st
from sqlalchemy import Engine

from dashboards.page import box, keep, many, show
from dashboards.runs_table import runs_table
from db import browse, bug_reads, listing, reads
from db.browse import NOT_JUDGED, Wanted
from db.bug_reads import reading
from db.states import RUN_STATES
from orchestrator.settings import load_settings

PER_PAGE = 50
ANY = "any"
OWN = {"text", "sweep", "state", "verdict", "bug", "page"}
"""Parameters of the address that are no fields of a condition."""
MOST_VALUES = 60
"""Of one field in its box."""


def draw(engine: Engine) -> None:
    with reading(engine) as rows:
        total = browse.count(rows, Wanted())
    if not total:
        st.info("No run was submitted yet: `aqn submit SPEC` does that.", icon=":material/inbox:")
        return
    st.subheader("Runs")
    wanted = _wanted(engine, total)
    with reading(engine) as rows:
        found = browse.count(rows, wanted)
        pages = max(1, -(-found // PER_PAGE))
        left, right = st.columns([5, 1], vertical_alignment="bottom")
        nth = _page(right, pages)
        ids = browse.page(rows, wanted, limit=PER_PAGE, offset=(nth - 1) * PER_PAGE)
        runs = listing.runs(rows, ids=ids) if ids else []
    left.caption(f"{found:,} of {total:,} runs, newest first. What is struck through counts nowhere.")
    if runs:
        show(runs_table(engine, runs))
    else:
        st.info("No run is like that.", icon=":material/filter_alt:")


def _page(place: Any, pages: int) -> int:
    if "page" not in st.session_state:
        text = st.query_params.get("page", "1")
        st.session_state["page"] = int(text) if text.isascii() and text.isdecimal() else 1
    st.session_state["page"] = min(pages, max(1, int(st.session_state["page"])))
    nth = int(place.number_input(f"page of {pages}", 1, pages, key="page")) if pages > 1 else 1
    keep("page", str(nth) if nth > 1 else "")
    return nth


def _wanted(engine: Engine, total: int) -> Wanted:
    """What the boxes say; they begin as the address says, and a change of them is written there."""
    first, second, third, fourth, fifth = st.columns([3, 2, 2, 2, 2])
    if "text" not in st.session_state:
        st.session_state["text"] = st.query_params.get("text", "")
    text = str(first.text_input("label contains, or id begins with", key="text"))
    keep("text", text)
    sweep = box(second, "sweep", "sweep", [ANY, *reads.sweep_names(engine)], ANY)
    states = many(third, "state", "state", RUN_STATES)
    verdicts = many(fourth, "verdict", "verdict", ("PROVEN", "REFUTED", "UNPROVEN", NOT_JUDGED))
    bug = box(fifth, "bug", "marked by", [ANY, *(bug.bug for bug in bug_reads.bugs(engine))], ANY)
    return Wanted(
        text=text.strip(), sweep=None if sweep == ANY else sweep, states=tuple(states), verdicts=tuple(verdicts),
        conditions=_by_condition(engine, total), bug=None if bug == ANY else bug,
    )  # fmt: skip


def _by_condition(engine: Engine, total: int) -> tuple[str, ...] | None:
    """Ids of the conditions whose chosen fields have the chosen values; None where no field is asked for."""
    fields = _fields(load_settings().registry_url, total, engine)
    if "fields" not in st.session_state:
        st.session_state["fields"] = [key for key in st.query_params if key not in OWN]
    shown = [*fields, *(key for key in st.session_state["fields"] if key not in fields)]
    keys = st.multiselect(
        "by fields of the condition", shown, key="fields", placeholder="dtype.format, aqn.sigma_start …"
    )
    for key in [key for key in st.query_params if key not in OWN and key not in keys]:
        keep(key, "")
    chosen: set[str] | None = None
    columns = st.columns(4) if keys else []
    for nth, key in enumerate(keys):
        values = fields.get(key, {})
        listed = sorted(values, key=_order)
        picked = many(columns[nth % 4], key, key, listed[:MOST_VALUES])
        if len(listed) > MOST_VALUES:
            columns[nth % 4].caption(
                f"the first {MOST_VALUES} of {len(listed)} values; others by the address: `{key}=…`"
            )
        if picked:
            among = {condition for value in picked for condition in values.get(value, ())}
            chosen = among if chosen is None else among & chosen
    return None if chosen is None else tuple(sorted(chosen))


@st.cache_data(ttl=60, max_entries=4, show_spinner=False)
def _fields(url: str, total: int, _engine: Engine) -> dict[str, dict[str, list[str]]]:
    """Dotted field → value → conditions that have it; only of fields that differ anywhere. Kept for a minute, or until
    another number of runs is there (``url`` and ``total`` are what it is kept by)."""
    found: dict[str, dict[str, list[str]]] = {}
    with reading(_engine) as rows:
        bodies = browse.trained_conditions(rows)
    for condition, body in bodies.items():
        for key, value in _flat("", body):
            found.setdefault(key, {}).setdefault(value, []).append(condition)
    return {
        key: values
        for key, values in sorted(found.items())
        if all(len(having) < len(bodies) for having in values.values())
    }


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else key, inner)
    else:
        yield name, "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _order(value: str) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value
