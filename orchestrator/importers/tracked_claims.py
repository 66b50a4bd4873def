"""Curves of a tracker's runs → claims: what the tracker kept of each run, with the day on which the run began."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from sqlalchemy import Engine

from db import bug_reads
from db.bug_writes import Imported, NewClaim
from experiment_specs.claims import ClaimedRun
from orchestrator.bugs.facts import facts_of_claim
from orchestrator.importers.curve_claims import Questions, claimed_run, with_questions
from orchestrator.importers.curves import printable
from orchestrator.importers.history import at_midnight, claim_id, new_claim, record
from orchestrator.importers.tracked import TrackedCurve, with_labels
from orchestrator.importers.verl_config_fields import ConfigFields, read_config


def record_tracked(  # noqa: PLR0917 - what a claim is filed under
    engine: Engine, history: str, curves: Sequence[TrackedCurve], tracker: str, day: str | None, else_day: str,
    questions: Questions,
) -> Imported:  # fmt: skip
    """File curves under a history's name, one claim each, all or none. A source that is read again changes only what it
    changed, whatever else is read with it: a claim is known by project, run and tag, and keeps its label.

    ``day``: the day of all runs; None: the day each began, or ``else_day`` where the tracker does not tell. Raises
    :class:`SpecError` as :func:`with_questions` does.
    """
    one_set = questions if isinstance(questions, int) else None
    about = {"about": f"runs of {tracker}", "recorded": day or else_day, "questions": one_set}
    curves = with_kept_labels(engine, history, curves)
    counted = with_questions([one.curve for one in curves], questions)
    asked = [(replace(one, curve=curve), n) for one, (curve, n) in zip(curves, counted, strict=True)]

    def day_of(one: TrackedCurve) -> str:
        return day or (else_day if one.run.started is None else time.strftime("%Y-%m-%d", time.gmtime(one.run.started)))

    dated = sorted(((one, n, day_of(one)) for one, n in asked), key=lambda found: found[2])
    claims = [claim_of(history, one, tracker, at, n) for one, n, at in dated]
    return record(engine, history, about, claims, day or else_day, partial=True)


def with_kept_labels(engine: Engine, history: str, curves: Sequence[TrackedCurve]) -> list[TrackedCurve]:
    """The curves with the labels that their claims have, and new ones with labels that no other claim has."""
    labels = bug_reads.labels(engine, history)
    ids = {one.identity: claim_id(history, one.identity) for one in curves}
    kept = {identity: labels[own] for identity, own in ids.items() if own in labels}
    return with_labels(curves, kept, labels.values())


def claim_of(history: str, one: TrackedCurve, tracker: str, day: str, questions: int | None) -> NewClaim:
    """One claim. Its place among the claims is its day, so that other runs of the tracker never change it."""
    config = read_config(one.run.config)
    run = _with_config(one, config)
    subject = claim_id(history, one.identity)
    body: dict[str, Any] = {
        "claim": run.model_dump(mode="json"), "questions": questions, "recorded": day, "document": one.curve.source,
        "tracker": {
            "kind": tracker, "project": printable(one.run.project), "run_id": printable(one.run.run_id),
            "name": printable(one.run.name),
        },
        "config": {"fields": dict(config.fields), "text": dict(config.text)},
    }  # fmt: skip
    facts = facts_of_claim(subject, run, None, None, day, questions)
    facts = replace(facts, body=facts.body | {"fields": dict(config.fields)})
    claim = new_claim(run.label, (date.fromisoformat(day) - date(1970, 1, 1)).days, body, None, facts)
    return replace(claim, recorded_at=at_midnight(day))


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
    name, project = printable(one.run.name), printable(one.run.project)
    changes = {"tensorboard": name or None, "category": project or None, "said": [said]}
    return ClaimedRun.model_validate(run.model_dump() | changes)
