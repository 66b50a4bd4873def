"""Runs of another kind that runs wait for, and conditions in the words of schema 2 under their new ids."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # for a while, revision 0001 made these two columns itself
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("runs")}
    if "kind" not in there:
        op.add_column("runs", sa.Column("kind", sa.String(length=8), nullable=False, server_default="train"))
    if "waits_for" not in there:
        # in SQL: on SQLite Alembic could only add the reference by making the table anew, and others refer to it
        op.execute(
            "ALTER TABLE runs ADD COLUMN waits_for VARCHAR(32) CONSTRAINT fk_runs_waits_for_runs REFERENCES runs (id)"
        )
    _rename_conditions()


def _rename_conditions() -> None:
    conditions = sa.table(
        "conditions", sa.column("id", sa.String), sa.column("schema_version", sa.Integer), sa.column("body", sa.JSON)
    )
    runs = sa.table("runs", sa.column("condition_id", sa.String))
    connection = op.get_bind()
    for old, body in connection.execute(sa.select(conditions.c.id, conditions.c.body)).all():
        translated = in_schema_2(body)
        hashed = {"schema": 2, "scan": translated} if _is_scan(body) else {"schema": 2, **translated}
        canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
        new = hashlib.sha256(canonical.encode()).hexdigest()[:12]
        if connection.execute(sa.select(conditions.c.id).where(conditions.c.id == new)).first() is None:
            connection.execute(sa.insert(conditions).values(id=new, schema_version=2, body=translated))
        connection.execute(sa.update(runs).where(runs.c.condition_id == old).values(condition_id=new))
        if new != old:
            connection.execute(sa.delete(conditions).where(conditions.c.id == old))


def _is_scan(body: dict[str, Any]) -> bool:
    """The first layer scans were recorded before this revision had a number."""
    return "questions" in body


def in_schema_2(body: dict[str, Any]) -> dict[str, Any]:
    """The same experiment with the fields that schema 2 added spelled out: what they mean where they were not there."""
    new = dict(body)
    new["dtype"] = {"include": [], "exclude": [], **body["dtype"]}
    if _is_scan(body):
        return new
    if body["aqn"] is not None:
        new["aqn"] = {"multipliers": None, **body["aqn"]}
    if (srdd := body["srdd"]) is not None:
        ceiling = srdd["aim"] == "ceiling"
        new["srdd"] = {
            "bands": None, "ceiling": ceiling, "outside": 1.0, "prompts": 8, "dtype": None, **srdd,
            "aim": "variable" if ceiling else srdd["aim"],
        }  # fmt: skip
    if body["hw_noise"] is not None:
        new["hw_noise"] = {"ops": ["linear", "matmul", "bmm"], "layers": None, **body["hw_noise"]}
    if body["lora"] is not None:
        new["lora"] = {"sync": "adapter", **body["lora"]}
    return new


def downgrade() -> None:
    raise NotImplementedError("restore a copy of the registry instead")
