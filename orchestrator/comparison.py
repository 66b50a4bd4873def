"""Registry → comparisons of two arms, and the declared contrasts of a sweep with their correction.

What is compared must be equal in everything but what differs between the conditions: the same questions, the same
score rule, the same seeds. Two checkpoints and two treatments are told apart: answers to shared questions decide of
the first, seeds of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from db import reads
from db.records import Run
from orchestrator.arms import leaves_that_differ
from orchestrator.scores import Arm, Scored, arms
from orchestrator.statistics.checkpoints import CheckpointDifference, answers, difference_on_shared
from orchestrator.statistics.treatments import (
    EQUAL_WITHIN,
    Adjusted,
    Noise,
    TreatmentDifference,
    difference_by_seed,
    family,
    noise,
)

ONE_SEED = "one pair of runs tells two checkpoints apart, not the treatments"
Answers = Callable[[Scored], bytes | None]
"""The packed outcomes of a score's eval."""


@dataclass(frozen=True)
class SeedPair:
    """Two runs of one seed and what their checkpoints answered; None where outcomes are not recorded."""

    first: Scored
    second: Scored
    checkpoints: CheckpointDifference | None


@dataclass(frozen=True)
class Comparison:
    """Second minus first, everywhere."""

    first: Arm
    second: Arm
    varied: Mapping[str, tuple[Any, Any]]
    """Dotted field → the two values: everything in which the conditions differ."""
    pairs: tuple[SeedPair, ...]
    treatment: TreatmentDifference
    adjusted: Adjusted
    """In its family; alone, a family of one."""
    noise: Noise | None
    problems: tuple[str, ...]
    """Why the scores cannot be compared at all."""
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        return "not comparable" if self.problems else self.adjusted.verdict


@dataclass(frozen=True)
class DeclaredContrast:
    """A contrast of a sweep, and its comparisons, corrected together with all others of the sweep."""

    name: str
    vary: str
    comparisons: tuple[Comparison, ...]


def load_arms(engine: Engine, conditions: Iterable[str], sweep: str | None = None) -> dict[str, Arm]:
    """Arms of these conditions, from all runs or those of a sweep."""
    wanted = list(dict.fromkeys(conditions))
    found = reads.runs(engine, conditions=wanted, sweep=sweep)
    return arms(found, evaluations_for(engine, found))


def evaluations_for(engine: Engine, runs: Sequence[Run]) -> list[Run]:
    """Runs that took the place of some of these by evaluating their checkpoints anew."""
    instead = list(dict.fromkeys(run.superseded_by for run in runs if run.superseded_by))
    return [run for run in reads.runs(engine, ids=instead) if run.kind == "eval"] if instead else []


def recorded_answers(engine: Engine) -> Answers:
    def find(scored: Scored) -> bytes | None:
        attempt = scored.by.attempt
        return reads.outcomes(engine, attempt.id, scored.point.step) if attempt is not None else None

    return find


def compare(first: Arm, second: Arm, answers_of: Answers, margin: float = EQUAL_WITHIN) -> Comparison:
    """Two arms, alone. ``margin``: points within which they count as equal."""
    return compare_family([(first, second, margin)], answers_of)[0]


def compare_family(asked: Sequence[tuple[Arm, Arm, float]], answers_of: Answers, at_least: int = 0) -> list[Comparison]:
    """Comparisons that belong together: their p-values are corrected for their number, or a larger one."""
    drafts = [_draft(first, second, answers_of, margin) for first, second, margin in asked]
    adjusted = family([draft.treatment for draft in drafts], at_least)
    return [Comparison(**{**vars(d), "adjusted": a}) for d, a in zip(drafts, adjusted, strict=True)]


NOT_ADJUSTED = Adjusted(None, None, None, None, "not assessable")


def _draft(first: Arm, second: Arm, answers_of: Answers, margin: float) -> Comparison:
    problems = _problems(first, second)
    matched = [] if problems else _matched(first, second)
    raw = [(answers_of(one), answers_of(other)) for one, other in matched]
    pairs = tuple(
        SeedPair(one, other, _checkpoints(one, other, *both)) for (one, other), both in zip(matched, raw, strict=True)
    )
    apart = [pair.second.point.percent - pair.first.point.percent for pair in pairs]
    return Comparison(
        first, second, leaves_that_differ(first.condition, second.condition), pairs,
        difference_by_seed(apart, margin, _step(pairs)), NOT_ADJUSTED, _noise(pairs, raw), tuple(problems),
        tuple(_notes(first, second, pairs)),
    )  # fmt: skip


def _matched(first: Arm, second: Arm) -> list[tuple[Scored, Scored]]:
    """Scores of the same seed; of two single runs, those two, whatever their seeds: as checkpoints they compare."""
    if len(first.scored) == len(second.scored) == 1:
        return [(first.scored[0], second.scored[0])]
    theirs = {scored.seed: scored for scored in second.scored}
    return [(scored, theirs[scored.seed]) for scored in first.scored if scored.seed in theirs]


def _step(pairs: Sequence[SeedPair]) -> float:
    return max((100 / (s.point.n * s.point.samples) for p in pairs for s in (p.first, p.second)), default=0.0)


def _checkpoints(first: Scored, second: Scored, one: bytes | None, other: bytes | None) -> CheckpointDifference | None:
    if one is None or other is None:
        return None
    a, b = first.point, second.point
    return difference_on_shared(answers(one, a.n, a.samples), answers(other, b.n, b.samples), (a.samples, b.samples))


def _noise(pairs: Sequence[SeedPair], raw: Sequence[tuple[bytes | None, bytes | None]]) -> Noise | None:
    by_seed = []
    for pair, (one, other) in zip(pairs, raw, strict=True):
        if one is None or other is None or pair.first.point.n < 2:
            return None
        a, b = pair.first.point, pair.second.point
        mine, theirs = answers(one, a.n, a.samples), answers(other, b.n, b.samples)
        by_seed.append([t / b.samples - m / a.samples for m, t in zip(mine, theirs, strict=True)])
    return noise(by_seed) if by_seed else None


def _problems(first: Arm, second: Arm) -> list[str]:
    """What makes two arms' scores answers to different questions."""
    both = (*first.scored, *second.scored)
    if not both:
        return []
    found = []
    for what, seen in (
        ("score rules", {s.rule for s in both}),
        ("test sets", {str(arm.condition["data"]["test"]) for arm in (first, second)}),
    ):
        if len(seen) > 1:
            found.append(f"their {what} differ: {' and '.join(sorted(seen))}")
    asked = {(s.point.questions, s.point.n) for s in both}
    if len(asked) > 1 and not found:
        found.append(f"they answered other questions: {' and '.join(sorted({str(n) for _, n in asked}))} of them")
    return found


def _notes(first: Arm, second: Arm, pairs: Sequence[SeedPair]) -> list[str]:
    found = []
    if first.condition_id == second.condition_id:
        found.append("both are the same condition")
    if first.scored and second.scored and not pairs:
        found.append(f"no seed in common: {_list(first.seeds)} and {_list(second.seeds)}")
    elif any(pair.first.seed != pair.second.seed for pair in pairs):
        found.append(f"the two runs have other seeds: {_list(first.seeds)} and {_list(second.seeds)}")
        return found
    for arm, other in ((first, second), (second, first)):
        alone = sorted(set(arm.seeds) - set(other.seeds))
        if alone and pairs:
            found.append(f"without a partner and not used: seed{'s' * (len(alone) > 1)} {_list(alone)} of {arm.label}")
    versions = {s.trained.code_version for p in pairs for s in (p.first, p.second)}
    if len(versions) > 1:
        found.append(f"the runs come from {len(versions)} versions of the code")
    return found


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def declared(engine: Engine, sweep: str) -> list[DeclaredContrast]:
    """The declared contrasts of a recorded sweep, on its own runs, corrected over all their comparisons.

    A contrast without pairs was recorded by an earlier version; submitting the sweep again adds them.
    """
    contrasts = (reads.sweep_details(engine, sweep) or {}).get("contrasts", {})
    asked = [(name, pair, c) for name, c in contrasts.items() for pair in c.get("pairs", ())]
    found = load_arms(engine, [condition for _, pair, _ in asked for condition in pair], sweep) if asked else {}
    known = [(name, pair, c) for name, pair, c in asked if all(condition in found for condition in pair)]
    margins = [(found[a], found[b], float(c.get("equal_within", EQUAL_WITHIN))) for _, (a, b), c in known]
    compared = compare_family(margins, recorded_answers(engine), len(asked))
    by_name: dict[str, list[Comparison]] = {name: [] for name in contrasts}
    for (name, _, _), comparison in zip(known, compared, strict=True):
        by_name[name].append(comparison)
    return [DeclaredContrast(name, contrasts[name]["vary"], tuple(many)) for name, many in by_name.items()]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The one form of a comparison for programs."""
    treatment, adjusted, pairs = comparison.treatment, comparison.adjusted, comparison.pairs
    checkpoints = [pair.checkpoints for pair in pairs if pair.checkpoints is not None]
    alone = checkpoints[0] if len(pairs) == 1 and checkpoints else None
    low, high, p, test = treatment.low, treatment.high, treatment.p, "paired t over seeds"
    if alone is not None:
        low, high, p, test = alone.low, alone.high, alone.p, alone.test
    return {
        "a": comparison.first.label,
        "b": comparison.second.label,
        "difference": treatment.difference,
        "interval": None if low is None else [low, high],
        "p": p,
        "test": test if p is not None else None,
        "n": alone.n if alone is not None else len(pairs),
        "discordant": [sum(c.only_first or 0 for c in checkpoints), sum(c.only_second or 0 for c in checkpoints)]
        if checkpoints
        else None,
        "verdict": comparison.verdict,
        "differs": {key: list(values) for key, values in comparison.varied.items()},
        "seeds": [pair.first.seed for pair in pairs],
        "sd": treatment.sd,
        "differences": list(treatment.differences),
        "equal_within": treatment.margin,
        "p_equal": treatment.p_equal,
        "holm": {"p": adjusted.p, "p_equal": adjusted.p_equal, "interval": _interval(adjusted.low, adjusted.high)},
        "noise": None
        if comparison.noise is None
        else {"seeds": comparison.noise.seeds, "questions": comparison.noise.questions},
        "checkpoints": [_pair_as_json(pair) for pair in pairs],
        "left_out": [
            {"run_id": out.run.id, "label": out.run.label, "seed": out.run.seed, "why": out.why}
            for arm in (comparison.first, comparison.second)
            for out in arm.left_out
        ],
        "problems": list(comparison.problems),
        "notes": list(comparison.notes),
    }


def _interval(low: float | None, high: float | None) -> list[float] | None:
    return None if low is None or high is None else [low, high]


def _pair_as_json(pair: SeedPair) -> dict[str, Any]:
    first, second, found = pair.first, pair.second, pair.checkpoints
    return {
        "seed": first.seed,
        "runs": [first.by.id, second.by.id],
        "scores": [
            {"k": s.point.k, "n": s.point.n, "samples": s.point.samples, "step": s.point.step} for s in (first, second)
        ],
        "difference": second.point.percent - first.point.percent,
        "interval": None if found is None else [found.low, found.high],
        "p": None if found is None else found.p,
        "test": None if found is None else found.test,
        "discordant": None if found is None else [found.only_first, found.only_second],
    }
