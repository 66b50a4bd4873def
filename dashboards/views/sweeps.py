"""Sweeps: how far they are, what is left, and of one its curves, its contrasts and its runs."""

from __future__ import annotations

import time

import streamlit as st
from sqlalchemy import Engine

from dashboards import figures
from dashboards.page import box, chart, facts, lead, link, mlflow_link, plain, show
from dashboards.runs_table import runs_table
from db import browse, reads
from db.browse import SweepSummary
from db.bug_reads import reading
from orchestrator.comparison import declared
from orchestrator.mlflow_pages import sweep_address
from orchestrator.numbers import bare_p, duration, points
from orchestrator.remaining import seconds_left
from orchestrator.report.document import Cell, table

MOST_RUNS = 400
"""Of one sweep's runs on a page; more of them are on the page of runs."""


def draw(engine: Engine) -> None:
    now = time.time()
    with reading(engine) as rows:
        found = browse.sweeps(rows, now)
    if not found:
        st.info("Nothing was submitted yet: `aqn submit SPEC` records a sweep.", icon=":material/inbox:")
        return
    if "sweep" not in st.query_params:
        _overview(engine, found, now)
        return
    name = box(st, "sweep", "sweep", [sweep.name for sweep in found], "")
    summary = next((sweep for sweep in found if sweep.name == name), None)
    lead("all sweeps", link("sweeps"))
    if summary is None:
        st.warning(f"There is no sweep {plain(name)}.")
    else:
        _sweep(engine, summary, now)


def _overview(engine: Engine, found: list[SweepSummary], now: float) -> None:
    st.subheader("Sweeps")
    rows = []
    for sweep in found:
        open_runs = sweep.in_state("queued", "running")
        left = (
            seconds_left(reads.runs(engine, sweep=sweep.name), now) if open_runs and sweep.runs <= MOST_RUNS else None
        )
        rows.append(
            (
                Cell(sweep.name, href=link("sweeps", sweep=sweep.name), note=sweep.about),
                _progress(sweep),
                ", ".join(
                    f"{many} {word}" for word in ("PROVEN", "REFUTED", "UNPROVEN") if (many := sweep.with_verdict(word))
                ) or "–",
                duration(left) if left is not None else "–" if not open_runs else "not known yet",
                _hours(sweep),
                _day(sweep.submitted_at),
            )
        )  # fmt: skip
    columns = ("sweep", "runs", "verdicts", "time left", "GPU-hours", "submitted (UTC)")
    show(table(columns, rows, right=("GPU-hours",)))


def _hours(sweep: SweepSummary) -> str:
    return f"{sweep.gpu_hours:.2f}" + (f" of {sweep.budget:g}" if sweep.budget is not None else "")


def _progress(sweep: SweepSummary) -> Cell:
    states = ("running", "queued", "failed", "cancelled")
    words = ", ".join(f"{many} {state}" for state in states if (many := sweep.in_state(state)))
    return Cell(
        f"{sweep.in_state('succeeded')} of {sweep.runs} done", note=words + ("; paused" if sweep.paused else "")
    )


def _sweep(engine: Engine, sweep: SweepSummary, now: float) -> None:
    if sweep.about:
        st.markdown(f"**{plain(sweep.name)}**: {plain(sweep.about)}")
    runs = reads.runs(engine, sweep=sweep.name, limit=MOST_RUNS)
    done = sweep.in_state("succeeded", "failed", "cancelled")
    if sweep.in_state("queued", "running"):
        left = seconds_left(runs, now) if sweep.runs <= len(runs) else None
        st.progress(
            done / sweep.runs, f"{done} of {sweep.runs} ended" + (f", about {duration(left)} left" if left else "")
        )
    facts(
        [
            ("runs", f"{done} of {sweep.runs} ended"),
            ("PROVEN", str(sweep.with_verdict("PROVEN"))),
            ("GPU-hours", _hours(sweep)),
            ("submitted, UTC", _day(sweep.submitted_at)),
        ]
    )
    if sweep.searches:
        lead("what this search found", link("search", search=sweep.name))
    if any(run.mlflow_run and run.sweeps[0] == sweep.name for run in runs):  # a run is shown with its first sweep
        mlflow_link(sweep_address, sweep.name)
    if any(run.curve for run in runs):
        chart(figures.curves(runs), "curves")
    _contrasts(engine, sweep.name)
    if sweep.runs > len(runs):
        st.caption(f"The newest {len(runs)} of {sweep.runs} runs.")
    show(runs_table(engine, list(reversed(runs))))


def _contrasts(engine: Engine, name: str) -> None:
    found = [(contrast, one) for contrast in declared(engine, name) for one in contrast.comparisons]
    if not found:
        return
    st.subheader("Declared contrasts")
    rows = [
        (
            contrast.name,
            Cell(
                f"{one.first.label} → {one.second.label}",
                href=link("compare", a=one.first.label, b=one.second.label, sweep=name),
            ),
            str(one.treatment.seeds), points(one.treatment.difference, one.treatment.low, one.treatment.high),
            bare_p(one.adjusted.p), Cell(one.verdict, strong=one.verdict in ("higher", "lower", "equivalent")),
        )
        for contrast, one in found
    ]  # fmt: skip
    columns = ("contrast", "from → to", "seeds", "points [95 %]", "p, Holm", "verdict")
    caption = (
        f"t intervals over per-seed paired differences; p corrected by Holm over all {len(found)}. Not distinguishable"
        " is no proof of equality."
    )
    show(table(columns, rows, right=("seeds", "points [95 %]", "p, Holm"), caption=caption))
    if any(one.treatment.difference is not None for _, one in found):
        chart(figures.forest([(f"{o.first.label} → {o.second.label}", o) for _, o in found]), "forest")


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))
