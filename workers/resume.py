"""Going on from a checkpoint of an earlier attempt: which one, and what of that attempt is this one's past.

A checkpoint can be gone on from once everything that belongs to its step is in the spool: the step's metrics, and its
eval where one is planned. The spool of the new attempt begins with the old one's up to there, line for line, so that
no step of the curve is missing and none is there twice, and the run's directory says by itself what the run is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment_specs.faults import fault_point
from workers.events import SPOOL_NAME, Event, Spool, parse, read_events
from workers.launch import Order, read_order


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint, and the last event of the attempt that saved it that counts."""

    run_dir: str
    """Of the attempt whose past is taken over."""
    step: int
    checkpoint: str
    files: dict[str, str]
    """Name below the folder → SHA-256."""
    until: int
    """Sequence number of the step's metrics."""


def points(run_dir: str, events: Sequence[Event], eval_steps: Iterable[int]) -> list[ResumePoint]:
    """What an attempt left that one can go on from, the latest step first. Pure."""
    saved: dict[int, dict[str, Any]] = {}
    evaluated = {int(e.data["step"]) for e in events if e.kind == "eval"}
    ended: dict[int, int] = {}
    for event in events:
        if event.kind == "checkpoint":
            saved[int(event.data["step"])] = event.data
        elif event.kind == "checkpoint_removed":
            saved.pop(int(event.data["step"]), None)
        elif event.kind == "step":
            ended.setdefault(int(event.data["step"]), event.seq)
    wanted = set(eval_steps)
    return [
        ResumePoint(run_dir, step, str(data["path"]), dict(data["files"]), ended[step])
        for step, data in sorted(saved.items(), reverse=True)
        if step in ended and (step not in wanted or step in evaluated)
    ]


def find_point(order: Order) -> ResumePoint | None:
    """Where this attempt can go on, or None: it begins at the beginning.

    Only attempts at the very same thing count: condition, seed, code.
    """
    pasts: list[tuple[str, list[Event]]] = []
    for run_dir in reversed(order.earlier):
        try:
            earlier = read_order(run_dir)
        except (OSError, ValueError, TypeError):
            continue
        same = (earlier.condition_id, earlier.seed, earlier.code, earlier.total_steps)
        if same == (order.condition_id, order.seed, order.code, order.total_steps):
            pasts.append((run_dir, read_events(run_dir)[0]))
    found = [point for run_dir, events in pasts for point in points(run_dir, events, order.eval_steps)]
    for point in sorted(found, key=lambda p: -p.step):
        if point.step not in order.spoiled and not changed_files(point.checkpoint, point.files):
            return point
    return None


def changed_files(folder: str | os.PathLike[str], files: dict[str, str]) -> list[str]:
    """Names of files that are missing or not as they were saved."""
    return [name for name, digest in files.items() if _digest(Path(folder) / name) != digest]


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        return None


def take_over(run_dir: Path, point: ResumePoint, spool: Spool) -> None:
    """Begin this attempt's spool with the other's past, and say so."""
    scratch = run_dir / f".{SPOOL_NAME}.new"
    with (Path(point.run_dir) / SPOOL_NAME).open("rb") as past, scratch.open("wb") as handle:
        for line in past:
            handle.write(line)
            if (event := parse(line)) is not None and event.seq == point.until:
                break
        handle.flush()
        os.fsync(handle.fileno())
    fault_point("resume.copied")
    scratch.rename(run_dir / SPOOL_NAME)
    fault_point("resume.renamed")
    facts = {"from": point.run_dir, "step": point.step, "checkpoint": point.checkpoint, "files": len(point.files)}
    spool.append("resumed", facts, durable=True)
