"""A PostgreSQL server of the tests' own: in a temporary directory, on a Unix socket, ended by its process id."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

ROLE = "aqn"
STARTS_WITHIN_S = 60
ENDS_WITHIN_S = 30
SPEED = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "shared_buffers": "16MB"}
"""What is not to survive a power cut need not be waited for."""


class Server:
    """Makes, copies and drops databases."""

    def __init__(self, sockets: Path) -> None:
        self._sockets = sockets
        self._numbers = itertools.count(1)

    def new_database(self, copy_of: str | None = None) -> str:
        """The SQLAlchemy URL of a fresh database, or of a copy of the one at that URL."""
        name = f"registry_{next(self._numbers)}"
        template = "template0" if copy_of is None else self._name(copy_of)
        self._execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return f"postgresql+psycopg://{ROLE}@/{name}?host={self._sockets}"

    def drop(self, url: str) -> None:
        """Drop a database, whoever is still connected to it."""
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self._name(url))))

    def answers(self) -> bool:
        try:
            with self._connect():
                return True
        except psycopg.OperationalError:
            return False

    @staticmethod
    def _name(url: str) -> str:
        return url.partition("@/")[2].partition("?")[0]

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self._sockets), user=ROLE, dbname="postgres", autocommit=True)

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)


@contextmanager
def server() -> Iterator[Server]:
    """A server from ``initdb`` to its end; the test is skipped where PostgreSQL is not installed."""
    programs = _programs()
    account = _account()
    # the path of a Unix socket has room for about a hundred letters, and TMPDIR may be long
    home = Path(tempfile.mkdtemp(prefix="aqn-pg-", dir="/tmp"))
    try:
        if account:
            os.chown(home, account["user"], account["group"])
        data = home / "data"
        made = subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", ROLE, "-E", "UTF8", "--locale=C", "--no-sync"],
            cwd=home, capture_output=True, text=True, check=False, **account,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", home, "-c", "listen_addresses=",
                 *(word for name, value in SPEED.items() for word in ("-c", f"{name}={value}"))],
                cwd=home, stdout=log, stderr=log, start_new_session=True, **account,
            )  # fmt: skip
        try:
            running = Server(home)
            _wait_for(running, process, home / "log")
            yield running
        finally:
            _end(process)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _programs() -> Path:
    """The folder of ``initdb`` and ``postgres``. Debian keeps it off PATH."""
    found = shutil.which("initdb")
    known = [Path(found).resolve()] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not known:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH nor in /usr/lib/postgresql/*/bin")
    return known[-1].parent


def _account() -> dict[str, Any]:
    """Whom to run the server as, as arguments of Popen: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def _wait_for(running: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up_at = time.monotonic() + STARTS_WITHIN_S
    while not running.answers():
        try:
            process.wait(timeout=0.05)  # between two tries; a server that ended is noticed at once
        except subprocess.TimeoutExpired:
            assert time.monotonic() < give_up_at, f"the server does not answer:\n{log.read_text()}"
        else:
            raise AssertionError(f"the server ended:\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end without waiting for its clients; then insist."""
    for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(how)
        try:
            process.wait(timeout=ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            continue
        return
