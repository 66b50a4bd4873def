"""W&B run files (``run-ID.wandb``, as offline mode leaves them) → runs.

The file is a log in LevelDB's framing with a head of its own, ``:W&B`` e1 be 00, and a plain CRC-32 where LevelDB has a
masked CRC-32C; every record is one protobuf message. W&B has no public reader of it any more, so the framing is read
here. The messages are decoded by a descriptor of the ten fields that matter, not by ``wandb``'s own classes: those are
private to the package and take over a second to import, and a machine that only imports files does not need
``wandb`` at all. Field numbers cannot change (``wandb sync`` reads old files); the tests compare them with the classes
of the installed ``wandb``, and read what it writes.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiment_specs.errors import SpecError
from orchestrator.importers.curves import Ended
from orchestrator.importers.tracked import GLOBAL_STEP, LeftOut, Tracked, TrackedRun

HEAD = b":W&B\xe1\xbe\x00"
BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
NAME = re.compile(r"run-.+\.wandb")

MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Record": {
        "history": (2, "HistoryRecord"),
        "config": (5, "ConfigRecord"),
        "run": (17, "RunRecord"),
        "exit": (18, "RunExitRecord"),
    },
    "RunRecord": {
        "run_id": (1, "string"),
        "entity": (2, "string"),
        "project": (3, "string"),
        "config": (4, "ConfigRecord"),
        "display_name": (8, "string"),
        "start_time": (17, "Timestamp"),
    },
    "ConfigRecord": {"update": (1, "*Item"), "remove": (2, "*Item")},
    "HistoryRecord": {"item": (1, "*Item"), "step": (2, "HistoryStep")},
    "Item": {"key": (1, "string"), "nested_key": (2, "*string"), "value_json": (16, "string")},
    "HistoryStep": {"num": (1, "int64")},
    "RunExitRecord": {"exit_code": (1, "int32")},
    "Timestamp": {"seconds": (1, "int64"), "nanos": (2, "int32")},
}
"""Message → field → (number, kind); ``*``: repeated. ``Item`` is both ConfigItem and HistoryItem."""


@cache
def record_class() -> Any:
    """The class of a record, of the fields in ``MESSAGES``; all others are passed over."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="run_file.proto", package="run_file", syntax="proto3")
    scalars = {"string": kinds.TYPE_STRING, "int64": kinds.TYPE_INT64, "int32": kinds.TYPE_INT32}
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            label = kinds.LABEL_REPEATED if kind.startswith("*") else kinds.LABEL_OPTIONAL
            bare = kind.removeprefix("*")
            one = described.field.add(name=name, number=number, label=label)
            if bare in scalars:
                one.type = scalars[bare]
            else:
                one.type, one.type_name = kinds.TYPE_MESSAGE, f".run_file.{bare}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("run_file.Record"))


@dataclass
class RunFile:
    """What one process wrote. ``exit_code``: None where it never said how it ended."""

    path: Path
    run_id: str = ""
    entity: str = ""
    project: str = ""
    name: str = ""
    started: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    exit_code: int | None = None
    damage: list[str] = field(default_factory=list)


def read(top: Path) -> Tracked:
    """Every run in a folder or below it, or of one file. Raises :class:`SpecError` where there is none."""
    files = [top] if top.is_file() else list(_files(top))
    if not files:
        what = "no W&B run in this folder or below it: looked for files run-*.wandb, as in wandb/offline-run-*/"
        raise SpecError(what if top.is_dir() else "no such folder or file", file=str(top))
    left_out: list[LeftOut] = []
    parts: dict[tuple[str, str, str], list[RunFile]] = {}
    for path in files:
        try:
            part = run_file(path)
        except SpecError as error:
            if len(files) == 1:
                raise
            left_out.append(LeftOut(path.stem.removeprefix("run-"), str(error)))
            continue
        parts.setdefault((part.entity, part.project, part.run_id), []).append(part)
    return Tracked(str(top), tuple(run for found in parts.values() for run in _runs(found)), tuple(left_out))


def _files(top: Path) -> Iterator[Path]:
    """``latest-run`` is a link to one of them, and links are not followed."""
    for where, below, names in os.walk(top):
        below.sort()
        yield from (Path(where, name) for name in sorted(names) if NAME.fullmatch(name))


def run_file(path: Path) -> RunFile:
    """One file, up to where it is cut off. Raises :class:`SpecError` where it tells no run."""
    from google.protobuf.message import DecodeError

    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=str(path)) from error
    if not data:
        raise SpecError("is empty: its writer was killed before it wrote anything", file=str(path))
    if data[: len(HEAD) - 1] != HEAD[:-1]:
        raise SpecError("is no W&B run file: it does not begin with :W&B", file=str(path))
    if data[: len(HEAD)] != HEAD:
        version = data[len(HEAD) - 1] if len(data) >= len(HEAD) else "unknown"
        raise SpecError(f"is of version {version} of the format; version 0 is known", file=str(path))
    found = RunFile(path)
    for content in records(data, found.damage):
        try:
            record = record_class().FromString(content)
        except DecodeError:
            found.damage.append("a record is no message of W&B's: passed over")
            continue
        _apply(record, found)
    if not found.run_id:
        early = "W&B writes 32 KiB at a time, and its writer was killed before the first, or still writes"
        why = f": {found.damage[0] if found.damage else early}" if len(data) < BLOCK else ""
        raise SpecError(f"has no record of a run{why}", file=str(path))
    return found


def records(data: bytes, damage: list[str]) -> Iterator[bytes]:
    """The whole records of a log, in order; what is not whole is told in ``damage``.

    A damaged piece costs the rest of its block, as in LevelDB: lengths in it cannot be trusted.
    """
    pieces: list[bytes] = []
    position, open_record = len(HEAD), False
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        end = position - position % BLOCK + BLOCK
        if position + 7 > len(data):
            damage.append(_cut(len(data), position))
            return
        checksum, length, kind = struct.unpack("<IHB", data[position : position + 7])
        stop = position + 7 + length
        if (checksum, length, kind) == (0, 0, 0):  # the filling of a block
            position = end
            continue
        if len(data) < stop <= end:
            damage.append(_cut(len(data), position))
            return
        if stop > end or not FULL <= kind <= LAST or zlib.crc32(data[position + 6 : stop]) != checksum:
            damage.append(f"damaged at byte {position}: what lies up to byte {min(end, len(data))} is lost")
            position, pieces, open_record = end, [], False
            continue
        body = data[position + 7 : stop]
        position = stop
        if kind in (FULL, FIRST):
            if open_record:
                damage.append(f"a record before byte {position} has no end: passed over")
            pieces, open_record = [body], True
        elif open_record:
            pieces.append(body)
        else:
            continue  # the rest of a record that was damaged
        if kind in (FULL, LAST):
            yield b"".join(pieces)
            pieces, open_record = [], False
    if open_record:
        damage.append(_cut(len(data), len(data)))


def _cut(size: int, position: int) -> str:
    return f"cut off in its last record (byte {position} of {size}): its writer was killed or still writes"


def _apply(record: Any, found: RunFile) -> None:
    if record.HasField("run"):
        run = record.run
        found.run_id, found.entity, found.project = run.run_id, run.entity, run.project
        found.name = run.display_name or run.run_id
        if run.HasField("start_time"):
            found.started = run.start_time.seconds + run.start_time.nanos / 1e9
        _configure(found.config, run.config)
    elif record.HasField("config"):
        _configure(found.config, record.config)
    elif record.HasField("exit"):
        found.exit_code = record.exit.exit_code
    elif record.HasField("history"):
        _log(record.history, found)


def _path(item: Any) -> list[str]:
    return list(item.nested_key) or [item.key]


def _configure(config: dict[str, Any], change: Any) -> None:
    """A key is replaced as a whole: an update of ``trainer`` drops what it does not repeat, as in W&B itself."""
    for item in change.update:
        *path, last = _path(item)
        node = config
        for word in path:
            inner = node.get(word)
            node[word] = node = inner if isinstance(inner, dict) else {}
        node[last] = _json(item.value_json)
    for item in change.remove:
        *path, last = _path(item)
        holder: Any = config
        for word in path:
            holder = holder.get(word) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.pop(last, None)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _leaves(tag: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Older clients log a mapping as one value; those of media have a ``_type``."""
    if isinstance(value, dict) and "_type" not in value:
        for key, inner in value.items():
            yield from _leaves(f"{tag}.{key}", inner)
    else:
        yield tag, value


def _log(history: Any, found: RunFile) -> None:
    values = dict(pair for item in history.item for pair in _leaves(".".join(_path(item)), _json(item.value_json)))
    step = history.step.num if history.HasField("step") else values.get("_step")
    if not isinstance(step, int):
        return
    for tag, value in values.items():
        if not tag.startswith("_") and isinstance(value, int | float) and not isinstance(value, bool):
            found.metrics.setdefault(tag, []).append((step, float(value)))


def _runs(parts: list[RunFile]) -> Iterator[TrackedRun]:
    """The files of one run id, in the order of their beginnings: a run and its resumptions.

    Offline, W&B counts from 0 again in a resumed run that gives no step. Such files are kept apart: one in the place of
    the other would be a curve that never was.
    """
    parts = sorted(parts, key=lambda part: (part.started or 0.0, str(part.path)))
    if len(parts) == 1 or all(_gives_steps(part) for part in parts) or not _overlap(parts):
        yield _joined(parts)
        return
    for number, part in enumerate(parts, 1):
        run = _joined([part])
        why = f"file {number} of {len(parts)} of this run id; steps begin again in each, so they are kept apart"
        yield replace(run, notes=(*run.notes, why), part=number)


def _gives_steps(part: RunFile) -> bool:
    """Whether the program told W&B its training steps, as verl does."""
    told = part.metrics.get(GLOBAL_STEP, [])
    return bool(told) and all(step == value for step, value in told)


def _overlap(parts: list[RunFile]) -> bool:
    spans = [[step for points in part.metrics.values() for step, _ in points] for part in parts]
    spans = [span for span in spans if span]
    return any(min(later) <= max(earlier) for earlier, later in pairwise(spans))


def _joined(parts: list[RunFile]) -> TrackedRun:
    """Later values come last."""
    last = parts[-1]
    notes = [f"{part.path.name}: {what}" for part in parts for what in part.damage]
    if len(parts) > 1:
        notes.append(f"{len(parts)} files of this run id: it was resumed, and later values are kept")
    metrics: dict[str, list[tuple[int, float]]] = {}
    for part in parts:
        for tag, points in part.metrics.items():
            metrics.setdefault(tag, []).extend(points)
    ended, why = _ended(last)
    if ended == "unknown":
        notes.append(why)
    return TrackedRun(
        name=last.name,
        run_id=last.run_id,
        source=str(parts[0].path.resolve()),
        metrics=metrics,
        project="/".join(part for part in (last.entity, last.project) if part),
        started=parts[0].started,
        config={key: value for key, value in _config(parts).items() if key != "_wandb"},
        ended=ended,
        why=why,
        notes=tuple(notes),
    )


def _config(parts: list[RunFile]) -> Mapping[str, Any]:
    return next((part.config for part in reversed(parts) if set(part.config) - {"_wandb"}), {})


def _ended(part: RunFile) -> tuple[Ended, str]:
    if part.exit_code is None:
        return "unknown", "the file has no exit record: the run was killed, or is still running"
    if part.exit_code:
        return "early", f"W&B recorded exit code {part.exit_code}"
    return "complete", "W&B recorded exit code 0"
