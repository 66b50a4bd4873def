"""Decisions of the scheduler, as values."""

from __future__ import annotations

import pytest

from orchestrator.scheduler.decide import Active, Cancel, Conclude, GiveUp, Launch, Snapshot, Waiting, decide
from orchestrator.scheduler.retry import Ended, decide_retry


def waiting(name: str, gpus: int = 1, priority: int = 0, at: float = 0.0) -> Waiting:
    return Waiting(name, gpus, priority, at)


def active(gpus: int = 1, liveness: str = "alive", **more) -> Active:
    return Active(7, "r", gpus, liveness, **more)  # type: ignore[arg-type]


def test_runs_start_by_priority_then_age_within_the_gpus() -> None:
    queue = [waiting("old", at=1), waiting("new", at=2), waiting("urgent", at=3, priority=9)]
    assert decide(Snapshot(queue, [], total_gpus=2)) == [Launch("urgent"), Launch("old")]


def test_a_large_run_is_not_starved_by_small_ones_behind_it() -> None:
    queue = [waiting("large", gpus=8, at=1), waiting("small", gpus=1, at=2)]
    assert decide(Snapshot(queue, [active(gpus=4)], total_gpus=8)) == []


def test_a_run_that_never_fits_holds_nobody_back() -> None:
    queue = [waiting("giant", gpus=16, at=1), waiting("small", at=2)]
    assert decide(Snapshot(queue, [], total_gpus=8)) == [Launch("small")]


def test_a_run_waits_for_what_it_needs_and_holds_nobody_back() -> None:
    queue = [Waiting("aimed", 1, 9, 0.0, "a run under way"), waiting("other", at=2)]
    assert decide(Snapshot(queue, [], total_gpus=1)) == [Launch("other")]


def test_a_run_whose_need_has_failed_is_given_up() -> None:
    queue = [Waiting("aimed", 1, 0, 0.0, "a run that failed"), waiting("other", at=2)]
    assert decide(Snapshot(queue, [], total_gpus=1)) == [GiveUp("aimed"), Launch("other")]


@pytest.mark.parametrize("liveness", ["alive", "unknown"])
def test_silence_ends_nothing(liveness) -> None:
    assert decide(Snapshot([waiting("next")], [active(liveness=liveness)], total_gpus=1)) == []


def test_only_the_dead_are_concluded() -> None:
    assert decide(Snapshot([], [active(liveness="dead")], 1)) == [Conclude(7, None)]
    assert decide(Snapshot([], [active(ended=True, exit_code=0)], 1)) == [Conclude(7, 0)]


def test_what_nobody_wants_is_cancelled_and_gives_way_at_once() -> None:
    queue = [Waiting("late", 1, 0, 0.0, unwanted=True), waiting("next", at=2)]
    running = active(unwanted=True)
    assert decide(Snapshot(queue, [running], total_gpus=1)) == [Cancel("r"), Cancel("late"), Launch("next")]
    assert decide(Snapshot([], [active(unwanted=True, ended=True, exit_code=0)], 1)) == [Conclude(7, 0)]


@pytest.mark.parametrize(
    ("exit_code", "error", "losses", "again"),
    [
        (None, None, 0, True),  # the supervisor is gone
        (-9, None, 0, True),  # killed from outside
        (143, None, 0, True),  # told to end
        (-9, None, 2, False),  # too often
        (1, "ValueError: bad", 0, False),  # its own error
        (None, "ValueError: bad", 0, False),
        (3, None, 0, False),  # ended without a word
    ],
)
def test_only_losses_from_outside_are_retried_and_not_for_ever(exit_code, error, losses, again) -> None:
    decision = decide_retry(Ended(exit_code, error, losses))
    assert decision.again is again
    assert decision.rule
    assert decision.line
