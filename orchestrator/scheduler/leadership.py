"""One process schedules for a registry at a time. The lock goes with the process, however it ends.

Beside an SQLite file it is a lock on a file; on PostgreSQL an advisory lock of a connection that is kept for it, so
that schedulers on several machines are one at a time too. Should two ever lead at once (a connection that broke and was
not noticed yet), every change that they make is fenced by an attempt's token or a run's state, and made once.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from orchestrator.settings import Settings

LEADER = 0x61716F
"""The advisory lock's number; another than that of writers."""


class Leadership:
    """``leads`` at the time of asking; ``still`` asks the database whether the lock's connection is there."""

    def __init__(self, leads: bool, connection: object = None) -> None:
        self.leads = leads
        self._connection = connection

    def __bool__(self) -> bool:
        return self.leads

    def still(self) -> bool:
        if self.leads and self._connection is not None:
            try:
                self._connection.exec_driver_sql("SELECT 1")  # type: ignore[attr-defined]
            except DBAPIError:
                self.leads = False
        return self.leads


@contextmanager
def leadership(settings: Settings, engine: Engine) -> Iterator[Leadership]:
    """True for the one process that leads."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT", read_only=True) as connection:
            got = bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({LEADER})").scalar())
            try:
                yield Leadership(got, connection)
            finally:
                if got:
                    _unlock(connection)
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    with settings.leader_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield Leadership(False)
        else:
            yield Leadership(True)


def _unlock(connection: object) -> None:
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LEADER})")  # type: ignore[attr-defined]
    except DBAPIError:
        return  # it broke, and the lock went with it
