"""Plan → registry: what `aqn submit` records, in one transaction."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db import submissions
from experiment_specs.errors import SpecError
from experiment_specs.faults import fault_point
from experiment_specs.language import CONDITION_SCHEMA, TINY_PREFIX, Condition, Scan, scan_of
from experiment_specs.presets import preset_name
from experiment_specs.reader import MOST_LETTERS
from orchestrator.arms import pairs
from orchestrator.plan import Plan, PlannedCondition
from workers.launch import code_version, noisy_ops_contradiction


def check(plan: Plan) -> None:
    """Raises SpecError where a run could not be carried out: the workers do not know how, or a data file is missing.

    Apart from :func:`record`, so that it comes before a registry is made.
    """
    for condition in plan.conditions:
        if condition.blockers:
            raise SpecError(f"{condition.label}: {'; '.join(condition.blockers)}", file=str(plan.sweep.source))
        if problem := noisy_ops_contradiction(condition.condition.hw_noise, os.environ):
            raise SpecError(f"{condition.label}: {problem}", file=str(plan.sweep.source))
        for name, path in (("train", condition.condition.data.train), ("test", condition.condition.data.test)):
            if not path.startswith(TINY_PREFIX):
                _check_data(plan, condition, name, Path(path))


def _check_data(plan: Plan, condition: PlannedCondition, name: str, path: Path) -> None:
    """The step plan follows from declared row counts: they must be the file's."""
    where = condition.where(("data", name))
    if not path.is_file():
        raise plan.sweep.error(f"no such file, seen from {Path.cwd()}; `aqn data prepare` makes it", where, str(path))
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError) as error:
        raise plan.sweep.error(f"is no parquet file: {path}", where) from error
    declared = getattr(condition.condition.data, f"{name}_rows")
    if rows != declared:
        raise plan.sweep.error(
            f"says {declared}, and {path} has {rows} rows", condition.where(("data", f"{name}_rows"))
        )


def record(engine: Engine, plan: Plan, *, again: bool = False) -> submissions.Submitted:
    """Record a checked plan's runs."""
    submitted = submissions.submit(engine, submission(plan), again=again)
    fault_point("submit.recorded")
    return submitted


def _scan(condition: Condition) -> submissions.NewRun | None:
    """The layer scan that a condition's noise is aimed by, as a run."""
    scan = scan_of(condition)
    return scan_run(scan) if scan is not None else None


def scan_run(scan: Scan) -> submissions.NewRun:
    return submissions.NewRun(
        kind="scan",
        label=f"scan of {scan.model.path} in {preset_name('dtype', scan.dtype)}"[:MOST_LETTERS],
        condition_id=scan.id,
        condition=scan.model_dump(mode="json"),
        seed=0,
        plan={"total_steps": 0, "steps_per_epoch": 0, "eval_steps": []},
        gpus=1,
    )


def _contrasts(plan: Plan) -> dict[str, Any]:
    """As declared, with the comparisons that they are: pairs of condition ids, so that nobody has to expand again."""
    arms = [(c.label, c.condition) for c in plan.conditions]
    ids = {label: condition.id for label, condition in arms}
    return {
        name: contrast.model_dump(mode="json", by_alias=True)
        | {"pairs": [[ids[one], ids[other]] for one, other in pairs(plan.sweep, arms, name)]}
        for name, contrast in plan.sweep.contrasts.items()
    }


def submission(plan: Plan) -> submissions.Submission:
    sweep = plan.sweep
    return submissions.Submission(
        name=sweep.name,
        about=sweep.about,
        spec=sweep.text,
        details={
            "score": sweep.score.model_dump(mode="json"),
            "contrasts": _contrasts(plan),
            "budget": sweep.budget.model_dump(mode="json"),
            "concurrency": sweep.resources.concurrency,
        },
        priority=sweep.priority,
        score_rule=sweep.score.model_dump(mode="json"),
        code_version=code_version().id,
        condition_schema=CONDITION_SCHEMA,
        runs=[
            submissions.NewRun(
                needs=_scan(c.condition),
                label=c.label,
                condition_id=c.condition.id,
                condition=c.condition.model_dump(mode="json"),
                seed=seed,
                plan={
                    "total_steps": c.steps.total,
                    "steps_per_epoch": c.steps.per_epoch,
                    "eval_steps": list(c.steps.evals),
                    "keep": sweep.checkpoints.keep,
                    "save_every": sweep.checkpoints.steps_between(c.condition.eval.every),
                    "silence_minutes": sweep.resources.silence_minutes,
                },
                gpus=sweep.resources.gpus,
                overrides=sweep.overrides,
            )
            for c in plan.conditions
            for seed in c.seeds
        ],
    )
