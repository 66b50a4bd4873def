"""What a search does next: a pure function of what its trials have shown and what is left to spend.

New points and further seeds of promising ones take turns; a trial that is surely behind the leader gets no more. The
last part of the budget goes to the promising ones alone, then the best are confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    number: int
    point: Mapping[str, Any]
    values: Mapping[int, float]
    waiting: frozenset[int] = frozenset()
    void: frozenset[int] = frozenset()
    pruned: frozenset[int] = frozenset()

    @property
    def asked(self) -> frozenset[int]:
        return frozenset(self.values) | self.waiting | self.void | self.pruned


@dataclass(frozen=True)
class Rules:
    """What the spec says. ``total``: runs of the selection, as far as it is known."""

    first: int
    up_to: int
    top: int
    startup: int
    baseline: bool
    total: int


@dataclass(frozen=True)
class View:
    """A search at one moment. ``left``: runs that its selection may still start. ``slots``: that may start now."""

    rules: Rules
    trials: tuple[Trial, ...]
    baseline: frozenset[int]
    """Seeds for which the baseline was asked."""
    left: int
    slots: int
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
    new = NewTrial(tuple(range(1, rules.first + 1)))
    able_new = not view.exhausted and cost_of(view, new.seeds) <= view.left
    again = _promising(view, seen)
    if again is not None and (not able_new or _turn_to_replicate(view)):
        return again
    if able_new:
        return new
    if view.waiting:
        return Wait()
    return Confirm(chosen(seen, rules.top))


def chosen(seen: Surface, top: int) -> tuple[int, ...]:
    """The highest smoothed values."""
    return tuple(sorted(seen.smoothed, key=lambda n: (-seen.smoothed[n], n))[:top])


def cost_of(view: View, seeds: tuple[int, ...]) -> int:
    """In runs: a seed that the baseline does not have yet costs two."""
    return len(seeds) + (len(set(seeds) - view.baseline) if view.rules.baseline else 0)


def _turn_to_replicate(view: View) -> bool:
    rules = view.rules
    with_values = sum(bool(trial.values) for trial in view.trials)
    if with_values < rules.startup:
        return False
    if view.left <= math.ceil(RACE_SHARE * rules.total):
        return True
    runs = sum(len(trial.asked) for trial in view.trials)
    further = sum(max(0, len(trial.asked) - rules.first) for trial in view.trials)
    return further < REPLICATE_SHARE * runs


def _promising(view: View, seen: Surface) -> Replicate | None:
    """A further seed for the trial that could be the best; None where none is open."""
    leader = seen.leader
    if leader is None:
        return None
    best: tuple[float, int, Replicate] | None = None
    for trial in view.trials:
        seed = next((s for s in range(1, view.rules.up_to + 1) if s not in trial.asked), None)
        if not trial.values or trial.waiting or trial.pruned or seed is None:
            continue
        if trial.number != leader and seen.behind(trial.number, leader) > SURELY:
            continue
        if cost_of(view, (seed,)) > view.left:
            continue
        could_be = seen.smoothed[trial.number] + seen.smoothed_error(trial.number)
        if best is None or (could_be, -trial.number) > (best[0], best[1]):
            best = (could_be, -trial.number, Replicate(trial.number, seed))
    return best[2] if best is not None else None


def behind_at_equal_steps(own: float, leader: float, sd: float, z: float) -> bool:
    """Two runs of one seed at the same step, in percent: is the first surely behind? ``sd``: of one run's score."""
    return leader - own > z * math.sqrt(2) * sd
