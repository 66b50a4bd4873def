"""Runs: any field filters, a page at a time, however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import streamlit as st
from sqlalchemy import Engine

from dashboards.page import show
from dashboards.runs_table import runs_table
from db import browse, bug_reads, listing, reads
from db.browse import NOT_JUDGED, Wanted
from db.bug_reads import reading
from db.states import RUN_STATES
from orchestrator.settings import load_settings

PER_PAGE = 50
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
        nth = int(right.number_input(f"page of {pages}", 1, pages, min(_asked_page(), pages))) if pages > 1 else 1
        if nth != _asked_page():
            st.query_params["page"] = str(nth)
        ids = browse.page(rows, wanted, limit=PER_PAGE, offset=(nth - 1) * PER_PAGE)
        runs = listing.runs(rows, ids=ids) if ids else []
    left.caption(f"{found:,} of {total:,} runs, newest first. What is struck through counts nowhere.")
    if runs:
        show(runs_table(engine, runs))
    else:
        st.info("No run is like that.", icon=":material/filter_alt:")


def _asked_page() -> int:
    text = st.query_params.get("page", "1")
    return max(1, int(text)) if text.isdigit() else 1


def _wanted(engine: Engine, total: int) -> Wanted:
    """What the boxes say; they begin as the address says, and a change of them is written there."""
    first, second, third, fourth, fifth = st.columns([3, 2, 2, 2, 2])
    text = first.text_input("label contains, or id begins with", st.query_params.get("text", ""))
    sweep = second.selectbox("sweep", ["any", *reads.sweep_names(engine)], **_given("sweep", reads.sweep_names(engine)))
    states = third.multiselect("state", RUN_STATES, _several("state", RUN_STATES))
    judged = ("PROVEN", "REFUTED", "UNPROVEN", NOT_JUDGED)
    verdicts = fourth.multiselect("verdict", judged, _several("verdict", judged))
    bugs = [bug.bug for bug in bug_reads.bugs(engine)]
    bug = fifth.selectbox("marked by", ["any", *bugs], **_given("bug", bugs))
    conditions, said = _by_condition(engine, total)
    _remember(
        text=text, sweep="" if sweep == "any" else sweep, state=",".join(states), verdict=",".join(verdicts),
        bug="" if bug == "any" else bug, **said,
    )  # fmt: skip
    return Wanted(
        text=text.strip(), sweep=None if sweep == "any" else sweep, states=tuple(states), verdicts=tuple(verdicts),
        conditions=conditions, bug=None if bug == "any" else bug,
    )  # fmt: skip


def _by_condition(engine: Engine, total: int) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """Ids of the conditions whose chosen fields have the chosen values."""
    fields = _fields(load_settings().registry_url, total, engine)
    asked = [key for key in st.query_params if key in fields]
    keys = st.multiselect(
        "by fields of the condition", list(fields), asked, placeholder="dtype.format, aqn.sigma_start …"
    )
    chosen: tuple[str, ...] | None = None
    said = dict.fromkeys(fields, "")
    for key, column in zip(keys, st.columns(max(1, min(4, len(keys)))) * (1 + len(keys) // 4), strict=False):
        values = fields[key]
        begin = [value for value in st.query_params.get(key, "").split("|") if value in values]
        picked = column.multiselect(key, sorted(values, key=_order)[:MOST_VALUES], begin)
        said[key] = "|".join(picked)
        if picked:
            among = {condition for value in picked for condition in values[value]}
            chosen = tuple(sorted(among if chosen is None else among & set(chosen)))
    return chosen, said


@st.cache_data(ttl=60, max_entries=4, show_spinner=False)
def _fields(_url: str, _total: int, _engine: Engine) -> dict[str, dict[str, list[str]]]:
    """Dotted field → value → conditions that have it; only of fields that differ anywhere."""
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


def _given(parameter: str, options: list[str]) -> dict[str, Any]:
    named = st.query_params.get(parameter)
    return {"index": options.index(named) + 1 if named in options else 0}


def _several(parameter: str, options: tuple[str, ...]) -> list[str]:
    return [value for value in st.query_params.get(parameter, "").split(",") if value in options]


def _remember(**values: str) -> None:
    """In the address, so that it can be sent to somebody."""
    for key, value in values.items():
        if value:
            if st.query_params.get(key) != value:
                st.query_params[key] = value
        elif key in st.query_params:
            del st.query_params[key]
