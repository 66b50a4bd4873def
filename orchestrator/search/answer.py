"""What a search found: a set of treatments that cannot be told apart, and the simplest of them. Pure.

The scores that are reported come from the confirmation: other questions than those that were selected on, and seeds
that no trial had. No noise and the presets stand beside, as candidates like the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from db.records import SearchArm
from orchestrator.comparison import Answers, Comparison, as_json, compare_family
from orchestrator.families import Best, best_of
from orchestrator.scores import Arm
from orchestrator.search.state import SearchState
from orchestrator.statistics.treatments import EQUAL_WITHIN


@dataclass(frozen=True)
class Candidate:
    """One treatment of the confirmation. ``gain``: against the baseline; None for the baseline itself."""

    arm: SearchArm
    scores: Arm
    gain: Comparison | None

    @property
    def label(self) -> str:
        return self.scores.label


@dataclass(frozen=True)
class Answer:
    """``best``: the highest mean, and how the others compare with it. ``pick``: the trial that selection and
    confirmation together speak for, where one has to be taken."""

    candidates: tuple[Candidate, ...]
    best: Best | None
    tied: tuple[str, ...]
    """Labels that cannot be told from the best, the best included, the simplest first."""
    pick: str | None

    @property
    def simplest(self) -> str | None:
        return self.tied[0] if self.tied else None

    @property
    def sentence(self) -> str:
        if self.best is None:
            return "Nothing was confirmed: no run of the confirmation has a score that counts."
        if len(self.tied) == 1:
            return f"{self.tied[0]} is best: every other is surely lower."
        names = f"{', '.join(self.tied[:-1])} and {self.tied[-1]}"
        seeds = min((len(c.scores.scored) for c in self.candidates if c.label in self.tied), default=0)
        how = "with one seed nothing can be" if seeds < 2 else f"on {seeds} fresh seeds"
        return f"{names} cannot be told apart ({how}); the simplest is {self.tied[0]}."


def answer(state: SearchState, answers_of: Answers) -> Answer | None:
    """None before anything is confirmed."""
    asked = state.of_role("confirmed", "beside")
    if not asked:
        return None
    named = {arm.number: _named(state, arm) for arm in asked}
    baseline = next(arm for arm in asked if arm.role == "beside")  # recorded first of what stands beside
    others = [arm for arm in asked if arm is not baseline]
    first = named[baseline.number]
    gains = compare_family([(first, named[arm.number], EQUAL_WITHIN) for arm in others], answers_of)
    by_number = dict(zip((arm.number for arm in others), gains, strict=True))
    candidates = tuple(Candidate(arm, named[arm.number], by_number.get(arm.number)) for arm in asked)
    best = best_of(state.name, [candidate.scores for candidate in candidates], answers_of)
    tied: list[Candidate] = []
    if best is not None:
        kept = {best.leader.label, *(arm.label for arm in best.others(*_NOT_LOWER))}
        tied = sorted((c for c in candidates if c.label in kept), key=lambda c: simplicity(state, c.arm))
    return Answer(candidates, best, tuple(c.label for c in tied), _pick(state, candidates))


_NOT_LOWER = ("higher", "equivalent", "not distinguishable", "not assessable")


def _named(state: SearchState, arm: SearchArm) -> Arm:
    """Its scores under the name that the search gives it, whatever run of another sweep was taken over."""
    label = arm.label.removeprefix(f"{state.name}/").removesuffix(" confirmed")
    if label == "baseline":
        against = state.settings.objective.against
        label = "no noise" if against == {"aqn": "none"} else "baseline"
    elif arm.role == "confirmed":
        label = f"trial {label}"
    found = state.scored.get(arm.condition_id)
    return replace(found, label=label) if found is not None else Arm(label, arm.condition_id, {}, (), ())


def simplicity(state: SearchState, arm: SearchArm) -> tuple[Any, ...]:
    """The baseline, then presets, then trials: of these those with fewer fields, then of smaller numbers, in the order
    of the space."""
    role = 1 if arm.role == "beside" else 2
    if role == 1 and arm is next(a for a in state.arms if a.role == "beside"):
        role = 0
    numbers = tuple(
        float(arm.point[key]) for key, p in state.settings.space.items() if p.choices is None and key in arm.point
    )
    return role, len(arm.point), numbers, arm.number


def _pick(state: SearchState, candidates: tuple[Candidate, ...]) -> str | None:
    able = [c for c in candidates if c.arm.trial in state.surface.smoothed and c.scores.scored]
    if not able:
        return None
    centre = fmean(c.scores.mean or 0.0 for c in able)
    seen = state.surface
    middle = fmean(seen.smoothed[int(c.arm.trial or 0)] for c in able)

    def combined(candidate: Candidate) -> float:
        number = int(candidate.arm.trial or 0)
        return together(
            seen.smoothed[number] - middle, seen.smoothed_error(number),
            (candidate.scores.mean or 0.0) - centre, state.known_sd, len(candidate.scores.scored),
        )  # fmt: skip

    return max(able, key=combined).label


def together(smoothed: float, smoothed_error: float, confirmed: float, sd: float, seeds: int) -> float:
    """Selection and confirmation in one number, each weighted by its precision. ``sd``: of one run of the latter."""
    of_selection, of_confirmation = 1 / max(smoothed_error, 1e-9) ** 2, seeds / max(sd, 1e-9) ** 2
    return (of_selection * smoothed + of_confirmation * confirmed) / (of_selection + of_confirmation)


def as_json_object(state: SearchState, found: Answer | None) -> dict[str, Any]:
    """The one form of a search for programs."""
    seen = state.surface
    return {
        "search": state.name,
        "trials": [
            {
                "trial": t.number, "point": dict(t.point), "values": {str(s): v for s, v in sorted(t.values.items())},
                "mean": seen.mean.get(t.number), "standard_error": seen.error.get(t.number),
                "smoothed": seen.smoothed.get(t.number), "waiting": sorted(t.waiting), "withheld": state.why_void(t),
                "ended_early": sorted(t.pruned), "cost": state.cost(t),
                "runs": [run.id for arm in state.arms if arm.number == t.number for run in state.runs_of(arm)],
            }
            for t in state.trials
        ],
        "confirmed": None
        if found is None
        else [
            {
                "label": c.label, "role": c.arm.role, "trial": c.arm.trial, "point": c.arm.point,
                "mean": c.scores.mean, "seeds": list(c.scores.seeds),
                "gain": as_json(c.gain) if c.gain is not None else None,
            }
            for c in found.candidates
        ],
        "best": None if found is None else list(found.tied),
        "simplest": None if found is None else found.simplest,
        "pick": None if found is None else found.pick,
        "answer": None if found is None else found.sentence,
    }  # fmt: skip
