"""Parquet and CSV files of metrics, as trackers export them → runs.

Three layouts, told apart by their columns:

* wide: a step, and a column per metric; the run in a column (Trackio), or the whole file is one run (W&B's history);
* long: a run, a step, a metric's name, a value (Neptune's exporter, which keeps the configuration in rows too);
* W&B's charts: ``Step`` and a column ``RUN - METRIC`` per run.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiment_specs.errors import SpecError
from orchestrator.importers.curves import LIKE_A_SCORE, rank
from orchestrator.importers.tracked import LeftOut, Tracked, TrackedRun

STEP = ("step", "_step", "global_step", "training/global_step", "trainer/global_step")
RUN_ID = ("run_id", "run_uuid", "experiment_id", "exp_id")
RUN_NAME = ("run_name", "run", "experiment_name", "experiment", "name")
METRIC = ("metric", "metric_name", "attribute_path", "key", "tag")
VALUE = ("value", "metric_value", "float_value")
PROJECT = ("project", "project_name", "project_id")
TIME = ("timestamp", "_timestamp", "time", "wall_time", "created_at")
OTHERS = ("id", "log_id", "space_id", "_runtime", "relative time (process)", "relative time (wall)", "epoch")
"""Columns that are no metric."""

LAYOUTS = (
    "wide (step, a column per metric, and run_id or run_name for several runs),"
    " long (run, step, metric, value), or W&B's charts (Step, RUN - METRIC)"
)
_CHART = re.compile(r"(?P<run>.+) - (?P<metric>[^ ].*)")
_CHART_BAND = ("__MIN", "__MAX")
MOST_CELLS = 3
"""Cells of one column that a note names."""
LONGEST_CELL = 60
_TYPES_OF_PARAMETERS = ("float", "int", "string", "bool", "datetime", "string_set")


@dataclass(frozen=True)
class _Odd:
    """A cell with something other than a number; ``row`` is counted from 1, without the row of names."""

    row: int
    column: str
    text: str
    step: int | None
    is_text: bool

    def __str__(self) -> str:
        text = self.text if len(self.text) <= LONGEST_CELL else self.text[: LONGEST_CELL - 1] + "…"
        return f"row {self.row}, column {self.column}: {text!r}"


@dataclass
class _Gathered:
    """What is known of one run while rows are read."""

    name: str = ""
    run_id: str = ""
    project: str = ""
    started: float | None = None
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    no_step: int = 0
    odd: dict[str, list[_Odd]] = field(default_factory=dict)
    """Tag → its cells that are no number."""

    def point(self, tag: str, step: Any, value: Any, row: int, column: str) -> None:
        """One cell. What is no number stands as NaN at its step, so that no older value passes for the newest."""
        number = _number(value)
        whole = _number(step)
        at = int(whole) if whole is not None and whole.is_integer() else None
        if number is None and not (isinstance(value, str) and not value.strip()):
            text = value if isinstance(value, str) else repr(value)
            self.odd.setdefault(tag, []).append(_Odd(row, column, text, at, isinstance(value, str)))
            number = math.nan if at is not None else None
        if number is not None and at is not None:
            self.metrics.setdefault(tag, []).append((at, number))
        elif number is not None:
            self.no_step += 1

    def has_numbers(self, tag: str) -> bool:
        odd = sum(cell.step is not None for cell in self.odd.get(tag, ()))
        return len(self.metrics.get(tag, ())) > odd


def read(path: Path) -> Tracked:
    """The runs of one file, or of all Parquet files in a folder (parts of one export). Raises :class:`SpecError`."""
    if path.is_dir():
        parts = sorted(part for part in path.rglob("*.parquet") if not _beside(part))
        if not parts:
            raise SpecError("no Parquet file (*.parquet) in this folder or below it", file=str(path))
    else:
        parts = [path]
    gathered: dict[tuple[str, str], _Gathered] = {}
    left_out: list[LeftOut] = []
    for part in parts:
        try:
            found = _gather(part)
        except SpecError as error:
            if len(parts) == 1:
                raise
            left_out.append(LeftOut(part.name, str(error)))
            continue
        for key, one in found.items():
            if len(parts) > 1:
                one.odd = {tag: [replace(cell, column=f"{cell.column} of {part.name}") for cell in cells]
                           for tag, cells in one.odd.items()}  # fmt: skip
            gathered[key] = _merged(gathered[key], one) if key in gathered else one
    for one in gathered.values():
        scores = (tag for tag in one.odd if rank(tag) is not None and not one.has_numbers(tag))
        left_out += [LeftOut(one.name, _told_cells(one.odd[tag])) for tag in scores]
    return Tracked(str(path), tuple(_run(one, path) for one in gathered.values()), tuple(left_out))


def _beside(path: Path) -> bool:
    """What Trackio writes beside its metrics."""
    return path.stem.endswith(("_configs", "_system", "_traces", "_artifacts")) or path.parent.name == "aux"


def _gather(path: Path) -> dict[tuple[str, str], _Gathered]:
    table = _table(path)
    filled = [  # a comma at the end of each line makes columns without a name or a value
        name for name, column in zip(table.column_names, table.columns, strict=True)
        if name.strip() or column.null_count < len(column)
    ]  # fmt: skip
    if twice := [name for name, count in Counter(filled).items() if count > 1]:
        places = ", ".join(str(n) for n, name in enumerate(table.column_names, 1) if name == twice[0])
        problem = (
            f"columns {places} are all called {twice[0]!r}: nothing says which is meant; accepted: one of each name"
        )
        raise SpecError(problem, file=str(path))
    columns = _Columns(table.column_names)
    rows = table.to_pylist()
    if columns.metric and columns.value and columns.step:
        found = _long(rows, columns)
    elif columns.step and (charts := _chart_columns(table.column_names, columns.step)):
        found = _charts(rows, columns.step, charts)
    elif columns.step:
        found = _wide(rows, columns, table.column_names, _name_of(path))
    else:
        names = ", ".join(table.column_names[:12]) or "none"
        raise SpecError(f"no column for the step; its columns are {names}; accepted: {LAYOUTS}", file=str(path))
    if not found:
        raise SpecError("no row with a metric", file=str(path))
    for one in found.values():
        one.config |= _configs_beside(path).get(one.run_id or one.name, {})
    return found


def _table(path: Path) -> Any:
    import pyarrow

    if not path.is_file():
        raise SpecError("no such file", file=str(path))
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            from pyarrow import csv

            tab = csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            blank = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)  # NaN is a value that was logged
            # One block: a column's type is that of its first block, and words may come later.
            whole = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))
            return csv.read_csv(path, parse_options=tab, convert_options=blank, read_options=whole)
        from pyarrow import parquet

        return parquet.ParquetFile(path).read()  # not read_table: it takes folder names like a=b for columns
    except (pyarrow.ArrowInvalid, OSError) as error:
        kind = "CSV" if path.suffix.lower() in (".csv", ".tsv") else "Parquet"
        raise SpecError(
            f"is no {kind} file that can be read: {str(error).splitlines()[0][:200]}", file=str(path)
        ) from error


class _Columns:
    """Which column is what; names are compared without regard to case."""

    def __init__(self, names: Sequence[str]) -> None:
        lower = {name.lower(): name for name in reversed(names)}

        def first(wanted: Sequence[str]) -> str | None:
            return next((lower[word] for word in wanted if word in lower), None)

        self.step, self.run_id, self.run_name = first(STEP), first(RUN_ID), first(RUN_NAME)
        self.metric, self.value = first(METRIC), first(VALUE)
        self.project, self.time = first(PROJECT), first(TIME)
        self.kind = lower.get("attribute_type")
        self.known = {name for name in names if name.lower() in {*TIME, *OTHERS}} | {
            name for name in (self.step, self.run_id, self.run_name, self.project) if name
        }  # fmt: skip


def _of(
    rows: Sequence[Mapping[str, Any]], columns: _Columns, alone: str
) -> Iterator[tuple[int, _Gathered, Mapping[str, Any]]]:
    """Each row with its number and its run. ``alone``: the run's name where no column tells it."""
    runs: dict[tuple[str, str], _Gathered] = {}
    for number, row in enumerate(rows, 1):
        run_id = _word(row.get(columns.run_id)) if columns.run_id else ""
        name = _word(row.get(columns.run_name)) if columns.run_name else "" if columns.run_id else alone
        project = _word(row.get(columns.project)) if columns.project else ""
        key = (project, run_id or name)
        one = runs.get(key)
        if one is None:
            one = runs[key] = _Gathered(name or run_id or "unnamed", run_id, project)
        if columns.time and (at := _time(row.get(columns.time))) is not None:
            one.started = at if one.started is None else min(at, one.started)
        yield number, one, row


def _keyed(runs: Iterator[_Gathered]) -> dict[tuple[str, str], _Gathered]:
    return {(one.project, one.run_id or one.name): one for one in runs}


def _wide(
    rows: Sequence[Mapping[str, Any]], columns: _Columns, names: Sequence[str], alone: str
) -> dict[tuple[str, str], _Gathered]:
    tags = [name for name in names if name not in columns.known]

    def filled() -> Iterator[_Gathered]:
        for number, one, row in _of(rows, columns, alone):
            for tag in tags:
                if row[tag] is not None:
                    one.point(tag, row[columns.step or ""], row[tag], number, tag)
            yield one

    return _keyed(filled())


def _long(rows: Sequence[Mapping[str, Any]], columns: _Columns) -> dict[tuple[str, str], _Gathered]:
    def filled() -> Iterator[_Gathered]:
        for number, one, row in _of(rows, columns, "run"):
            tag = _word(row[columns.metric or ""])
            if columns.kind and row[columns.kind] in _TYPES_OF_PARAMETERS:
                value = next((row[name] for name in row if name.endswith("_value") and row[name] is not None), None)
                one.config[tag] = value
                if tag == "sys/name" and isinstance(value, str):
                    one.name = value
            elif tag and row[columns.value or ""] is not None:
                one.point(tag, row[columns.step or ""], row[columns.value or ""], number, f"{columns.value} ({tag})")
            yield one

    return _keyed(filled())


def _chart_columns(names: Sequence[str], step: str) -> dict[str, tuple[str, str]]:
    """Column → (run, metric), where every column but the step is one of a chart."""
    found = {}
    for name in names:
        if name == step or name.endswith(_CHART_BAND):
            continue
        match = _CHART.fullmatch(name)
        if match is None:
            return {}
        if not match["metric"].startswith("_"):  # "RUN - _step" stands beside it
            found[name] = (match["run"], match["metric"])
    return found


def _charts(
    rows: Sequence[Mapping[str, Any]], step: str, charts: Mapping[str, tuple[str, str]]
) -> dict[tuple[str, str], _Gathered]:
    runs: dict[tuple[str, str], _Gathered] = {}
    for column, (name, metric) in charts.items():
        one = runs.setdefault(("", name), _Gathered(name))
        for number, row in enumerate(rows, 1):
            if row[column] not in (None, ""):
                one.point(metric, row[step], row[column], number, column)
    return runs


def _name_of(path: Path) -> str:
    """W&B names the file of a history 0000.parquet; its folder has the run's id."""
    return path.resolve().parent.name if re.fullmatch(r"\d+|metrics|history|data", path.stem) else path.stem


def _configs_beside(path: Path) -> dict[str, dict[str, Any]]:
    """Run → configuration, where Trackio wrote one: ``NAME_configs.parquet``, or ``aux/configs.parquet``."""
    places = (path.with_name(f"{path.stem}_configs.parquet"), path.parent / "aux" / "configs.parquet")
    file = next((place for place in places if place.is_file()), None)
    if file is None or path.suffix != ".parquet":
        return {}
    try:
        rows = _table(file).to_pylist()
    except SpecError:
        return {}
    return {
        _word(row.get("run_id")) or _word(row.get("run_name")): {
            key: value for key, value in _told(row).items()
            if key not in ("id", "run_id", "run_name", "created_at") and not key.startswith("_")
        }
        for row in rows
    }  # fmt: skip


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is null: a column exists as soon as one run of the project has the key."""
    return {
        key: _told(value) if isinstance(value, Mapping) else value for key, value in row.items() if value is not None
    }  # fmt: skip


def _merged(one: _Gathered, other: _Gathered) -> _Gathered:
    for tag, points in other.metrics.items():
        one.metrics.setdefault(tag, []).extend(points)
    for tag, cells in other.odd.items():
        one.odd.setdefault(tag, []).extend(cells)
    one.config |= other.config
    one.name = one.name if one.name != one.run_id else other.name
    starts = [at for at in (one.started, other.started) if at is not None]
    one.started, one.no_step = min(starts, default=None), one.no_step + other.no_step
    return one


def _run(one: _Gathered, path: Path) -> TrackedRun:
    notes = [f"{one.no_step} values stand at no whole step, and are left out"] if one.no_step else []
    return TrackedRun(
        name=one.name,
        run_id=one.run_id,
        source=f"{path.resolve()} run {one.run_id or one.name}",
        metrics=_of_numbers(one),
        project=one.project,
        started=one.started,
        config=one.config,
        notes=(*notes, *_about_odd(one)),
    )


def _of_numbers(one: _Gathered) -> dict[str, list[tuple[int, float]]]:
    """The metrics without what is none: columns of words or of media, which have no number at all.

    A score without a number is kept, so that it is named; and other words, without points, so that a user who asks for
    their column is told that it has no number.
    """
    found = {}
    for tag, points in one.metrics.items():
        if one.has_numbers(tag) or rank(tag) is not None:
            found[tag] = points
        elif any(cell.is_text for cell in one.odd[tag]):
            found[tag] = []
    return found


def _about_odd(one: _Gathered) -> Iterator[str]:
    """Notes of the cells that are no number, in columns of numbers; cell by cell where one may be a score."""
    others = []
    for tag, cells in one.odd.items():
        if not one.has_numbers(tag):
            continue
        if LIKE_A_SCORE.search(tag) is None:
            others.append(tag)
            continue
        values = dict(one.metrics[tag])  # of a step that was written twice, the later value
        newest = max(values)
        missed = math.isnan(values[newest]) and newest in {cell.step for cell in cells}
        older = (
            f"; the newest value of {tag}, of step {newest}, is among them: its score is an older one" if missed else ""
        )
        yield _told_cells(cells) + older
    if others:
        more = f" and {len(others) - MOST_CELLS} more" if len(others) > MOST_CELLS else ""
        yield f"columns with cells that are no number: {', '.join(others[:MOST_CELLS])}{more}"


def _told_cells(cells: Sequence[_Odd]) -> str:
    more = f" and {len(cells) - MOST_CELLS} more cells" if len(cells) > MOST_CELLS else ""
    return f"no number in {'; '.join(map(str, cells[:MOST_CELLS]))}{more}"


def _word(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _number(value: Any) -> float | None:
    """A number; trackers write NaN and infinity as words where they write JSON."""
    if value is None or isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _time(value: Any) -> float | None:
    """Seconds since 1970 of a time in a file, if it is one."""
    from datetime import UTC, datetime

    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    number = _number(value)
    if number is None or math.isnan(number) or number <= 0:
        return None
    while number > 1e11:  # milliseconds and less
        number /= 1000
    return number
