"""Curves of a tracker's runs → claims: what the tracker kept of each run, with the day on which the run began."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from itertools import groupby
from typing import Any

from sqlalchemy import Engine

from db.bug_writes import Imported, NewClaim
from experiment_specs.claims import ClaimedRun
from orchestrator.bugs.facts import facts_of_claim
from orchestrator.importers.curve_claims import Questions, claimed_run, with_questions
from orchestrator.importers.history import claim_id, new_claim, record
from orchestrator.importers.tracked import TrackedCurve
from orchestrator.importers.verl_config_fields import ConfigFields, read_config


def record_tracked(  # noqa: PLR0917 - what a claim is filed under
    engine: Engine, history: str, curves: Sequence[TrackedCurve], tracker: str, day: str | None, else_day: str,
    questions: Questions,
) -> Imported:  # fmt: skip
    """File curves under a history's name, one claim each. Importing a source again changes only what it changed.

    ``day``: the day of all runs; None: the day each began, or ``else_day`` where the tracker does not tell.
    """
    one_set = questions if isinstance(questions, int) else None
    about = {"about": f"runs of {tracker}", "recorded": day or else_day, "questions": one_set}
    counted = with_questions([one.curve for one in curves], questions)
    asked = {(curve.name, curve.metric): n for curve, n in counted}
    noted = {(curve.name, curve.metric): curve for curve, _ in counted}
    curves = [replace(one, curve=noted[one.curve.name, one.curve.metric]) for one in curves]

    def day_of(one: TrackedCurve) -> str:
        return day or (else_day if one.run.started is None else time.strftime("%Y-%m-%d", time.gmtime(one.run.started)))

    done = []
    for at, group in groupby(sorted(curves, key=day_of), key=day_of):
        claims = [claim_of(history, one, tracker, at, asked[one.curve.name, one.curve.metric]) for one in group]
        done.append(record(engine, history, about, claims, at, partial=True))
    parts = ([label for one in done for label in getattr(one, name)] for name in ("created", "changed", "same"))
    created, changed, same = (tuple(part) for part in parts)
    return Imported(created, changed, same, ())


def claim_of(history: str, one: TrackedCurve, tracker: str, day: str, questions: int | None) -> NewClaim:
    """One claim. Its place among the claims is its day, so that other runs of the tracker never change it."""
    config = read_config(one.run.config)
    run = _with_config(one, config)
    subject = claim_id(history, run.label)
    body: dict[str, Any] = {
        "claim": run.model_dump(mode="json"), "questions": questions, "recorded": day, "document": one.curve.source,
        "tracker": {"kind": tracker, "project": one.run.project, "run_id": one.run.run_id, "name": one.run.name},
        "config": {"fields": dict(config.fields), "text": dict(config.text)},
    }  # fmt: skip
    facts = facts_of_claim(subject, run, None, None, day, questions)
    facts = replace(facts, body=facts.body | {"fields": dict(config.fields)})
    return new_claim(run.label, (date.fromisoformat(day) - date(1970, 1, 1)).days, body, None, facts)


def _with_config(one: TrackedCurve, config: ConfigFields) -> ClaimedRun:
    curve = replace(one.curve, planned_steps=config.planned_steps)
    if curve.ended == "complete" and curve.planned_steps is not None and 0 < curve.last_step < curve.planned_steps:
        reached = f"{one.run.why}, and it was planned for {curve.planned_steps} steps"
        curve = replace(curve, ended="early", why=reached)
    run = claimed_run(curve)
    fields = config.fields
    lora = None if not {"lora", "lora.rank"} & fields.keys() else fields.get("lora.rank") is not None
    said = run.said[0].model_dump() | {
        "algorithm": fields.get("algorithm.name"), "lora": lora, "epochs": fields.get("epochs"),
    }  # fmt: skip
    changes = {"tensorboard": one.run.name or None, "category": one.run.project or None, "said": [said]}
    return ClaimedRun.model_validate(run.model_dump() | changes)
