"""A real sweep on verl whose scheduler, supervisor and trainers are killed at different moments, beside one that nobody
touched: the same table. n = 1 of each kind of kill; `make chaos` has the numbers, on light workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
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

ONE = """\
sweep: node
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 6, eval: {every: 3}, dtype: mxfp4}
checkpoints: {every: 2}
labels: {one: {dtype: mxfp4}}
"""


def home_of(folder: Path) -> Home:
    folder.mkdir()
    home = Home(folder)
    home.spec.write_text(SWEEP)
    return home


@dataclass(frozen=True)
class Training:
    """A trainer that is alive. ``steps``: those that it took itself. ``resumed``: did it go on from a checkpoint?"""

    pid: int
    steps: int
    resumed: bool


def training(home: Home) -> list[Training]:
    found = []
    for spool in (home.folder / "home" / "runs").glob("*/*/events.jsonl"):
        events, _ = read_events(spool.parent)
        began = max((at for at, event in enumerate(events) if event.kind == "resumed"), default=-1)
        pids = [event.pid for event in events[began + 1 :] if event.kind == "started"]
        if pids and psutil.pid_exists(pids[-1]):
            own = sum(event.kind == "step" for event in events[began + 1 :])
            found.append(Training(pids[-1], own, began >= 0))
    return found


def wait(submit: subprocess.Popen[str], home: Home, steps: int, *, but: set[int], resumed: bool = False) -> int:
    """The pid of a trainer that has taken so many steps, and is none of ``but``."""
    while True:
        for one in training(home):
            if one.pid not in but and one.steps >= steps and (one.resumed or not resumed):
                return one.pid
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
        wait(submit, disturbed, 1, but=set())
        submit.send_signal(signal.SIGKILL)  # the scheduler
        submit.wait()
        submit = disturbed.start("submit", str(disturbed.spec))
        first = wait(submit, disturbed, 3, but=set())
        os.kill(psutil.Process(first).ppid(), signal.SIGKILL)  # the supervisor
        second = wait(submit, disturbed, 3, but={first})
        os.kill(second, signal.SIGKILL)  # a trainer
        third = wait(submit, disturbed, 1, but={first, second}, resumed=True)
        os.kill(third, signal.SIGKILL)  # a trainer that had gone on from a checkpoint
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


def test_a_run_whose_node_dies_goes_on_on_another(tmp_path) -> None:
    """Two raylets with a GPU each; the one under the run is killed after its third step."""
    home = home_of(tmp_path / "node")
    home.spec.write_text(ONE)
    assert home.aqn("submit", str(home.spec), "--detach")[0] == 0
    (run,) = home.json("runs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster_process", run["run_id"], str(tmp_path / "go"), "--verl"],
        env=home.environment, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shown = home.json("show", run["run_id"])
    assert (shown["status"], shown["verdict"]) == ("succeeded", "PROVEN")
    assert [point["step"] for point in shown["curve"]] == [0, 3, 6]
    assert [a["state"] for a in shown["attempts"]] == ["lost", "succeeded"]
    assert shown["attempts"][1]["resumed_from_step"] in (2, 4)
