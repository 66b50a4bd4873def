"""The event spool: the only thing a run says to the world, an append-only JSON-lines file in its run directory.

Several processes of one run (trainer, engine, rollout server) append to the same file; a file lock gives every line
the next sequence number. A process killed in mid-line leaves a torn line, which the next writer closes and every
reader skips: the facts in it were never acknowledged. Readers keep a byte offset, so re-reading is cheap and harmless.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from experiment_specs.faults import fault_point, off

SPOOL_NAME = "events.jsonl"
_TAIL_BYTES = 1 << 16

Kind = Literal[
    "started",  # identity: versions, host, fingerprints, composed configuration
    "phase",  # start-up reached a named point
    "planned",  # counts as the trainer itself understands them
    "quantised",  # module names by class, error of the format on the real weights
    "exported",  # fingerprints of the weights that were sent to the rollout
    "forward_weights",  # fingerprints of the weights that a real forward multiplied with
    "attention",  # the attention functions that a real forward used, and whether it had a mask
    "setting_read",  # a key of verl's that the spec sets, and the line of code that took its value
    "noisy_ops",  # relative error of matrix products, by op and phase
    "scan",  # what the layer scan of a model measured
    "gradient_probe",  # dL/dx and dL/dW of a real update against the straight-through rule
    "sync",  # what the rollout copy held when it first generated after a weight sync
    "eval_mode",  # what it held while it answered the test questions
    "eval",  # k of n, with every question's outcome
    "step",  # metrics of one training step
    "moved",  # how far the parameters are from where they started
    "checkpoint",  # path, step and hashes
    "checkpoint_removed",  # by the policy of what is kept
    "resumed",  # what comes before is an earlier attempt's past, up to the checkpoint that this one went on from
    "stopped",  # asked to end, it saved a checkpoint and did; the run can go on from there
    "source",  # an eval's checkpoint: which files were found as they were saved
    "loaded",  # fingerprints of the weights that an eval loaded, taken as the training run took them
    "finished",  # the trainer's own last word
]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Event:
    """One line of the spool. ``at`` is seconds since the epoch, by the clock of the writing machine."""

    seq: int
    kind: str
    at: float
    pid: int
    data: dict[str, Any]


class Spool:
    """Appends events. Every call is one locked write; ``durable`` events are also fsynced."""

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.path = Path(run_dir) / SPOOL_NAME

    def append(self, kind: Kind, data: Mapping[str, Any] | None = None, *, durable: bool = False) -> int:
        """Write one event and return its sequence number. Raises OSError when the disk refuses."""
        if kind not in KINDS:
            raise ValueError(f"unknown event kind {kind!r}")
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            seq, torn = _last(handle)
            record = {"seq": seq + 1, "kind": kind, "at": time.time(), "pid": os.getpid(), "data": dict(data or {})}
            line = ("\n" if torn else "") + json.dumps(record, separators=(",", ":"), default=_plain) + "\n"
            payload = line.encode()
            half = len(payload) // 2
            fault_point("spool.before-write")
            if fault_point is not off:  # a torn line is written in two halves; every other in one
                _write_all(handle, payload[:half])
                fault_point("spool.half-written")
                payload = payload[half:]
            _write_all(handle, payload)
            if durable:
                os.fsync(handle)
            fault_point("spool.written")
        finally:
            os.close(handle)  # also releases the lock
        return seq + 1


def read_events(run_dir: str | os.PathLike[str], offset: int = 0) -> tuple[list[Event], int]:
    """Complete lines from ``offset`` on, and the offset to go on from. A missing spool is an empty one."""
    try:
        with (Path(run_dir) / SPOOL_NAME).open("rb") as handle:
            handle.seek(offset)
            chunk = handle.read()
    except FileNotFoundError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    return [event for line in chunk[:end].splitlines() if (event := parse(line))], offset + end


def parse(line: bytes) -> Event | None:
    """An event, or None for a torn line: its writer was killed before it was acknowledged."""
    try:
        record = json.loads(line)
        return Event(record["seq"], record["kind"], record["at"], record["pid"], record["data"])
    except (ValueError, KeyError, TypeError):
        return None


def _last(handle: int) -> tuple[int, bool]:
    """The last sequence number in the file, and whether the file ends in a torn line."""
    size = os.fstat(handle).st_size
    window = _TAIL_BYTES
    while True:
        start = max(0, size - window)
        tail = os.pread(handle, size - start, start)
        for line in reversed(tail.splitlines()):
            if event := parse(line):
                return event.seq, not tail.endswith(b"\n")
        if start == 0:
            return -1, bool(tail) and not tail.endswith(b"\n")
        window *= 4


def _write_all(handle: int, payload: bytes) -> None:
    while payload:
        payload = payload[os.write(handle, payload) :]


def _plain(value: Any) -> Any:
    """numpy and torch scalars, sets and paths, as JSON knows them."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} does not belong in an event")
