"""The scheduler on a real Ray and a real registry, with light workers instead of verl."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from db import reads, writes
from db.records import Run
from orchestrator.scheduler.loop import Scheduler, leadership
from orchestrator.settings import Settings
from tests.light_worker import command

TERMINAL = ("succeeded", "failed", "cancelled")
PATIENCE = 300
"""Ticks until a test gives up; a tick asks the fleet, so this is minutes."""


@pytest.fixture
def fleet(ray_address: str) -> Iterator[object]:
    from orchestrator.fleet.ray_fleet import RayFleet

    fleet = RayFleet(ray_address, command)
    yield fleet
    fleet.close()


@pytest.fixture
def scheduler(settings: Settings, engine: Engine, fleet) -> Iterator[Scheduler]:
    """Ends what a test leaves running: the next one has a registry that knows nothing of it."""
    yield Scheduler(settings, engine, fleet)
    for run in reads.runs(engine, states=("running",)):
        if run.attempt is not None:
            fleet.release(run.attempt)


def tick_until(scheduler: Scheduler, done: Callable[[], bool]) -> None:
    for _ in range(PATIENCE):
        scheduler.tick()
        if done():
            return
        signal.sigtimedwait([], 0.1)  # let the workers have the processor
    pytest.fail("the scheduler did not get there")


def behave(settings: Settings, run_id: str, **behaviour: object) -> None:
    folder = settings.runs / run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviour.json").write_text(json.dumps(behaviour))


def one(engine: Engine, run_id: str) -> Run:
    return reads.runs(engine, ids=[run_id])[0]


def over(engine: Engine, *ids: str) -> Callable[[], bool]:
    return lambda: all(one(engine, run_id).state in TERMINAL for run_id in ids)


def test_a_sweep_runs_to_proven_scores_and_gives_its_gpus_back(submit, scheduler, engine, fleet) -> None:
    ids = submit().all
    tick_until(scheduler, over(engine, *ids))
    for run_id in ids:
        run = one(engine, run_id)
        assert (run.state, run.verdict, run.reasons) == ("succeeded", "PROVEN", ())
        assert [(p.step, p.k) for p in run.curve] == [(0, 250), (2, 252), (4, 254)]
        assert run.score is not None
        assert run.score.step == 4
        assert run.attempt is not None
        assert fleet.observe(run.attempt).liveness == "dead"
        assert "light worker" in (Path(run.attempt.run_dir) / "trainer.log").read_text()
    assert reads.steps(engine, one(engine, ids[0]).attempts[0].id)[-1][1] == 4


def test_one_gpu_holds_one_run_at_a_time(submit, scheduler, engine, settings, tmp_path) -> None:
    first, second = submit().all
    gate = tmp_path / "go"
    for run_id in (first, second):
        behave(settings, run_id, wait_at=2, until=str(gate))
    tick_until(scheduler, lambda: bool(one(engine, first).curve))
    for _ in range(5):
        scheduler.tick()
    assert [one(engine, r).state for r in (first, second)] == ["running", "queued"]
    gate.touch()
    tick_until(scheduler, over(engine, first, second))


def test_a_new_scheduler_adopts_the_same_trainer(submit, scheduler, settings, engine, fleet, tmp_path) -> None:
    run_id = submit().all[0]
    gate = tmp_path / "go"
    behave(settings, run_id, wait_at=2, until=str(gate))
    tick_until(scheduler, lambda: len(one(engine, run_id).curve) == 2)
    before = one(engine, run_id).attempt
    assert before is not None
    successor = Scheduler(settings, engine, fleet)
    for _ in range(3):
        successor.tick()
    after = one(engine, run_id).attempt
    assert after is not None
    assert (after.trainer_pid, after.token) == (before.trainer_pid, before.token)
    assert psutil.pid_exists(before.trainer_pid)
    gate.touch()
    tick_until(successor, over(engine, run_id))
    run = one(engine, run_id)
    assert (run.verdict, len(run.attempts)) == ("PROVEN", 1)
    assert [s for _, s, _, _ in reads.steps(engine, before.id)] == [1, 2, 3, 4]


def test_a_killed_trainer_is_tried_again_and_its_ghost_is_kept_apart(submit, scheduler, engine, settings) -> None:
    run_id = submit().all[0]
    behave(settings, run_id, fail_at=3, fail_attempts=1, **{"with": "kill"})
    tick_until(scheduler, over(engine, run_id))
    run = one(engine, run_id)
    assert (run.state, run.verdict) == ("succeeded", "PROVEN")
    assert [a.state for a in run.attempts] == ["lost", "succeeded"]
    assert run.attempts[0].retry == {"again": True, "rule": "lost from outside", "line": "killed by signal 9"}
    assert run.attempts[0].token != run.attempts[1].token
    assert run.attempts[0].run_dir != run.attempts[1].run_dir


def test_a_killed_supervisor_takes_its_trainer_along_before_the_gpus_are_given_out(
    submit, scheduler, engine, settings, tmp_path
) -> None:
    run_id = submit().all[0]
    gate = tmp_path / "go"
    behave(settings, run_id, wait_at=2, until=str(gate))
    tick_until(scheduler, lambda: len(one(engine, run_id).curve) == 2)
    attempt = one(engine, run_id).attempt
    assert attempt is not None
    trainer = psutil.Process(attempt.trainer_pid)
    os.kill(trainer.ppid(), signal.SIGKILL)
    gate_opened = []

    def ended_and_retried() -> bool:
        if len(one(engine, run_id).attempts) == 2 and not gate_opened:
            assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
            gate.touch()
            gate_opened.append(True)
        return one(engine, run_id).state in TERMINAL

    tick_until(scheduler, ended_and_retried)
    run = one(engine, run_id)
    assert (run.verdict, [a.state for a in run.attempts]) == ("PROVEN", ["lost", "succeeded"])


def test_an_error_of_the_runs_own_is_not_retried_and_says_why(submit, scheduler, engine, settings) -> None:
    run_id = submit().all[0]
    behave(settings, run_id, fail_at=3)
    tick_until(scheduler, over(engine, run_id))
    run = one(engine, run_id)
    assert (run.state, run.verdict, len(run.attempts)) == ("failed", "UNPROVEN", 1)
    assert "ValueError: as asked" in run.reasons[0]
    assert [p.step for p in run.curve] == [0, 2]  # what was measured stays


def test_a_spool_that_cannot_be_understood_ends_its_own_run_only(submit, scheduler, engine, settings) -> None:
    first, second = submit().all
    behave(settings, first, garbage=True)
    tick_until(scheduler, over(engine, first, second))
    assert [one(engine, r).state for r in (first, second)] == ["failed", "succeeded"]
    assert "its spool cannot be read" in one(engine, first).reasons[0]


def test_evidence_that_cannot_be_read_leaves_its_own_run_unproven_only(submit, scheduler, engine, settings) -> None:
    strange, other = submit().all
    behave(settings, strange, strange=True)
    tick_until(scheduler, over(engine, strange, other))
    run = one(engine, strange)
    assert (run.state, run.verdict) == ("succeeded", "UNPROVEN")
    assert run.reasons[0].startswith("its evidence cannot be read: KeyError")
    assert one(engine, other).verdict == "PROVEN"


def test_a_crash_between_row_and_fleet_is_mended(submit, scheduler, engine, settings) -> None:
    from db import writes

    run_id = submit().all[0]
    assert writes.begin_attempt(engine, run_id, settings.runs) is not None  # and the process dies here
    tick_until(scheduler, over(engine, run_id))
    run = one(engine, run_id)
    assert (run.verdict, [a.state for a in run.attempts]) == ("PROVEN", ["lost", "succeeded"])


def test_there_is_one_leader_at_a_time(settings) -> None:
    with leadership(settings) as first, leadership(settings) as second:
        assert (first, second) == (True, False)
    with leadership(settings) as third:
        assert third


def test_a_run_that_nobody_wants_any_more_is_ended_and_never_tried_again(
    submit, scheduler, engine, settings, fleet, tmp_path
) -> None:
    first, second = submit().all
    behave(settings, first, wait_at=2, until=str(tmp_path / "never"))
    tick_until(scheduler, lambda: len(one(engine, first).curve) == 2)
    attempt = one(engine, first).attempt
    assert attempt is not None
    writes.ask_to_cancel(engine, {first: "behind", second: "too late"})
    tick_until(scheduler, over(engine, first, second))
    assert {one(engine, run).state for run in (first, second)} == {"cancelled"}
    run = one(engine, first)
    assert (run.verdict, run.reasons, run.valid) == ("UNPROVEN", ("cancelled: behind",), False)
    assert len(run.curve) == 2, "what it had measured stays"
    assert [a.state for a in run.attempts] == ["lost"]
    assert not psutil.pid_exists(attempt.trainer_pid)
    assert fleet.observe(attempt).liveness == "dead"
    assert one(engine, second).attempts == ()
    assert [after for _, _, after, _ in reads.transitions(engine, first)] == ["queued", "running", "cancelled"]
