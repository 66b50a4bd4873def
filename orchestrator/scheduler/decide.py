"""One tick's decision: a pure function from a snapshot to actions. Everything it may know stands in the snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Liveness = Literal["alive", "dead", "unknown"]
Needs = Literal["nothing", "a run under way", "a run that failed"]
"""What a queued run still needs before it can start."""
Unwanted = Literal["no", "checkpoint first", "at once"]

GRACE_SECONDS = 1800.0
"""How long a trainer that was asked to save a checkpoint and end may take: a step, an eval, and the saving."""


@dataclass(frozen=True)
class Node:
    """A machine of the fleet."""

    id: str
    gpus: int


@dataclass(frozen=True)
class Limits:
    """What a sweep may have. ``hours_left``: of its budget of GPU-hours, None without one."""

    paused: bool = False
    paused_now: bool = False
    concurrency: int | None = None
    hours_left: float | None = None


@dataclass(frozen=True)
class Waiting:
    """A queued run. ``hours``: the GPU-hours that it is expected to take, 0 where nothing like it was seen yet."""

    run_id: str
    gpus: int
    priority: int
    created_at: float
    needs: Needs = "nothing"
    unwanted: Unwanted = "no"
    not_before: float = 0.0
    sweeps: tuple[str, ...] = ()
    hours: float = 0.0


@dataclass(frozen=True)
class Active:
    """An attempt without an end, and what the fleet says of it.

    ``ended`` and ``exit_code``: the supervisor saw the trainer end. ``unknown``: nobody could be asked just now.
    ``hours_to_come``: GPU-hours; ``silence`` and ``patience``: seconds without a sign of life, and how
    many of them are too many.
    """

    attempt_id: int
    run_id: str
    gpus: int
    liveness: Liveness
    exit_code: int | None = None
    ended: bool = False
    unwanted: Unwanted = "no"
    asked_to_stop: float | None = None
    stuck: bool = False
    silence: float = 0.0
    patience: float = float("inf")
    node: str | None = None
    sweeps: tuple[str, ...] = ()
    hours_to_come: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """``limits``: by sweep; a sweep that is not in it has none. ``drained``: nothing is to start."""

    waiting: Sequence[Waiting]
    active: Sequence[Active]
    nodes: Sequence[Node]
    limits: Mapping[str, Limits] = field(default_factory=dict)
    drained: bool = False
    drained_now: bool = False
    now: float = 0.0


@dataclass(frozen=True)
class Launch:
    """Give a queued run GPUs of a node: attempt row and token first, then the fleet."""

    run_id: str
    node: str


@dataclass(frozen=True)
class Conclude:
    """The trainer ended, or everything that could have seen it is gone."""

    attempt_id: int
    exit_code: int | None


@dataclass(frozen=True)
class GiveUp:
    """What the queued run waits for has failed."""

    run_id: str


@dataclass(frozen=True)
class Cancel:
    """Somebody does not want the run any more: its trainer is ended, if it has one."""

    run_id: str


@dataclass(frozen=True)
class AskToStop:
    """The trainer is to save a checkpoint and end."""

    attempt_id: int


@dataclass(frozen=True)
class LetRun:
    """It was asked to stop, and nobody wants that any more."""

    attempt_id: int


@dataclass(frozen=True)
class EndStopped:
    """It was asked to stop and did not within :data:`GRACE_SECONDS`: it is ended, and goes on from its last
    checkpoint."""

    attempt_id: int


@dataclass(frozen=True)
class EndStuck:
    """It gave no sign of life for too long: its stacks are taken, it is ended, and tried again."""

    attempt_id: int
    silence: float


Action = Launch | Conclude | GiveUp | Cancel | AskToStop | LetRun | EndStopped | EndStuck


def decide(snapshot: Snapshot) -> list[Action]:
    """What to do now.

    An attempt is ended where it is known to be dead, where somebody asked for it, and where it is hung by its own pace
    and its supervisor can be asked; never because nobody could be asked.
    """
    actions: list[Action] = []
    holding: list[Active] = []
    for attempt in snapshot.active:
        action = _of_active(snapshot, attempt)
        if action is not None:
            actions.append(action)
        if action is None or isinstance(action, AskToStop | LetRun):
            holding.append(attempt)
    return actions + _of_waiting(snapshot, holding)


def _of_active(snapshot: Snapshot, attempt: Active) -> Action | None:
    if attempt.ended or attempt.liveness == "dead":
        return Conclude(attempt.attempt_id, attempt.exit_code if attempt.ended else None)
    if attempt.unwanted == "at once":
        return Cancel(attempt.run_id)
    if attempt.stuck or (attempt.liveness == "alive" and attempt.silence > attempt.patience):
        return EndStuck(attempt.attempt_id, attempt.silence)
    if attempt.unwanted == "no" and not _to_wait(snapshot, attempt):
        return None if attempt.asked_to_stop is None else LetRun(attempt.attempt_id)
    return _stop(snapshot, attempt)


def _stop(snapshot: Snapshot, attempt: Active) -> Action | None:
    """In good order first, and by force once that took too long."""
    if attempt.asked_to_stop is None:
        return AskToStop(attempt.attempt_id)
    if snapshot.now - attempt.asked_to_stop <= GRACE_SECONDS:
        return None
    return Cancel(attempt.run_id) if attempt.unwanted != "no" else EndStopped(attempt.attempt_id)


def _to_wait(snapshot: Snapshot, attempt: Active) -> bool:
    """Is it to save a checkpoint and wait: drained, paused by all of its sweeps, or over all of their budgets?"""
    if snapshot.drained_now:
        return True
    limits = [snapshot.limits.get(name, Limits()) for name in attempt.sweeps]
    return bool(limits) and all(
        limit.paused_now or (limit.hours_left is not None and limit.hours_left <= 0) for limit in limits
    )


def _of_waiting(snapshot: Snapshot, holding: Sequence[Active]) -> list[Action]:
    """Queued runs start by priority, then age, each on the fullest node that has room for it.

    A run that finds none keeps the node that is nearest to having room: nobody behind it starts there, so that large
    runs are not starved by small ones, and the other nodes go on.
    """
    actions: list[Action] = []
    free = {node.id: node.gpus for node in snapshot.nodes}
    for attempt in holding:
        where = attempt.node if attempt.node in free else next(iter(free), None)
        if where is not None:
            free[where] -= attempt.gpus
    kept: set[str] = set()
    rooms = {name: _Room.of(snapshot, name, holding) for name in _names(snapshot)}
    for run in sorted(snapshot.waiting, key=lambda r: (-r.priority, r.created_at, r.run_id)):
        if run.unwanted != "no":
            actions.append(Cancel(run.run_id))
        elif run.needs == "a run that failed":
            actions.append(GiveUp(run.run_id))
        elif not snapshot.drained and run.needs == "nothing" and run.not_before <= snapshot.now:
            payer = _payer(run, rooms)
            able = [node for node in snapshot.nodes if node.gpus >= run.gpus and node.id not in kept]
            if payer is None or not able:
                continue  # what never fits here, or is over a limit, the command line says
            fitting = [node for node in able if free[node.id] >= run.gpus]
            if not fitting:
                kept.add(max(able, key=lambda node: (free[node.id], node.id)).id)
                continue
            node = min(fitting, key=lambda node: (free[node.id], node.id))
            free[node.id] -= run.gpus
            for room in payer:
                room.take(run)
            actions.append(Launch(run.run_id, node.id))
    return actions


@dataclass
class _Room:
    """What a sweep may still start in this tick."""

    paused: bool
    places: float
    hours: float

    @classmethod
    def of(cls, snapshot: Snapshot, name: str, holding: Sequence[Active]) -> _Room:
        limits = snapshot.limits.get(name, Limits())
        own = [attempt for attempt in holding if name in attempt.sweeps]
        places = float("inf") if limits.concurrency is None else limits.concurrency - len(own)
        hours = float("inf")
        if limits.hours_left is not None:
            hours = limits.hours_left - sum(attempt.hours_to_come for attempt in own)
        return cls(limits.paused or limits.paused_now, places, hours)

    def allows(self, run: Waiting) -> bool:
        return not self.paused and self.places >= 1 and self.hours > 0 and self.hours >= run.hours

    def take(self, run: Waiting) -> None:
        self.places -= 1
        self.hours -= run.hours


def _names(snapshot: Snapshot) -> set[str]:
    names = {name for run in snapshot.waiting for name in run.sweeps}
    return names | {name for attempt in snapshot.active for name in attempt.sweeps}


def _payer(run: Waiting, rooms: Mapping[str, _Room]) -> list[_Room] | None:
    """The rooms that the run takes from: those of all its sweeps, as soon as one of them has room for it. None where
    none has; a run of no sweep takes from nothing."""
    own = [rooms[name] for name in run.sweeps]
    return own if not own or any(room.allows(run) for room in own) else None


def why_waiting(snapshot: Snapshot, run: Waiting) -> str | None:
    """What keeps a queued run from starting, in words; None where it is only its turn."""
    rooms = [_Room.of(snapshot, name, snapshot.active) for name in run.sweeps]
    barred = bool(rooms) and not any(room.allows(run) for room in rooms)
    reasons = {
        "drained": snapshot.drained,
        f"tried again in {run.not_before - snapshot.now:.0f} s": run.not_before > snapshot.now,
        "waits for a run that it needs": run.needs == "a run under way",
        f"needs {run.gpus} GPUs of one machine, which none has": all(n.gpus < run.gpus for n in snapshot.nodes),
        "paused": barred and all(room.paused for room in rooms),
        "over budget": barred and all(room.paused or room.hours < max(run.hours, 1e-9) for room in rooms),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
