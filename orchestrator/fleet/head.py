"""A local Ray head as a process of its own: started on demand, found again by its file, ended by ``aqn fleet down``.

Only processes that this module started, known by pid and start time, are ever ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from experiment_specs.errors import AqnError
from experiment_specs.telemetry import telemetry_variables, turn_telemetry_off
from orchestrator.settings import Settings

ADDRESS_VARIABLE = "AQN_RAY_ADDRESS"
START_SECONDS = 120.0
PATIENCE_SECONDS = str(30 * 24 * 3600)
"""A Ray driver ends its own process when it has waited a minute for a head that is gone, be it in a call that nobody
needs any more. Whoever leads notices by itself, and connects anew: it must live to do so."""
RAY = "from workers.launch import ray_on_loopback; ray_on_loopback(); from ray.scripts.scripts import main; main()"
"""Ray's own command line, kept on the loopback interface."""


class FleetError(AqnError):
    """The Ray cluster behind the runs cannot be reached or started."""

    exit_code = 1


@dataclass(frozen=True)
class Head:
    """A head that was started here."""

    address: str
    pid: int
    started: float
    """The process's start time as the kernel has it: a pid alone can come back."""
    temp_dir: str
    gpus: int

    @property
    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def address(settings: Settings) -> str:
    """Where the fleet is: ``AQN_RAY_ADDRESS``, or the local head, started if it is not running.

    Call before Ray is imported: it puts into the environment how long to wait for a head that is gone, that no usage is
    reported, and for the local head the home's token.
    """
    turn_telemetry_off()
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", PATIENCE_SECONDS)
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a call left behind makes no cluster of its own
    if given := os.environ.get(ADDRESS_VARIABLE):
        return given
    head = up(settings)
    os.environ |= _authentication(settings)
    return head.address


def _authentication(settings: Settings) -> dict[str, str]:
    """Only who can read this home's token file may use its Ray: an open Ray port runs anybody's code. The file is made
    with the first head, under the lock."""
    token = settings.home / "ray-token"
    if not token.exists():
        scratch = settings.home / ".ray-token.new"
        scratch.touch(0o600)
        scratch.write_text(secrets.token_hex(32))
        scratch.rename(token)
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def current(settings: Settings) -> Head | None:
    """The local head, if there is one alive."""
    try:
        head = Head(**json.loads(settings.fleet_file.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return head if head.alive else None


def up(settings: Settings) -> Head:
    """The running local head, or a new one. Two callers at once get the same."""
    with _locked(settings):
        return current(settings) or _start(settings)


def down(settings: Settings, grace: float = 5.0) -> Head | None:
    """End the local head and everything below it; returns it, or None where there was none."""
    with _locked(settings):
        head = current(settings)
        settings.fleet_file.unlink(missing_ok=True)
        if head is None:
            return None
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in family:
            _end(process, force=False)
        _, left = psutil.wait_procs(family, timeout=grace)
        for process in left:
            _end(process, force=True)
        shutil.rmtree(head.temp_dir, ignore_errors=True)
        return head


def logical_gpus() -> int:
    """GPUs that this machine offers: its real ones, or one logical one, so that one run at a time holds it."""
    if shutil.which("nvidia-smi") is None:
        return 1
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) or 1


def _start(settings: Settings) -> Head:
    settings.home.mkdir(parents=True, exist_ok=True)
    temp_dir = tempfile.mkdtemp(prefix="aqn-fleet-")  # short: socket paths end at 107 bytes
    port, gpus = _free_port(), logical_gpus()
    command = [
        sys.executable, "-c", RAY, "start", "--head", "--block",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={temp_dir}", "--include-dashboard=false",
        f"--num-gpus={gpus}", f"--num-cpus={max(4, os.cpu_count() or 4)}", "--object-store-memory=100000000",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_enable_worker_prestart": "0"} | telemetry_variables(os.environ) | _authentication(settings)
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environment.get("PYTHONPATH")])])
    log = settings.home / "fleet.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )  # fmt: skip
    head = Head(f"127.0.0.1:{port}", process.pid, psutil.Process(process.pid).create_time(), temp_dir, gpus)
    scratch = settings.fleet_file.with_suffix(".new")  # written before it listens: a head is never without its file
    scratch.write_text(json.dumps(asdict(head)))
    scratch.rename(settings.fleet_file)
    deadline = time.monotonic() + START_SECONDS
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            if process.poll() is None:
                process.kill()
            raise FleetError(f"the local Ray head did not start; its log is {log}")
        time.sleep(0.2)
    return head


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: psutil.Process, *, force: bool) -> None:
    try:
        process.kill() if force else process.terminate()
    except psutil.Error:
        return


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    settings.home.mkdir(parents=True, exist_ok=True)
    lock_file: Path = settings.fleet_file.with_suffix(".lock")
    with lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
