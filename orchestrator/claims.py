"""Registry → claims as they are shown and audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from db import bug_reads, reads
from db.records import Claim, replacement_of
from experiment_specs.claims import Best, ClaimedRun, Group
from experiment_specs.language import Condition
from orchestrator.audit import Audited, Claimed, Contradiction, audit
from orchestrator.bugs.facts import claimed_percent
from orchestrator.claimed_counts import claimed_count, count_of_questions
from orchestrator.runs_json import links_as_json, marks_as_json
from orchestrator.statistics.checkpoints import difference_of_counts
from orchestrator.words import readable


def contradictions(engine: Engine, history: str | None = None) -> list[Contradiction]:
    """What the recorded claims contradict, history by history."""
    conditions = reads.conditions(engine, [c.condition_id for c in bug_reads.claims(engine) if c.condition_id])
    found: list[Contradiction] = []
    for name, about in bug_reads.histories(engine).items():
        if history is not None and name != history:
            continue
        claims = [
            Claimed(c.id, claimed_run(c), _condition(conditions, c), c.body.get("questions"))
            for c in bug_reads.claims(engine, history=name)
        ]
        groups = {key: Group.model_validate(group, strict=False) for key, group in about.get("groups", {}).items()}
        best = [Best.model_validate(entry, strict=False) for entry in about.get("best", ())]
        found += audit(Audited(name, claims, groups, best))
    return found


def claimed_run(claim: Claim) -> ClaimedRun:
    return ClaimedRun.model_validate(claim.body["claim"], strict=False)


def _condition(conditions: dict[str, dict[str, Any]], claim: Claim) -> Condition | None:
    body = conditions.get(claim.condition_id or "")
    return readable(body) if body is not None else None


def comparisons(claim: Claim, others: Mapping[str, Claim]) -> list[dict[str, Any]]:
    """Every difference that is said of a claim, and what it no longer stands for: a comparison falls with its sides.

    ``others``: label → claim, of its history.
    """
    found = []
    for said in claimed_run(claim).said:
        for better in said.better:
            sides = [claim, *([others[better.than]] if better.than in others else [])]
            fallen = [f"{c.label} is {c.validity}" for c in sides if c.validity in ("affected", "superseded")]
            found.append(
                {"than": better.than, "points": better.points, "of": better.of, "place": said.place,
                 "stands": not fallen, "because": fallen}
            )  # fmt: skip
    return found


def claims_as_json(engine: Engine, claims: Sequence[Claim], *, curves: bool = False) -> list[dict[str, Any]]:
    """:func:`claim_rows` of claims whose conditions were not read yet."""
    conditions = reads.conditions(engine, [claim.condition_id for claim in claims if claim.condition_id])
    return claim_rows(claims, conditions, curves=curves)


def claim_rows(
    claims: Sequence[Claim], conditions: Mapping[str, dict[str, Any]], *, curves: bool = False
) -> list[dict[str, Any]]:
    """Claims in the form of `aqn runs --json`: status imported, never valid. ``conditions``: id → body."""
    return [_as_json(claim, conditions.get(claim.condition_id or ""), curves=curves) for claim in claims]


def _as_json(claim: Claim, condition: dict[str, Any] | None, *, curves: bool) -> dict[str, Any]:
    run, questions = claimed_run(claim), claim.body.get("questions")
    score = claimed_percent(run)
    peak = run.first("peak")
    result: dict[str, Any] = {
        "run_id": claim.id,
        "kind": "claim",
        "label": claim.label,
        "aliases": list(run.aliases),
        "category": run.category,
        "sweeps": [],
        "seed": None,
        "condition": condition,
        "condition_id": claim.condition_id,
        "status": "imported",
        "verdict": "UNPROVEN",
        "reasons": [f"a claim of {claim.body['document']}, {claim.body['recorded']}: nothing of it was measured here"],
        "validity": claim.validity,
        "score": None
        if score is None
        else score_as_json(run, score, questions, _last_step(run, "score_step"), "claimed"),
        "peak": score_as_json(run, peak, questions, _last_step(run, "peak_step"), "best")
        if isinstance(peak, float | int)
        else None,
        "bugs": marks_as_json(claim.marks),
        "supersedes": None,
        "superseded_by": replacement_of(claim.id, claim.links),
        "epochs": run.first("epochs"),
        "code_version": None,
        "run_dir": None,
        "history": claim.history,
        "claim_version": claim.version,
        "tensorboard": run.tensorboard,
        "said": [said.model_dump(mode="json", exclude_none=True) for said in run.said],
        "links": links_as_json(claim.id, claim.links),
    }
    if curves:
        result["curve"] = [
            {"step": p.step, "percent": p.percent, "n": questions,
             "k": claimed_count(run, p.percent, questions)}
            for p in run.curve
        ]  # fmt: skip
    return result


def _last_step(run: ClaimedRun, field: str) -> int | None:
    step = run.first(field)
    if isinstance(step, int):
        return step
    return run.curve[-1].step if run.curve and field == "score_step" else None


def score_as_json(
    run: ClaimedRun, percent: float, questions: int | None, step: int | None, rule: str
) -> dict[str, Any]:
    """As written; k (of n × samples) only where a single number of right answers has the percentage."""
    k = claimed_count(run, percent, questions)
    return {
        "k": k, "n": questions, "samples": run.answers, "percent": percent, "step": step, "rule": rule, "mode": None,
    }  # fmt: skip


UNKNOWN_SEEDS = "one run an arm, its seed not told: what the treatments do cannot be told from luck"


def compared(first: Claim, second: Claim) -> dict[str, Any]:
    """Two claims in the form of a comparison. Their treatments are never assessable; their percentages may be apart by
    more than the questions explain, where k and n follow from what is written."""
    sides, several = [], False
    for claim in (first, second):
        run, questions = claimed_run(claim), claim.body.get("questions")
        percent = claimed_percent(run)
        sides.append((percent, count_of_questions(run, percent, questions), questions))
        several = several or run.answers > 1
    (one, k1, n1), (other, k2, n2) = sides
    interval = p = test = None
    notes = [UNKNOWN_SEEDS]
    if k1 is not None and k2 is not None and n1 and n2:
        found = difference_of_counts((k1, n1), (k2, n2))
        interval, p, test = [found.low, found.high], found.p, found.test
        notes.append("which questions were answered is not recorded: the interval takes them as two samples")
    elif one is None or other is None:
        notes.append("one of them has no score")
    elif several:
        notes.append("a mean over several answers to each question has no interval here: the answers depend on it")
    else:
        notes.append("a percentage that no single number of right answers has, has no interval")
    notes += [f"{c.label} is {c.validity}" for c in (first, second) if c.validity in ("affected", "superseded")]
    return {
        "a": first.label, "b": second.label,
        "difference": None if one is None or other is None else other - one,
        "interval": interval, "p": p, "test": test, "n": None, "discordant": None,
        "verdict": "not assessable", "notes": notes,
    }  # fmt: skip
