"""Imported curves → claims: a percentage at each step, from a file that people kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Engine

from db.bug_writes import Imported
from experiment_specs.claims import ClaimedRun, Point, Statement
from experiment_specs.errors import SpecError
from orchestrator.bugs.facts import facts_of_claim
from orchestrator.claimed_counts import claimed_counts
from orchestrator.importers.curves import MAX_STEP, ImportedCurve, as_label, is_reward, told_apart
from orchestrator.importers.history import claim_id, new_claim, record

Questions = int | Mapping[str, int] | None
"""Questions of the one test set that all curves are of, or of each test set."""


def record_curves(
    engine: Engine, history: str, curves: Sequence[ImportedCurve], recorded: str, questions: Questions
) -> Imported:
    """File curves under a history's name, one claim each. Reading a source again changes what it changed.

    A curve without points has no score, and is no claim. Raises :class:`SpecError` as :func:`with_questions` does.
    """
    claims = []
    first: dict[tuple[str, str], str] = {}
    for index, (curve, n) in enumerate(with_questions(curves, questions)):
        run = claimed_run(curve)
        subject = claim_id(history, run.label)
        body = {
            "claim": run.model_dump(mode="json"), "questions": n, "recorded": recorded,
            "document": curve.source,
        }  # fmt: skip
        facts = facts_of_claim(subject, run, None, None, recorded, n)
        earlier = first.setdefault((curve.source, curve.test_set or curve.metric), subject)
        links = [("attempt-of", earlier)] if earlier != subject else []
        claims.append(new_claim(run.label, index, body, None, facts, links))
    about = {
        "about": "imported curves", "recorded": recorded, "questions": questions if isinstance(questions, int) else None
    }  # fmt: skip
    return record(engine, history, about, claims, recorded, partial=True)


def with_questions(curves: Sequence[ImportedCurve], questions: Questions) -> list[tuple[ImportedCurve, int | None]]:
    """The curves that have points, each with the questions that its percentages are shares of, where they are known.

    Names that would make the same label are numbered. A note says why stated questions are not used. A reward may have
    other values than right and wrong: its mean is then no share of the questions, and no mistake either. Raises
    :class:`SpecError` for questions of a test set of which there is no curve.
    """
    scored = [curve for curve in curves if curve.points]
    sets = list(dict.fromkeys(curve.test_set for curve in scored))
    if sets and isinstance(questions, Mapping) and (unknown := [name for name in questions if name not in sets]):
        accepted = [name for name in sets if name]
        raise SpecError("no such test set was read", key="--questions", value=unknown[0], accepted=accepted)
    asked = questions_of_sets(scored, questions)
    found: list[tuple[ImportedCurve, int | None]] = []
    labels = told_apart(curve.name for curve in scored)
    for curve in (replace(one, name=label) for one, label in zip(scored, labels, strict=True)):
        n, why = asked.get(curve.test_set), ""
        if n is not None and not curve.shares:
            why = f"{n} questions are not used: {curve.metric} is no number of right answers to all of them"
        elif n is not None and is_reward(curve.metric) and not _all_are_counts(curve, n):
            why = f"{n} questions are not used: not every value of the reward is a number of right answers to them"
        found.append((replace(curve, notes=(*curve.notes, why)), None) if why else (curve, n))
    return found


def questions_of_sets(curves: Sequence[ImportedCurve], questions: Questions) -> dict[str, int]:
    """Test set → its questions, where they are known. One number for several test sets would be wrong for most."""
    sets = {curve.test_set for curve in curves if curve.points}
    if isinstance(questions, int):
        return dict.fromkeys(sets, questions) if len(sets) == 1 else {}
    return {name: number for name, number in (questions or {}).items() if name in sets}


def _all_are_counts(curve: ImportedCurve, questions: int) -> bool:
    run = claimed_run(curve)
    return all(claimed_counts(run, point.percent, questions) for point in curve.points)


def claimed_run(curve: ImportedCurve) -> ClaimedRun:
    last = max(curve.points, key=lambda p: p.step, default=None)
    peak = max(curve.points, key=lambda p: (p.percent, -p.step), default=None)
    ended = {"complete": "came to its end", "early": f"ended early: {curve.why}", "unknown": None}[curve.ended]
    said = Statement(
        place=curve.source,
        score=last.percent if last else None,
        score_step=last.step if last else None,
        peak=peak.percent if peak else None,
        peak_step=peak.step if peak else None,
        executed_steps=curve.last_step if 0 < curve.last_step <= MAX_STEP else None,
        planned_steps=curve.planned_steps,
        status=ended,
        notes="; ".join((curve.metric, *curve.notes)),
    )
    points = tuple(Point(step=p.step, percent=p.percent, decimals=p.decimals) for p in curve.points)
    return ClaimedRun(
        label=as_label(curve.name),
        tensorboard=curve.name,
        samples=curve.samples if curve.samples > 1 else None,
        said=(said,),
        curve=points,
        source=curve.source,
    )
