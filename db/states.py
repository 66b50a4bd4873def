"""The states of runs and attempts and who may move them: the table that code, tests and docs/run-states.md agree on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """``meaning``: what a user sees of it. ``retriable``: `aqn retry` makes a new run of one that is in it."""

    name: str
    meaning: str
    terminal: bool = False
    retriable: bool = False


@dataclass(frozen=True)
class Move:
    """``who`` sets it, ``when``. ``before`` None: the row is made."""

    before: str | None
    after: str
    who: str
    when: str


RUNS = (
    State(
        "queued", "Waits: for GPUs, for its turn, for a run that it needs, for a pause to end, or for a retry's time"
    ),
    State("running", "An attempt at it is under way, or is about to be"),
    State("succeeded", "Trained to its end. Whether its score may be believed is the verdict", terminal=True),
    State("failed", "Ended without training to its end, and is not tried again", terminal=True, retriable=True),
    State("cancelled", "Somebody did not want it any more", terminal=True, retriable=True),
)

RUN_MOVES = (
    Move(None, "queued", "a client", "submit, search, scan, eval, retry or rerun-tagged asks for it"),
    Move("queued", "running", "the scheduler", "GPUs are given to it: its attempt's row and token are made"),
    Move("queued", "failed", "the scheduler", "the run that it waits for has failed"),
    Move("queued", "cancelled", "a client, the scheduler", "cancel, before it started"),
    Move("running", "succeeded", "the scheduler", "its trainer came to the end of the plan"),
    Move("running", "queued", "the scheduler", "its attempt was lost or hung and is tried again, or was paused"),
    Move(
        "running", "failed", "the scheduler", "its attempt failed, and trying again would not help or was tried enough"
    ),
    Move("running", "cancelled", "the scheduler", "cancel: its trainer saved a checkpoint and ended, or was ended"),
)

ATTEMPTS = (
    State("launching", "Its row and token exist; the fleet has been, or will be, asked"),
    State("running", "Its supervisor was seen to have started the trainer"),
    State("succeeded", "The trainer came to the end of the plan", terminal=True),
    State("stopped", "Asked to, the trainer saved a checkpoint and ended", terminal=True),
    State("failed", "The trainer ended by an error of the run's own", terminal=True),
    State("lost", "Ended from outside: killed, its machine gone, hung and ended, or out of memory", terminal=True),
)

RUN_STATES = tuple(state.name for state in RUNS)
ATTEMPT_STATES = tuple(state.name for state in ATTEMPTS)
TERMINAL = tuple(state.name for state in RUNS if state.terminal)
OPEN = tuple(state.name for state in RUNS if not state.terminal)
RETRIABLE = tuple(state.name for state in RUNS if state.retriable)


class ForbiddenMoveError(RuntimeError):
    """A fault of this program: a move that the table does not have."""


def check_move(before: str | None, after: str) -> None:
    """Raises :class:`ForbiddenMoveError` for a move that is not in the table."""
    if not any((move.before, move.after) == (before, after) for move in RUN_MOVES):
        raise ForbiddenMoveError(f"no run goes from {before} to {after}")
