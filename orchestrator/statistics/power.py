"""What a sweep can show before it runs: the smallest difference, and the seeds that a wished-for one would take. Pure.

Two treatments are compared by a t interval on per-seed paired differences: seeds are the unit. The standard deviation
of a difference is taken as √2 times a run's own: pairing by seed is given no credit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

ASSUMED_SD = 1.0
"""Points by which the final scores of equal runs scatter, where no history says: 0.3 to 1.6 in GSM8K-sized studies."""
WISHED_FOR = 2.0
"""Points, where a contrast does not say what is worth finding (``detect``)."""
POWER, ALPHA = 0.8, 0.05
ENOUGH, SURE = 3, 0.8
"""Degrees of freedom from which runs are believed, and how surely the scatter is below what is taken from them."""
QUANTILES = 4000
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Scatter:
    """Standard deviation of final scores between seeds, in points: an upper bound that holds with 80 %, because a few
    runs tell little of it. ``runs``: how many it comes from; 0: assumed."""

    sd: float
    runs: int


@dataclass(frozen=True)
class Power:
    """``detectable``: points found with 80 % power; None with one seed. ``seeds``: an arm, for ``wished`` points."""

    detectable: float | None
    wished: float
    seeds: int | None
    """None: more than 10 000."""
    comparisons: int
    scatter: Scatter


def scatter_of(groups: Sequence[Sequence[float]]) -> Scatter:
    """Pooled over groups of equal runs that differ in their seed; what is assumed where they are too few."""
    pairs = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in pairs)
    if freedom < ENOUGH:
        return Scatter(ASSUMED_SD, 0)
    from scipy.special import chdtri

    squares = sum((score - sum(group) / len(group)) ** 2 for group in pairs for score in group)
    if squares == 0:  # all answers right, or none: that is no scatter of anything
        return Scatter(ASSUMED_SD, 0)
    return Scatter(math.sqrt(squares / float(chdtri(freedom, SURE))), sum(map(len, pairs)))


def power(seeds: int, comparisons: int, wished: float, scatter: Scatter) -> Power:
    """At 5 % for all ``comparisons`` together (Holm's first step) and 80 % power."""
    alpha, sd = ALPHA / max(1, comparisons), math.sqrt(2) * scatter.sd
    detectable = smallest_effect(seeds, alpha) * sd if seeds > 1 else None
    few, many = 1, 2
    while many < MOST_SEEDS and smallest_effect(many, alpha) * sd > wished:
        few, many = many, min(2 * many, MOST_SEEDS)
    if smallest_effect(many, alpha) * sd > wished:
        return Power(detectable, wished, None, comparisons, scatter)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if smallest_effect(middle, alpha) * sd <= wished else (middle, many)
    return Power(detectable, wished, many, comparisons, scatter)


@cache
def smallest_effect(pairs: int, alpha: float) -> float:
    """In standard deviations of the differences: what a two-sided t test on that many finds with 80 % power."""
    from scipy.optimize import brentq

    return float(brentq(lambda effect: power_of(effect, pairs, alpha) - POWER, 0.0, 1e12, rtol=1e-9))


def power_of(effect: float, pairs: int, alpha: float) -> float:
    """Chance that a two-sided t test on ``pairs`` differences finds a mean of ``effect`` standard deviations.

    With noncentrality d and critical value c it is the mean of P(Z > c·S - d) + P(Z < -c·S - d) over the sample's own
    standard deviation S, here over its quantiles: scipy's noncentral t, and statsmodels with it, gives NaN for some
    of the few pairs and small alphas that matter here.
    """
    from numpy import arange, sqrt
    from scipy.special import chdtri, ndtr
    from scipy.stats import t

    freedom = pairs - 1
    critical, shift = float(t.ppf(1 - alpha / 2, freedom)), effect * math.sqrt(pairs)
    tails = (arange(QUANTILES) + 0.5) / QUANTILES
    spread = critical * sqrt(chdtri(freedom, tails) / freedom)
    return float((ndtr(shift - spread) + ndtr(-shift - spread)).mean())
