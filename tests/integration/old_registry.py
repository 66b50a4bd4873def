"""Registries as earlier revisions left them, with a row in every table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    RowMapping,
    Table,
    inspect,
    select,
    update,
)

from experiment_specs.language import Condition
from experiment_specs.load import Sweep, build_condition

Row = dict[str, Any]

MIGRATIONS = Path(__file__).resolve().parents[2] / "db" / "migrations"
SCAN = "scan"
RUN = {
    "state": "succeeded",
    "verdict": "PROVEN",
    "reasons": ["weil 4 ≥ 3"],
    "plan": {"total_steps": 4},
    "kind": "train",
}
"""What the reads of a run take for granted of its columns, where it has them."""

VALUES = {
    JSON: {"ä \u0000 🦙": [1, 0.1, None, 1e300]},
    LargeBinary: bytes(range(256)),
    Float: 1_700_000_000.123456,
    Integer: 7,
}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def revisions() -> list[str]:
    """All of them, the first one first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def upgrade_to(connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def first_bodies(sweep: Sweep) -> dict[str, Row]:
    """Conditions as schema 1 wrote them: today's words without those that schema 2 added."""
    plain = build_condition(sweep, {}).model_dump(mode="json")
    del plain["dtype"]["include"], plain["dtype"]["exclude"], plain["attention"]
    aqn = {"schedule": "kstage", "sigma_start": 0.05, "sigma_end": 0.0005, "num_stages": 10}
    aimed = Condition.model_validate(plain | {"aqn": aqn}).model_dump(mode="json")["aqn"]
    del aimed["multipliers"]
    lora = Condition.model_validate(plain | {"lora": {"rank": 8}}).model_dump(mode="json")["lora"]
    del lora["sync"]
    return {
        "plain": plain,
        "aimed": plain
        | {
            "dtype": {"format": "mxfp4", "scale_rule": "floor"},
            "aqn": aimed,
            "srdd": {"aim": "ceiling", "top_k": None},
        },
        SCAN: {
            "model": plain["model"],
            "questions": "tiny/addition",
            "prompts": 8,
            "max_prompt_tokens": 16,
            "compute": "fp32",
            "dtype": {"format": "mxfp4", "scale_rule": "floor"},
        },
        "adapters": plain
        | {"lora": lora, "hw_noise": {"scale": 0.05, "phases": ["train", "rollout", "eval"], "backward": False}},
    }


def make(engine: Engine, revision: str, bodies: dict[str, Row]) -> None:
    """A registry of a revision: filled at the first one, upgraded, and what is empty by then filled too."""
    with engine.begin() as connection:
        upgrade_to(connection, "0001")
        fill(connection, bodies)
        if revision != "0001":
            upgrade_to(connection, revision)
            fill(connection, bodies)
        if "waits_for" in {column["name"] for column in inspect(connection).get_columns("runs")}:
            runs = _tables(connection)["runs"]
            connection.execute(update(runs).where(runs.c.label == SCAN).values(kind="scan"))
            connection.execute(update(runs).where(runs.c.label == "aimed").values(waits_for=SCAN))


def fill(connection: Connection, bodies: dict[str, Row]) -> None:
    """A row in every empty table, and a condition and a run of each body where there are none."""
    for name, table in _tables(connection).items():
        if connection.execute(table.select()).first() is not None:
            continue
        if name == "conditions":
            rows = [{"id": label, "schema_version": 1, "body": body} for label, body in bodies.items()]
        elif name == "runs":
            rows = [_row(connection, table, RUN | {"id": x, "label": x, "condition_id": x}) for x in bodies]
        else:
            rows = [_row(connection, table, {})]
        connection.execute(table.insert(), rows)


def contents(connection: Connection) -> dict[str, list[Row]]:
    """Every row of every table, with every column that is there."""
    names = (name for name in inspect(connection).get_table_names() if name != "alembic_version")
    return {name: [_parsed(row) for row in _rows(connection, name)] for name in names}


def _rows(connection: Connection, table: str) -> Iterable[RowMapping]:
    return connection.exec_driver_sql(f'SELECT * FROM "{table}" ORDER BY 1').mappings()  # noqa: S608


def _parsed(row: RowMapping) -> Row:
    """SQLite gives JSON as the text that it is."""
    return {
        name: json.loads(value) if isinstance(value, str) and value.startswith(("{", "[")) else value
        for name, value in row.items()
    }


def _tables(connection: Connection) -> dict[str, Table]:
    """As they are there, those that others refer to first."""
    metadata = MetaData()
    metadata.reflect(connection)
    return {table.name: table for table in metadata.sorted_tables if table.name != "alembic_version"}


def _row(connection: Connection, table: Table, known: Row) -> Row:
    return {column.name: known.get(column.name, _value(connection, column)) for column in table.columns}


def _value(connection: Connection, column: Column[Any]) -> Any:
    """Something of the column's type that stands for a row elsewhere where it refers to one."""
    for key in column.foreign_keys:
        if key.column.table is column.table:
            return None
        return connection.execute(select(key.column)).scalars().first()
    for kind, value in VALUES.items():
        if isinstance(column.type, kind):
            return value
    return f"{column.name} é"[: getattr(column.type, "length", None)]
