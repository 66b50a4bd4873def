"""What is known of a trial from few noisy runs: the mean over seeds with its error, and one smoothed over the space.
Pure.

A run's score scatters by a point or two, so the highest of twenty is mostly luck. Neighbours in the space say what a
single run cannot: a Gaussian process through all trials, each with its own error, shrinks the lucky ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BELIEF = 4
"""How many degrees of freedom what was known before is worth, beside those of the trials' own replicates."""
FEWEST = 5
"""Trials from which on a surface is fitted; fewer are shrunk to their common mean."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Surface:
    """Trials by number. ``mean`` and ``error``: over seeds, as measured. ``smoothed``: with what the others say."""

    mean: Mapping[int, float]
    error: Mapping[int, float]
    smoothed: Mapping[int, float]
    order: tuple[int, ...] = ()
    covariance: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """Of the smoothed values, in that order."""

    @property
    def leader(self) -> int | None:
        return max(self.smoothed, key=lambda n: (self.smoothed[n], -n), default=None)

    def smoothed_error(self, number: int) -> float:
        at = self.order.index(number)
        return math.sqrt(float(self.covariance[at, at]))

    def behind(self, number: int, leader: int) -> float:
        """By how many standard errors of their difference."""
        a, b = self.order.index(leader), self.order.index(number)
        variance = float(self.covariance[a, a] + self.covariance[b, b] - 2 * self.covariance[a, b])
        gap = self.smoothed[leader] - self.smoothed[number]
        return gap / math.sqrt(variance) if variance > 1e-12 else math.copysign(math.inf, gap) if gap else 0.0


def replicate_sd(groups: Sequence[Sequence[float]], known: float) -> float:
    """Standard deviation between seeds of equal trials, in points: pooled over ``groups``, and ``known`` beside it.

    The mean of an inverse-gamma belief with :data:`BELIEF` degrees of freedom around ``known``, after the data.
    """
    squares, freedom = BELIEF * known**2, BELIEF
    for group in groups:
        if len(group) > 1:
            mean = math.fsum(group) / len(group)
            squares += math.fsum((value - mean) ** 2 for value in group)
            freedom += len(group) - 1
    return math.sqrt(squares / freedom)


def surface(values: Mapping[int, Sequence[float]], where: Mapping[int, Sequence[float]], known_sd: float) -> Surface:
    """``values``: trial → one value a seed. ``where``: trial → its place in the unit cube."""
    order = tuple(number for number in sorted(values) if values[number])
    if not order:
        return Surface({}, {}, {})
    sd = replicate_sd([values[number] for number in order], known_sd)
    mean = np.array([math.fsum(values[number]) / len(values[number]) for number in order])
    error = np.array([sd / math.sqrt(len(values[number])) for number in order])
    places = np.array([list(where[number]) for number in order], dtype=float)
    smoothed, covariance = process(places, mean, error)(places) if len(order) >= FEWEST else _shrunk(mean, error)
    return Surface(
        dict(zip(order, mean.tolist(), strict=True)),
        dict(zip(order, error.tolist(), strict=True)),
        dict(zip(order, smoothed.tolist(), strict=True)),
        order,
        covariance,
    )


def _shrunk(mean: Floats, error: Floats) -> tuple[Floats, Floats]:
    """To the weighted mean, by how much of the scatter the errors explain (DerSimonian and Laird's estimate)."""
    weight = 1 / error**2
    centre = float((weight * mean).sum() / weight.sum())
    spread = float((weight * (mean - centre) ** 2).sum())
    scale = float(weight.sum() - (weight**2).sum() / weight.sum())
    between = max(0.0, (spread - (len(mean) - 1)) / scale) if scale > 0 else 0.0
    share = between / (between + error**2)
    return centre + share * (mean - centre), np.diag(np.maximum(share * error**2, 1e-12))


def process(places: Floats, mean: Floats, error: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """A Gaussian process (Matérn 5/2, one length) through trials: places → posterior mean and covariance there."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    centre = float(np.average(mean, weights=1 / error**2))
    scale = max(float(np.std(mean)), float(error.mean()), 1e-9)
    kernel = ConstantKernel(0.5, (0.01, 4.0)) * Matern(0.5, (0.15, 3.0), nu=2.5)
    fitted = GaussianProcessRegressor(kernel, alpha=(error / scale) ** 2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at a bound: that is what bounds are for
        fitted.fit(places, (mean - centre) / scale)

    def predict(at: Floats) -> tuple[Floats, Floats]:
        found, covariance = fitted.predict(at, return_cov=True)
        return centre + scale * found, scale**2 * covariance

    return predict


@dataclass(frozen=True)
class Plane:
    """What the trials say over two fields, the others averaged over the trials' own. ``mean`` and ``error``: rows by
    the second field, columns by the first, at ``shares`` of their ranges; NaN where the space has no point."""

    shares: Floats
    mean: Floats
    error: Floats


def plane(
    seen: Surface,
    where: Mapping[int, Sequence[float]],
    columns: tuple[int, int],
    allowed: Callable[[float, float], bool],
    size: int,
) -> Plane | None:
    """None with too few trials. ``columns``: of the two fields in a place; ``allowed``: are two shares in the space?"""
    if len(seen.order) < FEWEST:
        return None
    places = np.array([list(where[number]) for number in seen.order], dtype=float)
    known = process(
        places,
        np.array([seen.mean[number] for number in seen.order]),
        np.array([seen.error[number] for number in seen.order]),
    )
    shares = np.linspace(0, 1, size)
    mean, error = np.full((size, size), np.nan), np.full((size, size), np.nan)
    for row, second in enumerate(shares):
        for place, first in enumerate(shares):
            if not allowed(float(first), float(second)):
                continue
            at = places.copy()
            at[:, columns[0]], at[:, columns[1]] = first, second
            found, covariance = known(at)
            mean[row, place] = found.mean()
            error[row, place] = math.sqrt(max(float(covariance.mean()), 0.0))
    return Plane(shares, mean, error)
