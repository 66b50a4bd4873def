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
QUANTILES = 4000
MOST_SEEDS = 10_000


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
    alpha, sd = ALPHA / max(1, comparisons), math.sqrt(2) * scatter.sd
    detectable = smallest_effect(seeds, alpha) * sd if seeds > 1 else None
    enough = 2
    while enough < MOST_SEEDS and smallest_effect(enough, alpha) * sd > wished:
        enough += 1 if enough < 30 else enough // 10
    return Power(detectable, wished, enough, comparisons, scatter)


@cache
def smallest_effect(pairs: int, alpha: float) -> float:
    """In standard deviations of the differences: what a two-sided t test on that many finds with 80 % power."""
    from scipy.optimize import brentq

    return float(brentq(lambda effect: power_of(effect, pairs, alpha) - POWER, 0.0, 1e5, xtol=1e-6))


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
