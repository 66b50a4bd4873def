"""A run: condition, curve, noise as planned and realised, evidence, attempts, and the end of its log."""

from __future__ import annotations

import os
import time
from pathlib import Path

import streamlit as st
from sqlalchemy import Engine

from dashboards import figures
from dashboards.page import chart, facts, lead, link, mlflow_link, plain, show
from db import bug_reads, reads
from db.records import Run
from orchestrator.counts import counts_of, in_words
from orchestrator.evidence_words import condition_lines, measured_lines
from orchestrator.mlflow_pages import run_address
from orchestrator.numbers import duration, percent_with_interval
from orchestrator.remaining import seconds_left
from orchestrator.report.document import Cell, Row, table
from orchestrator.runs_json import standing
from workers.launch import LOG_NAME

LOG_BYTES = 64_000
LOG_LINES = 80
NEWEST = 200


def draw(engine: Engine) -> None:
    named = st.query_params.get("run")
    if named is None:
        known = reads.runs(engine, limit=NEWEST)
        if not known:
            st.info("No run was submitted yet: `aqn submit SPEC` does that.", icon=":material/inbox:")
            return
        names = {run.id: f"{run.label}, seed {run.seed} · {run.id[:10]}" for run in known}
        named = str(st.selectbox("run", list(names), key="newest", format_func=lambda run_id: names[run_id]))
    run = reads.run(engine, named)
    if run is None:
        st.warning(f"There is no run {plain(named)}.")
    else:
        _draw_run(engine, run)


def _draw_run(engine: Engine, run: Run) -> None:
    now = time.time()
    st.subheader(plain(run.label) + (f", seed {run.seed}" if run.kind != "scan" else ""))
    st.caption(f"run `{run.id}`")
    for name in run.sweeps:
        lead(f"in sweep {name}", link("sweeps", sweep=name))
    if run.mlflow_run:
        mlflow_link(run_address, run.mlflow_run)
    _verdict(run)
    if run.kind == "scan":
        if run.verdict == "PROVEN":
            lead("A layer scan: what it found in each layer", link("srdd", scan=run.id))
        _attempts(engine, run)
        _log(run)
        return
    _numbers(run, now)
    if run.curve:
        chart(figures.curves([run]), "curve")
    measured = reads.evidence(engine, run.attempt.id) if run.attempt else []
    syncs = [
        fact.data for fact in measured if fact.kind == "sync" and {"sigma_planned", "realised"} <= fact.data.keys()
    ]
    if any(sync["sigma_planned"] > 0 for sync in syncs):
        st.subheader("Noise, planned and realised")
        chart(figures.sigma(syncs), "sigma")
    left_side, right_side = st.columns(2)
    with left_side:
        st.subheader("Condition")
        show(table(("field", "value"), condition_lines(run)))
    with right_side:
        st.subheader("What was measured")
        lines = measured_lines(run, measured)
        if (counts := counts_of(engine, [run]).get(run.id)) is not None:
            lines.append(("counted", in_words(counts)))
        show(table(("what", "found"), lines or [("–", "nothing yet")]))
    _bugs_and_links(engine, run)
    _attempts(engine, run)
    _log(run)


def _numbers(run: Run, now: float) -> None:
    score = run.score
    step = run.attempt.last_step if run.attempt else 0
    struck = not run.valid and run.verdict is not None
    facts(
        [
            ("state", run.state),
            *([("training step", f"{step} of {run.total_steps}")] if run.kind == "train" else []),
            (
                f"score ({run.score_rule.get('rule')}, {run.score_rule.get('mode')} mode)",
                Cell(f"{score.k}/{score.n * score.samples}" if score else "–", struck=struck),
            ),
            ("in percent [95 %]", Cell(percent_with_interval(score) if score else "–", struck=struck)),
        ]
    )
    if run.kind == "train" and run.state == "running" and (left := seconds_left([run], now)) is not None:
        st.progress(min(1.0, step / run.total_steps), f"step {step} of {run.total_steps}, about {duration(left)} left")


def _verdict(run: Run) -> None:
    if run.verdict == "PROVEN" and run.valid:
        st.success("PROVEN: what was measured agrees with the condition in everything.", icon=":material/verified:")
    elif run.verdict == "PROVEN":
        st.warning(f"PROVEN, and its score does not count: {plain(standing(run))}.", icon=":material/strikethrough_s:")
    elif run.verdict is not None:
        reasons = "".join(f"\n* {plain(reason)}" for reason in run.reasons)
        kind = st.error if run.verdict == "REFUTED" else st.warning
        kind(f"{run.verdict}: its score does not count.{reasons}", icon=":material/strikethrough_s:")
    elif run.state in ("failed", "cancelled"):
        st.warning(
            f"{run.state.capitalize()}: there is no verdict on a run that did not end its plan.",
            icon=":material/block:",
        )


def _bugs_and_links(engine: Engine, run: Run) -> None:
    marks = [mark for mark in run.marks if mark.state != "withdrawn"]
    if marks:
        st.subheader("Bugs")
        rows = [
            (Cell(mark.bug, href=link("bugs", bug=mark.bug)), mark.state, "; ".join(mark.facts), mark.why or "–")
            for mark in marks
        ]
        show(table(("bug", "mark", "by these facts", "why"), rows))
    if run.links:
        st.subheader("Links")
        names = bug_reads.names(engine)
        linked: list[Row] = []
        for one in run.links:
            other = one.target if one.source == run.id else one.source
            said = one.kind if one.source == run.id else f"{one.kind}, of it"
            linked.append((said, Cell(f"{names.get(other, other)} {other[:10]}", href=link("run", run=other)), one.why))
        show(table(("kind", "run", "why"), linked))


def _attempts(engine: Engine, run: Run) -> None:
    if run.attempts:
        st.subheader("Attempts")
        rows = []
        for attempt in run.attempts:
            retry = attempt.retry or {}
            decided = f"{retry['cause']}; {retry['rule']}" if "cause" in retry else "–"
            rows.append(
                (
                    str(attempt.number), attempt.state,
                    f"from step {attempt.resumed_step}" if attempt.resumed_step else "from the start",
                    str(attempt.last_step), _clock(attempt.created_at),
                    duration((attempt.ended_at or time.time()) - attempt.created_at), attempt.node or "–",
                    "–" if attempt.exit_code is None else str(attempt.exit_code),
                    Cell(decided, note=str(retry.get("line") or "")),
                )
            )  # fmt: skip
        columns = ("attempt", "state", "began", "last step", "at (UTC)", "took", "machine", "exit", "why it ended")
        show(table(columns, rows, right=("last step", "exit")))
    with st.expander("Every change of its state"):
        history = reads.transitions(engine, run.id)
        show(table(("at (UTC)", "from", "to", "why"), [(_clock(at), b or "–", a, why) for at, b, a, why in history]))


def _log(run: Run) -> None:
    if run.attempt is None:
        return
    path = Path(run.attempt.run_dir) / LOG_NAME
    with st.expander(f"The end of its log ({path})", expanded=run.state in ("running", "failed")):
        try:
            with path.open("rb") as handle:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - LOG_BYTES))
                lines = handle.read().decode("utf-8", errors="replace").splitlines()
        except OSError as error:
            st.caption(f"It cannot be read here: {error.strerror or error}.")
        else:
            st.code("\n".join(lines[-LOG_LINES:]) or "(empty)", language=None)


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))
