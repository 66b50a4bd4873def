"""A Ray cluster of the user's own, started by Ray's command line, listening where the user said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import RAY_TOKEN

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": RAY_TOKEN}
ASKED = """\
from orchestrator.fleet.head import FleetError
from orchestrator.scheduler.lead import connect_ray
from orchestrator.settings import load_settings
try:
    fleet = connect_ray(load_settings())
except FleetError as error:
    print("refused:", error)
else:
    print([node.gpus for node in fleet.nodes()], fleet.alive())
"""


def without_ray(home: Path) -> dict[str, str]:
    """Ray keeps a token in the home directory."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(home)}


@pytest.fixture
def users_head(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    environment = without_ray(tmp_path) | TOKEN
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--num-cpus=2", "--num-gpus=3",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in (tmp_path / "head.log").read_text():
        assert head.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    for process in [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]:
        process.kill()
    head.wait()


@pytest.mark.slow
def test_a_cluster_of_the_users_own_is_reached_and_why_not_is_told(users_head: str, tmp_path: Path) -> None:
    environment = without_ray(tmp_path) | {"AQN_RAY_ADDRESS": users_head}

    def asked(**more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", ASKED], env=environment | more, capture_output=True, text=True, timeout=200,
            check=True,
        )  # fmt: skip
        return done.stdout

    assert asked(**TOKEN) == "[3] True\n"
    told = asked()
    assert told.startswith(f"refused: no Ray cluster answers at {users_head}")
    assert "Authentication token is missing" in told, "what Ray wants is said"
