"""The scheduler's writes: attempts, what they said, how they ended, how far MLflow is. In short transactions.

What clients ask for is in :mod:`db.submissions`, what they wish in :mod:`db.wishes`. Whoever reports about an attempt
does it under its token. An update that finds no row with that token is the work of a ghost (a process that was given up
and came back) and changes nothing.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.orm import Session

from db.bug_writes import Judged, Rules, record_facts, resolve_replaced
from db.records import NewFacts
from db.schema import AttemptRow, EvalRow, EvidenceRow, RunRow, StepRow, VerdictRow
from db.transitions import note_move
from experiment_specs.faults import fault_point


def cancel_queued(engine: Engine, run_id: str, why: str) -> None:
    """queued → cancelled."""
    _leave_queue(engine, run_id, "cancelled", why)


def note_stop(engine: Engine, attempt_id: int, token: str, *, asked: bool = True) -> None:
    """Its trainer is asked to save a checkpoint and end, or is not any more."""
    with Session(engine) as session, session.begin():
        session.execute(
            update(AttemptRow)
            .where(AttemptRow.id == attempt_id, AttemptRow.token == token, AttemptRow.asked_to_stop.is_(None) == asked)
            .values(asked_to_stop=time.time() if asked else None)
        )


def note_stuck(engine: Engine, attempt_id: int, token: str, since: float) -> None:
    """It is found hung: this stands before it is ended, so that whoever ends it knows why."""
    with Session(engine) as session, session.begin():
        session.execute(
            update(AttemptRow)
            .where(AttemptRow.id == attempt_id, AttemptRow.token == token, AttemptRow.ended_at.is_(None))
            .values(stuck_since=since)
        )


@dataclass(frozen=True)
class NewAttempt:
    """An attempt whose row stands before the fleet is asked for anything."""

    id: int
    run_id: str
    number: int
    token: str
    run_dir: str


def begin_attempt(engine: Engine, run_id: str, runs_dir: Path, placed: str | None = None) -> NewAttempt | None:
    """queued → running with a fresh attempt and token; None where the run is no longer queued.

    ``placed``: the node that it gets GPUs of. Micro-batches stay as small as the last attempt needed them.
    """
    now = time.time()
    with Session(engine) as session, session.begin():
        changed = session.execute(
            update(RunRow).where(RunRow.id == run_id, RunRow.state == "queued").values(
                state="running", projected_seq=-1, projected_state=None, mlflow_run=None, verdict=None, reasons=[],
                not_before=None,
            )
        )  # fmt: skip
        if changed.rowcount != 1:  # type: ignore[attr-defined]
            return None
        number = 1 + (session.scalar(select(func.max(AttemptRow.number)).where(AttemptRow.run_id == run_id)) or 0)
        token = secrets.token_hex(8)
        run_dir = str(runs_dir / run_id / str(number))
        last = session.scalar(select(AttemptRow).where(AttemptRow.run_id == run_id, AttemptRow.number == number - 1))
        row = AttemptRow(
            run_id=run_id, number=number, token=token, state="launching", run_dir=run_dir, created_at=now,
            placed=placed, halvings=_halvings_after(last),
        )  # fmt: skip
        session.add(row)
        session.flush()
        note_move(session, run_id, "queued", "running", f"attempt {number}", now, row.id)
        session.flush()
        fault_point("attempt.before-commit")
        return NewAttempt(row.id, run_id, number, token, run_dir)


def _halvings_after(last: AttemptRow | None) -> int:
    if last is None:
        return 0
    return last.halvings + int(bool((last.retry or {}).get("smaller")))


def mark_started(  # noqa: PLR0917 - what a supervisor says
    engine: Engine, attempt_id: int, token: str, node: str, trainer_pid: int, placed: str | None = None
) -> bool:
    """launching → running; False for a ghost."""
    with Session(engine) as session, session.begin():
        changed = session.execute(
            update(AttemptRow)
            .where(AttemptRow.id == attempt_id, AttemptRow.token == token, AttemptRow.ended_at.is_(None))
            .values(
                state="running", node=node, trainer_pid=trainer_pid, placed=func.coalesce(placed, AttemptRow.placed)
            )
        )
        return bool(changed.rowcount == 1)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Ingested:
    """Events of one attempt, sorted by table, and how far the spool was read."""

    since: int
    """The offset that was read from: another reader may have been faster."""
    offset: int
    seq: int
    last_event_at: float | None
    last_step: int
    evals: Sequence[dict[str, Any]] = ()
    steps: Sequence[dict[str, Any]] = ()
    evidence: Sequence[dict[str, Any]] = ()
    resumed_step: int | None = None


def record_events(engine: Engine, attempt_id: int, token: str, run_id: str, new: Ingested) -> bool:
    """Store events and move the cursor in one transaction; False for a ghost, or where somebody was faster."""
    with Session(engine) as session, session.begin():
        changed = session.execute(
            update(AttemptRow)
            .where(AttemptRow.id == attempt_id, AttemptRow.token == token, AttemptRow.spool_offset == new.since)
            .values(
                spool_offset=new.offset,
                spool_seq=new.seq,
                last_event_at=new.last_event_at,
                last_step=new.last_step,
                resumed_step=func.coalesce(new.resumed_step, AttemptRow.resumed_step),
            )
        )
        if changed.rowcount != 1:  # type: ignore[attr-defined]
            return False
        if new.evals:
            session.execute(
                insert(EvalRow),
                [
                    {**e, "attempt_id": attempt_id, "run_id": run_id, "outcomes": base64.b64decode(e["outcomes"])}
                    for e in new.evals
                ],
            )
        if new.steps:
            session.execute(insert(StepRow), [{**s, "attempt_id": attempt_id} for s in new.steps])
        if new.evidence:
            session.execute(insert(EvidenceRow), [{**e, "attempt_id": attempt_id} for e in new.evidence])
        fault_point("events.before-commit")
    return True


@dataclass(frozen=True)
class Ending:
    """How an attempt ended and what becomes of its run."""

    attempt_state: str
    run_state: str
    why: str
    exit_code: int | None = None
    retry: dict[str, Any] | None = None
    verdict: str | None = None
    reasons: Sequence[str] = ()
    facts: NewFacts | None = None
    """What bug rules ask of the run that ends; None where it goes on, or no rule is for its kind."""
    judged: Sequence[Judged] = ()
    rules: Rules = ()
    """The rules that it was judged by."""
    not_before: float | None = None
    """When it may be tried again, where it is queued."""


def end_attempt(engine: Engine, attempt_id: int, token: str, run_id: str, ending: Ending) -> bool:
    """End an attempt, move its run, record the verdict and the marks of bug rules, all at once; False for a ghost.

    Raises :class:`db.bug_writes.MovedOnError` where a rule came in since ``ending.rules`` were read.
    """
    now = time.time()
    with Session(engine) as session, session.begin():
        changed = session.execute(
            update(AttemptRow)
            .where(AttemptRow.id == attempt_id, AttemptRow.token == token, AttemptRow.ended_at.is_(None))
            .values(state=ending.attempt_state, ended_at=now, exit_code=ending.exit_code, retry=ending.retry)
        )
        if changed.rowcount != 1:  # type: ignore[attr-defined]
            return False
        values: dict[str, Any] = {"state": ending.run_state, "not_before": ending.not_before}
        if ending.verdict is not None:
            values |= {"verdict": ending.verdict, "reasons": list(ending.reasons)}
            session.add(
                VerdictRow(
                    run_id=run_id, attempt_id=attempt_id, verdict=ending.verdict, reasons=list(ending.reasons), at=now
                )
            )
        session.execute(update(RunRow).where(RunRow.id == run_id, RunRow.state == "running").values(**values))
        if ending.facts is not None:
            record_facts(session, ending.facts, ending.judged, ending.rules, "aqn")
        if ending.verdict == "PROVEN":
            resolve_replaced(session, run_id)
        note_move(session, run_id, "running", ending.run_state, ending.why, now, attempt_id)
        session.flush()
        fault_point("ending.before-commit")
    return True


def give_up(engine: Engine, run_id: str, why: str) -> None:
    """queued → failed: what the run waits for will never come."""
    _leave_queue(engine, run_id, "failed", why)


def _leave_queue(engine: Engine, run_id: str, state: str, why: str) -> None:
    now = time.time()
    with Session(engine) as session, session.begin():
        changed = session.execute(
            update(RunRow).where(RunRow.id == run_id, RunRow.state == "queued").values(
                state=state, verdict="UNPROVEN", reasons=[why]
            )
        )  # fmt: skip
        if changed.rowcount == 1:  # type: ignore[attr-defined]
            note_move(session, run_id, "queued", state, why, now)


def record_projection(  # noqa: PLR0917 - a row
    engine: Engine, run_id: str, mlflow_run: str, seq: int, state: str, attempts: int
) -> None:
    """How far MLflow has been filled for a run; nothing where it has another attempt by now than ``attempts`` say."""
    last = select(func.coalesce(func.max(AttemptRow.number), 0)).where(AttemptRow.run_id == run_id).scalar_subquery()
    with Session(engine) as session, session.begin():
        session.execute(
            update(RunRow)
            .where(RunRow.id == run_id, last == attempts)
            .values(mlflow_run=mlflow_run, projected_seq=seq, projected_state=state)
        )


def forget_projections(engine: Engine) -> None:
    """MLflow has nothing of any run any more."""
    with Session(engine) as session, session.begin():
        session.execute(update(RunRow).values(mlflow_run=None, projected_seq=-1, projected_state=None))
