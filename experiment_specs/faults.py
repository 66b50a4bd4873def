"""Named places in production code where a process can be made to end itself, for tests of what survives it.

``AQN_FAULT=place`` or ``place:n`` in a process's environment kills it with SIGKILL when it comes to that place for the
n-th time; with ``AQN_FAULT_ONCE=file`` the first process that gets there makes the file and is the only one that dies.
Where the first is not set, a place is a call of an empty function: nothing is looked up, nothing counted. Here and not
in a package of the control plane, because trainers pass such places too and this is the floor that all stand on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "AQN_FAULT"
ONCE_VARIABLE = "AQN_FAULT_ONCE"

PLACES = {
    "submit.before-commit": "a sweep's rows are written, and not committed",
    "submit.recorded": "a sweep is recorded, and nobody has been told",
    "attempt.before-commit": "an attempt's row and token are written, and not committed",
    "events.read": "new events are read from a spool, and not stored",
    "events.before-commit": "events are stored and the cursor moved, and not committed",
    "ending.before-commit": "an attempt's end, verdict and marks are written, and not committed",
    "scheduler.observed": "the fleet has been asked, nothing was decided",
    "scheduler.decided": "decided, nothing done",
    "scheduler.acted": "an action is done, others are not",
    "scheduler.attempt-begun": "row and token stand, nothing was asked of the fleet",
    "scheduler.order-written": "the run directory is there, the fleet knows nothing",
    "scheduler.launched": "the fleet was asked, nobody has looked",
    "scheduler.start-noted": "the trainer's process is recorded",
    "scheduler.stop-asked": "the file that asks a trainer to stop is there, the row does not say so",
    "scheduler.stop-noted": "the row says so too",
    "scheduler.stuck-noted": "a run is found hung, nothing was ended",
    "scheduler.before-release": "an attempt is over, its processes and GPUs are still held",
    "scheduler.released": "nothing is held any more, its last events are not stored",
    "scheduler.last-events-stored": "all is stored, nothing judged",
    "scheduler.judged": "judged, not entered",
    "scheduler.ended": "entered",
    "fleet.group-made": "GPUs are reserved, no supervisor was asked for",
    "fleet.supervisor-asked": "a supervisor was asked for",
    "fleet.supervisor-stopped": "a trainer is ended, its supervisor is not",
    "fleet.supervisor-killed": "the supervisor is ended, its GPUs are still reserved",
    "mlflow.run-made": "MLflow has a run, the registry does not know which",
    "mlflow.before-batch": "metrics are about to be sent",
    "mlflow.before-cursor": "metrics were sent, the cursor does not say so",
    "mlflow.projected": "the cursor says so",
    "spool.before-write": "a worker is about to say something",
    "spool.half-written": "half a line is written",
    "spool.written": "a line is written, its writer has not heard",
    "resume.copied": "a past is copied under another name",
    "resume.renamed": "a past is taken over, and not said to be",
    "checkpoint.saved": "a checkpoint is on disk, the spool does not know",
    "checkpoint.recorded": "a checkpoint is recorded, its step is not",
    "checkpoint.removed": "a checkpoint is gone, the spool does not know",
}


def _armed(wish: str, once: str | None) -> Callable[[str], None]:
    name, _, number = wish.partition(":")
    left = int(number or 1)

    def passing(place: str) -> None:
        nonlocal left
        if place == name:
            left -= 1
            if left == 0 and (once is None or _first(once)):
                os.kill(os.getpid(), signal.SIGKILL)

    return passing


def _first(marker: str) -> bool:
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def off(_place: str) -> None:
    """Nothing is wished for."""


fault_point = _armed(os.environ[VARIABLE], os.environ.get(ONCE_VARIABLE)) if os.environ.get(VARIABLE) else off
