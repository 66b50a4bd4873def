"""Decisions of the scheduler, as values."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.records import Attempt
from db.steering import OpenRun
from orchestrator.scheduler.decide import (
    GRACE_SECONDS,
    Active,
    AskToStop,
    Cancel,
    Conclude,
    EndStopped,
    EndStuck,
    GiveUp,
    Launch,
    LetRun,
    Limits,
    Node,
    Snapshot,
    Waiting,
    decide,
    why_waiting,
)
from orchestrator.scheduler.patience import patience
from orchestrator.scheduler.retry import Ended, decide_retry
from orchestrator.scheduler.snapshot import hours_to_come


def one(gpus: int) -> list[Node]:
    return [Node("n", gpus)]


def waiting(name: str, gpus: int = 1, priority: int = 0, at: float = 0.0) -> Waiting:
    return Waiting(name, gpus, priority, at)


def active(gpus: int = 1, liveness: str = "alive", **more) -> Active:
    return Active(7, "r", gpus, liveness, **more)  # type: ignore[arg-type]


def test_runs_start_by_priority_then_age_within_the_gpus() -> None:
    queue = [waiting("old", at=1), waiting("new", at=2), waiting("urgent", at=3, priority=9)]
    assert decide(Snapshot(queue, [], one(2))) == [Launch("urgent", "n"), Launch("old", "n")]


def test_a_large_run_is_not_starved_by_small_ones_behind_it() -> None:
    queue = [waiting("large", gpus=8, at=1), waiting("small", gpus=1, at=2)]
    assert decide(Snapshot(queue, [active(gpus=4)], one(8))) == []


def test_a_run_that_never_fits_holds_nobody_back() -> None:
    queue = [waiting("giant", gpus=16, at=1), waiting("small", at=2)]
    assert decide(Snapshot(queue, [], one(8))) == [Launch("small", "n")]


def test_a_run_waits_for_what_it_needs_and_holds_nobody_back() -> None:
    queue = [Waiting("aimed", 1, 9, 0.0, "a run under way"), waiting("other", at=2)]
    assert decide(Snapshot(queue, [], one(1))) == [Launch("other", "n")]


def test_a_run_whose_need_has_failed_is_given_up() -> None:
    queue = [Waiting("aimed", 1, 0, 0.0, "a run that failed"), waiting("other", at=2)]
    assert decide(Snapshot(queue, [], one(1))) == [GiveUp("aimed"), Launch("other", "n")]


@pytest.mark.parametrize("liveness", ["alive", "unknown"])
def test_silence_ends_nothing_as_long_as_the_run_is_given_time(liveness) -> None:
    assert decide(Snapshot([waiting("next")], [active(liveness=liveness, silence=1e9)], one(1))) == []


def test_a_run_that_is_silent_for_too_long_is_ended_where_its_supervisor_can_be_asked() -> None:
    late = {"silence": 700.0, "patience": 600.0}
    assert decide(Snapshot([], [active(**late)], one(1))) == [EndStuck(7, 700.0)]
    assert decide(Snapshot([], [active(liveness="unknown", **late)], one(1))) == []
    assert decide(Snapshot([], [active(liveness="unknown", stuck=True)], one(1))) == [EndStuck(7, 0.0)]


def test_only_the_dead_are_concluded() -> None:
    assert decide(Snapshot([], [active(liveness="dead")], one(1))) == [Conclude(7, None)]
    assert decide(Snapshot([], [active(ended=True, exit_code=0)], one(1))) == [Conclude(7, 0)]


def test_what_nobody_wants_is_cancelled_and_gives_way_at_once() -> None:
    queue = [Waiting("late", 1, 0, 0.0, unwanted="checkpoint first"), waiting("next", at=2)]
    running = active(unwanted="at once")
    assert decide(Snapshot(queue, [running], one(1))) == [Cancel("r"), Cancel("late"), Launch("next", "n")]
    over = active(unwanted="at once", ended=True, exit_code=0)
    assert decide(Snapshot([], [over], one(1))) == [Conclude(7, 0)]


def test_a_trainer_is_asked_once_to_save_a_checkpoint_and_keeps_its_gpus_until_it_ends() -> None:
    queue = [waiting("next")]
    wanted = {"unwanted": "checkpoint first"}
    assert decide(Snapshot(queue, [active(**wanted)], one(1), now=100.0)) == [AskToStop(7)]
    asked = active(asked_to_stop=100.0, **wanted)
    assert decide(Snapshot(queue, [asked], one(1), now=100.0 + GRACE_SECONDS)) == []
    assert decide(Snapshot(queue, [asked], one(1), now=101.0 + GRACE_SECONDS)) == [Cancel("r"), Launch("next", "n")]


@pytest.mark.parametrize(
    ("limits", "drained", "waits"),
    [
        ({}, False, False),
        ({"s": Limits(paused=True)}, False, False),
        ({"s": Limits(paused=True, paused_now=True)}, False, True),
        ({"s": Limits(paused=True, paused_now=True), "t": Limits()}, False, False),  # the other sweep wants it still
        ({"s": Limits(hours_left=0.0), "t": Limits(paused=True, paused_now=True)}, False, True),
        ({}, True, True),
    ],
)
def test_what_runs_waits_when_all_of_its_sweeps_say_so(limits, drained, waits) -> None:
    running = active(sweeps=("s", "t") if "t" in limits else ("s",))
    asked = decide(Snapshot([], [running], one(1), limits=limits, drained_now=drained))
    assert asked == ([AskToStop(7)] if waits else [])
    late = active(sweeps=running.sweeps, asked_to_stop=1.0)
    ended = decide(Snapshot([], [late], one(1), limits=limits, drained_now=drained, now=2.0 + GRACE_SECONDS))
    assert ended == ([EndStopped(7)] if waits else [LetRun(7)])


def test_a_drained_or_paused_queue_starts_nothing_but_cancels_still() -> None:
    queue = [Waiting("a", 1, 0, 0.0, sweeps=("s",)), Waiting("b", 1, 0, 1.0, unwanted="at once", sweeps=("s",))]
    paused = Snapshot(queue, [], one(2), limits={"s": Limits(paused=True)})
    drained = Snapshot(queue, [], one(2), drained=True)
    assert decide(paused) == decide(drained) == [Cancel("b")]
    assert (why_waiting(paused, queue[0]), why_waiting(drained, queue[0])) == ("paused", "drained")


def test_a_sweep_has_at_most_so_many_runs_at_once() -> None:
    queue = [Waiting(name, 1, 0, at, sweeps=("s",)) for at, name in enumerate("abc")] + [waiting("other", at=9)]
    running = active(sweeps=("s",))
    limits = {"s": Limits(concurrency=2)}
    assert decide(Snapshot(queue, [running], one(8), limits=limits)) == [Launch("a", "n"), Launch("other", "n")]


def test_no_run_starts_that_would_overspend_what_is_left_after_those_that_run() -> None:
    queue = [Waiting(name, 1, 0, at, sweeps=("s",), hours=2.0) for at, name in enumerate("abc")]
    running = active(sweeps=("s",), hours_to_come=1.0)
    snapshot = Snapshot(queue, [running], one(8), limits={"s": Limits(hours_left=5.5)})
    assert decide(snapshot) == [Launch("a", "n"), Launch("b", "n")]
    poor = Snapshot(queue, [], one(8), limits={"s": Limits(hours_left=1.5)})
    assert decide(poor) == []
    assert why_waiting(poor, queue[0]) == "over budget"


def test_a_run_that_is_to_be_tried_again_later_holds_nobody_back() -> None:
    queue = [Waiting("again", 1, 9, 0.0, not_before=50.0), waiting("next", at=2)]
    assert decide(Snapshot(queue, [], one(1), now=49.0)) == [Launch("next", "n")]
    assert decide(Snapshot(queue, [], one(1), now=50.0)) == [Launch("again", "n")]


def test_small_runs_fill_the_fullest_node_and_leave_the_node_that_a_large_run_waits_for() -> None:
    nodes = [Node("one", 8), Node("two", 8)]
    held = Active(1, "x", 6, "alive", node="one")
    assert decide(Snapshot([waiting("small")], [held], nodes)) == [Launch("small", "one")]
    busy = [held, Active(2, "y", 4, "alive", node="two")]
    queue = [waiting("large", gpus=8, at=1), *(waiting(f"small {n}", gpus=2, at=2 + n) for n in range(3))]
    # two is nearer to having room for the large one: it is kept for it, and the others go to one, as far as they fit
    assert decide(Snapshot(queue, busy, nodes)) == [Launch("small 0", "one")]


PRIORITIES = st.integers(0, 2)


@given(
    st.lists(st.tuples(st.integers(1, 8), PRIORITIES, st.integers(1, 5)), min_size=1, max_size=12),
    st.lists(st.sampled_from([4, 8]), min_size=1, max_size=3),
)
@settings(deadline=None)
def test_every_run_that_fits_a_node_starts_before_long_whatever_comes_behind_it(queue, sizes) -> None:
    """The whole queue against a fleet: no node is ever overfull, and no run waits for those of later rank for ever."""
    nodes = [Node(str(index), size) for index, size in enumerate(sizes)]
    waits = {str(at): Waiting(str(at), gpus, priority, at) for at, (gpus, priority, _) in enumerate(queue)}
    lengths = {str(at): length for at, (_, _, length) in enumerate(queue)}
    running: dict[str, tuple[Active, int]] = {}
    for tick in range(100):
        running = {name: (a, end) for name, (a, end) in running.items() if end > tick}
        for action in decide(Snapshot(list(waits.values()), [a for a, _ in running.values()], nodes)):
            assert isinstance(action, Launch)
            run = waits.pop(action.run_id)
            attempt = Active(tick, run.run_id, run.gpus, "alive", node=action.node)
            running[run.run_id] = (attempt, tick + lengths[run.run_id])
        for node in nodes:
            assert sum(a.gpus for a, _ in running.values() if a.node == node.id) <= node.gpus
    assert all(run.gpus > max(sizes) for run in waits.values())


def test_patience_follows_the_runs_own_pace() -> None:
    assert patience([], stepping=False) == 3600
    assert patience([30, 30, 30], stepping=True) == 600
    assert patience([300, 30], stepping=True) == 1500  # an eval took five minutes: five times that
    assert patience([1200], stepping=False) == 6000
    assert patience([30], stepping=True, minutes=0.5) == 30


@pytest.mark.parametrize(
    ("exit_code", "error", "spent", "again", "cause"),
    [
        (None, None, [], True, "killed"),  # the supervisor is gone
        (-9, None, [], True, "killed"),
        (143, None, ["memory", "hang", "unexplained"], True, "killed"),  # other budgets
        (-9, None, ["infrastructure"] * 3, False, "killed"),
        (1, "ValueError: bad", [], False, "own-error"),
        (None, "ValueError: bad", [], False, "own-error"),
        (3, None, [], True, "unknown"),
        (3, None, ["unexplained"], False, "unknown"),
        (1, "OSError: [Errno 28] No space left on device", [], True, "disk-full"),
        (1, "ActorDiedError: The actor died unexpectedly", [], True, "consequence"),
    ],
)
def test_what_is_tried_again_and_how_often(exit_code, error, spent, again, cause) -> None:
    decision = decide_retry(Ended(exit_code, error, spent=spent))
    assert (decision.again, decision.cause) == (again, cause)
    assert decision.rule
    assert decision.line


def test_each_try_waits_longer_than_the_one_before() -> None:
    waits = [decide_retry(Ended(-9, None, spent=["infrastructure"] * n)).wait for n in range(3)]
    assert waits == [0, 30, 120]
    full = [decide_retry(Ended(1, "OSError: [Errno 28] x", spent=["infrastructure"] * n)).wait for n in range(3)]
    assert full == [60, 240, 960]


def test_out_of_memory_is_tried_with_smaller_micro_batches_and_only_where_that_changes_no_result() -> None:
    error = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    decision = decide_retry(Ended(1, error, divisible=True))
    assert (decision.again, decision.smaller, decision.budget) == (True, True, "memory")
    assert decide_retry(Ended(1, error, divisible=False)).again is False


def test_a_hang_is_told_by_its_silence_whatever_its_log_says() -> None:
    decision = decide_retry(Ended(-9, None, log=["FileNotFoundError: x"], stuck=16 * 3600))
    assert (decision.cause, decision.line, decision.again) == ("hang", "no sign of life for 16.0 hours", True)


def test_a_failure_right_after_going_on_from_a_checkpoint_is_tried_once_without_it() -> None:
    error = "FileNotFoundError: [Errno 2] No such file or directory: 'model_world_size_1_rank_0.pt'"
    first = decide_retry(Ended(1, error, in_vain=True))
    assert (first.again, first.spoils, first.budget) == (True, True, "unexplained")
    assert decide_retry(Ended(1, error, in_vain=True, spent=["unexplained"])).again is False
    lost = decide_retry(Ended(1, "OSError: [Errno 98] Address already in use", in_vain=True))
    assert (lost.again, lost.spoils) == (True, False), "the checkpoint had no part in it"


def test_who_was_asked_to_stop_goes_on_when_nobody_wants_that_any_more() -> None:
    assert decide(Snapshot([], [active(asked_to_stop=1.0)], one(1), now=2.0)) == [LetRun(7)]


def attempt(number: int, created: float, last: int, said: float, resumed: int | None = None) -> Attempt:
    return Attempt(
        number, "r", number, "t", "lost", "/r", None, None, created, said, None, None, 0, 0, said, last,
        resumed_step=resumed,
    )  # fmt: skip


def test_what_is_left_of_a_run_is_told_by_its_own_pace_and_its_last_checkpoint() -> None:
    run = OpenRun(
        "r", "train", "r", "queued", 2, 0, 0.0, "c", {"total_steps": 100, "save_every": 10}, None, None, None, None
    )
    assert hours_to_come(run, 8.0) == 8.0
    tried = replace(run, attempts=(attempt(1, 0.0, 55, 5500.0),))  # 100 s a step; it goes on from step 50
    assert hours_to_come(tried, 8.0) == pytest.approx(2 * 100 * 50 / 3600)
    late = replace(run, attempts=(attempt(1, 0.0, 55, 5500.0), attempt(2, 6000.0, 50, 6001.0, resumed=50)))
    assert hours_to_come(late, 8.0) == pytest.approx(2 * 100 * 50 / 3600)
    assert hours_to_come(replace(tried, plan={"total_steps": 100}), 8.0) == pytest.approx(2 * 100 * 100 / 3600)
