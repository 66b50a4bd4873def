"""Spool → registry: what the events of an attempt mean for the tables. Reading an event twice changes nothing."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from db import writes
from db.records import Attempt
from experiment_specs.faults import fault_point
from workers.events import Event, read_events


def pull(engine: Engine, attempt: Attempt) -> list[Event]:
    """Store what is new in an attempt's spool; returns it, or nothing where another reader was faster."""
    events, offset = read_events(attempt.run_dir, attempt.spool_offset)
    if offset == attempt.spool_offset:
        return []
    fault_point("events.read")
    new = sort_events(events, offset, attempt)
    if not writes.record_events(engine, attempt.id, attempt.token, attempt.run_id, new):
        return []
    return events


def finished_event(run_dir: str) -> dict[str, Any] | None:
    """The trainer's own last word, if its spool has one by now."""
    events, _ = read_events(run_dir)
    words = (event.data for event in events if event.kind == "finished")
    return next((data for data in words if isinstance(data, dict) and {"ok", "error"} <= data.keys()), None)


def stopped_at(run_dir: str) -> int | None:
    """The step of the checkpoint that the trainer saved when it was asked to end; None where it was not, or did not."""
    events, _ = read_events(run_dir)
    words = (event.data.get("step") for event in events if event.kind == "stopped" and isinstance(event.data, dict))
    return next((step for step in words if isinstance(step, int)), None)


def sort_events(events: list[Event], offset: int, attempt: Attempt) -> writes.Ingested:
    """Events by table."""
    fresh = [event for event in events if event.seq > attempt.spool_seq]
    steps = [e for e in fresh if e.kind == "step"]
    evals = [e for e in fresh if e.kind == "eval"]
    return writes.Ingested(
        since=attempt.spool_offset,
        offset=offset,
        seq=max((e.seq for e in fresh), default=attempt.spool_seq),
        last_event_at=max((e.at for e in fresh), default=attempt.last_event_at),
        resumed_step=max((int(e.data["step"]) for e in fresh if e.kind == "resumed"), default=None),
        last_step=max((int(e.data["step"]) for e in steps), default=attempt.last_step),
        evals=[{"seq": e.seq, "at": e.at, **e.data} for e in evals],
        steps=[{"seq": e.seq, "at": e.at, "step": e.data["step"], "metrics": e.data["metrics"]} for e in steps],
        evidence=[
            {"seq": e.seq, "at": e.at, "kind": e.kind, "data": e.data} for e in fresh if e.kind not in ("step", "eval")
        ],
    )
