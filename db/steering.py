"""What the scheduler asks at every tick, in a few light statements: open runs without their conditions and curves."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db.bug_reads import reading
from db.listing import among_chunks, attempts_of, columns, sweeps_of, value_of
from db.records import Attempt
from db.schema import ControlRow, EvalRow, EvidenceRow, StepRow
from db.states import OPEN


@dataclass(frozen=True)
class OpenRun:
    """A run that is not over. ``attempt``: the last one, of runs that are running. ``attempts``: all that it had.
    ``first``: state and verdict of the run that it waits for."""

    id: str
    kind: str
    label: str
    state: str
    gpus: int
    priority: int
    created_at: float
    condition_id: str
    plan: dict[str, Any]
    cancel: str | None
    cancel_at_once: bool | None
    not_before: float | None
    waits_for: str | None
    sweeps: tuple[str, ...] = ()
    attempt: Attempt | None = None
    attempts: tuple[Attempt, ...] = ()
    first: tuple[str, str | None] | None = None


_FIELDS = (
    "id", "kind", "label", "state", "gpus", "priority", "created_at", "condition_id", "plan", "cancel",
    "cancel_at_once", "not_before", "waits_for",
)  # fmt: skip


def open_runs(engine: Engine) -> list[OpenRun]:
    """All runs that are queued or running, of every kind."""
    with reading(engine) as rows:
        query = f"SELECT {columns('r', _FIELDS)} FROM runs r WHERE {{}}"
        found = [dict(zip(_FIELDS, row, strict=True)) for row in among_chunks(rows, query, "r.state", OPEN)]
        sweeps = sweeps_of(rows, [run["id"] for run in found])
        attempts = attempts_of(rows, [run["id"] for run in found])
        needed = [run["waits_for"] for run in found if run["waits_for"] and run["state"] == "queued"]
        query = "SELECT id, state, verdict FROM runs WHERE {}"
        firsts = {row[0]: (row[1], row[2]) for row in among_chunks(rows, query, "id", list(dict.fromkeys(needed)))}
    return [
        OpenRun(
            **run | {"plan": value_of(run["plan"])},
            sweeps=tuple(sweeps.get(run["id"], ())),
            attempt=attempts[run["id"]][-1] if run["state"] == "running" else None,
            attempts=tuple(attempts.get(run["id"], ())),
            first=firsts.get(run["waits_for"]),
        )
        for run in found
    ]


@dataclass(frozen=True)
class SweepControl:
    """What a sweep allows. ``gpu_hours``: its budget; ``paused``: why and whether at once."""

    concurrency: int | None
    gpu_hours: float | None
    paused: dict[str, Any] | None


def sweep_controls(engine: Engine) -> dict[str, SweepControl]:
    """Of sweeps that limit anything."""
    with reading(engine) as rows:
        found = {}
        for name, details, paused in rows("SELECT name, details, paused FROM sweeps", {}):
            said = value_of(details) or {}
            control = SweepControl(
                said.get("concurrency"), (said.get("budget") or {}).get("gpu_hours"),
                value_of(paused) if paused is not None else None,
            )  # fmt: skip
            if control != SweepControl(None, None, None):
                found[name] = control
        return found


def gpu_hours(engine: Engine, sweep: str, now: float) -> float:
    """What the attempts of a sweep's runs have held so far. A run of several sweeps counts for each."""
    query = (
        "SELECT SUM((COALESCE(a.ended_at, :now) - a.created_at) * r.gpus) FROM sweeps s "
        "JOIN sweep_runs m ON m.sweep_id = s.id JOIN runs r ON r.id = m.run_id JOIN attempts a ON a.run_id = r.id "
        "WHERE s.name = :name"
    )
    with reading(engine) as rows:
        (total,) = next(iter(rows(query, {"now": now, "name": sweep})))
    return float(total or 0.0) / 3600


def drained(engine: Engine) -> dict[str, Any] | None:
    """Why the scheduler is to start nothing, and whether what runs is to save a checkpoint and wait."""
    with Session(engine.execution_options(read_only=True)) as session:
        return session.scalar(select(ControlRow.body).where(ControlRow.name == "drain"))


def silences(engine: Engine, attempt_id: int) -> list[float]:
    """Seconds between one thing that an attempt said and the next, by its own clock, the past that it took over
    included; not those between one attempt's end and the next one's beginning."""
    with Session(engine.execution_options(read_only=True)) as session:
        times = [(at, False) for table in (StepRow, EvalRow) for at in session.scalars(
            select(table.at).where(table.attempt_id == attempt_id))]  # fmt: skip
        facts = session.execute(select(EvidenceRow.at, EvidenceRow.kind).where(EvidenceRow.attempt_id == attempt_id))
        times += [(at, kind == "resumed") for at, kind in facts]
    times.sort()
    return [later - earlier for (earlier, _), (later, begins) in itertools.pairwise(times) if not begins]
