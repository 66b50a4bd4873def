"""Nothing that this project starts connects to another machine: commands, MLflow's projection, the pages of `aqn ui`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from ast import literal_eval
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from tests.acceptance.ui import REPOSITORY, free_ports, wait_for
from tests.unit.test_telemetry import users_environment

pytestmark = pytest.mark.timeout(300)

RECORDER = """\
import os, sys

def heard(event, arguments, _file=os.environ["AQN_TEST_CONNECTIONS"]):
    if event == "socket.connect":
        said = arguments[1]
    elif event == "socket.getaddrinfo":
        said = arguments[0]
    elif event in ("socket.gethostbyname", "socket.sendto"):
        said = arguments[-1]
    else:
        return
    with open(_file, "a") as out:
        out.write(f"{os.path.basename(sys.argv[0]) if hasattr(sys, 'argv') else ''}\\t{said!r}\\n")

sys.addaudithook(heard)
"""
"""A `sitecustomize` that every Python process of a test imports first."""
FILL = """\
import json, sys
from pathlib import Path
from db import reads
from db.engine import open_registry
from experiment_specs.load import load_sweep
from orchestrator.plan import make_plan
from orchestrator.settings import load_settings
from orchestrator.submit import record
from tests.registry_tools import finish
engine = open_registry(load_settings().registry_url)
for run in record(engine, make_plan(load_sweep(Path(sys.argv[1])))).all:
    finish(engine, run)
"""


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """The environment of a user who set nothing, and the file in which its Python processes write whom they call."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(RECORDER)
    calls = tmp_path / "calls"
    calls.touch()
    own = users_environment(
        HOME=str(tmp_path), AQN_TEST_CONNECTIONS=str(calls), PYTHONPATH=f"{hook}{os.pathsep}{REPOSITORY}"
    )
    return own, calls


def outside(calls: Path) -> list[str]:
    """Calls whose address is neither of this machine nor a file."""
    found = []
    for line in calls.read_text().splitlines():
        said = line.split("\t", 1)[1]
        value = literal_eval(said)
        if isinstance(value, str | bytes) and (b"/" if isinstance(value, bytes) else "/") in value:
            continue  # a Unix socket
        host = value[0] if isinstance(value, tuple) else value
        host = host.decode() if isinstance(host, bytes) else host
        if host in (None, "", "localhost") or (isinstance(host, int)):
            continue
        try:
            local = ip_address(host).is_loopback or ip_address(host).is_unspecified
        except ValueError:
            local = False
        if not local:
            found.append(line)
    return found


def python(own: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=own, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False
    )


def test_the_recorder_hears_a_library_that_reports(recorded) -> None:
    """Where a user turns a report on: else the next test could not fail. The name cannot be looked up, or is not asked."""
    own, calls = recorded
    load = (
        "import datasets, json; open('x.json', 'w').write(json.dumps({'a': 1}));"
        " datasets.load_dataset('json', data_files='x.json')"
    )
    for value, heard in (("1", True), ("0", False)):
        calls.write_text("")
        subprocess.run(
            [sys.executable, "-c", load], env=own | {"HF_UPDATE_DOWNLOAD_COUNTS": value}, cwd=calls.parent,
            capture_output=True, timeout=200, check=True,
        )  # fmt: skip
        assert bool(outside(calls)) is heard, "one HEAD request per loaded file, or none"


def test_no_process_calls_another_machine(recorded, write_spec) -> None:
    own, calls = recorded
    spec = write_spec("sweep: quiet\nbase: bases/tiny-cpu.yaml\nset: {steps_per_epoch: 4, eval: {every: 2}}\n")
    for words in (("plan", str(spec)), ("doctor",)):
        assert python(own, "-m", "orchestrator.cli.main", *words).returncode in (0, 1)
    assert (filled := python(own, "-c", FILL, str(spec))).returncode == 0, filled.stderr
    for words in (("runs",), ("status",), ("mlflow",)):
        assert (done := python(own, "-m", "orchestrator.cli.main", *words)).returncode == 0, done.stderr
    ports = free_ports(3)
    command = [
        sys.executable, "-m", "orchestrator.cli.main", "ui", "--json", "--port", str(ports[0]),
        "--mlflow-port", str(ports[1]), "--optuna-port", str(ports[2]),
    ]  # fmt: skip
    served = subprocess.Popen(command, cwd=REPOSITORY, env=own, stdout=subprocess.DEVNULL)
    try:
        for port in ports[:2]:
            wait_for(port, served)
        telemetry = f"http://127.0.0.1:{ports[1]}/ajax-api/3.0/mlflow/ui-telemetry"
        with urllib.request.urlopen(telemetry, timeout=60) as response:
            assert json.loads(response.read())["disable_ui_telemetry"] is True
        for path in ("/", "/aqn/sweep/quiet", "/ajax-api/2.0/mlflow/experiments/search?max_results=10"):
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}{path}", timeout=60) as response:
                assert response.status == 200
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/aqn/run/nobody", timeout=60)
    finally:
        children = psutil.Process(served.pid).children(recursive=True)
        served.send_signal(signal.SIGTERM)
        assert served.wait(timeout=60) == 0
        assert psutil.wait_procs(children, timeout=30)[1] == []
    assert calls.read_text(), "the servers listen and are called: something is heard"
    assert outside(calls) == []
