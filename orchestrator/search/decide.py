"""What a search does next: a pure function of what its trials have shown and what is left to spend.

New points and further seeds of promising ones take turns; a trial that is surely behind the leader gets no more. The
last part of the budget goes to the promising ones alone, then the best are confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from orchestrator.search.estimate import Surface

REPLICATE_SHARE = 0.4
"""Of the runs of trials: how many are further seeds, until the race."""
RACE_SHARE = 0.2
"""Of the selection's runs: the last ones, which no longer look at new points."""
SURELY = 1.645
"""Standard errors by which a trial is behind: then it gets no more seeds."""


@dataclass(frozen=True)
class Trial:
    """A point of the space and its seeds. ``values``: seed → value of the objective. ``waiting``: under way.

    ``void``: ended without a score that counts (refuted, failed, touched by a bug). ``pruned``: ended early.
    ``orphaned``: those of the void whose own score counts, and whose baseline's does not.
    """

    number: int
    point: Mapping[str, Any]
    values: Mapping[int, float]
    waiting: frozenset[int] = frozenset()
    void: frozenset[int] = frozenset()
    pruned: frozenset[int] = frozenset()
    orphaned: frozenset[int] = frozenset()
    cost: float | None = None
    """The second objective, to be small."""

    @property
    def asked(self) -> frozenset[int]:
        return frozenset(self.values) | self.waiting | self.void | self.pruned


@dataclass(frozen=True)
class Rules:
    """What the spec says. ``seeds``: those that a trial may have, in their order; the first ``first`` at once.
    ``total``: runs of the selection, as far as it is known."""

    seeds: tuple[int, ...]
    first: int
    top: int
    startup: int
    baseline: bool
    total: int


@dataclass(frozen=True)
class View:
    """A search at one moment. ``left``: runs that its selection may still start. ``slots``: trials that may start now.
    ``confirmable``: how many trials what is left of the budget can confirm."""

    rules: Rules
    trials: tuple[Trial, ...]
    baseline: frozenset[int]
    """Seeds for which the baseline was asked."""
    left: int
    slots: int
    confirmable: int
    exhausted: bool = False
    """The sampler has no further point."""
    confirming: bool = False
    waiting: bool = False
    """Is any run of it under way?"""


@dataclass(frozen=True)
class NewTrial:
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Replicate:
    trial: int
    seed: int


@dataclass(frozen=True)
class Confirm:
    trials: tuple[int, ...]
    """The best first; empty where no trial has a value."""


@dataclass(frozen=True)
class Wait:
    pass


@dataclass(frozen=True)
class Finish:
    pass


Order = NewTrial | Replicate | Confirm | Wait | Finish


def next_order(view: View, seen: Surface) -> Order:
    """One thing to do. ``seen``: of all trials that have values."""
    if view.confirming:
        return Wait() if view.waiting else Finish()
    if view.slots <= 0:
        return Wait()
    rules = view.rules
    new = NewTrial(rules.seeds[: rules.first])
    able_new = bool(new.seeds) and not view.exhausted and cost_of(view, new.seeds) <= view.left
    again = _promising(view, seen)
    if again is not None and (not able_new or _turn_to_replicate(view)):
        return again
    if able_new:
        return new
    if view.waiting:
        return Wait()
    return Confirm(chosen(view.trials, seen, min(rules.top, view.confirmable)))


def chosen(trials: Sequence[Trial], seen: Surface, top: int) -> tuple[int, ...]:
    """The highest smoothed values; with a second objective, those that no other beats in both come first."""
    costs = {trial.number: trial.cost for trial in trials if trial.cost is not None}

    def beaten(number: int) -> bool:
        return number in costs and any(
            seen.smoothed[other] >= seen.smoothed[number] and costs[other] < costs[number]
            for other in seen.smoothed.keys() & costs.keys()
        )

    return tuple(sorted(seen.smoothed, key=lambda n: (beaten(n), -seen.smoothed[n], n))[: max(0, top)])


def cost_of(view: View, seeds: tuple[int, ...]) -> int:
    """In runs: a seed that the baseline does not have yet costs two."""
    return len(seeds) + (len(set(seeds) - view.baseline) if view.rules.baseline else 0)


def _turn_to_replicate(view: View) -> bool:
    rules = view.rules
    if any(trial.orphaned and not trial.values for trial in view.trials):
        return True
    with_values = sum(bool(trial.values) for trial in view.trials)
    if with_values < rules.startup:
        return False
    if view.left <= math.ceil(RACE_SHARE * rules.total):
        return True
    runs = sum(len(trial.asked) for trial in view.trials)
    further = sum(max(0, len(trial.asked) - rules.first) for trial in view.trials)
    return further < REPLICATE_SHARE * runs


def _promising(view: View, seen: Surface) -> Replicate | None:
    """A further seed for the trial that could be the best; None where none is open. A trial whose baseline fell away
    has its own score still: it is given a seed that the baseline has before a new point is."""
    best: tuple[bool, float, int, Replicate] | None = None
    for trial in view.trials:
        order = further_seed(view, seen, trial)
        if order is None:
            continue
        known = trial.number in seen.smoothed
        could_be = seen.smoothed[trial.number] + seen.smoothed_error(trial.number) if known else 0.0
        if best is None or (not known, could_be, -trial.number) > best[:3]:
            best = (not known, could_be, -trial.number, order)
    return best[3] if best is not None else None


def further_seed(view: View, seen: Surface, trial: Trial) -> Replicate | None:
    """One that a trial may have; None where it has all, is under way, surely behind, or where it cannot be paid."""
    seed = next((s for s in view.rules.seeds if s not in trial.asked), None)
    if seed is None or trial.waiting or trial.pruned or cost_of(view, (seed,)) > view.left:
        return None
    if trial.number not in seen.smoothed:
        return Replicate(trial.number, seed) if trial.orphaned else None
    leader = seen.leader
    if leader is not None and trial.number != leader and seen.behind(trial.number, leader) > SURELY:
        return None
    return Replicate(trial.number, seed)


def behind_at_equal_steps(own: float, leader: float, sd: float, z: float, looks: int = 1) -> bool:
    """Two runs of one seed at the same step, in percent: is the first surely behind? ``sd``: of one run's score.

    ``looks``: how often it could be asked: evals of a run, times the trials of which the leader is the highest. The
    error that ``z`` allows holds for all of them together (Bonferroni).
    """
    normal = NormalDist()
    sure = -normal.inv_cdf(normal.cdf(-z) / max(1, looks))
    return leader - own > sure * math.sqrt(2) * sd
