"""The registry as pandas DataFrames, for notebooks and exports: valid runs alone, unless one asks for all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from db import bug_reads, reads
from db.records import EvalPoint, Run
from orchestrator.claims import claims_as_json
from orchestrator.comparison import evaluations_for
from orchestrator.numbers import score_interval
from orchestrator.runs_json import category
from orchestrator.scores import arms

if TYPE_CHECKING:
    import pandas as pd

RUN_COLUMNS = (
    "run_id", "label", "category", "sweeps", "seed", "condition_id", "status", "verdict", "validity", "k", "n",
    "samples", "percent", "low", "high", "step", "scored_by", "rule", "mode", "total_steps",
    "bugs", "supersedes", "superseded_by", "code_version", "created_at",
)  # fmt: skip
CURVE_COLUMNS = (
    "run_id", "label", "seed", "condition_id", "validity", "step", "k", "n", "samples", "percent", "low", "high", "at",
)  # fmt: skip
CLAIM_COLUMNS = (
    "claim_id", "label", "history", "category", "condition_id", "validity", "percent", "k", "n", "step", "epochs",
    "bugs", "tensorboard",
)  # fmt: skip


@dataclass(frozen=True)
class Registry:
    """A registry that is only read. ``everything``: also what does not count (look at ``validity`` then)."""

    engine: Engine

    def runs(self, *, sweep: str | None = None, everything: bool = False) -> pd.DataFrame:
        """A row a training run, newest first: its score with Wilson's interval in percent, and its whole condition in
        columns ``condition.dtype.format``, …; valid runs alone, unless ``everything``."""
        rows = [run_row(one) for one in chosen(self.engine, sweep=sweep, everything=everything)]
        columns = dict.fromkeys(RUN_COLUMNS) | dict.fromkeys(key for row in rows for key in row)
        return _frame(rows, columns)

    def curves(self, *, sweep: str | None = None, everything: bool = False) -> pd.DataFrame:
        """A row an eval of a training run, in the order of the runs and of the steps. Of a run whose score a new
        evaluation mended, its own curve: ``validity`` says so."""
        found = chosen(self.engine, sweep=sweep, everything=everything)
        rows = [curve_row(one.run, point) for one in found for point in one.run.curve]
        return _frame(rows, CURVE_COLUMNS)

    def claims(self, *, history: str | None = None) -> pd.DataFrame:
        """A row an imported claim: what people wrote; nothing of it was measured here."""
        return _frame(claim_rows(self.engine, history), CLAIM_COLUMNS)


@dataclass(frozen=True)
class Chosen:
    """A training run with the score that stands for it; ``by``: the run that measured it, itself or an evaluation."""

    run: Run
    score: EvalPoint | None
    by: str | None


def chosen(engine: Engine, *, sweep: str | None, everything: bool) -> list[Chosen]:
    """What counts, one run a condition and seed, as in comparisons (:mod:`orchestrator.scores`); or all training runs,
    each with its own score."""
    runs = reads.runs(engine, sweep=sweep)
    if everything:
        return [Chosen(run, run.score, run.id if run.score else None) for run in runs]
    found = arms(runs, evaluations_for(engine, runs))
    counted = {s.trained.id: Chosen(s.trained, s.point, s.by.id) for arm in found.values() for s in arm.scored}
    return [counted[run.id] for run in runs if run.id in counted]


def run_row(one: Chosen) -> dict[str, Any]:
    """One run, flat: None where a thing is not there."""
    run = one.run
    bugs = [mark.bug for mark in run.marks if mark.state in ("affected", "unknown")]
    row: dict[str, Any] = {
        "run_id": run.id, "label": run.label, "category": category(run.condition), "sweeps": ",".join(run.sweeps),
        "seed": run.seed, "condition_id": run.condition_id, "status": run.state, "verdict": run.verdict,
        "validity": run.validity, **_score(one.score), "scored_by": one.by, "rule": run.score_rule.get("rule"),
        "mode": run.score_rule.get("mode"), "total_steps": run.total_steps, "bugs": ",".join(bugs),
        "supersedes": run.supersedes, "superseded_by": run.superseded_by, "code_version": run.code_version,
        "created_at": run.created_at,
    }  # fmt: skip
    return row | dict(_flat("condition", run.condition))


def curve_row(run: Run, point: EvalPoint) -> dict[str, Any]:
    return {
        "run_id": run.id, "label": run.label, "seed": run.seed, "condition_id": run.condition_id,
        "validity": run.validity, **_score(point), "at": point.at,
    }  # fmt: skip


def claim_rows(engine: Engine, history: str | None = None) -> list[dict[str, Any]]:
    rows = []
    for row in claims_as_json(engine, bug_reads.claims(engine, history=history)):
        score = row["score"] or {}
        rows.append(
            {
                "claim_id": row["run_id"], "label": row["label"], "history": row["history"],
                "category": row["category"], "condition_id": row["condition_id"], "validity": row["validity"],
                "percent": score.get("percent"), "k": score.get("k"), "n": score.get("n"), "step": score.get("step"),
                "epochs": row["epochs"], "bugs": ",".join(b["bug"] for b in row["bugs"] if b["state"] != "waived"),
                "tensorboard": row["tensorboard"],
            }
        )  # fmt: skip
    return rows


def _score(point: EvalPoint | None) -> dict[str, Any]:
    if point is None:
        return dict.fromkeys(("k", "n", "samples", "percent", "low", "high", "step"))
    low, high = score_interval(point)
    return {
        "k": point.k, "n": point.n, "samples": point.samples, "percent": point.percent, "low": low,
        "high": high, "step": point.step,
    }  # fmt: skip


def _flat(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif name.startswith("condition.trainer."):  # verl's own keys: what type they have is verl's affair
        yield name, json.dumps(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield name, ",".join(map(str, value))
    else:
        yield name, None if isinstance(value, Mapping) else value


def _frame(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> pd.DataFrame:
    """Whole numbers stay whole where some are missing; times are UTC."""
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=list(columns))
    whole = [c for c in ("seed", "k", "n", "samples", "step", "total_steps", "epochs") if c in frame]
    frame = frame.astype(dict.fromkeys(whole, "Int64"))
    for name in ("created_at", "at"):
        if name in frame:
            frame[name] = pd.to_datetime(frame[name].astype("float64"), unit="s", utc=True)
    return frame
