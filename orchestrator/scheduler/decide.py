"""One tick's decision: a pure function from a snapshot to actions. Everything it may know stands in the snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Liveness = Literal["alive", "dead", "unknown"]
Needs = Literal["nothing", "a run under way", "a run that failed"]
"""What a queued run still needs before it can start."""


@dataclass(frozen=True)
class Waiting:
    """A queued run."""

    run_id: str
    gpus: int
    priority: int
    created_at: float
    needs: Needs = "nothing"
    unwanted: bool = False
    """Somebody asked that it be cancelled."""


@dataclass(frozen=True)
class Active:
    """An attempt without an end, and what the fleet says of it.

    ``ended`` and ``exit_code``: the supervisor saw the trainer end. ``unknown``: nobody could be asked just now.
    """

    attempt_id: int
    run_id: str
    gpus: int
    liveness: Liveness
    exit_code: int | None = None
    ended: bool = False
    unwanted: bool = False
    """Somebody asked that it be cancelled."""


@dataclass(frozen=True)
class Snapshot:
    waiting: Sequence[Waiting]
    active: Sequence[Active]
    total_gpus: int


@dataclass(frozen=True)
class Launch:
    """Give a queued run GPUs: attempt row and token first, then the fleet."""

    run_id: str


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


Action = Launch | Conclude | GiveUp | Cancel


def decide(snapshot: Snapshot) -> list[Action]:
    """What to do now. Nothing is ended for silence: only an attempt that is known to be dead is concluded, and one that
    somebody asked to be cancelled.

    Queued runs start by priority, then age. A run that does not fit yet holds back those behind it, so that large runs
    are not starved by small ones.
    """
    actions: list[Action] = []
    held = 0
    for attempt in snapshot.active:
        if attempt.ended:
            actions.append(Conclude(attempt.attempt_id, attempt.exit_code))
        elif attempt.liveness == "dead":
            actions.append(Conclude(attempt.attempt_id, None))
        elif attempt.unwanted:
            actions.append(Cancel(attempt.run_id))
        else:
            held += attempt.gpus
    free = snapshot.total_gpus - held
    for run in sorted(snapshot.waiting, key=lambda r: (-r.priority, r.created_at, r.run_id)):
        if run.unwanted:
            actions.append(Cancel(run.run_id))
            continue
        if run.needs == "a run that failed":
            actions.append(GiveUp(run.run_id))
            continue
        if run.gpus > snapshot.total_gpus or run.needs == "a run under way":
            continue  # what never fits here, the command line says
        if run.gpus > free:
            break
        free -= run.gpus
        actions.append(Launch(run.run_id))
    return actions
