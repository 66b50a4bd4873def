"""Which checkpoints stay on disk. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def superseded(saved: Iterable[int], right: Mapping[int, int]) -> list[int]:
    """Steps whose checkpoint is not the best eval's, of those that were evaluated; the earliest of equals is best.

    ``right``: step to the number of test answers that were right.
    """
    known = [step for step in saved if step in right]
    best = max(known, key=lambda step: (right[step], -step), default=None)
    return sorted(step for step in known if step != best)
