"""What a sweep can show before it runs: the smallest difference, and the seeds that a wished-for one would take. Pure.

Two treatments are compared by a t interval on per-seed paired differences: seeds are the unit. Source of the formula:
statsmodels' power of the one-sample t test on those differences, whose standard deviation is √2 times a run's own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

ASSUMED_SD = 1.0
"""Points by which the final scores of equal runs scatter, where no history says: 0.3 to 1.6 in GSM8K-sized studies."""
WISHED_FOR = 2.0
"""Points, where a contrast does not say what is worth finding (``detect``)."""
POWER, ALPHA = 0.8, 0.05
SURELY = 20.0
"""Standard deviations that two seeds show; beyond it the solver finds no root."""


@dataclass(frozen=True)
class Scatter:
    """Standard deviation of final scores between seeds, in points. ``runs``: how many it comes from; 0: assumed."""

    sd: float
    runs: int


@dataclass(frozen=True)
class Power:
    """``detectable``: points found with 80 % power; None with one seed. ``seeds``: an arm, for ``wished`` points."""

    detectable: float | None
    wished: float
    seeds: int
    comparisons: int
    scatter: Scatter


def scatter_of(groups: Sequence[Sequence[float]]) -> Scatter:
    """Pooled over groups of equal runs that differ in their seed; what is assumed where no group has two."""
    pairs = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in pairs)
    if not freedom:
        return Scatter(ASSUMED_SD, 0)
    squares = sum((score - sum(group) / len(group)) ** 2 for group in pairs for score in group)
    return Scatter(math.sqrt(squares / freedom), sum(map(len, pairs)))


def power(seeds: int, comparisons: int, wished: float, scatter: Scatter) -> Power:
    """At 5 % for all ``comparisons`` together (Holm's first step) and 80 % power."""
    from statsmodels.stats.power import TTestPower

    test, alpha, sd = TTestPower(), ALPHA / max(1, comparisons), math.sqrt(2) * scatter.sd
    with warnings.catch_warnings():  # statsmodels tells of every start value that it had to give up
        warnings.simplefilter("ignore")
        detectable = float(test.solve_power(nobs=seeds, alpha=alpha, power=POWER)) * sd if seeds > 1 else None
        effect = min(wished / sd, SURELY) if sd else SURELY
        enough = math.ceil(float(test.solve_power(effect_size=effect, alpha=alpha, power=POWER)))
    return Power(detectable, wished, max(2, enough), comparisons, scatter)
