"""What becomes of a run whose attempt ended badly: a value that says the decision and what decided it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.scheduler.causes import BY_NAME, SIGNALLED, Budget, Found, find_cause

TRIES: dict[Budget, int] = {"infrastructure": 3, "memory": 3, "hang": 2, "unexplained": 1, "own": 0}
"""How often a run is tried again after losses of each kind."""

WAITS = (0.0, 30.0, 120.0, 600.0)
"""Seconds before the first, second, … try again; a cause may ask for more."""
LONGEST_WAIT = 3600.0


@dataclass(frozen=True)
class RetryDecision:
    """``cause`` and ``line``: what decided, as a user can look it up. ``rule``: the decision in words. ``wait``:
    seconds. ``smaller``: with micro-batches of half the size."""

    again: bool
    cause: str
    rule: str
    line: str
    budget: Budget
    wait: float = 0.0
    smaller: bool = False
    spoils: bool = False
    """Is the checkpoint that it went on from not to be used again?"""

    @property
    def from_outside(self) -> bool:
        """Is the attempt lost, and not failed?"""
        return self.budget != "own"


@dataclass(frozen=True)
class Ended:
    """What is known of an attempt that did not end well.

    ``spent``: whose budgets the run's earlier attempts were tried again from. ``divisible``: can its micro-batches be
    halved without changing the result? ``stuck``: for how many seconds it had said nothing, where that ended it.
    """

    exit_code: int | None
    error: str | None
    log: Sequence[str] = ()
    spent: Sequence[str] = ()
    divisible: bool = False
    stuck: float | None = None
    in_vain: bool = False
    """It went on from a checkpoint, and failed before it made a step."""


def decide_retry(ended: Ended) -> RetryDecision:
    """Losses from outside are tried again, each kind within a budget of its own; an error of the run's own would come
    again, so it is not."""
    if ended.stuck is not None:
        found = Found(BY_NAME["hang"], f"no sign of life for {_span(ended.stuck)}")
    else:
        found = find_cause(ended.log, ended.error, ended.exit_code)
    cause, line = found.cause, found.line or _what_was_seen(ended.exit_code)
    spent, most = sum(budget == cause.budget for budget in ended.spent), TRIES[cause.budget]
    spoils = ended.in_vain and cause.budget == "own"
    if spoils and "unexplained" not in ended.spent:
        rule = "it failed as soon as it went on from a checkpoint: once more, without that checkpoint"
        return RetryDecision(True, cause.name, rule, line, "unexplained", spoils=True)
    if most == 0:
        return RetryDecision(False, cause.name, f"{cause.about or 'it'}; it would come again", line, cause.budget)
    if cause.budget == "memory" and not ended.divisible:
        rule = "its micro-batches cannot be halved without changing the result"
        return RetryDecision(False, cause.name, rule, line, cause.budget)
    if spent >= most:
        rule = f"tried again {spent} times after losses of the kind {cause.budget!r}, which is the most"
        return RetryDecision(False, cause.name, rule, line, cause.budget)
    wait = min(LONGEST_WAIT, max(WAITS[min(spent, len(WAITS) - 1)], cause.wait * 4**spent))
    rule = f"try {spent + 1} of {most} after losses of the kind {cause.budget!r}: {cause.about}"
    return RetryDecision(True, cause.name, rule, line, cause.budget, wait, smaller=cause.budget == "memory")


def _what_was_seen(exit_code: int | None) -> str:
    from workers.launch import TOLD_TO_GO

    if exit_code is None:
        return "the supervisor is gone"
    if exit_code == TOLD_TO_GO:
        return "told to end by a signal"
    if exit_code in SIGNALLED:
        return f"killed by signal {exit_code - SIGNALLED.start + 1}"
    return f"killed by signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}, and no word in its log"


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
