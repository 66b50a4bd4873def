"""What the scheduler needs of a fleet. Light: no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from db.records import Attempt
from orchestrator.scheduler.decide import Liveness, Node


@dataclass(frozen=True)
class Status:
    """What a supervisor knows. ``exit_code`` is negative for a signal, None while the trainer runs; ``pid`` 0: it was
    not started yet, for the reason in ``note``. ``node``: the machine's name; ``node_id``: the fleet's name for it."""

    node: str
    pid: int
    exit_code: int | None
    note: str = ""
    node_id: str | None = None


@dataclass(frozen=True)
class Observation:
    """What could be learnt of an attempt just now."""

    liveness: Liveness
    status: Status | None = None


class Fleet(Protocol):
    """Everything is asked by the attempt's name and can be asked twice."""

    def alive(self) -> bool:
        """Can it be asked at all? Cheap; where it cannot, the scheduler connects anew."""
        ...

    def close(self) -> None:
        """Leave it; what runs there runs on."""
        ...

    def nodes(self) -> list[Node]: ...
    def launch(self, attempt: Attempt, gpus: int) -> None: ...
    def observe(self, attempts: Sequence[Attempt]) -> Mapping[int, Observation]:
        """By attempt."""
        ...

    def capture(self, attempt: Attempt) -> None:
        """Write the stacks of the attempt's processes into its directory."""
        ...

    def release(self, attempt: Attempt) -> None: ...
