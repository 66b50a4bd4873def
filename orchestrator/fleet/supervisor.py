"""One Ray actor an attempt: it holds the GPUs, starts the trainer in its own session, and sees how it ends.

Detached and named after the attempt, so that it outlives whoever asked for it and is found again by the next.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from orchestrator.fleet.gpus import Holder, holders
from orchestrator.fleet.interface import Status
from orchestrator.fleet.stacks import capture_stacks
from workers.launch import LOG_NAME, TOKEN_VARIABLE, trainer_environment

GPU_WAIT_SECONDS = 300.0
"""How long a trainer waits for GPUs that somebody else's process still holds, before the attempt is given up."""
POLL_SECONDS = 2.0
GPU_BUSY = 75
"""Exit code of an attempt whose GPUs did not become free (EX_TEMPFAIL)."""


class Supervisor:
    """Starts its trainer once, as soon as its GPUs are free."""

    def __init__(  # noqa: PLR0917 - made by name on the fleet, by hand in tests
        self,
        run_dir: str,
        token: str,
        command: list[str],
        gpus: Sequence[str] | None = None,
        busy: Callable[[Sequence[str]], list[Holder]] = holders,
        wait: float = GPU_WAIT_SECONDS,
    ) -> None:
        self._directory, self._token, self._command = Path(run_dir), token, command
        self._gpus = list(_assigned_gpus() if gpus is None else gpus)
        self._busy, self._wait = busy, wait
        self._trainer: subprocess.Popen[bytes] | None = None
        self._note = ""
        self._exit_code: int | None = None
        self._told = threading.Event()
        self._swept = False
        self._starting = threading.Thread(target=self._start_when_free, name="start", daemon=True)
        if self._held():
            self._starting.start()
        else:
            self._start()

    def _held(self) -> bool:
        found = self._busy(self._gpus)
        self._note = "; ".join(str(holder) for holder in found)
        return bool(found)

    def _start_when_free(self) -> None:
        try:
            self._wait_and_start()
        except OSError as error:  # nobody waits for this thread: what it could not do must show as an end
            self._note, self._exit_code = f"it could not be started: {error}", os.EX_OSERR

    def _wait_and_start(self) -> None:
        deadline = time.monotonic() + self._wait
        while self._held():
            if self._told.wait(POLL_SECONDS) or time.monotonic() > deadline:
                with (self._directory / LOG_NAME).open("a") as log:
                    log.write(f"RuntimeError: {self._note}, after {self._wait:.0f} s of waiting\n")
                self._exit_code = GPU_BUSY
                return
        self._start()

    def _start(self) -> None:
        with (self._directory / LOG_NAME).open("ab") as log:
            self._trainer = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=trainer_environment(self._directory, self._token, os.environ) | {"PYTHONPATH": _import_path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def status(self) -> Status:
        """Ask after the trainer; when it has ended, whatever it left behind is ended first, so the GPUs are free."""
        if self._trainer is None:
            return Status(socket.gethostname(), 0, self._exit_code, self._note, _node_id())
        exit_code = self._trainer.poll()
        if exit_code is not None and not self._swept:
            end_processes(self._token)
            self._swept = True
        return Status(socket.gethostname(), self._trainer.pid, exit_code, "", _node_id())

    def capture(self) -> str:
        """Write the stacks of all processes of the attempt into its directory; returns the file."""
        return str(capture_stacks(self._directory, [process.pid for process in processes_with_token(self._token)]))

    def stop(self) -> Status:
        """End the trainer and everything it started."""
        self._told.set()
        if self._starting.is_alive():
            self._starting.join()
        end_processes(self._token)
        if self._trainer is not None:
            self._trainer.wait()
        return self.status()


def _assigned_gpus() -> list[str]:
    """What Ray gave this actor; on a machine without GPUs they are logical, and nobody can hold them."""
    return [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]


def _node_id() -> str | None:
    import ray

    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else None


def _import_path() -> str:
    """Where our packages are, for a trainer that starts in its run directory."""
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def processes_with_token(token: str) -> list[psutil.Process]:
    """Every process on this machine that carries an attempt's token in its environment, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN_VARIABLE) != token:
                continue
            found[process.pid] = process
            found |= {child.pid: child for child in process.children(recursive=True)}
        except psutil.Error:
            continue  # gone, or not ours to look at
    found.pop(os.getpid(), None)
    return list(found.values())


def end_processes(token: str, grace: float = 10.0) -> int:
    """SIGTERM, then SIGKILL, to every process with the token; returns how many there were."""
    first = processes_with_token(token)
    for process in first:
        _signal(process, signal.SIGTERM)
    psutil.wait_procs(first, timeout=grace)
    deadline = time.monotonic() + grace
    while (left := processes_with_token(token)) and time.monotonic() < deadline:
        for process in left:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    return len(first)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return
