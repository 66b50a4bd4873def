"""Runs for whoever browses: chosen by what tables show, counted and given by pages, sweeps summed up. In SQL that
SQLite and PostgreSQL both read; what it costs does not grow with what is not shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from db.listing import Parameters, Rows, value_of
from db.states import OPEN

NOT_JUDGED = "not judged"
MOST_CONDITIONS = 30_000
"""In one statement: SQLite takes 32 766 parameters."""


@dataclass(frozen=True)
class Wanted:
    """Which training runs. Empty: all of them."""

    text: str = ""
    """Part of a label, or the beginning of an id; letters' case does not matter."""
    sweep: str | None = None
    states: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    """:data:`NOT_JUDGED` for those without one."""
    conditions: tuple[str, ...] | None = None
    """Ids. Raises ValueError with more than :data:`MOST_CONDITIONS`."""
    seeds: tuple[int, ...] = ()
    bug: str | None = None
    """With a mark of this bug, whatever came of it."""


def count(rows: Rows, wanted: Wanted) -> int:
    given = Parameters()
    ((found,),) = rows(f"SELECT COUNT(*) FROM runs r WHERE {_where(given, wanted)}", given.values)
    return int(found)


def page(rows: Rows, wanted: Wanted, *, limit: int, offset: int = 0) -> list[str]:
    """Ids, newest first."""
    given = Parameters()
    where = _where(given, wanted)
    query = (
        f"SELECT r.id FROM runs r WHERE {where} ORDER BY r.created_at DESC, r.id "
        f"LIMIT {given.value(limit)} OFFSET {given.value(offset)}"
    )
    return [row[0] for row in rows(query, given.values)]


def _where(given: Parameters, wanted: Wanted) -> str:
    parts = ["r.kind = 'train'"]
    if wanted.text:
        text = wanted.text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        part, start = given.value(f"%{text}%"), given.value(f"{text}%")
        parts.append(f"(LOWER(r.label) LIKE {part} ESCAPE '\\' OR r.id LIKE {start} ESCAPE '\\')")
    if wanted.sweep is not None:
        parts.append(
            "r.id IN (SELECT m.run_id FROM sweep_runs m JOIN sweeps s ON s.id = m.sweep_id "
            f"WHERE s.name = {given.value(wanted.sweep)})"
        )
    if wanted.states:
        parts.append(given.among("r.state", wanted.states))
    if wanted.verdicts:
        unjudged = " OR r.verdict IS NULL" if NOT_JUDGED in wanted.verdicts else ""
        parts.append(f"({given.among('r.verdict', wanted.verdicts)}{unjudged})")
    if wanted.conditions is not None:
        if len(wanted.conditions) > MOST_CONDITIONS:
            raise ValueError(f"{len(wanted.conditions):,} conditions are too many to ask for at once")
        parts.append(given.among("r.condition_id", wanted.conditions))
    if wanted.seeds:
        parts.append(given.among("r.seed", wanted.seeds))
    if wanted.bug is not None:
        marked = f"SELECT subject FROM marks WHERE bug = {given.value(wanted.bug)} AND state <> 'withdrawn'"
        parts.append(f"r.id IN ({marked})")
    return " AND ".join(parts)


def trained_conditions(rows: Rows) -> dict[str, dict[str, Any]]:
    """Condition id → body, of every condition that a training run has."""
    query = (
        "SELECT c.id, c.body FROM conditions c WHERE EXISTS "
        "(SELECT 1 FROM runs r WHERE r.condition_id = c.id AND r.kind = 'train')"
    )
    return {row[0]: value_of(row[1]) for row in rows(query, {})}


@dataclass(frozen=True)
class SweepSummary:
    """``counts``: (state, verdict) → how many of its training runs. ``gpu_hours``: of all attempts so far."""

    name: str
    about: str
    submitted_at: float
    paused: bool
    searches: bool
    counts: Mapping[tuple[str, str | None], int]
    gpu_hours: float
    budget: float | None
    """GPU-hours."""

    @property
    def runs(self) -> int:
        return sum(self.counts.values())

    def in_state(self, *states: str) -> int:
        return sum(count for (state, _), count in self.counts.items() if state in states)

    def with_verdict(self, verdict: str) -> int:
        return sum(count for (_, found), count in self.counts.items() if found == verdict)


def sweeps(rows: Rows, now: float) -> list[SweepSummary]:
    """The newest first."""
    counts: dict[int, dict[tuple[str, str | None], int]] = {}
    for sweep, state, verdict, many in rows(
        "SELECT m.sweep_id, r.state, r.verdict, COUNT(*) FROM sweep_runs m JOIN runs r ON r.id = m.run_id "
        "WHERE r.kind = 'train' GROUP BY m.sweep_id, r.state, r.verdict",
        {},
    ):
        counts.setdefault(sweep, {})[state, verdict] = many
    hours = {
        sweep: float(used or 0.0)
        for sweep, used in rows(
            "SELECT m.sweep_id, SUM((COALESCE(a.ended_at, :now) - a.created_at) * r.gpus) / 3600 FROM sweep_runs m "
            "JOIN runs r ON r.id = m.run_id JOIN attempts a ON a.run_id = r.id GROUP BY m.sweep_id",
            {"now": now},
        )
    }
    found = []
    for key, name, about, details, at, paused in rows(
        "SELECT id, name, about, details, submitted_at, paused FROM sweeps ORDER BY submitted_at DESC", {}
    ):
        said = value_of(details) or {}
        budget = (said.get("budget") or {}).get("gpu_hours")
        stopped = paused is not None and value_of(paused) is not None
        used = hours.get(key, 0.0)
        found.append(SweepSummary(name, about or "", at, stopped, "search" in said, counts.get(key, {}), used, budget))
    return found


@dataclass(frozen=True)
class Span:
    """An attempt on a time line. ``end``: None while it runs."""

    run_id: str
    label: str
    kind: str
    number: int
    state: str
    verdict: str | None
    node: str
    gpus: int
    begin: float
    end: float | None


def spans(rows: Rows, limit: int) -> list[Span]:
    """The newest attempts of runs of every kind, oldest first."""
    return list(reversed(list(_spans(rows, limit))))


def _spans(rows: Rows, limit: int) -> Iterator[Span]:
    query = (
        "SELECT r.id, r.label, r.kind, a.number, a.state, r.verdict, COALESCE(a.node, a.placed, 'not placed yet'), "
        "r.gpus, a.created_at, a.ended_at FROM attempts a JOIN runs r ON r.id = a.run_id ORDER BY a.id DESC LIMIT :most"
    )
    return (Span(*row) for row in rows(query, {"most": limit}))


def labels(rows: Rows, limit: int) -> Sequence[str]:
    """Of training runs, each once, the newest first."""
    query = (
        "SELECT label FROM runs WHERE kind = 'train' GROUP BY label ORDER BY MAX(created_at) DESC, label LIMIT :most"
    )
    return [row[0] for row in rows(query, {"most": limit})]


Named = Literal["run", "sweep", "bug"]
_NAMES = {
    "run": "SELECT label AS name, created_at AS at FROM runs UNION ALL SELECT label, recorded_at FROM claims",
    "sweep": "SELECT name, submitted_at AS at FROM sweeps",
    "bug": "SELECT bug AS name, at FROM bugs",
}


def names(rows: Rows, kind: Named, beginning: str, most: int = 100) -> list[str]:
    """Labels of runs and claims, sweeps, or applied bugs that begin so; the newest first."""
    return [
        name
        for (name,) in rows(
            f"SELECT name FROM ({_NAMES[kind]}) t WHERE substr(name, 1, :length) = :beginning "
            "GROUP BY name ORDER BY max(at) DESC, name LIMIT :most",
            {"length": len(beginning), "beginning": beginning, "most": most},
        )
    ]


def open_runs(rows: Rows) -> int:
    """How many runs of any kind wait or run."""
    given = Parameters()
    ((found,),) = rows(f"SELECT COUNT(*) FROM runs r WHERE {given.among('r.state', OPEN)}", given.values)
    return int(found)
