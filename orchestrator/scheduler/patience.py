"""After how long without a sign of life a run counts as hung: by its own pace. Pure."""

from __future__ import annotations

from collections.abc import Sequence

SHORTEST_SECONDS = 600.0
"""Whatever the pace: a node's disk or network may hesitate for minutes."""
BEFORE_FIRST_STEP_SECONDS = 3600.0
"""Loading a model, compiling, the first eval: nothing is known of the run's own pace yet."""
TIMES_THE_LONGEST = 5.0
"""Of the longest silence between two signs of life that the run has shown, evals and checkpoints included."""


def patience(silences: Sequence[float], *, stepping: bool, minutes: float | None = None) -> float:
    """Seconds. ``silences``: those between the run's signs of life so far; ``stepping``: has the attempt made a
    training step? ``minutes``: what its spec says, which counts instead."""
    if minutes is not None:
        return 60.0 * minutes
    longest = max(silences, default=0.0)
    return max(SHORTEST_SECONDS if stepping else BEFORE_FIRST_STEP_SECONDS, TIMES_THE_LONGEST * longest)
