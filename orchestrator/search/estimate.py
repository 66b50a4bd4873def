"""What is known of a trial from few noisy runs: the mean over seeds with its error, and one smoothed over the space.
Pure.

A run's score scatters by a point or two, so the highest of twenty is mostly luck. Neighbours in the space say what a
single run cannot: a Gaussian process through all trials, with their errors, shrinks the lucky ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BELIEF = 4
"""How many degrees of freedom what was known before is worth, beside those of the trials' own replicates."""
FEWEST = 5
"""Trials from which on a map of the surface says anything."""

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
    noise: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    """Covariance of the means."""

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


def surface(
    values: Mapping[int, Mapping[int, float]], where: Mapping[int, Sequence[float]], sd: float, *, shared: bool
) -> Surface:
    """``values``: trial → seed → value. ``where``: trial → its place in the unit cube. ``sd``: of one run's score.

    ``shared``: the values are differences to a baseline, whose run of a seed is the same one for all trials: what is
    wrong with it is wrong with all of them, which does not matter between trials and matters for what they gain.
    """
    order = tuple(number for number in sorted(values) if values[number])
    if not order:
        return Surface({}, {}, {})
    mean = np.array([math.fsum(values[number].values()) / len(values[number]) for number in order])
    noise = _noise([frozenset(values[number]) for number in order], sd, shared=shared)
    places = np.array([list(where[number]) for number in order], dtype=float)
    smoothed, covariance = process(places, mean, noise)(places)
    return Surface(
        dict(zip(order, mean.tolist(), strict=True)),
        dict(zip(order, np.sqrt(np.diag(noise)).tolist(), strict=True)),
        dict(zip(order, smoothed.tolist(), strict=True)),
        order,
        covariance,
        noise,
    )


def _noise(seeds: Sequence[frozenset[int]], sd: float, *, shared: bool) -> Floats:
    """Covariance of the trials' means: of each alone sd²/n, and of two, by the baseline's runs that both stand on."""
    alone = np.diag([sd**2 / len(own) for own in seeds])
    if not shared:
        return alone
    common = [[len(a & b) / (len(a) * len(b)) for b in seeds] for a in seeds]
    return alone + sd**2 * np.array(common)


AMPLITUDES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Variances of the surface, in those of one trial's mean."""
LENGTHS = (0.15, 0.3, 0.6, 1.2, 2.4)
"""Over which it changes, in sides of the unit cube."""


def process(places: Floats, mean: Floats, noise: Floats) -> Callable[[Floats], tuple[Floats, Floats]]:
    """A Gaussian process (Matérn 5/2 and a constant) through trials: places → posterior mean and covariance there.

    ``noise``: covariance of the trials' means. Amplitude and length are not known, and a dozen noisy trials hardly
    tell: all of a grid are averaged, each by its likelihood (Rasmussen and Williams 2006, §2.3 and §5.2), instead of
    taking the likeliest, which is far too sure.
    """
    unit = float(np.diag(noise).mean())
    level = 100 * (float(mean.var()) + unit)
    fits = []
    for amplitude in AMPLITUDES:
        for length in LENGTHS:
            covariance = amplitude * unit * _matern(places, places, length) + level + noise
            factor = np.linalg.cholesky(covariance)
            inner = np.linalg.solve(factor, mean - mean.mean())
            likelihood = -0.5 * float(inner @ inner) - float(np.log(np.diag(factor)).sum())
            fits.append((amplitude * unit, length, factor, inner, likelihood))
    weights = np.exp(np.array([fit[-1] for fit in fits]) - max(fit[-1] for fit in fits))
    weights /= weights.sum()

    def predict(at: Floats) -> tuple[Floats, Floats]:
        found = []
        for (amplitude, length, factor, inner, _), weight in zip(fits, weights, strict=True):
            if weight < 1e-4:
                continue
            across = np.linalg.solve(factor, amplitude * _matern(places, at, length) + level)
            own = amplitude * _matern(at, at, length) + level - across.T @ across
            found.append((weight, mean.mean() + across.T @ inner, own))
        total = sum(weight for weight, _, _ in found)
        centre = sum(weight * one for weight, one, _ in found) / total
        spread = sum(weight * (own + np.outer(one - centre, one - centre)) for weight, one, own in found) / total
        return centre, spread

    return predict


def _matern(a: Floats, b: Floats, length: float) -> Floats:
    far = math.sqrt(5) * np.sqrt(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1)) / length
    found: Floats = (1 + far + far**2 / 3) * np.exp(-far)
    return found


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
    known = process(places, np.array([seen.mean[number] for number in seen.order]), seen.noise)
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
