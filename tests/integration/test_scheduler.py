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

from db import reads, submissions, wishes, writes
from db.records import Run
from db.states import TERMINAL
from orchestrator.fleet.interface import Observation
from orchestrator.scheduler.decide import Launch, Node
from orchestrator.scheduler.ending import Over
from orchestrator.scheduler.leadership import leadership
from orchestrator.scheduler.loop import Scheduler
from orchestrator.settings import Settings
from tests import light_worker
from tests.integration.conftest import SWEEP
from tests.light_worker import command
from workers.events import SPOOL_NAME, Spool
from workers.launch import LOG_NAME, STOP_NAME, read_order

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
    release_all(engine, fleet)


def release_all(engine: Engine, fleet) -> None:
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
        assert fleet.observe([run.attempt])[run.attempt.id].liveness == "dead"
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
    retry = run.attempts[0].retry
    assert retry is not None
    assert (retry["again"], retry["cause"], retry["line"]) == (True, "killed", "killed by signal 9")
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

    run_id = submit().all[0]
    assert writes.begin_attempt(engine, run_id, settings.runs) is not None  # and the process dies here
    tick_until(scheduler, over(engine, run_id))
    run = one(engine, run_id)
    assert (run.verdict, [a.state for a in run.attempts]) == ("PROVEN", ["lost", "succeeded"])
    assert run.attempts[0].retry is None, "it costs no try"


def test_there_is_one_leader_at_a_time(settings, engine) -> None:
    with leadership(settings, engine) as first, leadership(settings, engine) as second:
        assert (bool(first), bool(second)) == (True, False)
    with leadership(settings, engine) as third:
        assert third


def test_a_run_that_nobody_wants_any_more_is_ended_and_never_tried_again(
    submit, scheduler, engine, settings, fleet, tmp_path
) -> None:
    first, second = submit().all
    behave(settings, first, wait_at=2, until=str(tmp_path / "never"))
    tick_until(scheduler, lambda: len(one(engine, first).curve) == 2)
    attempt = one(engine, first).attempt
    assert attempt is not None
    wishes.ask_to_cancel(engine, {first: "behind", second: "too late"}, at_once=True)
    tick_until(scheduler, over(engine, first, second))
    assert {one(engine, run).state for run in (first, second)} == {"cancelled"}
    run = one(engine, first)
    assert (run.verdict, run.reasons, run.valid) == ("UNPROVEN", ("cancelled: behind",), False)
    assert len(run.curve) == 2, "what it had measured stays"
    assert [a.state for a in run.attempts] == ["lost"]
    assert not psutil.pid_exists(attempt.trainer_pid)
    assert fleet.observe([attempt])[attempt.id].liveness == "dead"
    assert one(engine, second).attempts == ()
    assert [after for _, _, after, _ in reads.transitions(engine, first)] == ["queued", "running", "cancelled"]


SAVING = SWEEP.replace("axes:", "checkpoints: {every: 1}\naxes:")


def curve(run: Run) -> list[tuple[int, int]]:
    return [(point.step, point.k) for point in run.curve]


def steps_of(engine: Engine, run: Run) -> list[int]:
    return [step for _, step, _, _ in reads.steps(engine, run.attempts[-1].id)]


def test_a_killed_run_goes_on_from_its_last_checkpoint_with_no_step_missing_or_twice(
    submit, scheduler, engine, settings
) -> None:
    run_id, other = submit(SAVING).all
    behave(settings, run_id, fail_at=3, fail_attempts=1, **{"with": "kill"})
    tick_until(scheduler, over(engine, run_id, other))
    run, undisturbed = one(engine, run_id), one(engine, other)
    assert (run.verdict, [a.state for a in run.attempts]) == ("PROVEN", ["lost", "succeeded"])
    assert [a.resumed_step for a in run.attempts] == [None, 3]
    assert curve(run) == curve(undisturbed)
    assert steps_of(engine, run) == steps_of(engine, undisturbed) == [1, 2, 3, 4]
    kept = sorted(path.name for path in (settings.runs / run_id).glob("*/checkpoints/*"))
    assert kept == ["global_step_4"], "what the first attempt saved is needed no more"


def test_a_run_killed_after_its_last_step_needs_no_step_more(submit, scheduler, engine, settings) -> None:
    run_id, other = submit(SAVING).all
    behave(settings, run_id, fail_at=4, fail_attempts=1, **{"with": "kill"})
    tick_until(scheduler, over(engine, run_id, other))
    run, undisturbed = one(engine, run_id), one(engine, other)
    assert (run.verdict, run.attempts[1].resumed_step, len(run.attempts)) == ("PROVEN", 4, 2)
    assert curve(run) == curve(undisturbed)
    assert steps_of(engine, run) == [1, 2, 3, 4]


def test_what_an_attempt_said_last_is_known_when_it_is_ended(submit, scheduler, engine, settings, tmp_path) -> None:
    """It went on from a checkpoint, made steps that nobody has read yet, and failed: that is no checkpoint's fault."""
    run_id, _ = submit(SAVING).all
    behave(settings, run_id, wait_at=2, wait_attempts=1, until=str(tmp_path / "never"), fail_at=4)
    tick_until(scheduler, lambda: len(one(engine, run_id).curve) == 2)
    os.kill(int(one(engine, run_id).attempts[0].trainer_pid or 0), signal.SIGKILL)
    tick_until(scheduler, lambda: one(engine, run_id).attempts[-1].trainer_pid is not None and two_(engine, run_id))
    attempt = one(engine, run_id).attempts[1]
    spool = Path(attempt.run_dir) / SPOOL_NAME
    while not spool.exists() or '"finished"' not in spool.read_text():
        signal.sigtimedwait([], 0.05)
    assert attempt.last_step < 4
    scheduler._conclude(attempt, Over(exit_code=1))
    run = one(engine, run_id)
    assert (run.state, [a.state for a in run.attempts]) == ("failed", ["lost", "failed"])
    assert (run.attempts[1].resumed_step, run.attempts[1].last_step) == (2, 4)


def two_(engine: Engine, run_id: str) -> bool:
    return len(one(engine, run_id).attempts) == 2


class Mute:
    """A fleet that cannot be asked just now."""

    def observe(self, attempts) -> dict[int, Observation]:
        return {attempt.id: Observation("unknown") for attempt in attempts}

    def nodes(self) -> list[Node]:
        return []

    def launch(self, attempt, gpus: int) -> None: ...

    def release(self, attempt) -> None: ...


def test_what_cannot_be_understood_is_not_gone_on_from(submit, engine, settings) -> None:
    """Not even where it had saved a checkpoint when it was asked to."""
    run_id = submit(SAVING).all[0]
    scheduler = Scheduler(settings, engine, Mute())
    scheduler._launch(Launch(run_id, "node"))
    run_dir = Path(one(engine, run_id).attempts[0].run_dir)
    for name in (LOG_NAME, STOP_NAME):
        (run_dir / name).touch()
    light_worker.train(run_dir, read_order(run_dir), {"garbage": True})
    scheduler._conclude(one(engine, run_id).attempts[0], Over())
    run = one(engine, run_id)
    assert (run.state, run.attempts[0].state, run.verdict) == ("failed", "failed", "UNPROVEN")
    assert "its spool cannot be read" in run.reasons[0]


def test_all_spools_are_read_whoever_has_news(submit, engine, settings) -> None:
    ids = submit().all
    for run_id in ids:
        begun = writes.begin_attempt(engine, run_id, settings.runs, "node")
        Path(begun.run_dir).mkdir(parents=True)
        Spool(begun.run_dir).append("planned", {"total_steps": 4})
    scheduler = Scheduler(settings, engine, Mute())
    scheduler.tick()
    assert all(one(engine, run_id).attempts[0].spool_offset > 0 for run_id in ids)


def test_a_directory_that_cannot_be_looked_into_is_no_silence(submit, engine, settings, monkeypatch) -> None:
    """A mount that went away for an hour ends nobody."""
    run_id = submit(SWEEP.replace("axes:", "resources: {silence_minutes: 1}\naxes:")).all[0]
    begun = writes.begin_attempt(engine, run_id, settings.runs, "node")
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr("orchestrator.scheduler.snapshot.time.monotonic", lambda: next(clock))
    scheduler = Scheduler(settings, engine, Mute())
    Path(begun.run_dir).mkdir(parents=True)
    (Path(begun.run_dir) / SPOOL_NAME).symlink_to(SPOOL_NAME)  # ELOOP, as root too
    for _ in range(4):
        scheduler.tick()
        assert scheduler.snapshot.active[0].silence == 0
        assert "cannot be read" in scheduler.notes[run_id]
    (Path(begun.run_dir) / SPOOL_NAME).unlink()
    scheduler.tick()
    scheduler.tick()
    assert scheduler.snapshot.active[0].silence >= 50, "one that is there, and says nothing, is silent"


def test_a_run_that_is_not_wanted_saves_a_checkpoint_first_and_can_be_gone_on_from_by_hand(
    submit, scheduler, engine, settings, tmp_path
) -> None:
    run_id, other = submit(SAVING).all
    behave(settings, run_id, wait_at=2, until=str(tmp_path / "never"))
    tick_until(scheduler, lambda: len(one(engine, run_id).curve) == 2)
    wishes.ask_to_cancel(engine, {run_id: "another one is more urgent"})
    tick_until(scheduler, over(engine, run_id, other))
    run = one(engine, run_id)
    assert (run.state, run.verdict, [a.state for a in run.attempts]) == ("cancelled", "UNPROVEN", ["stopped"])
    assert "a checkpoint of step 3 saved" in reads.transitions(engine, run_id)[-1][-1]
    (new,) = submissions.retry(engine, [run], run.code_version, 1).values()
    assert submissions.retry(engine, [one(engine, run_id)], run.code_version, 1) == {}, "it is tried again already"
    tick_until(scheduler, over(engine, new))
    again = one(engine, new)
    assert (again.verdict, again.attempts[0].resumed_step, again.sweeps) == ("PROVEN", 3, ("light",))
    assert curve(again) == curve(one(engine, other))
    assert [(li.kind, li.target) for li in again.links] == [("attempt-of", run_id)]
    assert one(engine, run_id).state == "cancelled", "what is over stays so"


def test_a_paused_sweep_saves_waits_and_goes_on(submit, scheduler, engine, settings, tmp_path) -> None:
    first, second = submit(SAVING).all
    behave(settings, first, wait_at=2, wait_attempts=1, until=str(tmp_path / "never"))
    tick_until(scheduler, lambda: len(one(engine, first).curve) == 2)
    wishes.pause(engine, "light", "maintenance", now=True)
    tick_until(scheduler, lambda: one(engine, first).state == "queued")
    for _ in range(5):
        scheduler.tick()
    assert [one(engine, r).state for r in (first, second)] == ["queued", "queued"]
    assert one(engine, first).attempts[0].state == "stopped"
    assert wishes.unpause(engine, "light")
    tick_until(scheduler, over(engine, first, second))
    run = one(engine, first)
    assert (run.verdict, len(run.attempts), run.attempts[1].resumed_step) == ("PROVEN", 2, 3)
    assert curve(run) == curve(one(engine, second))


def test_a_drained_scheduler_starts_nothing(submit, scheduler, engine) -> None:
    ids = submit().all
    wishes.drain(engine, "the machine is needed", now=False)
    for _ in range(3):
        assert scheduler.tick() == []
    assert {one(engine, r).state for r in ids} == {"queued"}
    assert wishes.undrain(engine)
    tick_until(scheduler, over(engine, *ids))


def test_a_run_that_gets_nowhere_is_ended_with_its_stacks_and_tried_again(
    submit, scheduler, engine, settings, tmp_path
) -> None:
    run_id = submit(SAVING.replace("axes:", "resources: {silence_minutes: 0.1}\naxes:")).all[0]
    behave(settings, run_id, wait_at=2, wait_attempts=1, until=str(tmp_path / "never"))
    tick_until(scheduler, over(engine, run_id))
    run = one(engine, run_id)
    assert (run.verdict, [a.state for a in run.attempts]) == ("PROVEN", ["lost", "succeeded"])
    retry = run.attempts[0].retry
    assert retry is not None
    assert (retry["cause"], retry["budget"]) == ("hang", "hang")
    stacks = (Path(run.attempts[0].run_dir) / "stacks.txt").read_text()
    assert "light_worker.py" in stacks or "could not look" in stacks
    assert run.attempts[1].resumed_step == 2


def test_a_run_that_is_out_of_memory_gets_smaller_micro_batches_and_the_log_says_why(
    submit, scheduler, engine, settings
) -> None:
    run_id = submit().all[0]
    log = ["step:2 - x:1", "(WorkerDict pid=1) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"]
    behave(settings, run_id, fail_at=3, fail_attempts=1, log=log, error="ActorDiedError: The actor died unexpectedly")
    tick_until(scheduler, over(engine, run_id))
    run = one(engine, run_id)
    assert (run.verdict, [a.halvings for a in run.attempts]) == ("PROVEN", [0, 1])
    retry = run.attempts[0].retry
    assert retry is not None
    assert retry["line"] == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert json.loads((Path(run.attempts[1].run_dir) / "order.json").read_text())["halvings"] == 1


def test_a_sweep_with_a_concurrency_leaves_gpus_to_others(submit, scheduler, engine, settings, tmp_path) -> None:
    from orchestrator.scheduler.decide import Limits

    submit(SWEEP.replace("axes:", "resources: {concurrency: 1}\nbudget: {gpu_hours: 5}\naxes:"))
    scheduler.tick()
    assert scheduler.snapshot is not None
    assert scheduler.snapshot.limits == {"light": Limits(concurrency=1, hours_left=5.0)}
