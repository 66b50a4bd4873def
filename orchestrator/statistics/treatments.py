"""Two treatments: would equal runs of other seeds differ too? Seeds are the unit, paired; one tells nothing. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ALPHA = 0.05
EQUAL_WITHIN = 1.0
"""Points up to which two treatments count as equal, where nobody says otherwise."""

Verdict = Literal["higher", "lower", "equivalent", "not distinguishable", "not assessable"]


@dataclass(frozen=True)
class TreatmentDifference:
    """Mean of per-seed differences (second minus first), in points. What needs two seeds or more is None with fewer."""

    differences: tuple[float, ...]
    """One a seed."""
    difference: float | None
    low: float | None
    high: float | None
    """The t interval of 95 %."""
    p: float | None
    p_equal: float | None
    """Of the hypothesis that the true difference is ``margin`` or more, either way (two one-sided t tests)."""
    sd: float | None
    """Of the per-seed differences."""
    margin: float
    step: float = 0.0
    """By how many points a score of these can move at least."""

    @property
    def seeds(self) -> int:
        return len(self.differences)

    @property
    def assessable(self) -> bool:
        return self.p is not None


def difference_by_seed(
    differences: Sequence[float], margin: float = EQUAL_WITHIN, step: float = 0.0, alpha: float = ALPHA
) -> TreatmentDifference:
    """A t interval and test of the mean of per-seed paired differences, and whether it is within ``margin`` points.

    ``step``: by how many points a score can move at least (100 / answers). Scores are rounded to it, so the scatter of
    their differences is never taken as less than that rounding's, step/√6: two seeds that differ equally by luck
    would prove anything otherwise. ``alpha``: of the interval.
    """
    given = tuple(differences)
    if len(given) < 2:
        mean = given[0] if given else None
        return TreatmentDifference(given, mean, None, None, None, None, None, margin, step)
    from scipy.special import stdtr, stdtrit

    n = len(given)
    mean = math.fsum(given) / n
    sd = math.sqrt(math.fsum((d - mean) ** 2 for d in given) / (n - 1))
    error = max(sd, step / math.sqrt(6)) / math.sqrt(n)
    if error == 0:
        raise ValueError("differences without any scatter need the step that scores are rounded to")
    freedom = n - 1
    half = float(stdtrit(freedom, 1 - alpha / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error))
    p_equal = float(stdtr(freedom, (abs(mean) - margin) / error))  # the nearer of the two margins decides
    return TreatmentDifference(given, mean, mean - half, mean + half, p, p_equal, sd, margin, step)


@dataclass(frozen=True)
class Adjusted:
    """One comparison of a family: its p-values after Holm's correction, its simultaneous interval, what it shows."""

    p: float | None
    p_equal: float | None
    low: float | None
    high: float | None
    """Bonferroni's: all of the family's intervals hold together with 95 %."""
    verdict: Verdict


def family(members: Sequence[TreatmentDifference], size: int = 0) -> list[Adjusted]:
    """Every declared comparison counts, those that cannot be assessed yet too (as p = 1): a family does not change as
    its runs come in. ``size``: of the family, where more is compared in it than these.
    """
    if not members:
        return []
    differ = holm([1.0 if m.p is None else m.p for m in members], size)
    equal = holm([1.0 if m.p_equal is None else m.p_equal for m in members], size)
    found = []
    for member, p, p_equal in zip(members, differ, equal, strict=True):
        if not member.assessable:
            found.append(Adjusted(None, None, None, None, "not assessable"))
            continue
        wide = difference_by_seed(member.differences, member.margin, member.step, ALPHA / max(size, len(members)))
        found.append(Adjusted(p, p_equal, wide.low, wide.high, _verdict(member, p, p_equal)))
    return found


def holm(p: Sequence[float], size: int = 0) -> list[float]:
    """Adjusted p-values (Holm 1979): the smallest times m, the next times m - 1, ..., never falling, at most 1.

    Equal to statsmodels' (a test compares them), which collects garbage at every call: 70 ms of it here, thousands of
    times in a simulation.
    """
    m = max(size, len(p))
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (m - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def _verdict(member: TreatmentDifference, p: float, p_equal: float) -> Verdict:
    """A difference is named before an equivalence: what is surely there may be small all the same."""
    if p < ALPHA and member.difference:
        return "higher" if member.difference > 0 else "lower"
    return "equivalent" if p_equal < ALPHA else "not distinguishable"


@dataclass(frozen=True)
class Noise:
    """Two standard errors of one mean (of a score over seeds, or of a difference), in points."""

    seeds: float | None
    """From the seeds, on these questions: what the t interval is made of; None with one seed."""
    questions: float | None
    """From the choice of the questions, beyond that; None where the estimate is not above 0."""


def noise(by_seed: Sequence[Sequence[float]]) -> Noise:
    """Seed noise and question noise apart. ``by_seed``: for each seed the value of every question (share of right
    answers, or a difference of two), in the same order; at least one seed and two questions.

    With several seeds the question part is that of a two-way layout without replication: the mean square of
    questions less that of the residual, which is chance within a seed and is in the seeds' part already.
    """
    from numpy import array, float64

    values = array(by_seed, dtype=float64)
    seeds, n = values.shape
    by_question = values.mean(axis=0)
    if seeds == 1:
        return Noise(None, 100 * float(by_question.std(ddof=1)) / math.sqrt(n))
    own = values.mean(axis=1)
    residual = values - own[:, None] - by_question[None, :] + values.mean()
    within = float((residual**2).sum()) / ((seeds - 1) * (n - 1))
    between = float(by_question.var(ddof=1)) - within / seeds
    of_seeds = 100 * float(own.std(ddof=1)) / math.sqrt(seeds)
    return Noise(of_seeds, 100 * math.sqrt(between / n) if between > 0 else None)
