"""Opening the registry: the engine, its pragmas, and the migrations, run once under a lock."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from db import postgresql
from db.listing import HEAD
from experiment_specs.errors import AqnError

BUSY_MILLISECONDS = 60_000
"""How long a writer waits for another's transaction before it gives up."""


class RegistryError(AqnError):
    """The registry cannot be opened or is of another version."""


class NoRegistryError(RegistryError):
    """There is none yet."""


class OldRegistryError(RegistryError):
    """It is of an earlier revision, and the caller does not write."""


def open_registry(url: str, *, create: bool = True, migrate: bool = True) -> Engine:
    """An engine on the registry at ``url``, at the newest schema; an older one is migrated, where ``migrate`` is true.

    SQLite runs in WAL mode, and every transaction that writes begins with BEGIN IMMEDIATE, so that two writers wait for
    each other instead of failing half-way; on PostgreSQL an advisory lock does the same (:mod:`db.postgresql`). Raises
    :class:`RegistryError` for a bad URL, or a missing registry where ``create`` is false, and
    :class:`OldRegistryError` for one that would have to be migrated and may not be.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise RegistryError(
            f"AQN_REGISTRY_URL: {url!r} is not a database URL, as sqlite:////path/registry.db"
        ) from error
    file = Path(parsed.database) if parsed.drivername.startswith("sqlite") and parsed.database else None
    if file is not None:
        if not create and not file.exists():
            raise NoRegistryError(f"there is no registry at {file}; nothing was submitted yet, or AQN_HOME is another")
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
    on_postgresql = parsed.get_backend_name() == "postgresql"
    options = {"connect_args": {"timeout": BUSY_MILLISECONDS / 1000}} if file is not None else {}
    try:
        engine = create_engine(url, **(postgresql.engine_options() if on_postgresql else options))
    except ModuleNotFoundError as error:
        raise RegistryError(f"{parsed.drivername} needs the package {error.name}") from error
    if file is not None:
        _tune_sqlite(engine, writes=migrate)
    if on_postgresql:
        postgresql.tune(engine, BUSY_MILLISECONDS)
    try:
        if file is None and not create and _revision(engine) is None:
            raise NoRegistryError(f"there is no registry in {parsed}; nothing was submitted yet")
        if not migrate:
            if _revision(engine) != HEAD:
                raise OldRegistryError(f"the registry at {parsed} is of another revision; `aqn status` migrates it")
            return engine
        with _locked(file):
            if _revision(engine) != HEAD:
                upgrade(engine)
    except DatabaseError as error:
        raise RegistryError(f"{parsed} cannot be read as a registry: {str(error.orig).splitlines()[0]}") from error
    return engine


def _tune_sqlite(engine: Engine, *, writes: bool) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        if writes:
            cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        mode = "" if connection.get_execution_options().get("read_only") else " IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN{mode}")


@contextmanager
def _locked(file: Path | None) -> Iterator[None]:
    """One process migrates at a time. On PostgreSQL a migration is a writer as others are, and waits for them."""
    if file is None:
        yield
        return
    with file.with_name(file.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _revision(engine: Engine) -> str | None:
    with engine.connect().execution_options(read_only=True) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return str(found) if found is not None else None


def upgrade(engine: Engine) -> None:
    """Run every migration that is missing."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
