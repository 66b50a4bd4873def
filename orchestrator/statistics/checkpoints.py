"""Two checkpoints: did one answer more questions right than the other? Says nothing of how either was trained. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from orchestrator.statistics.treatments import ALPHA, difference_by_seed


@dataclass(frozen=True)
class CheckpointDifference:
    """Of two checkpoints, in points (second minus first), with its interval of 95 %."""

    difference: float
    low: float
    high: float
    p: float
    test: str
    n: int
    """Questions."""
    only_first: int | None
    """Questions that the first alone answered right; None where the answers are not known one by one."""
    only_second: int | None

    @property
    def differ(self) -> bool:
        return self.p < ALPHA


def answers(packed: bytes, n: int, samples: int) -> list[int]:
    """How many of its samples were right, for each of n questions: bit i·samples + j is sample j of question i.

    Raises ValueError where the outcomes are too short for that.
    """
    if 8 * len(packed) < n * samples:
        raise ValueError(f"{len(packed)} bytes of outcomes are too few for {n} questions of {samples} samples")
    bits = int.from_bytes(packed, "little")
    mask = (1 << samples) - 1
    return [((bits >> (i * samples)) & mask).bit_count() for i in range(n)]


def difference_on_shared(
    first: Sequence[int], second: Sequence[int], samples: tuple[int, int] = (1, 1)
) -> CheckpointDifference:
    """The same questions, answered by both. With one sample a question: McNemar's exact test, and the interval of
    Bonett and Price (2012), a Wald interval with one discordant question added on each side. With more: a t test and
    interval over questions, which are the unit; samples of one question are not independent.

    ``first``, ``second``: right answers by question, in the same order. Raises ValueError for unequal lengths or none.
    """
    n = len(first)
    if n != len(second) or not n:
        raise ValueError(f"{n} and {len(second)} questions are not the same")
    if samples != (1, 1):
        return _by_shares([k / samples[0] for k in first], [k / samples[1] for k in second], samples)
    from statsmodels.stats.contingency_tables import mcnemar

    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((1, 0)), pairs.count((0, 1))
    both = pairs.count((1, 1))
    table = [[both, only_first], [only_second, n - both - only_first - only_second]]
    p = float(mcnemar(table, exact=True).pvalue)
    one, other = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = NormalDist().inv_cdf(1 - ALPHA / 2) * math.sqrt((one + other - (other - one) ** 2) / (n + 2))
    centre = other - one
    return CheckpointDifference(
        100 * (only_second - only_first) / n, 100 * max(-1.0, centre - half), 100 * min(1.0, centre + half),
        p, "exact McNemar", n, only_first, only_second,
    )  # fmt: skip


def _by_shares(first: Sequence[float], second: Sequence[float], samples: tuple[int, int]) -> CheckpointDifference:
    n = len(first)
    apart = [100 * (b - a) for a, b in zip(first, second, strict=True)]
    found = difference_by_seed(apart, step=100 / max(samples), alpha=ALPHA)  # the same arithmetic, over questions
    counts = sum(d < 0 for d in apart), sum(d > 0 for d in apart)
    low, high, p = found.low, found.high, found.p
    if low is None or high is None or p is None:  # one question
        low, high, p = -100.0, 100.0, 1.0
    return CheckpointDifference(
        math.fsum(apart) / n, max(-100.0, low), min(100.0, high), p, "paired t over questions", n, *counts
    )


def difference_of_counts(first: tuple[int, int], second: tuple[int, int]) -> CheckpointDifference:
    """(k, n) of each, where nobody knows which questions: Newcombe's interval (1998, method 10) and the score test."""
    from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

    (k1, n1), (k2, n2) = first, second
    low, high = confint_proportions_2indep(k2, n2, k1, n1, method="newcomb", compare="diff", alpha=ALPHA)
    p = 1.0 if k1 / n1 == k2 / n2 else float(test_proportions_2indep(k2, n2, k1, n1, method="score").pvalue)
    return CheckpointDifference(
        100 * (k2 / n2 - k1 / n1),
        100 * float(low),
        100 * float(high),
        p,
        "score test, unpaired",
        min(n1, n2),
        None,
        None,
    )
