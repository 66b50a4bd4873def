"""What a search found: a set of treatments that cannot be told apart, and the simplest of them. Pure.

The scores that are reported come from the confirmation: other questions than those that were selected on, and seeds
that no trial had. No noise and the presets stand beside, as candidates like the others.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """``tied``: labels that are not surely lower than the best, the best included, the simplest first. ``without``:
    those that have no score that counts (yet). ``pick``: the trial among the tied that selection and confirmation
    together speak for, where one has to be taken."""

    candidates: tuple[Candidate, ...]
    best: Best | None
    tied: tuple[str, ...]
    without: tuple[str, ...]
    over: bool
    pick: str | None

    @property
    def simplest(self) -> str | None:
        return self.tied[0] if self.tied else None

    @property
    def sentence(self) -> str:
        if not self.over:
            return "The confirmation is under way: nothing can be said yet."
        if self.best is None:
            return "Nothing was confirmed: no run of the confirmation has a score that counts."
        missing = f" {_list(self.without)}: no score that counts." if self.without else ""
        if len(self.tied) == 1:
            others = " every other is surely lower." if len(self.candidates) > 1 + len(self.without) else ""
            return f"{self.tied[0]} is best{':' if others else ' of one'}{others or '.'}{missing}"
        seeds = min((len(c.scores.scored) for c in self.candidates if c.label in self.tied), default=0)
        how = "with one seed nothing can be" if seeds < 2 else f"on {seeds} fresh seeds"
        return f"{_list(self.tied)} cannot be told apart ({how}); the simplest is {self.tied[0]}.{missing}"


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def answer(state: SearchState, answers_of: Answers) -> Answer | None:
    """None before anything is to be confirmed."""
    asked = state.of_role("plain", "beside", "confirmed")
    if not asked:
        return None
    named = {arm.number: _named(state, arm) for arm in asked}
    plain, *others = asked  # recorded first
    gains = compare_family([(named[plain.number], named[a.number], EQUAL_WITHIN) for a in others], answers_of)
    by_number = dict(zip((arm.number for arm in others), gains, strict=True))
    candidates = tuple(Candidate(arm, named[arm.number], by_number.get(arm.number)) for arm in asked)
    best = best_of(state.name, [candidate.scores for candidate in candidates], answers_of)
    lower = {arm.label for arm in best.others("lower")} if best is not None else set()
    able = [c for c in candidates if c.scores.scored and c.label not in lower]
    tied = sorted(able, key=lambda candidate: simplicity(state, candidate.arm))
    without = tuple(c.label for c in candidates if not c.scores.scored)
    return Answer(candidates, best, tuple(c.label for c in tied), without, state.over, _pick(state, tied))


def _named(state: SearchState, arm: SearchArm) -> Arm:
    """Its scores under the name that the search gives it, whatever run of another sweep was taken over."""
    label = arm.label.removeprefix(f"{state.name}/").removesuffix(" confirmed")
    if arm.role == "plain":
        label = "no noise" if state.settings.objective.against == {"aqn": "none"} else "baseline"
    elif arm.role == "confirmed":
        label = f"trial {label}"
    found = state.scored.get(arm.condition_id)
    return replace(found, label=label) if found is not None else Arm(label, arm.condition_id, {}, (), ())


def simplicity(state: SearchState, arm: SearchArm) -> tuple[Any, ...]:
    """The baseline, then presets, then trials: of these those with fewer fields, then of smaller numbers, in the order
    of the space."""
    numbers = tuple(
        float(arm.point[key]) for key, p in state.settings.space.items() if p.choices is None and key in arm.point
    )
    return ("plain", "beside", "confirmed").index(arm.role), len(arm.point), numbers, arm.number


def _pick(state: SearchState, tied: Sequence[Candidate]) -> str | None:
    seen = state.surface
    able = [(c, c.arm.trial) for c in tied if c.arm.trial in seen.smoothed]
    if not able:
        return None
    smoothed = [seen.smoothed[int(number or 0)] for _, number in able]
    means = [candidate.scores.mean or 0.0 for candidate, _ in able]
    errors = [seen.smoothed_error(int(number or 0)) for _, number in able]
    seeds = [len(candidate.scores.scored) for candidate, _ in able]
    return able[spoken_for(smoothed, errors, means, seeds, state.sd)][0].label


def spoken_for(
    smoothed: Sequence[float], errors: Sequence[float], confirmed: Sequence[float], seeds: Sequence[int], sd: float
) -> int:
    """Which of some trials selection and confirmation speak for together, each weighted by its precision.

    ``smoothed`` and ``errors``: of the selection; ``confirmed``: means over ``seeds`` fresh seeds; ``sd``: of one run.
    Both are taken from their own means: the questions differ, and with them the level.
    """
    middle, centre = fmean(smoothed), fmean(confirmed)

    def together(index: int) -> float:
        of_selection, of_confirmation = 1 / max(errors[index], 1e-9) ** 2, seeds[index] / max(sd, 1e-9) ** 2
        values = of_selection * (smoothed[index] - middle) + of_confirmation * (confirmed[index] - centre)
        return values / (of_selection + of_confirmation)

    return max(range(len(smoothed)), key=together)


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
                "ended_early": sorted(t.pruned), "cost": t.cost,
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
