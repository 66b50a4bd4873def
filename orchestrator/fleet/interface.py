"""What the scheduler needs of a fleet. Light: no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from db.records import Attempt
from orchestrator.scheduler.decide import Liveness


@dataclass(frozen=True)
class Status:
    """What a supervisor knows. ``exit_code`` is negative for a signal, None while the trainer runs."""

    node: str
    pid: int
    exit_code: int | None


@dataclass(frozen=True)
class Observation:
    """What could be learnt of an attempt just now."""

    liveness: Liveness
    status: Status | None = None


class Fleet(Protocol):
    """Everything is asked by the attempt's name and can be asked twice."""

    def total_gpus(self) -> int: ...
    def launch(self, attempt: Attempt, gpus: int) -> None: ...
    def observe(self, attempt: Attempt) -> Observation: ...
    def release(self, attempt: Attempt) -> None: ...
