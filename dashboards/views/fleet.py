"""Fleet: who holds GPUs, who waits for them, and how the last attempts went."""

from __future__ import annotations

import time

import streamlit as st
from sqlalchemy import Engine

from dashboards import figures
from dashboards.page import chart, facts, link, plain, show
from db import browse, steering
from db.bug_reads import reading
from db.steering import OpenRun
from orchestrator.numbers import duration
from orchestrator.report.document import Cell, Row, table

MOST_QUEUED = 200
WINDOWS = {"20 attempts": 20, "60 attempts": 60, "200 attempts": 200}


def draw(engine: Engine) -> None:
    st.subheader("Fleet")
    now = time.time()
    found = steering.open_runs(engine)
    running = sorted((run for run in found if run.state == "running"), key=lambda run: run.label)
    waiting = sorted((run for run in found if run.state == "queued"), key=lambda r: (-r.priority, r.created_at, r.id))
    drained = steering.drained(engine)
    facts(
        [
            ("GPUs held", str(sum(run.gpus for run in running))),
            ("running", str(len(running))),
            ("waiting", str(len(waiting))),
            ("new starts", "drained" if drained else "as GPUs come free"),
        ]
    )
    if drained:
        st.warning(f"Drained ({plain(str(drained['why']))}): nothing starts; `aqn drain --off` ends it.")
    paused = {name: said.paused for name, said in steering.sweep_controls(engine).items() if said.paused}
    for name, why in paused.items():
        st.warning(f"{plain(name)} is paused ({plain(str(why['why']))}); `aqn resume` goes on.")
    if running:
        st.subheader("Running")
        names = ("run", "attempt", "machine", "GPUs", "step", "since", "last word")
        show(table(names, [_under_way(run, now) for run in running], right=("attempt", "GPUs", "step")))
    if waiting:
        st.subheader("Waiting, in the order in which they would start")
        queue = [
            (
                Cell(run.label, href=link("run", run=run.id)), str(run.priority), str(run.gpus),
                duration(now - run.created_at), _why_waiting(run, paused, now, drained=drained is not None),
            )
            for run in waiting[:MOST_QUEUED]
        ]  # fmt: skip
        show(table(("run", "priority", "GPUs", "for", "waits for"), queue, right=("priority", "GPUs")))
        if len(waiting) > MOST_QUEUED:
            st.caption(f"The first {MOST_QUEUED} of {len(waiting)}.")
    st.subheader("Time line")
    most = WINDOWS[st.radio("the newest", list(WINDOWS), horizontal=True) or "20 attempts"]
    with reading(engine) as rows:
        spans = browse.spans(rows, most)
    if spans:
        chart(figures.timeline(spans, now), "timeline")
    else:
        st.info("Nothing has started yet.", icon=":material/inbox:")


def _under_way(run: OpenRun, now: float) -> Row:
    attempt = run.attempt
    total = run.plan.get("total_steps")
    return (
        Cell(run.label, href=link("run", run=run.id)),
        str(attempt.number) if attempt else "–",
        (attempt.node or attempt.placed or "–") if attempt else "–",
        str(run.gpus),
        f"{attempt.last_step} of {total}" if attempt and run.kind == "train" else "–",
        duration(now - attempt.created_at) if attempt else "–",
        f"{duration(now - attempt.last_event_at)} ago" if attempt and attempt.last_event_at else "none yet",
    )


def _why_waiting(run: OpenRun, paused: dict[str, dict[str, object]], now: float, *, drained: bool) -> str:
    if drained:
        return "the drain's end"
    if run.first is not None and run.first[0] != "succeeded":
        return "a run that it needs"
    if run.not_before is not None and run.not_before > now:
        return f"its next attempt, in {duration(run.not_before - now)}"
    if run.sweeps and all(sweep in paused for sweep in run.sweeps):
        return "its sweep, which is paused"
    return "GPUs, its turn, or its sweep's budget"
