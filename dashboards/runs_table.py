"""Runs as a table, one line each, for the pages that list them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Engine

from dashboards.page import link, run_link
from db.records import Run
from orchestrator.comparison import evaluations_for
from orchestrator.report.difference_sections import arm_words
from orchestrator.report.document import Cell, Row, Table, table
from orchestrator.report.run_sections import score_cell
from orchestrator.runs_json import standing
from orchestrator.scores import arms


def runs_table(engine: Engine, runs: Sequence[Run]) -> Table:
    """Runs with what tells their conditions apart; what does not count is struck through, with the reason."""
    words = arm_words(list(arms(runs, evaluations_for(engine, runs)).values()))
    rows: list[Row] = []
    for run in runs:
        score, shown = run.score, score_cell(run)
        step = run.attempt.last_step if run.attempt else 0
        rows.append(
            (
                run_link(run), str(run.seed), words.get(run.condition_id, ""),
                Cell(f"{score.k}/{score.n * score.samples}", struck=not run.valid) if score else Cell("–"),
                replace(shown, note=""),
                f"{step} of {run.total_steps}",
                run.state,
                Cell(run.verdict or "–", strong=run.verdict == "PROVEN", note=_why(run)),
                ", ".join(f"{m.bug} ({m.state})" for m in run.marks if m.state != "withdrawn") or "–",
                Cell(run.id[:10], href=link("run", run=run.id)),
            )
        )  # fmt: skip
    columns = ("run", "seed", "condition", "k/n", "score [95 %]", "step", "state", "verdict", "bugs", "id")
    return table(columns, rows, right=("seed", "k/n", "score [95 %]", "step"))


def _why(run: Run) -> str:
    """What keeps its score from being used, in a line; all reasons are on the run's page."""
    if run.valid or run.verdict is None:
        return ""
    if run.verdict == "PROVEN":
        return standing(run)
    first, more = next(iter(run.reasons), ""), len(run.reasons) - 1
    return first + (f"; and {more} more" if more > 0 else "")
