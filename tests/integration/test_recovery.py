"""What fails under the scheduler, for real, and what becomes of the runs: light workers on real Ray clusters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import DatabaseError

from db import reads, steering
from db.engine import open_registry
from db.states import TERMINAL
from experiment_specs.faults import PLACES
from orchestrator.fleet.gpus import Holder, holders
from orchestrator.fleet.supervisor import GPU_BUSY, Supervisor
from orchestrator.scheduler.lead import lead
from orchestrator.scheduler.leadership import leadership
from orchestrator.settings import Settings
from tests import chaos
from tests.conftest import RAY_TOKEN
from tests.integration.conftest import SWEEP
from tests.integration.test_scheduler import behave, one, over, release_all
from tests.light_worker import command

SAVING = SWEEP.replace("axes:", "checkpoints: {every: 1}\naxes:")
MOST_ROUNDS = 600


@pytest.fixture(autouse=True)
def _store(settings: Settings, empty_store: Path) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, settings.home / "mlflow.db")


@pytest.fixture
def light(ray_address: str, engine: Engine) -> Iterator[Callable[[Settings], object]]:
    """Ends what a test leaves running."""
    from orchestrator.fleet.ray_fleet import RayFleet

    yield lambda _settings: RayFleet(ray_address, command)
    fleet = RayFleet(ray_address, command)
    release_all(engine, fleet)
    fleet.close()


def leading(settings: Settings, engine: Engine, done: Callable[[], bool], connect, notes: list[str]) -> None:
    """Lead until it is done, and keep what was remarked."""
    rounds = 0

    def finished(note: str) -> bool:
        nonlocal rounds
        rounds += 1
        assert rounds < MOST_ROUNDS, "it did not get there"
        if note and note not in notes:
            notes.append(note)
        return done()

    with leadership(settings, engine) as leads:
        assert leads
        lead(settings, engine, leads, finished, connect=connect)


# ------------------------------------------------------------------ the registry


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Iterator[Engine]:
    """A registry whose writers wait for a fifth of a second."""
    monkeypatch.setattr("db.engine.BUSY_MILLISECONDS", 200)
    monkeypatch.setattr("orchestrator.scheduler.lead.AGAIN_SECONDS", 0.2)
    engine = open_registry(settings.registry_url)
    yield engine
    engine.dispose()


def test_a_locked_registry_is_waited_for(submit, impatient, settings, light) -> None:
    ids = submit().all
    notes: list[str] = []
    blocker = sqlite3.connect(
        settings.registry_url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    with closing(blocker):
        blocker.execute("BEGIN IMMEDIATE")

        def done() -> bool:
            if any("locked" in note for note in notes) and blocker.in_transaction:
                blocker.execute("ROLLBACK")
            return over(impatient, *ids)()

        leading(settings, impatient, done, light, notes)
    assert any("the registry cannot be used just now (database is locked)" in note for note in notes)
    assert [one(impatient, run).verdict for run in ids] == ["PROVEN", "PROVEN"]


@pytest.mark.parametrize(
    ("pragma", "mended", "said"),
    [
        ("max_page_count = 1", "max_page_count = 1000000", "full"),
        pytest.param("query_only = ON", "query_only = OFF", "readonly", marks=pytest.mark.slow),
    ],
)
def test_a_registry_that_cannot_be_written_loses_nothing(
    submit, impatient, settings, light, pragma, mended, said
) -> None:
    """A full disk and a read-only one, as SQLite reports them."""
    ids = submit().all
    wanted = [pragma]
    notes: list[str] = []

    @event.listens_for(impatient, "begin")
    def on_begin(connection) -> None:
        connection.exec_driver_sql(f"PRAGMA {wanted[0]}")

    def done() -> bool:
        if any(said in note for note in notes):
            wanted[0] = mended
        return over(impatient, *ids)()

    leading(settings, impatient, done, light, notes)
    assert any(said in note for note in notes), notes
    assert [one(impatient, run).verdict for run in ids] == ["PROVEN", "PROVEN"]
    assert [len(one(impatient, run).attempts) for run in ids] == [1, 1]


def test_history_cannot_be_changed_not_even_by_hand(submit, settings, new_database, write_spec) -> None:
    from experiment_specs.load import load_sweep
    from orchestrator.plan import make_plan
    from orchestrator.submit import record

    engine = open_registry(new_database())
    run = record(engine, make_plan(load_sweep(write_spec(SWEEP)))).all[0]
    from db import writes

    writes.cancel_queued(engine, run, "not wanted")
    for statement in (
        "UPDATE runs SET state = 'queued'",
        "UPDATE transitions SET why = 'something else'",
        "DELETE FROM transitions",
    ):
        with pytest.raises(DatabaseError, match=r"stays so|only added"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert len(reads.transitions(engine, run)) == 2
    engine.dispose()


def test_one_scheduler_leads_for_a_registry_whatever_its_home(new_database, tmp_path) -> None:
    url = new_database()
    one_, other = open_registry(url), open_registry(url)
    homes = [Settings(tmp_path / name, url) for name in ("one", "two")]
    with leadership(homes[0], one_) as first, leadership(homes[1], other) as second:
        assert (bool(first), bool(second), first.still()) == (True, False, True)
    with leadership(homes[1], other) as third:
        assert third
    one_.dispose()
    other.dispose()


# ------------------------------------------------------------------ the trainer's disk


def test_a_trainer_whose_disk_is_full_is_tried_again_later(submit, engine, settings, light) -> None:
    run_id, other = submit().all
    behave(settings, run_id, full_disk=True)

    def waits_alone() -> bool:
        return one(engine, run_id).attempts != () and one(engine, run_id).state == "queued" and over(engine, other)()

    leading(settings, engine, waits_alone, light, [])
    run = one(engine, run_id)
    retry = run.attempts[0].retry
    assert retry is not None
    assert (retry["cause"], retry["wait"]) == ("disk-full", 60.0)
    assert run.not_before is not None
    assert run.not_before > time.time()


# ------------------------------------------------------------------ machines of the fleet


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("within", [(), ("nodes",), ("observe",)], ids=["between-ticks", "in-nodes", "in-observe"])
def test_a_head_that_dies_is_started_anew_and_its_runs_go_on(submit, engine, settings, tmp_path, within) -> None:
    """Everything of the head is killed at once; the trainer, which is a process of its own, is ended and replaced.
    Where the fleet is being asked something just then, Ray would wait for its answer without end."""
    first, second = submit(SAVING).all
    behave(settings, first, wait_at=3, wait_attempts=1, until=str(tmp_path / "never"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.head_process", first, *within],
        capture_output=True, text=True, timeout=280, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert any("the fleet cannot be reached" in note for note in said["notes"])
    run = one(engine, first)
    assert (run.verdict, [a.state for a in run.attempts]) == ("PROVEN", ["lost", "succeeded"])
    assert run.attempts[1].resumed_step == 3
    assert one(engine, second).verdict == "PROVEN"
    assert not psutil.pid_exists(said["killed"][1]), "the old trainer was ended before the new one began"


@pytest.mark.slow
def test_a_node_that_dies_gives_its_run_to_another(submit, engine, settings, tmp_path) -> None:
    """A cluster of three raylets, two of them with a GPU: in a process of its own, because Ray's is one a process."""
    first, second = submit(SAVING).all
    behave(settings, first, wait_at=3, wait_attempts=1, until=str(tmp_path / "never"))
    behave(settings, second, wait_at=3, until=str(tmp_path / "go"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster_process", first, str(tmp_path / "go")],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lost, other = one(engine, first), one(engine, second)
    assert (lost.verdict, [a.state for a in lost.attempts]) == ("PROVEN", ["lost", "succeeded"])
    assert lost.attempts[1].resumed_step == 3
    assert lost.attempts[0].placed != lost.attempts[1].placed == other.attempts[0].placed
    assert (other.verdict, len(other.attempts)) == ("PROVEN", 1), "the other node's run was not touched"


# ------------------------------------------------------------------ GPUs that somebody holds


class Nvml:
    """As much of pynvml as is asked: one process on GPU 0 until it is let go."""

    NVMLError = RuntimeError

    def __init__(self) -> None:
        self.held = threading.Event()
        self.held.set()

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int | str) -> list[object]:  # noqa: N802
        process = type("Process", (), {"pid": 77, "usedGpuMemory": 3 << 30})()
        return [process] if self.held.is_set() and handle in (0, "GPU-a") else []


def test_who_holds_a_gpu_is_asked_of_the_driver() -> None:
    nvml = Nvml()
    assert holders(["0", "1"], nvml) == [Holder("0", 77, 3 << 30)]
    assert str(holders(["GPU-a"], nvml)[0]) == "GPU GPU-a is held by process 77 with 3072 MiB"
    nvml.held.clear()
    assert holders(["0"], nvml) == []
    assert holders(["0"]) == [] or psutil.pid_exists(holders(["0"])[0].pid)


def supervisor(tmp_path: Path, nvml: Nvml, wait: float) -> Supervisor:
    return Supervisor(
        str(tmp_path),
        "a-token",
        [sys.executable, "-c", "print('trained')"],
        ["0"],
        lambda gpus: holders(gpus, nvml),
        wait,
    )


def until(status: Callable[[], bool]) -> None:
    for _ in range(600):
        if status():
            return
        signal.sigtimedwait([], 0.05)
    pytest.fail("it did not get there")


def test_a_trainer_is_not_started_on_a_gpu_that_somebody_holds(tmp_path) -> None:
    nvml = Nvml()
    watcher = supervisor(tmp_path, nvml, wait=60)
    assert (watcher.status().pid, watcher.status().exit_code) == (0, None)
    assert watcher.status().note == "GPU 0 is held by process 77 with 3072 MiB"
    nvml.held.clear()
    until(lambda: watcher.status().exit_code == 0)
    assert (tmp_path / "trainer.log").read_text() == "trained\n"


def test_a_gpu_that_stays_held_gives_the_attempt_up_and_says_by_whom(tmp_path) -> None:
    from orchestrator.scheduler.causes import find_cause
    from orchestrator.scheduler.ending import log_tail

    watcher = supervisor(tmp_path, Nvml(), wait=0)
    until(lambda: watcher.status().exit_code == GPU_BUSY)
    found = find_cause(log_tail(str(tmp_path)), None, GPU_BUSY)
    assert (found.cause.name, "process 77" in str(found.line)) == ("gpu-busy", True)
    assert watcher.stop().pid == 0


# ------------------------------------------------------------------ kills at named places


def test_every_place_is_passed_somewhere_and_every_passage_is_a_place() -> None:
    import re

    root = Path(__file__).parents[2]
    files = [p for folder in ("orchestrator", "db", "workers") for p in (root / folder).rglob("*.py")]
    passed = [name for file in files for name in re.findall(r'fault_point\("([^"]+)"\)', file.read_text())]
    assert sorted(passed) == sorted(PLACES)
    assert len(PLACES) >= 25


@pytest.mark.parametrize(
    "place",
    [
        "scheduler.attempt-begun",
        "spool.half-written",
        *(
            pytest.param(p, marks=pytest.mark.slow)
            for p in ("events.before-commit", "resume.copied", "mlflow.before-cursor")
        ),
    ],
)
def test_a_kill_at_a_place_loses_and_doubles_nothing(place, ray_address, tmp_path) -> None:
    """n = 1 a place; `make chaos` goes through all of them."""
    found = chaos.repeat(place, 1, ray_address, Path(RAY_TOKEN), tmp_path)
    assert (found.killed, found.lost, found.doubled) == (True, [], [])


def test_open_runs_are_all_that_is_not_over(submit, engine) -> None:
    from db import writes

    first, second = submit().all
    writes.cancel_queued(engine, first, "x")
    assert [run.id for run in steering.open_runs(engine)] == [second]
    assert one(engine, first).state in TERMINAL
