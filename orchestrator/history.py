"""What the registry's finished runs say about runs to come: how long they took, and how far equal ones were apart."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from db import reads
from db.records import Run
from orchestrator.price import Past, answers_of, kind_of
from orchestrator.statistics.power import Scatter, scatter_of
from orchestrator.steps import plan_steps
from orchestrator.words import readable

MOST_RUNS = 500


def history(engine: Engine) -> list[Run]:
    """The newest runs that finished."""
    return reads.runs(engine, states=("succeeded",), limit=MOST_RUNS)


def pasts(engine: Engine, runs: Sequence[Run]) -> list[Past]:
    """Durations of those whose attempts tell them. The first result, an eval or a step, ends the start-up."""
    first_steps = reads.first_steps(engine, [run.attempt.id for run in runs if run.attempt])
    found = []
    for run in runs:
        attempt, condition = run.attempt, readable(run.condition)
        if attempt is None or attempt.ended_at is None or condition is None or attempt.last_step < run.total_steps:
            continue
        if attempt.id not in first_steps or attempt.resumed_step is not None:
            continue
        first = min([first_steps[attempt.id], *(point.at for point in run.curve)])
        found.append(
            Past(
                kind=kind_of(condition, run.gpus),
                startup=first - attempt.created_at,
                seconds=attempt.ended_at - first,
                answers=answers_of(condition, plan_steps(condition)),
            )
        )
    return found


def scatter(runs: Sequence[Run], model: str, questions: str) -> Scatter:
    """Of the final scores of valid runs of that model on those questions."""
    return scatter_of(equal_runs(runs, model, questions))


def equal_runs(runs: Sequence[Run], model: str, questions: str) -> list[list[float]]:
    """Final scores in percent of valid runs, a group a condition; of one seed, the newest counts."""
    groups: dict[str, dict[int, float]] = {}
    for run in runs:  # newest first
        same = run.condition["model"]["path"] == model and run.condition["data"]["test"] == questions
        final = run.score_rule.get("rule", "final") == "final"
        if run.valid and same and final and run.score is not None:
            groups.setdefault(run.condition_id, {}).setdefault(run.seed, run.score.percent)
    return [list(group.values()) for group in groups.values()]
