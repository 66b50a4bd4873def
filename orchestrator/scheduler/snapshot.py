"""Registry and fleet → the snapshot that is decided on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal

from sqlalchemy import Engine

from db import steering
from db.records import Attempt
from db.steering import OpenRun
from orchestrator.fleet.interface import Observation
from orchestrator.scheduler.decide import Active, Limits, Needs, Node, Snapshot, Unwanted, Waiting
from orchestrator.scheduler.patience import SHORTEST_SECONDS, patience
from orchestrator.scheduler.prices import Prices
from orchestrator.verdict import PROVEN

STOP_MARGIN_SECONDS = 120.0
"""A run over budget is asked to stop so long, and two of its steps, before the budget is spent: what it takes."""


class Eyes:
    """What one scheduler remembers between ticks: when it last saw an attempt say something. A scheduler that has just
    come knows nothing of the silence before it, and counts from there."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, float]] = {}

    def silence(self, attempt: Attempt) -> float:
        """Seconds without news of an attempt, as far as this process saw it, by a clock that nobody sets."""
        now = time.monotonic()
        offset, since = self._seen.get(attempt.id, (-1, now))
        if offset != attempt.spool_offset:
            since = now
        self._seen[attempt.id] = (attempt.spool_offset, since)
        return now - since

    def look_away(self, attempt: Attempt) -> None:
        """It could not be looked at: what it may have said meanwhile is no silence of its own."""
        self._seen.pop(attempt.id, None)


def take_snapshot(  # noqa: PLR0917 - what there is to see
    engine: Engine,
    runs: Sequence[OpenRun],
    seen: Mapping[int, Observation],
    nodes: Sequence[Node],
    eyes: Eyes,
    prices: Prices,
) -> Snapshot:
    """``seen``: by attempt."""
    now = time.time()
    drained = steering.drained(engine)
    controls = steering.sweep_controls(engine)
    budgeted = {name for name, control in controls.items() if control.gpu_hours is not None}
    active = [
        _active(engine, run, run.attempt, seen[run.attempt.id], eyes, now, prices, budgeted)
        for run in runs
        if run.attempt is not None
    ]
    limits = {}
    for name, control in controls.items():
        left = None
        if control.gpu_hours is not None:
            own = [run for run in runs if name in run.sweeps and run.attempt is not None]
            left = control.gpu_hours - steering.gpu_hours(engine, name, now) - sum(map(_to_stop, own))
        paused = control.paused or {}
        limits[name] = Limits(bool(control.paused), bool(paused.get("now")), control.concurrency, left)
    return Snapshot(
        waiting=[_waiting(run, prices, budgeted) for run in runs if run.state == "queued"],
        active=active,
        nodes=nodes,
        limits=limits,
        drained=drained is not None,
        drained_now=bool(drained and drained.get("now")),
        now=now,
    )


def _to_stop(run: OpenRun) -> float:
    """GPU-hours that ending a run in good order takes."""
    a_step = seconds_a_step(run.attempts)
    return run.gpus * (2 * a_step + STOP_MARGIN_SECONDS) / 3600 if a_step is not None else 0.0


def seconds_a_step(attempts: Sequence[Attempt]) -> float | None:
    """By the last attempt that made one, its start-up and evals included; None where none did."""
    for attempt in reversed(attempts):
        made = attempt.last_step - (attempt.resumed_step or 0)
        if made > 0 and attempt.last_event_at is not None:
            return max(0.0, attempt.last_event_at - attempt.created_at) / made
    return None


def hours_to_come(run: OpenRun, whole: float) -> float:
    """GPU-hours that are left of a run: by its own pace where it has one, else by what ``whole`` runs like it took."""
    total = int(run.plan["total_steps"])
    last = run.attempts[-1] if run.attempts else None
    if last is None or not total:
        return whole
    done, every = max(attempt.last_step for attempt in run.attempts), int(run.plan.get("save_every", 0))
    if run.state == "queued":  # it goes on from a checkpoint, or from the beginning
        done = done - done % every if every else 0
    a_step = seconds_a_step(run.attempts)
    left = total - min(done, total)
    return whole * left / total if a_step is None else run.gpus * a_step * left / 3600


def _waiting(run: OpenRun, prices: Prices, budgeted: set[str]) -> Waiting:
    hours = hours_to_come(run, prices.of(run)) if budgeted & set(run.sweeps) else 0.0
    return Waiting(
        run.id, run.gpus, run.priority, run.created_at, _needs(run), _unwanted(run), run.not_before or 0.0,
        run.sweeps, hours,
    )  # fmt: skip


def _needs(run: OpenRun) -> Needs:
    if run.first is None:
        return "nothing"
    state, verdict = run.first
    if state in ("queued", "running"):
        return "a run under way"
    return "nothing" if verdict == PROVEN else "a run that failed"


def _unwanted(run: OpenRun) -> Unwanted:
    """Only training runs can save a checkpoint and end."""
    if run.cancel is None:
        return "no"
    return "at once" if run.cancel_at_once or run.kind != "train" else "checkpoint first"


def _active(  # noqa: PLR0917 - what there is to see
    engine: Engine,
    run: OpenRun,
    attempt: Attempt,
    seen: Observation,
    eyes: Eyes,
    now: float,
    prices: Prices,
    budgeted: set[str],
) -> Active:
    code = seen.status.exit_code if seen.status is not None else None
    silence = eyes.silence(attempt)
    minutes = run.plan.get("silence_minutes")
    enough = float("inf")
    if silence > (SHORTEST_SECONDS if minutes is None else 0.0):  # else it is not worth reading its history
        gaps = steering.silences(engine, attempt.id) if minutes is None else ()
        stepping = attempt.last_step > (attempt.resumed_step or 0)
        enough = patience(gaps, stepping=stepping, minutes=minutes)
    left = hours_to_come(run, prices.of(run)) if budgeted & set(run.sweeps) else 0.0
    liveness: Literal["alive", "dead", "unknown"] = seen.liveness
    return Active(
        attempt_id=attempt.id, run_id=run.id, gpus=run.gpus, liveness=liveness, exit_code=code,
        ended=code is not None, unwanted=_unwanted(run), asked_to_stop=attempt.asked_to_stop,
        stuck=attempt.stuck_since is not None and (attempt.last_event_at or 0.0) <= attempt.stuck_since,
        silence=silence, patience=enough, node=attempt.placed,
        sweeps=run.sweeps, hours_to_come=left,
    )  # fmt: skip
