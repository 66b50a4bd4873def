"""Imported curves → claims: a percentage at each step, from a file that people kept."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from db.bug_writes import Imported
from experiment_specs.claims import ClaimedRun, Point, Statement
from orchestrator.bugs.facts import facts_of_claim
from orchestrator.importers.curves import ImportedCurve
from orchestrator.importers.history import claim_id, new_claim, record


def record_curves(
    engine: Engine, history: str, curves: Sequence[ImportedCurve], recorded: str, questions: int | None
) -> Imported:
    """File curves under a history's name, one claim each. Reading a source again changes what it changed."""
    claims = []
    for index, curve in enumerate(curves):
        run = claimed_run(curve)
        subject = claim_id(history, run.label)
        body = {
            "claim": run.model_dump(mode="json"), "questions": questions, "recorded": recorded,
            "document": curve.source,
        }  # fmt: skip
        facts = facts_of_claim(subject, run, None, None, recorded, questions)
        first = claim_id(history, claimed_run(curves[0]).label) if curve.source == curves[0].source else subject
        links = [("attempt-of", first)] if first != subject else []
        claims.append(new_claim(run.label, index, body, None, facts, links))
    about = {"about": "imported curves", "recorded": recorded, "questions": questions}
    return record(engine, history, about, claims, recorded, partial=True)


def claimed_run(curve: ImportedCurve) -> ClaimedRun:
    """What a curve says of its run."""
    last = max(curve.points, key=lambda p: p.step, default=None)
    peak = max(curve.points, key=lambda p: (p.percent, -p.step), default=None)
    ended = {"complete": "came to its end", "early": f"ended early: {curve.why}", "unknown": None}[curve.ended]
    said = Statement(
        place=curve.source,
        score=last.percent if last else None,
        score_step=last.step if last else None,
        peak=peak.percent if peak else None,
        peak_step=peak.step if peak else None,
        executed_steps=curve.last_step or None,
        planned_steps=curve.planned_steps,
        status=ended,
        notes="; ".join((curve.metric, *curve.notes)),
    )
    points = tuple(Point(step=p.step, percent=p.percent) for p in curve.points)
    label = "".join(c if c.isprintable() else "_" for c in curve.name).strip()[:200].strip() or "unnamed"
    return ClaimedRun(label=label, tensorboard=curve.name, said=(said,), curve=points, source=curve.source)
