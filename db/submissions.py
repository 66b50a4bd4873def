"""What clients ask for becomes runs: sweeps, searches, scans, evaluations, reruns and retries, each in one transaction.

A run that exists for what is asked is taken over instead of made anew.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.orm import Session

from db.bug_reads import marks_of
from db.bug_writes import link, replaced
from db.listing import chunks
from db.records import Run, SearchArm
from db.schema import (
    AttemptRow,
    ConditionRow,
    LinkRow,
    RunRow,
    SearchArmRow,
    SweepRow,
    SweepRunRow,
    TransitionRow,
)
from db.states import OPEN, RETRIABLE
from db.transitions import move_values, note_move
from experiment_specs.errors import AqnError
from experiment_specs.faults import fault_point


@dataclass(frozen=True)
class NewRun:
    """A run that a sweep asks for."""

    label: str
    condition_id: str
    condition: dict[str, Any]
    seed: int
    plan: dict[str, Any]
    gpus: int
    overrides: dict[str, Any] = field(default_factory=dict)
    kind: str = "train"
    needs: NewRun | None = None
    """A run that must have ended PROVEN before this one starts; made if there is none."""


@dataclass(frozen=True)
class Submission:
    """A sweep as it enters the registry."""

    name: str
    about: str
    spec: str
    details: dict[str, Any]
    priority: int
    score_rule: dict[str, Any]
    code_version: str
    condition_schema: int
    runs: Sequence[NewRun]


@dataclass(frozen=True)
class Submitted:
    """Run ids in the order of the submission: made now, taken over because they exist, all of them."""

    created: tuple[str, ...]
    existing: tuple[str, ...]
    all: tuple[str, ...]
    needed: tuple[str, ...] = ()
    """Runs that those of the submission wait for."""


def submit(engine: Engine, submission: Submission, *, again: bool = False) -> Submitted:
    """Record a sweep. A run that exists for the same condition, seed and score rule is taken over instead of made anew:
    a proven one of any code version, a judged or running one of this one, a queued one always (it becomes this
    sweep's). With ``again`` every run is made anew."""
    with Session(engine) as session, session.begin():
        searched = select(SearchArmRow.number).join(SweepRow).where(SweepRow.name == submission.name)
        if session.scalar(searched.limit(1)) is not None:
            raise NameTakenError(f"{submission.name} is a search; give the sweep another name")
        sweep = _sweep_row(session, submission)
        return _add_runs(session, sweep, submission, 0, again=again)


class NameTakenError(AqnError):
    """A sweep would be written over a search."""


class AnotherOwnerError(AqnError):
    """Somebody else went on with the same search meanwhile."""

    exit_code = 1


def extend_search(
    engine: Engine, submission: Submission, arms: Sequence[SearchArm], conditions: Mapping[str, dict[str, Any]]
) -> Submitted:
    """Record what a search decided, all or nothing: conditions that it now looks at, and runs of these and others.

    ``conditions``: id → body, of the arms. The arms' numbers go on from those that are there; raises
    :class:`AnotherOwnerError` where they do not.
    """
    now = time.time()
    with Session(engine) as session, session.begin():
        sweep = _sweep_row(session, submission)
        known = session.scalar(select(func.count()).where(SearchArmRow.sweep_id == sweep.id)) or 0
        if any(arm.number != known + place for place, arm in enumerate(arms)):
            raise AnotherOwnerError(f"another process goes on with the search {submission.name}")
        there = session.scalar(select(func.count()).where(SweepRunRow.sweep_id == sweep.id)) or 0
        submitted = _add_runs(session, sweep, submission, there, again=False)
        for arm in arms:
            if session.get(ConditionRow, arm.condition_id) is None:
                body = conditions[arm.condition_id]
                session.add(ConditionRow(id=arm.condition_id, schema_version=submission.condition_schema, body=body))
                session.flush()
            session.add(SearchArmRow(sweep_id=sweep.id, at=now, **vars(arm)))
    return submitted


def _sweep_row(session: Session, submission: Submission) -> SweepRow:
    sweep = session.scalar(select(SweepRow).where(SweepRow.name == submission.name))
    if sweep is None:
        sweep = SweepRow(name=submission.name)
        session.add(sweep)
    sweep.about, sweep.spec, sweep.details = submission.about, submission.spec, submission.details
    sweep.submitted_at = time.time()
    session.flush()
    return sweep


def _add_runs(session: Session, sweep: SweepRow, submission: Submission, there: int, *, again: bool) -> Submitted:
    """``there``: how many runs the sweep has; those of the submission come after them."""
    now = time.time()
    batch = _Batch(session, submission)
    wanted = set(session.scalars(select(SweepRunRow.run_id).where(SweepRunRow.sweep_id == sweep.id)))
    created, existing, ordered, needed = [], [], [], dict[str, None]()
    for position, new in enumerate(submission.runs, start=there):
        at = now + (position - there) * 1e-6  # in the order of the spec
        run_id = None if again else batch.reusable(new)
        first = None
        if new.needs is not None and (run_id is None or _queued(session, run_id)):
            first = batch.reusable(new.needs) or batch.create(new.needs, at - 5e-7)
            needed[first] = None
        if run_id is None:
            run_id = batch.create(new, at, first)
            created.append(run_id)
        else:
            existing.append(run_id)
            if first is not None:
                session.execute(update(RunRow).where(RunRow.id == run_id).values(waits_for=first))
        ordered.append(run_id)
        if run_id not in wanted:
            wanted.add(run_id)
            batch.wish(sweep.id, run_id, position)
    batch.write()
    fault_point("submit.before-commit")
    return Submitted(tuple(created), tuple(existing), tuple(ordered), tuple(needed))


class _Batch:
    """Rows of one submission, written in a few statements: a sweep may have thousands of runs."""

    def __init__(self, session: Session, submission: Submission) -> None:
        self._session, self._submission = session, submission
        asked = {new.condition_id: new for run in submission.runs for new in (run, run.needs) if new is not None}
        known: set[str] = set()
        self._with_runs: set[str] = set()
        for chunk in chunks(list(asked)):
            known |= set(session.scalars(select(ConditionRow.id).where(ConditionRow.id.in_(chunk))))
            self._with_runs |= set(session.scalars(select(RunRow.condition_id).where(RunRow.condition_id.in_(chunk))))
        self._conditions = [
            {"id": key, "schema_version": submission.condition_schema, "body": new.condition}
            for key, new in asked.items()
            if key not in known
        ]
        self._runs: list[dict[str, Any]] = []
        self._moves: list[dict[str, Any]] = []
        self._wishes: list[dict[str, Any]] = []
        self._made: dict[tuple[str, str, int], str] = {}

    def reusable(self, new: NewRun) -> str | None:
        """One that this submission makes itself, or one that there is."""
        made = self._made.get((new.kind, new.condition_id, new.seed))
        if made is not None or new.condition_id not in self._with_runs:
            return made
        return _reusable(self._session, new, self._submission)

    def is_there(self, new: NewRun) -> bool:
        return new.condition_id in self._with_runs and _found(self._session, new, self._submission) is not None

    def create(self, new: NewRun, at: float, waits_for: str | None = None) -> str:
        values = _run_values(new, self._submission, at) | {"waits_for": waits_for}
        self._runs.append(values)
        self._moves.append(move_values(values["id"], None, "queued", "submitted", at))
        self._made[new.kind, new.condition_id, new.seed] = values["id"]
        return str(values["id"])

    def wish(self, sweep_id: int, run_id: str, position: int) -> None:
        self._wishes.append({"sweep_id": sweep_id, "run_id": run_id, "position": position})

    def write(self) -> None:
        for table, rows in (
            (ConditionRow, self._conditions), (RunRow, self._runs), (TransitionRow, self._moves),
            (SweepRunRow, self._wishes),
        ):  # fmt: skip
            if rows:
                self._session.execute(insert(table), rows)


def request(engine: Engine, new: NewRun, code_version: str, condition_schema: int, *, again: bool = False) -> str:
    """A run that belongs to no sweep: the one there is, or a new one. Returns its id."""
    alone = Submission("", "", "", {}, 0, {}, code_version, condition_schema, (new,))
    with Session(engine) as session, session.begin():
        _note_condition(session, new, alone)
        found = None if again else _reusable(session, new, alone)
        return found or _create_run(session, new, alone, time.time())


def _note_condition(session: Session, new: NewRun, submission: Submission) -> None:
    if session.get(ConditionRow, new.condition_id) is None:
        session.add(ConditionRow(id=new.condition_id, schema_version=submission.condition_schema, body=new.condition))
        session.flush()


def _queued(session: Session, run_id: str) -> bool:
    return session.scalar(select(RunRow.state).where(RunRow.id == run_id)) == "queued"


def _wanted(session: Session, new: NewRun, submission: Submission, at: float) -> str:
    """A run that others wait for: the one there is, or a new one."""
    _note_condition(session, new, submission)
    return _reusable(session, new, submission) or _create_run(session, new, submission, at)


def recorded(engine: Engine, submission: Submission) -> int:
    """How many of its runs :func:`submit` would take over. Writes nothing."""
    with Session(engine.execution_options(read_only=True)) as session:
        batch = _Batch(session, submission)
        return sum(batch.is_there(new) for new in submission.runs)


def _reusable(session: Session, new: NewRun, submission: Submission) -> str | None:
    """The run that is taken over. One that waits follows the newest word."""
    row = _found(session, new, submission)
    if row is None:
        return None
    if row.state == "queued":
        row.priority = max(row.priority, submission.priority)
        if not _attempted(session, row.id):  # nothing of it has happened yet
            row.code_version, row.gpus, row.overrides = submission.code_version, new.gpus, new.overrides
            row.plan = new.plan | {k: v for k, v in row.plan.items() if k == "continues"}
    return row.id


def _found(session: Session, new: NewRun, submission: Submission) -> RunRow | None:
    """The best run that does, or did, what is asked.

    A layer scan serves others: it is taken where it is proven or still to come, and of the same code alone.
    """
    rows = session.scalars(
        select(RunRow)
        .where(RunRow.condition_id == new.condition_id, RunRow.seed == new.seed, RunRow.kind == new.kind)
        .order_by(RunRow.created_at.desc())
    ).all()
    same_code = [row for row in rows if row.code_version == submission.code_version]
    if new.kind == "scan":
        rows = same_code
    else:
        rows = [row for row in rows if row.score_rule == submission.score_rule]
        same_code = [row for row in same_code if row.score_rule == submission.score_rule]
    fallen = _fallen(session, [row.id for row in rows])
    rows = [row for row in rows if row.id not in fallen]
    same_code = [row for row in same_code if row.id not in fallen]
    proven = [row for row in rows if row.state == "succeeded" and row.verdict == "PROVEN"]
    running = [row for row in same_code if row.state == "running" and row.cancel is None]
    queued = [row for row in rows if row.state == "queued" and row.cancel is None]
    judged = [row for row in same_code if row.state == "succeeded" and new.kind != "scan"]
    return next(iter((*proven, *running, *queued, *judged)), None)


def _fallen(session: Session, ids: Sequence[str]) -> set[str]:
    """Runs that a bug touches or may touch, and those that another stands in the place of."""
    marked = {run for run, marks in marks_of(session, ids).items() for m in marks if m.open and m.effect != "none"}
    return marked | replaced(session, ids)


def _attempted(session: Session, run_id: str) -> bool:
    return session.scalar(select(AttemptRow.id).where(AttemptRow.run_id == run_id).limit(1)) is not None


def _create_run(session: Session, new: NewRun, submission: Submission, now: float) -> str:
    values = _run_values(new, submission, now)
    session.execute(insert(RunRow), [values])
    note_move(session, values["id"], None, "queued", "submitted", now)
    return str(values["id"])


def _run_values(new: NewRun, submission: Submission, at: float) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(5), "kind": new.kind, "condition_id": new.condition_id, "seed": new.seed,
        "code_version": submission.code_version, "label": new.label, "state": "queued", "created_at": at,
        "priority": submission.priority, "gpus": new.gpus, "plan": new.plan, "overrides": new.overrides,
        "score_rule": submission.score_rule, "reasons": [], "projected_seq": -1, "mark_changes": 0,
    }  # fmt: skip


@dataclass(frozen=True)
class Rerun:
    """A run to be made in the place of another, or of a claim."""

    subject: str
    new: NewRun
    score_rule: dict[str, Any]
    waits_for: str | None = None
    """Of an evaluation: the layer scan that its training run waited for."""
    linked_as: str | None = None

    @property
    def link(self) -> str:
        if self.linked_as is not None:
            return self.linked_as
        return "re-evaluation-of" if self.new.kind == "eval" else "supersedes"


def rerun(  # noqa: PLR0917 - one call site
    engine: Engine, orders: Sequence[Rerun], bug: str, code: str, condition_schema: int, priority: int
) -> dict[str, str]:
    """Make replacements, queued and linked to what they replace, all or none. Subject → run, of those made now.

    One that is under way or PROVEN is not made a second time, whoever asked for it.
    """
    now = time.time()
    made: dict[str, str] = {}
    with Session(engine) as session, session.begin():
        for position, order in enumerate(orders):
            if _replaced_or_about_to_be(session, order):
                continue
            made[order.subject] = _make_instead(
                session, order, bug, code, condition_schema, priority, now + position * 1e-6
            )
    return made


def retry(engine: Engine, runs: Sequence[Run], code: str, condition_schema: int) -> dict[str, str]:
    """Make a new run of each, queued, linked and in the same sweeps; it may go on from the old one's checkpoints.

    Old → new, of those made now: one that is tried again already, or was well, is not tried twice.
    """
    now = time.time()
    made: dict[str, str] = {}
    with Session(engine) as session, session.begin():
        for position, run in enumerate(
            sorted(runs, key=lambda run: -run.created_at)
        ):  # the newest stands for its elders
            if run.state not in RETRIABLE or _serves_already(session, run):
                continue
            before = [*run.plan.get("continues", ()), *(attempt.run_dir for attempt in run.attempts)]
            new = NewRun(
                run.label, run.condition_id, run.condition, run.seed, run.plan | {"continues": before}, run.gpus,
                run.overrides, run.kind, _needed_anew(session, run.waits_for),
            )  # fmt: skip
            order = Rerun(run.id, new, run.score_rule, run.waits_for, "attempt-of")
            made[run.id] = _make_instead(
                session, order, "retried by hand", code, condition_schema, run.priority, now + position * 1e-6
            )
            stands_for = select(LinkRow).where(
                LinkRow.source == run.id, LinkRow.kind.in_(("supersedes", "re-evaluation-of"))
            )
            for known in session.scalars(stands_for).all():
                link(session, known.kind, made[run.id], known.target, known.why)
    return made


def _serves_already(session: Session, run: Run) -> bool:
    """Is another run of the same under way, or was it well?"""
    others = session.scalars(
        select(RunRow).where(
            RunRow.condition_id == run.condition_id, RunRow.seed == run.seed, RunRow.kind == run.kind,
            RunRow.id != run.id, RunRow.state.in_(OPEN) | (RunRow.state == "succeeded"),
        )
    ).all()  # fmt: skip
    same = [row for row in others if row.score_rule == run.score_rule]
    fallen = _fallen(session, [row.id for row in same])
    return any(row.id not in fallen for row in same)


def _needed_anew(session: Session, waits_for: str | None) -> NewRun | None:
    """What a run waited for, where that failed: it has to be made once more."""
    first = session.get(RunRow, waits_for) if waits_for is not None else None
    if first is None or first.state in OPEN or first.verdict == "PROVEN":
        return None
    body = session.get_one(ConditionRow, first.condition_id).body
    return NewRun(
        first.label, first.condition_id, body, first.seed, first.plan, first.gpus, first.overrides, first.kind
    )


def _make_instead(  # noqa: PLR0917 - what the two callers know
    session: Session, order: Rerun, why: str, code: str, condition_schema: int, priority: int, at: float
) -> str:
    """A queued run, linked to what it stands for, in the same sweeps."""
    alone = Submission("", "", "", {}, priority, order.score_rule, code, condition_schema, (order.new,))
    _note_condition(session, order.new, alone)
    first = _wanted(session, order.new.needs, alone, at - 5e-7) if order.new.needs is not None else order.waits_for
    run_id = _create_run(session, order.new, alone, at)
    session.execute(update(RunRow).where(RunRow.id == run_id).values(waits_for=first))
    link(session, order.link, run_id, order.subject, why)
    wanted = select(SweepRunRow.sweep_id, SweepRunRow.position).where(SweepRunRow.run_id == order.subject)
    for sweep_id, place in session.execute(wanted).all():
        session.add(SweepRunRow(sweep_id=sweep_id, run_id=run_id, position=place))
    return run_id


def _replaced_or_about_to_be(session: Session, order: Rerun) -> bool:
    query = (
        select(RunRow)
        .join(LinkRow, LinkRow.source == RunRow.id)
        .where(LinkRow.kind == order.link, LinkRow.target == order.subject)
        .where(RunRow.state.in_(("queued", "running")) | (RunRow.verdict == "PROVEN"))
    )
    return any(
        run.score_rule.get("mode") == order.score_rule.get("mode")
        and run.plan.get("source", {}).get("step") == order.new.plan.get("source", {}).get("step")
        for run in session.scalars(query)
    )


def evaluation(  # noqa: PLR0917 - one call site
    engine: Engine, new: NewRun, source: str, waits_for: str | None, code: str, condition_schema: int, priority: int
) -> str:
    """Queue the re-evaluation of a run's checkpoint, linked to it. Returns its id."""
    order = Rerun(source, new, {"rule": "final", "mode": new.plan["mode"]}, waits_for)
    with Session(engine) as session, session.begin():
        return _make_instead(session, order, "", code, condition_schema, priority, time.time())
