"""Processes that open registries, all at the same moment, some to be killed while they migrate.

``python -m tests.integration.migrating URL=N …`` forks one process for each: the interpreter and its imports are slow.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# what is imported here is there when the processes begin: they are started sooner, and do the same at the same moment
import psycopg  # noqa: F401
from alembic import command  # noqa: F401
from sqlalchemy import Engine, event
from sqlalchemy.dialects import postgresql, sqlite  # noqa: F401

import db.schema  # noqa: F401
from db.engine import open_registry

CHANGES = ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Opened:
    """A process that opened a registry."""

    status: int
    """Its exit status; negative for a signal."""
    changes: int
    """How many statements that change something it executed; 0 where it was killed."""
    stderr: str
    """Of all that were started with it."""


def open_in_processes(jobs: Sequence[tuple[str, int]]) -> list[Opened]:
    """One process for each URL; a number over 0 says after which statement that changes something it kills itself."""
    words = [f"{url}={kill_after}" for url, kill_after in jobs]
    started = [sys.executable, "-m", "tests.integration.migrating", *words]
    ended = subprocess.run(started, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return [Opened(**json.loads(line), stderr=ended.stderr) for line in ended.stdout.splitlines()]


@contextmanager
def counted_changes(kill_after: int = 0) -> Iterator[list[str]]:
    """The statements by any engine of this process that change schema or rows, as they come; SIGKILL after that one."""
    seen: list[str] = []

    def after_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.split(maxsplit=1)[0].upper() in CHANGES:
            seen.append(statement)
            if len(seen) == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "after_cursor_execute", after_statement)
    try:
        yield seen
    finally:
        event.remove(Engine, "after_cursor_execute", after_statement)


def _child(url: str, kill_after: int, start: int, result: int) -> None:
    os.read(start, 1)  # until the parent closes its end
    with counted_changes(kill_after) as seen:
        open_registry(url).dispose()
    os.write(result, str(len(seen)).encode())


def main(jobs: list[str]) -> None:
    start, starter = os.pipe()
    children = []
    for job in jobs:
        url, _, kill_after = job.rpartition("=")
        result, write_result = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(starter)
            code = 1
            try:
                _child(url, int(kill_after), start, write_result)
                code = 0
            except BaseException:  # noqa: BLE001 - whatever it is, it ends this process and no other
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(write_result)
        children.append((pid, result))
    os.close(starter)
    for pid, result in children:
        _, status = os.waitpid(pid, 0)
        executed = os.read(result, 20).decode()
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "changes": int(executed or 0)}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
