"""`aqn serve` and `--detach`, on a real Ray with light workers; and that nothing is run, read or opened that should not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from db import reads, wishes
from db.states import TERMINAL
from orchestrator.cli.main import command_line
from orchestrator.scheduler.leadership import leadership
from tests.integration.conftest import SWEEP

ROOT = Path(__file__).parents[2]


def aqn(*arguments: str):
    return CliRunner().invoke(command_line(), [*arguments])


@pytest.fixture
def servers(ray_address: str, settings) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts two services on one home; both are ended at the end."""
    settings.home.mkdir(parents=True, exist_ok=True)
    log = (settings.home / "served").open("w")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.serve_process", ray_address], stdout=log, stderr=subprocess.STDOUT, text=True,
            cwd=ROOT, env=os.environ | {"AQN_REGISTRY_URL": settings.registry_url},
        )
        for _ in range(2)
    ]  # fmt: skip
    yield started
    for process in started:
        process.kill()
        process.wait()


def until(done) -> None:
    for _ in range(1200):
        if done():
            return
        signal.sigtimedwait([], 0.1)
    pytest.fail("it did not get there")


def test_a_second_service_takes_over_when_the_first_is_killed(submit, engine, settings, servers, tmp_path) -> None:
    first, second = submit(SWEEP.replace("axes:", "checkpoints: {every: 1}\naxes:")).all
    folder = settings.runs / first
    folder.mkdir(parents=True)
    (folder / "behaviour.json").write_text(json.dumps({"wait_at": 2, "until": str(tmp_path / "go")}))
    served = settings.home / "served"

    def state() -> str:
        return reads.runs(engine, ids=[first])[0].state

    until(lambda: state() == "running" and len(reads.runs(engine, ids=[first])[0].curve) == 2)
    pid = reads.runs(engine, ids=[first])[0].attempts[0].trainer_pid
    until(lambda: "waiting to take over" in served.read_text())
    leader = _leader(servers, served.read_text())
    leader.kill()
    leader.wait()
    until(lambda: served.read_text().count("this process schedules now") == 2)
    assert psutil.pid_exists(pid)
    (tmp_path / "go").touch()
    until(lambda: all(run.state in TERMINAL for run in reads.runs(engine, ids=[first, second])))
    runs = reads.runs(engine, ids=[first, second])
    assert [(run.verdict, len(run.attempts)) for run in runs] == [("PROVEN", 1), ("PROVEN", 1)]
    assert runs[0].attempts[0].trainer_pid == pid, "it was adopted"
    wishes.drain(engine, "the tests are over", now=False)
    other = next(process for process in servers if process is not leader)
    until(lambda: other.poll() is not None)
    assert other.returncode == 0
    said = served.read_text()
    assert re.search(r"a seed 1 \(\w+\): started", said)
    assert "it is succeeded, PROVEN" in said
    assert "drained, and nothing runs any more" in said


def _leader(servers, said: str) -> subprocess.Popen[str]:
    found = re.search(r"service (\d+): this process schedules now", said)
    assert found is not None
    return next(process for process in servers if process.pid == int(found.group(1)))


def test_a_detached_sweep_is_recorded_and_left(write_spec, engine) -> None:
    spec = write_spec(SWEEP)
    done = aqn("submit", str(spec), "--detach")
    assert done.exit_code == 0, done.output
    assert "nobody schedules yet: `aqn serve` does" in done.output
    assert {run.state for run in reads.runs(engine)} == {"queued"}


def test_who_leads_is_told(write_spec, engine, settings) -> None:
    with leadership(settings, engine):
        done = aqn("submit", str(write_spec(SWEEP)), "--detach")
    assert "an aqn process schedules already" in done.output


def test_steering_says_what_it_does_and_refuses_what_it_cannot(submit, engine) -> None:
    first, second = submit().all
    assert "nothing of it starts" in aqn("pause", "light").output
    assert aqn("pause", "lihgt").exit_code == 3
    assert aqn("resume", "light").output == "light goes on\n"
    assert aqn("resume", "light").exit_code == 3
    assert "nothing starts" in aqn("drain").output
    assert aqn("drain", "--off").exit_code == 0
    assert aqn("drain", "--off").exit_code == 3
    assert aqn("cancel", first).exit_code == 0
    done = aqn("retry", first)
    assert re.search(r"cancelled; run \w+ tries again", done.output)
    assert "cancelled, and tried again already" in aqn("retry", first).output
    assert "it is not over" in aqn("retry", second).output
    told = json.loads(aqn("retry", second, "--json").stdout)
    assert told == [{"run_id": second, "label": "b", "status": "queued", "retried_by": None}]


def test_no_code_of_ours_evaluates_what_users_write_or_goes_through_a_shell() -> None:
    """Specs, rules and claims are data: no eval, no exec, no unsafe YAML, no pickle, no shell strings."""
    forbidden = re.compile(
        r"\beval\(|\bexec\(|yaml\.(load|full_load|unsafe_load)\(|pickle\.loads?\(|shell=True|os\.system\(|os\.popen\("
        r"|weights_only=False|__import__\("
    )
    for folder in ("experiment_specs", "orchestrator", "workers", "db", "dashboards"):
        for file in (ROOT / folder).rglob("*.py"):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                assert not forbidden.search(line.replace(".eval()", "")), f"{file}:{number}: {line}"


@pytest.mark.parametrize("name", ["../../etc/x", "a/../b", "/abs", "x\0y"])
def test_a_sweeps_name_is_no_path(write_spec, name) -> None:
    done = aqn("plan", str(write_spec(SWEEP.replace("sweep: light", f"sweep: {json.dumps(name)}"))))
    assert done.exit_code != 0


def test_what_listens_listens_on_this_machine_only(ray_address) -> None:
    """Every port of the local head and of what it started."""
    del ray_address
    mine = psutil.Process()
    family = [p for p in mine.children(recursive=True) if "ray" in " ".join(p.cmdline()).lower()]
    listening = [
        c.laddr.ip.removeprefix("::ffff:")
        for p in family
        if p.is_running()
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}, listening
