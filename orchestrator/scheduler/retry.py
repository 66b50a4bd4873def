"""What becomes of a run whose attempt ended badly: a value that says the decision and what decided it."""

from __future__ import annotations

from dataclasses import dataclass

from workers.launch import TOLD_TO_GO

INFRASTRUCTURE_BUDGET = 2
"""How often a run is tried again after losses that are not its own."""


@dataclass(frozen=True)
class RetryDecision:
    """``rule``: the name of what decided; ``line``: the fact it decided on, as a user can look it up."""

    again: bool
    rule: str
    line: str


@dataclass(frozen=True)
class Ended:
    """What is known of an attempt that did not end well."""

    exit_code: int | None
    """None where nobody saw it end."""
    error: str | None
    """The trainer's own last word."""
    infrastructure_losses: int
    """Earlier attempts of the run that were lost or killed from outside."""

    @property
    def from_outside(self) -> bool:
        """Nothing that the run did itself: nobody saw it end, or a signal ended it, and it had no complaint."""
        return self.error is None and (self.exit_code is None or self.exit_code < 0 or self.exit_code == TOLD_TO_GO)


def decide_retry(ended: Ended) -> RetryDecision:
    """Losses from outside (supervisor gone, killed by a signal) are tried again within a budget of their own; an
    error that the trainer itself reports would come again, so it is not retried."""
    if ended.error is not None:
        return RetryDecision(False, "the run's own error", ended.error)
    if not ended.from_outside:
        return RetryDecision(False, "ended without a word", f"exit code {ended.exit_code}")
    what = "the supervisor is gone"
    if ended.exit_code is not None:
        what = f"killed by signal {-ended.exit_code}" if ended.exit_code < 0 else "told to end by a signal"
    if ended.infrastructure_losses >= INFRASTRUCTURE_BUDGET:
        return RetryDecision(False, "lost too often", f"{what}, after {ended.infrastructure_losses} losses before")
    return RetryDecision(True, "lost from outside", what)
