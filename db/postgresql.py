"""What makes PostgreSQL keep what SQLite keeps: one writer at a time, reads of one moment, NaN and infinities."""

from __future__ import annotations

import json
import math
from typing import Any

from sqlalchemy import Engine, event

WRITER = 0x61716E
"""The advisory lock that every transaction that writes holds from its beginning to its end. Locks are per database."""


def engine_options() -> dict[str, Any]:
    """Arguments of ``create_engine``.

    Under READ COMMITTED, whatever the server's default is, a writer that waited for the lock sees what others wrote
    meanwhile.
    """
    return {"isolation_level": "READ COMMITTED", "json_serializer": to_json, "json_deserializer": from_json}


def tune(engine: Engine, wait_milliseconds: int) -> None:
    """Transactions that write wait for each other; those that only read see one moment and wait for nobody."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {wait_milliseconds}")
        connection.commit()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Any) -> None:
        if connection.get_execution_options().get("read_only"):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        else:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER})")


_FLOAT = "$float"


def to_json(value: Any) -> str:
    """As ``json.dumps``, but with NaN and infinities as ``{"$float": "nan"}``: PostgreSQL refuses them bare."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_tagged(value), allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The value that :func:`to_json` was given."""
    return json.loads(text, object_hook=_untagged)


def _tagged(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tagged(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_tagged(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    return value


def _untagged(found: dict[str, Any]) -> Any:
    return float(found[_FLOAT]) if found.keys() == {_FLOAT} else found
