"""Intervals of scores. Closed forms only, because every table in the terminal needs them within milliseconds."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(k: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of k successes in n trials, as shares (0..1).

    Checked against ``scipy.stats.binomtest(...).proportion_ci(method="wilson")`` by the tests; scipy itself would
    cost a table half a second of import.
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no score")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return 0.0 if k == 0 else max(0.0, centre - half), 1.0 if k == n else min(1.0, centre + half)
