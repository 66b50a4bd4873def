"""Lists of runs and claims, in SQL that SQLite and PostgreSQL both read, over any connection.

`aqn runs` asks through the standard library's sqlite3 (:func:`sqlite_rows`), everything else through SQLAlchemy, whose
import alone takes longer than the list. There is one reader: only the way to the rows differs.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from db.records import Attempt, Claim, EvalPoint, Link, Mark, Run

HEAD = "0006"
"""The newest revision of the schema. Checked against the migration scripts by a test, so that opening a registry does
not import Alembic."""

CHUNK = 500
"""Ids in one IN (…): SQLite's limit of variables is far above, PostgreSQL plans short lists better."""

Rows = Callable[[str, Mapping[str, Any]], Iterable[Sequence[Any]]]
"""A statement with ``:name`` parameters and their values → rows."""

_ATTEMPT = tuple(Attempt.__dataclass_fields__)
_MARK = tuple(Mark.__dataclass_fields__)
_RUN = (
    "id", "kind", "waits_for", "label", "condition_id", "seed", "code_version", "state", "verdict", "reasons",
    "priority", "gpus", "plan", "overrides", "score_rule", "created_at", "mlflow_run", "projected_seq",
    "projected_state", "mark_changes", "cancel", "cancel_at_once", "not_before",
)  # fmt: skip
_JSON = {"reasons", "plan", "overrides", "score_rule", "facts", "retry"}


def chunks(ids: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK))


@contextmanager
def sqlite_rows(url: str) -> Iterator[Rows | None]:
    """Rows of one reading transaction on the SQLite file of ``url``; None where SQLAlchemy has to open the registry.

    That is: a server, a URL with options, a file that is missing, is no registry, or is of another revision.
    """
    file = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or "?" in url or not file.is_file():
        yield None
        return
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(file.absolute()))}?mode=ro", uri=True, timeout=60, isolation_level=None
        )
    except sqlite3.Error:
        yield None
        return
    with closing(connection):
        try:
            connection.execute("BEGIN")
            current = connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]
        except sqlite3.Error:
            current = False
        yield connection.execute if current else None


def runs(
    rows: Rows,
    *,
    ids: Sequence[str] | None = None,
    sweep: str | None = None,
    states: Iterable[str] | None = None,
    kinds: Iterable[str] = ("train",),
    conditions: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[Run]:
    """Runs with everything that a table shows, newest first; in the order of ``ids`` or of the sweep where given.

    Layer scans are runs of a kind of their own: they come where ``kinds`` names them, or ``ids`` do.
    """
    if ids is not None and len(ids) > CHUNK:
        return [run for chunk in chunks(ids) for run in runs(rows, ids=chunk, sweep=sweep, states=states)]
    given = Parameters()
    where = [given.among("r.kind", kinds) if ids is None else given.among("r.id", ids)]
    joined, order = "", "r.created_at DESC, r.id"
    if sweep is not None:
        joined = "JOIN sweep_runs m ON m.run_id = r.id JOIN sweeps s ON s.id = m.sweep_id"
        where.append(f"s.name = {given.value(sweep)}")
        order = "r.created_at DESC, m.position"
    if conditions is not None:
        where.append(given.among("r.condition_id", conditions))
    if states is not None:
        where.append(given.among("r.state", states))
    most = "" if limit is None else f"LIMIT {given.value(limit)}"
    found = [
        dict(zip((*_RUN, "condition"), row, strict=True))
        for row in rows(
            f"SELECT {columns('r', _RUN)}, c.body FROM runs r JOIN conditions c ON c.id = r.condition_id {joined} "
            f"WHERE {' AND '.join(where)} ORDER BY {order} {most}",
            given.values,
        )
    ]
    listed = [row["id"] for row in found]
    sweeps, attempts = sweeps_of(rows, listed), attempts_of(rows, listed)
    curves = _curves_of(rows, [tries[-1].id for tries in attempts.values()])
    marked, linked = marks_of(rows, listed), links_of(rows, listed)
    fallen = _on_fallen_runs(rows, [row["id"] for row in found if row["kind"] == "eval"])
    result = []
    for row in found:
        tries = tuple(attempts.get(row["id"], ()))
        values = _decoded(row) | {"condition": value_of(row["condition"])}
        result.append(
            Run(
                **values | {"reasons": tuple(values["reasons"])},
                marks=tuple(marked.get(row["id"], ())),
                links=tuple(linked.get(row["id"], ())),
                source_stands=row["id"] not in fallen,
                sweeps=tuple(sweeps.get(row["id"], ())),
                attempts=tries,
                curve=tuple(curves.get(tries[-1].id, ())) if tries else (),
            )
        )
    if ids is not None:
        place = {run_id: index for index, run_id in enumerate(ids)}
        result.sort(key=lambda run: place[run.id])
    return result


def claims(
    rows: Rows, *, history: str | None = None, ids: Sequence[str] | None = None, limit: int | None = None
) -> list[Claim]:
    """Claims as recorded, newest history first, in the order of their files."""
    if ids is not None and len(ids) > CHUNK:
        return [claim for chunk in chunks(ids) for claim in claims(rows, history=history, ids=chunk)]
    given, where = Parameters(), ["1 = 1"]
    if history is not None:
        where.append(f"history = {given.value(history)}")
    if ids is not None:
        where.append(given.among("id", ids))
    most = "" if limit is None else f"LIMIT {given.value(limit)}"
    found = list(
        rows(
            "SELECT id, history, label, version, condition_id, recorded_at, body FROM claims "
            f"WHERE {' AND '.join(where)} ORDER BY recorded_at DESC, history, position {most}",
            given.values,
        )
    )
    listed = [row[0] for row in found]
    marked, linked = marks_of(rows, listed), links_of(rows, listed)
    return [
        Claim(
            id_, file, label, version, condition, recorded, value_of(body),
            tuple(marked.get(id_, ())), tuple(linked.get(id_, ())),
        )
        for id_, file, label, version, condition, recorded, body in found
    ]  # fmt: skip


def sweep_names(rows: Rows) -> list[str]:
    """The newest first."""
    return [row[0] for row in rows("SELECT name FROM sweeps ORDER BY submitted_at DESC", {})]


def conditions(rows: Rows, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Condition id → its body."""
    asked = list(dict.fromkeys(ids))
    return {
        row[0]: value_of(row[1]) for row in among_chunks(rows, "SELECT id, body FROM conditions WHERE {}", "id", asked)
    }


def marks_of(rows: Rows, subjects: Sequence[str]) -> dict[str, list[Mark]]:
    """Run or claim → its marks, by bug."""
    found: dict[str, list[Mark]] = {}
    query = f"SELECT {columns('m', _MARK)} FROM marks m WHERE {{}} ORDER BY m.bug"
    for row in among_chunks(rows, query, "m.subject", subjects):
        values = _decoded(dict(zip(_MARK, row, strict=True)))
        found.setdefault(values["subject"], []).append(Mark(**values | {"facts": tuple(values["facts"])}))
    return found


def links_of(rows: Rows, subjects: Sequence[str]) -> dict[str, list[Link]]:
    """Links from or to each; one of kind ``supersedes`` only once the newer run is PROVEN
    (:func:`db.bug_reads.reruns` has all)."""
    found: dict[str, list[Link]] = {}
    for chunk in chunks(subjects):
        given = Parameters()
        query = (
            "SELECT l.kind, l.source, l.target, l.why, r.verdict FROM links l LEFT JOIN runs r ON r.id = l.source "
            f"WHERE {given.among('l.source', chunk)} OR {given.among('l.target', chunk)} "
            "ORDER BY l.at, l.kind, l.source"
        )
        wanted = set(chunk)
        for kind, source, target, why, verdict in rows(query, given.values):
            if kind == "supersedes" and verdict != "PROVEN":
                continue
            for subject in {source, target} & wanted:
                found.setdefault(subject, []).append(Link(kind, source, target, why))
    return found


def _on_fallen_runs(rows: Rows, evaluations: Sequence[str]) -> set[str]:
    """Evaluations of checkpoints whose training cannot be relied on."""
    query = "SELECT source, target FROM links WHERE kind = 're-evaluation-of' AND {}"
    evaluated = list(among_chunks(rows, query, "source", evaluations))
    marks = marks_of(rows, list(dict.fromkeys(run for _, run in evaluated)))
    return {
        evaluation
        for evaluation, run in evaluated
        if any(
            (mark.open or mark.state == "resolved") and mark.effect != "none" and mark.disposition != "re-evaluate"
            for mark in marks.get(run, ())
        )
    }


def sweeps_of(rows: Rows, ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    query = "SELECT m.run_id, s.name FROM sweep_runs m JOIN sweeps s ON s.id = m.sweep_id WHERE {} ORDER BY s.name"
    for run_id, name in among_chunks(rows, query, "m.run_id", ids):
        found.setdefault(run_id, []).append(name)
    return found


def attempts_of(rows: Rows, ids: Sequence[str]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    query = f"SELECT {columns('a', _ATTEMPT)} FROM attempts a WHERE {{}} ORDER BY a.number"
    for row in among_chunks(rows, query, "a.run_id", ids):
        attempt = Attempt(**_decoded(dict(zip(_ATTEMPT, row, strict=True))))
        found.setdefault(attempt.run_id, []).append(attempt)
    return found


def _curves_of(rows: Rows, attempt_ids: Sequence[int]) -> dict[int, list[EvalPoint]]:
    found: dict[int, list[EvalPoint]] = {}
    query = (
        "SELECT attempt_id, seq, step, k, n, samples, questions, at FROM evals WHERE {} ORDER BY attempt_id, step, seq"
    )
    for row in among_chunks(rows, query, "attempt_id", attempt_ids):
        found.setdefault(row[0], []).append(EvalPoint(*row[1:]))
    return found


class Parameters:
    """Named parameters of one statement, numbered as they come."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def value(self, value: Any) -> str:
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def among(self, column: str, values: Iterable[Any]) -> str:
        listed = ", ".join(self.value(value) for value in values)
        return f"{column} IN ({listed})" if listed else "1 = 0"


def among_chunks(rows: Rows, query: str, column: str, values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Rows of ``query``, whose ``{}`` stands for "this column is one of these values", a chunk of values at a time."""
    for chunk in chunks(values):
        given = Parameters()
        yield from rows(query.format(given.among(column, chunk)), given.values)


def columns(table: str, names: Iterable[str]) -> str:
    return ", ".join(f"{table}.{name}" for name in names)


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value_of(value) if name in _JSON else value for name, value in row.items()}


def value_of(value: Any) -> Any:
    """A JSON column's: SQLite keeps text, PostgreSQL's driver has read it already."""
    return json.loads(value) if isinstance(value, str) else value
