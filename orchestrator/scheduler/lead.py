"""Leading: connect to the fleet, tick, project to MLflow, for as long as one may; what fails passes, and is said.

A fleet that is gone is connected to anew (a local head is started anew), a registry that cannot be written just now
(locked, a full disk, read-only) is asked again: what the runs say waits in their spools.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from orchestrator.fleet.head import ADDRESS_VARIABLE, FleetError, address
from orchestrator.fleet.interface import Fleet
from orchestrator.scheduler.decide import Action, Snapshot, why_waiting
from orchestrator.scheduler.leadership import Leadership
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from orchestrator.scheduler.loop import Scheduler

Connect = Callable[[Settings], Fleet]

TICK_SECONDS = 1.0
QUIET_TICK_SECONDS = 5.0
QUIET_AFTER_SECONDS = 120.0
"""Without anything to do for so long, one looks less often."""
AGAIN_SECONDS = 5.0
"""Between tries to reach a fleet or a registry that cannot be reached."""


def lead(
    settings: Settings,
    engine: Engine,
    leads: Leadership,
    over: Callable[[str], bool],
    *,
    acted: Callable[[list[Action]], None] = lambda _actions: None,
    connect: Connect | None = None,
) -> None:
    """Until ``over`` says so, which is asked at every round with a remark to show, or somebody else leads.

    ``acted`` is told what was done; ``connect`` reaches the fleet: by Ray where it is None. Raises
    :class:`FleetError` where the fleet cannot be reached the first time: nothing says that waiting would help.
    """
    from orchestrator.mlflow_projector import Projector, ProjectorThread
    from orchestrator.scheduler.loop import Scheduler

    projector = ProjectorThread(Projector(settings, engine))
    projector.start()
    fleet: Fleet | None = None
    scheduler: Scheduler | None = None
    reached, note, busy_at = False, "starting the fleet", time.monotonic()
    try:
        while not over(note) and leads.still():
            try:
                if fleet is None or scheduler is None:
                    fleet = (connect or connect_ray)(settings)
                    scheduler = Scheduler(settings, engine, fleet)
                    reached = True
                elif not fleet.alive():
                    raise FleetError("the fleet's head is gone")
                actions = scheduler.tick()
                acted(actions)
            except Exception as error:
                problem = _passing(error)
                if problem is None or (isinstance(error, FleetError) and not reached):
                    raise
                if isinstance(error, ConnectionError) or not isinstance(error, OperationalError | OSError):
                    _leave(fleet)
                    fleet, scheduler = None, None
                note = f"{problem}; trying again"
                over(note)
                time.sleep(AGAIN_SECONDS)
                continue
            note = remark(scheduler.snapshot, scheduler.notes) or (
                f"MLflow: {projector.error}" if projector.error else ""
            )
            if actions or scheduler.news:
                busy_at = time.monotonic()
            if not actions:
                quiet = time.monotonic() - busy_at > QUIET_AFTER_SECONDS
                time.sleep(QUIET_TICK_SECONDS if quiet else TICK_SECONDS)
        over("")
    finally:
        projector.close()
        _leave(fleet)


def connect_ray(settings: Settings) -> Fleet:
    """The cluster that is given by address, or the local one, started if it is not running."""
    where = address(settings)
    from orchestrator.fleet.ray_fleet import RayFleet  # Ray reads its environment when it is imported

    return RayFleet(where, own=ADDRESS_VARIABLE not in os.environ)


def _leave(fleet: Fleet | None) -> None:
    if fleet is not None:
        with suppress(Exception):  # of a cluster that is gone there is nothing to take leave of
            fleet.close()


def _passing(error: Exception) -> str | None:
    """What is wrong, where waiting may mend it; None for a fault of this program."""
    if isinstance(error, OperationalError):
        return f"the registry cannot be used just now ({str(error.orig).splitlines()[0]})"
    if isinstance(error, FleetError | ConnectionError) or _of_ray(error):
        return f"the fleet cannot be reached just now ({str(error).splitlines()[0][:200]})"
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}"
    return None


def _of_ray(error: Exception) -> bool:
    from ray.exceptions import RayError  # not before connecting: Ray reads its environment when it is imported

    return isinstance(error, RayError)


def remark(snapshot: Snapshot | None, notes: dict[str, str]) -> str:
    """Why runs wait that could be thought to be next, in a line."""
    if snapshot is None:
        return ""
    whys = Counter(why for run in snapshot.waiting if (why := why_waiting(snapshot, run)) is not None)
    whys += Counter(notes.values())
    return "; ".join(f"{count} run{'s' * (count > 1)}: {why}" for why, count in whys.most_common(3))
