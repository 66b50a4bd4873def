"""A file of verl's ``file`` logger → attempts: one JSON line per step, ``{"step": 5, "data": {tag: value}}``.

The logger writes NaN and infinity as null, and begins an empty file when a run is resumed: what came before is lost. A
file with several attempts was put together by hand.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiment_specs.errors import SpecError
from orchestrator.importers.attempts import Attempt, Eval
from orchestrator.importers.curves import MAX_STEP, starts_over

LOOK_AT = 5
"""Lines by which a file is recognised: the first may be torn."""
LONGEST_LINE = 1 << 22


@dataclass
class Known:
    """What is known so far of one attempt."""

    first: int
    step: int
    """Of the record before."""
    last: int
    evals: dict[str, dict[int, list[Eval]]] = field(default_factory=dict)
    tags: dict[str, None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def recognised(path: Path) -> bool:
    """Whether one of the first lines is a record of the logger. A file that cannot be opened is not."""
    try:
        with path.open("rb") as handle:
            return any(_record(handle.readline(LONGEST_LINE)) is not None for _ in range(LOOK_AT))
    except OSError:
        return False


def read(path: Path, metrics: Sequence[str] = ()) -> list[Attempt]:
    """Attempts, told apart where the steps begin again, with the values of tags in val… and of ``metrics``."""
    attempts: list[Known] = []
    unreadable: list[int] = []
    try:
        for number, record in _records(path):
            if record is None:
                unreadable.append(number)
                continue
            step, data = record
            _take(_attempt(attempts, step, number), step, data, number, metrics)
    except OSError as error:
        raise SpecError(f"this file cannot be read: {error.strerror}", file=str(path)) from error
    if unreadable:
        which = ", ".join(map(str, unreadable[:3])) + (" …" if len(unreadable) > 3 else "")
        attempts[-1].notes.append(f"lines that are no records, and not read: {len(unreadable)} ({which})")
    return [Attempt(one.evals, list(one.tags), one.last, notes=tuple(one.notes)) for one in attempts]


def _attempt(attempts: list[Known], step: int, number: int) -> Known:
    """The attempt that a record belongs to."""
    if not attempts or (step < attempts[-1].step and starts_over(step, attempts[-1].first)):
        attempts.append(Known(step, step, step))
        if step > 1:
            attempts[-1].notes.append(f"begins with step {step}: what came before is not in this file")
    current = attempts[-1]
    if step < current.step:
        current.notes.append(f"resumed (line {number}): steps {step} to {current.last} were trained again")
    return current


def _take(known: Known, step: int, data: dict[str, Any], number: int, metrics: Sequence[str]) -> None:
    known.step, known.last = step, max(known.last, step)
    for tag, value in data.items():
        known.tags[tag] = None
        if tag.startswith("val") or tag in metrics:
            known.evals.setdefault(tag, {}).setdefault(step, []).append(_eval(value, number))


def _eval(value: Any, line: int) -> Eval:
    if value is None:
        return Eval(math.nan, line=line)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return Eval(float(value), line=line)
    except OverflowError:
        pass
    return Eval(math.nan, line=line, text=json.dumps(value))


def _records(path: Path) -> Iterator[tuple[int, tuple[int, dict[str, Any]] | None]]:
    """Line number and record, None for a line that is none; empty lines are passed over."""
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            if raw.strip():
                yield number, _record(raw)


def _record(raw: bytes) -> tuple[int, dict[str, Any]] | None:
    if not raw.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
        return None
    try:
        found = json.loads(raw.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    step, data = found.get("step"), found.get("data")
    if isinstance(step, bool) or not isinstance(step, int | float) or step != step // 1 or not isinstance(data, dict):
        return None
    return (int(step), data) if 0 <= step <= MAX_STEP else None
