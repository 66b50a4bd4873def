"""One Ray actor an attempt: it holds the GPUs, starts the trainer in its own session, and sees how it ends.

Detached and named after the attempt, so that it outlives whoever asked for it and is found again by the next.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

from orchestrator.fleet.interface import Status
from workers.launch import LOG_NAME, TOKEN_VARIABLE, trainer_environment


class Supervisor:
    """Starts its trainer once, when it is created."""

    def __init__(self, run_dir: str, token: str, command: list[str]) -> None:
        self._token = token
        directory = Path(run_dir)
        with (directory / LOG_NAME).open("ab") as log:
            self._trainer = subprocess.Popen(
                command,
                cwd=directory,
                env=trainer_environment(directory, token, os.environ) | {"PYTHONPATH": _import_path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._swept = False

    def status(self) -> Status:
        """Ask after the trainer; when it has ended, whatever it left behind is ended first, so the GPUs are free."""
        exit_code = self._trainer.poll()
        if exit_code is not None and not self._swept:
            end_processes(self._token)
            self._swept = True
        return Status(socket.gethostname(), self._trainer.pid, exit_code)

    def stop(self) -> Status:
        """End the trainer and everything it started."""
        end_processes(self._token)
        self._trainer.wait()
        return self.status()


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
