"""A TensorBoard folder, as verl writes it → curves, one per folder with event files."""

from __future__ import annotations

import math
import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiment_specs.errors import SpecError
from orchestrator.importers.curves import ImportedCurve, Point, choose, percent, remarks

MARK = "tfevents"
FLOAT, DOUBLE = 1, 2
"""tensorboard's DataType of 32 and of 64 bits."""


@dataclass(frozen=True)
class EventFile:
    """What one writer left."""

    name: str
    began: float
    scalars: dict[str, dict[int, list[float]]]
    """Tag → step → values, as written. Only of evals: a run has a hundred others."""
    last_step: int
    whole: bool
    records: int


def read(folder: Path) -> list[ImportedCurve]:
    """Every run below a folder; runs of one name are told apart by their folders. Raises SpecError for no run."""
    if not folder.is_dir():
        raise SpecError("this is no folder", file=str(folder))
    curves = [curve(Path(where), names) for where, names in folders(folder)]
    if not curves:
        raise SpecError("no TensorBoard event files (*tfevents*) in this folder or below it", file=str(folder))
    seen = Counter(found.name for found in curves)
    return [
        replace(found, name=str(Path(found.source).relative_to(folder))) if seen[found.name] > 1 else found
        for found in curves
    ]


def folders(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders that hold event files, with these files."""
    for where, below, files in os.walk(top):
        below.sort()
        if events := sorted(name for name in files if MARK in name):
            yield where, events


def curve(folder: Path, names: list[str]) -> ImportedCurve:
    """The event files of one folder are one run, however often it was restarted."""
    files = sorted((event_file(folder / name) for name in names), key=lambda file: (file.began, file.name))
    tags = list(dict.fromkeys(tag for file in files for tag in file.scalars))
    metric = choose(tags) or ""
    notes = [
        f"{file.name} is cut off after {file.records} records: its writer was killed or still writes"
        for file in files
        if not file.whole
    ]
    writers = [file for file in files if file.last_step or file.scalars]
    if len(writers) > 1:
        notes.append(f"{len(writers)} event files: the run was restarted, {', '.join(file.name for file in writers)}")
    values: dict[int, tuple[float, str]] = {}
    for file in files:
        found = file.scalars.get(metric, {})
        if again := sorted(found.keys() & values.keys()):
            notes.append(f"{file.name} evaluates steps {', '.join(map(str, again))} again: its values are kept")
        for step, written in sorted(found.items()):
            if len(written) > 1:
                notes.append(f"step {step} was evaluated {len(written)} times: {written[-1]:g} was the last")
            values[step] = written[-1], str(folder / file.name)
    for step in [step for step, (value, _) in values.items() if math.isnan(value)]:
        notes.append(f"the eval of step {step} gave no number")
        del values[step]
    notes += remarks(metric, tags) if metric else ["no eval (val-core/…) in these event files"]
    return ImportedCurve(
        name=folder.resolve().name,
        source=str(folder),
        metric=metric,
        points=tuple(Point(s, percent(v, tag=metric, file=file)) for s, (v, file) in sorted(values.items())),
        last_step=max(file.last_step for file in files),
        planned_steps=None,
        ended="unknown",
        why="event files do not say how many steps were planned",
        notes=tuple(notes),
    )


def event_file(path: Path) -> EventFile:
    """All scalars of a file up to where it is torn."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    try:
        framed, whole = frames(path)
    except OSError as error:
        raise SpecError(f"this event file cannot be read: {error.strerror}", file=str(path)) from error
    scalars: dict[str, dict[int, list[float]]] = {}
    began, last, records = math.inf, 0, 0
    for event in LegacyEventFileLoader(str(path)).Load():
        records += 1
        began = min(began, event.wall_time)
        for entry in event.summary.value:
            value = scalar(entry)
            if value is None:
                continue
            last = max(last, event.step)
            if entry.tag.startswith("val"):
                scalars.setdefault(entry.tag, {}).setdefault(event.step, []).append(value)
    return EventFile(path.name, began, scalars, last, whole and records == framed, records)


def scalar(entry: Any) -> float | None:
    """The number in a summary's entry, if it is one number: there are texts and histograms too."""
    from tensorboard.util import tensor_util

    if entry.HasField("simple_value"):
        return rounded(entry.simple_value)
    if entry.HasField("tensor") and entry.tensor.dtype in (FLOAT, DOUBLE):
        array = tensor_util.make_ndarray(entry.tensor)
        if array.size == 1:
            return rounded(array.item()) if entry.tensor.dtype == FLOAT else float(array.item())
    return None


def rounded(value: float) -> float:
    """A number of 32 bits, without digits that its writer did not mean: 0.7377, not 0.7376999855041504."""
    return float(f"{value:.7g}")


def frames(path: Path) -> tuple[int, bool]:
    """How many whole records a file has, and whether it ends with one: the loader passes over a torn end in silence."""
    size = path.stat().st_size
    count = position = 0
    with path.open("rb") as handle:
        while position < size:
            header = handle.read(12)
            if len(header) < 12:
                return count, False
            position += 12 + struct.unpack("<Q", header[:8])[0] + 4
            if position > size:
                return count, False
            handle.seek(position)
            count += 1
    return count, count > 0
