"""A TensorBoard folder, as verl writes it → curves, one per folder with event files, attempt and test set."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiment_specs.errors import SpecError
from orchestrator.importers.attempts import Attempt, Eval, curves_of, not_read
from orchestrator.importers.curves import ImportedCurve, starts_over
from orchestrator.importers.event_records import Gap, records

MARK = "tfevents"
MOST_PLACES = 3
"""Places of damage that a note names."""
FLOAT, DOUBLE = 1, 2
"""tensorboard's DataType of 32 and of 64 bits."""


@dataclass
class Stretch:
    """What one writer left, from one start of its steps to the next."""

    file: str
    began: float
    evals: dict[str, dict[int, list[Eval]]] = field(default_factory=dict)
    """Tag → step → values, as written. Only of evals: a run has a hundred other tags."""
    tags: dict[str, int] = field(default_factory=dict)
    """Tag → its first step, of all scalars."""
    last_step: int = 0

    @property
    def first_step(self) -> int:
        return min(self.tags.values(), default=0)


@dataclass(frozen=True)
class EventFile:
    """The stretches of one file, and what of it was not read."""

    stretches: list[Stretch]
    not_read: tuple[str, ...] = ()


def read(folder: Path, metrics: Sequence[str] = ()) -> list[ImportedCurve]:
    """Every run below a folder; runs of one name are told apart by their folders. What cannot be recorded says why.

    ``metrics``: tags to read instead of the scores. Raises SpecError where there is no event file.
    """
    if not folder.is_dir():
        raise SpecError("this is no folder", file=str(folder))
    closed: list[OSError] = []
    found = [(Path(where), names) for where, names in folders(folder, closed.append)]
    if not found and not closed:
        raise SpecError("no TensorBoard event files (*tfevents*) in this folder or below it", file=str(folder))
    seen = Counter(where.resolve().name for where, _ in found)
    curves = []
    for where, names in found:
        name = where.resolve().name
        curves += run(where, names, name if seen[name] == 1 else str(where.relative_to(folder)), metrics)
    unread = [not_read(Path(str(e.filename)).name, str(e.filename), f"cannot be read: {e.strerror}") for e in closed]
    return curves + unread


def folders(top: Path, closed: Callable[[OSError], object]) -> Iterator[tuple[str, list[str]]]:
    """Folders that hold event files, with these files. ``closed`` is called for a folder that cannot be read."""
    for where, below, files in os.walk(top, onerror=closed):
        below.sort()
        if events := sorted(name for name in files if MARK in name):
            yield where, events


def run(folder: Path, names: Sequence[str], name: str, metrics: Sequence[str] = ()) -> list[ImportedCurve]:
    """The event files of one folder are one run, in as many attempts as its steps begin again."""
    stretches: list[Stretch] = []
    notes: list[str] = []
    unreadable: list[str] = []
    for file in names:
        try:
            read_file = event_file(folder / file, metrics)
        except SpecError as error:
            unreadable.append(f"{file}: {error.problem}")
            continue
        stretches += read_file.stretches
        notes += read_file.not_read
    if not stretches:
        return [not_read(name, str(folder), "; ".join(unreadable or notes or ["its event files hold no scalars"]))]
    attempts = [attempt_of(own) for own in grouped(stretches)]
    notes += [f"not read: {problem}" for problem in unreadable]
    return curves_of(name, str(folder), [replace(a, notes=(*notes, *a.notes)) for a in attempts], metrics)


def grouped(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """Attempts, by the time at which their writers began. A run that is resumed continues behind its first step."""
    attempts: list[list[Stretch]] = []
    for stretch in sorted(stretches, key=lambda one: (one.began, one.file)):
        tags = {tag for earlier in attempts[-1] for tag in earlier.tags} if attempts else set()
        first = min((earlier.first_step for earlier in attempts[-1]), default=0) if attempts else 0
        # Two writers that share no tag are two processes of one run.
        if not attempts or (tags & stretch.tags.keys() and starts_over(stretch.first_step, first)):
            attempts.append([])
        attempts[-1].append(stretch)
    return attempts


def attempt_of(stretches: Sequence[Stretch]) -> Attempt:
    """One attempt: of a step that was evaluated again after a resume, the later value counts."""
    files = list(dict.fromkeys(stretch.file for stretch in stretches))
    notes = [f"{len(files)} event files: the run was restarted, {', '.join(files)}"] if len(files) > 1 else []
    evals: dict[str, dict[int, list[Eval]]] = {}
    for stretch in stretches:
        again = {step for tag, steps in stretch.evals.items() for step in steps if step in evals.get(tag, {})}
        if again:
            notes.append(
                f"{stretch.file} evaluates steps {', '.join(map(str, sorted(again)))} again: its values are kept"
            )
        for tag, steps in stretch.evals.items():
            evals.setdefault(tag, {}).update(steps)
    return Attempt(
        evals=evals,
        tags=list(dict.fromkeys(tag for stretch in stretches for tag in stretch.tags)),
        last_step=max(stretch.last_step for stretch in stretches),
        why="event files do not say how many steps were planned",
        notes=tuple(notes),
    )


def event_file(path: Path, metrics: Sequence[str] = ()) -> EventFile:
    """All scalars of a file that can be found in it. Raises SpecError where it cannot be opened."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"this event file cannot be read: {error.strerror}", file=str(path)) from error
    stretches = [Stretch(path.name, math.inf)]
    gaps: list[Gap] = []
    count = 0
    for record in records(data):
        if isinstance(record, Gap):
            gaps.append(record)
            continue
        try:
            event = Event.FromString(record.event)
        except DecodeError:  # its checksums are right, and it is no event
            gaps.append(Gap(record.start, record.end))
            continue
        count += 1
        stretches[-1].began = min(stretches[-1].began, event.wall_time)
        for entry in event.summary.value:
            value = scalar(entry)
            if value is not None:
                keep = entry.tag.startswith("val") or entry.tag in metrics
                _take(stretches, entry.tag, event.step, Eval(value, file=str(path)), event.wall_time, keep=keep)
    with_scalars = [stretch for stretch in stretches if stretch.tags]
    return EventFile(with_scalars, tuple(_not_read(path.name, gaps, count, len(data))))


def _not_read(name: str, gaps: Sequence[Gap], count: int, size: int) -> Iterator[str]:
    """What is to be known of a file of ``size`` bytes that is not whole."""
    damaged = [gap for gap in gaps if not gap.torn]
    if damaged and not count:
        yield f"{name} is no event file"
        return
    if damaged:
        starts = ", ".join(str(gap.start) for gap in damaged[:MOST_PLACES])
        more = f" and {len(damaged) - MOST_PLACES} more places" if len(damaged) > MOST_PLACES else ""
        lost = sum(gap.end - gap.start for gap in damaged)
        rest = "nothing behind them is a record" if damaged[-1].end == size else "the records behind them were read"
        missing = f"{lost} bytes were not read, and evals in them are missing"
        yield f"{name} is damaged at byte {starts}{more}: {missing}; {rest}"
    if not size or (gaps and gaps[-1].torn):
        yield f"{name} is cut off after {count} records: its writer was killed or still writes"


def _take(stretches: list[Stretch], tag: str, step: int, value: Eval, at: float, *, keep: bool) -> None:
    """A scalar into the stretch that it belongs to: an eval whose steps begin again begins another."""
    steps = stretches[-1].evals.get(tag, {})
    if keep and steps and step < max(steps) and starts_over(step, min(steps)):
        stretches.append(Stretch(stretches[-1].file, at))
    current = stretches[-1]
    current.tags[tag] = min(step, current.tags.get(tag, step))
    current.last_step = max(current.last_step, step)
    if keep:
        current.evals.setdefault(tag, {}).setdefault(step, []).append(value)


def scalar(entry: Any) -> float | None:
    """The number in a summary's entry, if it is one number: there are texts and histograms too."""
    from tensorboard.util import tensor_util

    if entry.HasField("simple_value"):
        return float(entry.simple_value)
    if entry.HasField("tensor") and entry.tensor.dtype in (FLOAT, DOUBLE):
        array = tensor_util.make_ndarray(entry.tensor)
        if array.size == 1:
            return float(array.item())
    return None
