"""What clients wish of the scheduler: that runs be cancelled, sweeps paused, everything drained. It acts on them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import Engine, func, select, update
from sqlalchemy.orm import Session

from db.schema import ControlRow, RunRow, SweepRow
from db.states import OPEN
from db.transitions import storable


def ask_to_cancel(engine: Engine, wishes: Mapping[str, str], *, at_once: bool = False) -> None:
    """Run → why it is to be ended; the scheduler ends those that are queued or running. ``at_once``: without saving a
    checkpoint first, also where one had been asked to; nobody takes that back."""
    with Session(engine) as session, session.begin():
        for run_id, why in wishes.items():
            session.execute(
                update(RunRow)
                .where(RunRow.id == run_id, RunRow.state.in_(OPEN))
                .values(
                    cancel=func.coalesce(RunRow.cancel, storable(why)),
                    cancel_at_once=True if at_once else RunRow.cancel_at_once,
                )
            )


def pause(engine: Engine, sweep: str, why: str, *, now: bool) -> None:
    """Nothing of a sweep starts any more; with ``now`` what runs saves a checkpoint and waits too."""
    with Session(engine) as session, session.begin():
        values = {"paused": {"why": storable(why), "now": now, "at": time.time()}}
        session.execute(update(SweepRow).where(SweepRow.name == sweep).values(**values))


def unpause(engine: Engine, sweep: str) -> bool:
    """False where it was not paused."""
    with Session(engine) as session, session.begin():
        found = session.scalar(select(SweepRow).where(SweepRow.name == sweep))
        if found is None or found.paused is None:
            return False
        found.paused = None
        return True


def drain(engine: Engine, why: str, *, now: bool) -> None:
    """The scheduler starts nothing any more; with ``now`` what runs saves a checkpoint and waits."""
    with Session(engine) as session, session.begin():
        session.merge(ControlRow(name="drain", body={"why": storable(why), "now": now}, at=time.time()))


def undrain(engine: Engine) -> bool:
    """False where nothing was drained."""
    with Session(engine) as session, session.begin():
        found = session.get(ControlRow, "drain")
        if found is not None:
            session.delete(found)
        return found is not None
