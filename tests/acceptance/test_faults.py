"""A real sweep on verl whose scheduler, supervisor and trainers are killed at different moments, beside one that nobody
touched: the same table. n = 1 of each kind of kill; `make chaos` has the numbers, on light workers."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.test_verl import Home
from workers.events import read_events

pytestmark = [pytest.mark.verl, pytest.mark.slow, pytest.mark.timeout(3600)]

SWEEP = """\
sweep: faults
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 6, eval: {every: 3}, dtype: mxfp4}
checkpoints: {every: 2}
axes: {aqn: [none, {preset: standard, num_stages: 4}], lora: [none, r32]}
exclude: [{when: {aqn: none, lora: none}, because: three are enough}]
"""


def home_of(folder: Path) -> Home:
    folder.mkdir()
    home = Home(folder)
    home.spec.write_text(SWEEP)
    return home


def spools(home: Home) -> list[Path]:
    return sorted((home.folder / "home" / "runs").glob("*/*/events.jsonl"), key=lambda path: path.stat().st_ctime)


def last_step(home: Home) -> tuple[int, int]:
    """(how many attempts there are, the last one's last step)."""
    found = spools(home)
    steps = [event.data["step"] for event in read_events(found[-1].parent)[0] if event.kind == "step"] if found else []
    return len(found), max(steps, default=0)


def trainer(home: Home) -> int:
    events, _ = read_events(spools(home)[-1].parent)
    return next(event.pid for event in reversed(events) if event.kind == "started")


def wait(submit: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    while not ready():
        assert submit.poll() is None, submit.communicate()[0]
        signal.sigtimedwait([], 0.1)


def table(home: Home) -> list[tuple[Any, ...]]:
    return sorted(
        (run["label"], run["seed"], run["status"], run["verdict"], run["score"]["k"],
         tuple((point["step"], point["k"]) for point in run["curve"]))
        for run in home.json("runs", "--curves")
    )  # fmt: skip


def test_a_sweep_whose_processes_are_killed_ends_with_the_same_table(tmp_path) -> None:
    quiet, disturbed = home_of(tmp_path / "quiet"), home_of(tmp_path / "disturbed")
    try:
        code, output = quiet.aqn("submit", str(quiet.spec), timeout=1500)
        assert code == 0, output
        quiet.aqn("fleet", "down")
        submit = disturbed.start("submit", str(disturbed.spec))
        wait(submit, lambda: last_step(disturbed) >= (1, 1))
        submit.send_signal(signal.SIGKILL)  # the scheduler
        submit.wait()
        submit = disturbed.start("submit", str(disturbed.spec))
        wait(submit, lambda: last_step(disturbed) >= (1, 3))
        os.kill(psutil.Process(trainer(disturbed)).ppid(), signal.SIGKILL)  # the supervisor
        wait(submit, lambda: last_step(disturbed) >= (2, 5))
        os.kill(trainer(disturbed), signal.SIGKILL)  # the trainer, in what went on from a checkpoint
        wait(submit, lambda: last_step(disturbed) >= (4, 3))
        os.kill(trainer(disturbed), signal.SIGKILL)  # the trainer of another run
        output, _ = submit.communicate(timeout=1500)
        assert submit.returncode == 0, output
        assert table(disturbed) == table(quiet)
        attempts = [disturbed.json("show", run["run_id"])["attempts"] for run in disturbed.json("runs")]
        went_on = sorted(a["resumed_from_step"] for tries in attempts for a in tries if a["resumed_from_step"])
        assert len(went_on) == 3
        assert {a["state"] for tries in attempts for a in tries} == {"lost", "succeeded"}
    finally:
        quiet.aqn("fleet", "down")
        disturbed.aqn("fleet", "down")
