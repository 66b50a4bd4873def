"""The only reads of the registry. Plain frozen records come out; nothing here changes a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, String, cast, func, select
from sqlalchemy.orm import Session, aliased

from db.bug_reads import CHUNK, Link, Mark, chunks, links_of, marks_of, replacement_of, validity
from db.schema import (
    AttemptRow,
    ConditionRow,
    EvalRow,
    EvidenceRow,
    LinkRow,
    RunRow,
    StepRow,
    SweepRow,
    SweepRunRow,
    TransitionRow,
)


@dataclass(frozen=True)
class EvalPoint:
    """One point of an eval curve."""

    seq: int
    step: int
    k: int
    n: int
    samples: int
    questions: str
    at: float

    @property
    def percent(self) -> float:
        return 100.0 * self.k / (self.n * self.samples)


@dataclass(frozen=True)
class Attempt:
    id: int
    run_id: str
    number: int
    token: str
    state: str
    run_dir: str
    node: str | None
    trainer_pid: int | None
    created_at: float
    ended_at: float | None
    exit_code: int | None
    retry: dict[str, Any] | None
    spool_offset: int
    spool_seq: int
    last_event_at: float | None
    last_step: int


@dataclass(frozen=True)
class Run:
    """A run with its condition, its sweeps, its attempts, and the eval curve of its last attempt."""

    id: str
    kind: str
    """train, or scan."""
    waits_for: str | None
    label: str
    condition_id: str
    condition: dict[str, Any]
    seed: int
    code_version: str
    state: str
    verdict: str | None
    reasons: tuple[str, ...]
    priority: int
    gpus: int
    plan: dict[str, Any]
    overrides: dict[str, Any]
    score_rule: dict[str, Any]
    created_at: float
    mlflow_run: str | None
    projected_seq: int
    projected_state: str | None
    mark_changes: int = 0
    sweeps: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    curve: tuple[EvalPoint, ...] = field(default=())
    marks: tuple[Mark, ...] = ()
    links: tuple[Link, ...] = ()
    source_stands: bool = True
    """Of an evaluation: is the run that trained its checkpoint touched by no bug but those that a new evaluation mends?
    (That it was trained as planned is part of the evaluation's own verdict.)"""

    @property
    def validity(self) -> str:
        """valid, affected, superseded, or unverified: see :func:`db.bug_reads.validity`."""
        if not self.source_stands:
            return "affected"
        return validity(self.verdict, self.marks, replaced=self.superseded_by is not None)

    @property
    def valid(self) -> bool:
        """May its score be used? PROVEN, and no bug is known to touch it."""
        return self.validity == "valid"

    @property
    def supersedes(self) -> str | None:
        """The run or claim in whose place it stands."""
        return next((li.target for li in self.links if li.kind == "supersedes" and li.source == self.id), None)

    @property
    def superseded_by(self) -> str | None:
        """The run in whose favour this one no longer counts: a PROVEN rerun, or evaluation of its checkpoint."""
        again = next(
            (mark.replacement for mark in self.marks if mark.state == "resolved" and mark.effect != "none"), None
        )
        return replacement_of(self.id, self.links) or again

    @property
    def attempt(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def total_steps(self) -> int:
        return int(self.plan["total_steps"])

    @property
    def score(self) -> EvalPoint | None:
        """The eval that the declared rule picks; None until it is there. ``final`` is the planned last step's."""
        if self.kind == "eval":
            return self.curve[-1] if self.curve else None
        if self.score_rule.get("rule") == "best":
            return self.peak if self.state == "succeeded" else None
        return next((p for p in self.curve if p.step == self.total_steps), None)

    @property
    def peak(self) -> EvalPoint | None:
        return max(self.curve, key=lambda p: (p.percent, -p.step), default=None)


@dataclass(frozen=True)
class Fact:
    """One recorded event of an attempt."""

    seq: int
    kind: str
    at: float
    data: dict[str, Any]


def runs(
    engine: Engine,
    *,
    ids: Sequence[str] | None = None,
    sweep: str | None = None,
    states: Iterable[str] | None = None,
    kinds: Iterable[str] = ("train",),
    conditions: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[Run]:
    """Runs with everything that a table shows, newest first; in the order of ``ids`` or of the sweep where given.

    Layer scans are runs of a kind of their own: they come where ``kinds`` names them, or ``ids`` do.
    """
    if ids is not None and len(ids) > CHUNK:
        return [run for chunk in chunks(ids) for run in runs(engine, ids=chunk, sweep=sweep, states=states)]
    query = select(RunRow, ConditionRow.body).join(ConditionRow, RunRow.condition_id == ConditionRow.id)
    if sweep is not None:
        query = (
            query.join(SweepRunRow, SweepRunRow.run_id == RunRow.id)
            .join(SweepRow, SweepRow.id == SweepRunRow.sweep_id)
            .where(SweepRow.name == sweep)
            .order_by(RunRow.created_at.desc(), SweepRunRow.position)
        )
    else:
        query = query.order_by(RunRow.created_at.desc(), RunRow.id)
    query = query.where(RunRow.kind.in_(list(kinds)) if ids is None else RunRow.id.in_(ids))
    if conditions is not None:
        query = query.where(RunRow.condition_id.in_(conditions))
    if states is not None:
        query = query.where(RunRow.state.in_(list(states)))
    if limit is not None:
        query = query.limit(limit)
    with Session(engine.execution_options(read_only=True)) as session:
        rows = session.execute(query).all()
        found = [row.id for row, _ in rows]
        sweeps = _sweeps_of(session, found)
        attempts = _attempts_of(session, found)
        curves = _curves_of(session, [a[-1].id for a in attempts.values()])
        marked, linked = marks_of(session, found), links_of(session, found)
        fallen = _on_fallen_runs(session, [row.id for row, _ in rows if row.kind == "eval"])
        result = [
            Run(
                id=row.id, kind=row.kind, waits_for=row.waits_for,
                label=row.label, condition_id=row.condition_id, condition=body, seed=row.seed,
                code_version=row.code_version, state=row.state, verdict=row.verdict, reasons=tuple(row.reasons),
                priority=row.priority, gpus=row.gpus, plan=row.plan, overrides=row.overrides,
                score_rule=row.score_rule, created_at=row.created_at, mlflow_run=row.mlflow_run,
                projected_seq=row.projected_seq, projected_state=row.projected_state, mark_changes=row.mark_changes,
                marks=tuple(marked.get(row.id, ())), links=tuple(linked.get(row.id, ())),
                source_stands=row.id not in fallen,
                sweeps=tuple(sweeps.get(row.id, ())), attempts=tuple(attempts.get(row.id, ())),
                curve=tuple(curves.get(attempts[row.id][-1].id, ())) if row.id in attempts else (),
            )
            for row, body in rows
        ]  # fmt: skip
    if ids is not None:
        place = {run_id: index for index, run_id in enumerate(ids)}
        result.sort(key=lambda run: place[run.id])
    return result


def _on_fallen_runs(session: Session, evaluations: Sequence[str]) -> set[str]:
    """Evaluations of checkpoints whose training cannot be relied on."""
    if not evaluations:
        return set()
    fallen = set()
    for chunk in chunks(evaluations):
        query = select(LinkRow.source, LinkRow.target).where(
            LinkRow.kind == "re-evaluation-of", LinkRow.source.in_(chunk)
        )
        found = session.execute(query).all()
        marks = marks_of(session, [run for _, run in found])
        for evaluation, run in found:
            if any(
                (m.open or m.state == "resolved") and m.effect != "none" and m.disposition != "re-evaluate"
                for m in marks.get(run, ())
            ):
                fallen.add(evaluation)
    return fallen


def _sweeps_of(session: Session, ids: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for chunk in chunks(ids):
        query = (
            select(SweepRunRow.run_id, SweepRow.name)
            .join(SweepRow, SweepRow.id == SweepRunRow.sweep_id)
            .where(SweepRunRow.run_id.in_(chunk))
            .order_by(SweepRow.name)
        )
        for run_id, name in session.execute(query):
            found.setdefault(run_id, []).append(name)
    return found


def _attempts_of(session: Session, ids: Sequence[str]) -> dict[str, list[Attempt]]:
    found: dict[str, list[Attempt]] = {}
    for chunk in chunks(ids):
        query = select(AttemptRow).where(AttemptRow.run_id.in_(chunk)).order_by(AttemptRow.number)
        for row in session.scalars(query):
            found.setdefault(row.run_id, []).append(
                Attempt(**{name: getattr(row, name) for name in Attempt.__dataclass_fields__})
            )
    return found


def _curves_of(session: Session, attempt_ids: Sequence[int]) -> dict[int, list[EvalPoint]]:
    found: dict[int, list[EvalPoint]] = {}
    for chunk in chunks(attempt_ids):
        query = (
            select(
                EvalRow.attempt_id, EvalRow.seq, EvalRow.step, EvalRow.k, EvalRow.n, EvalRow.samples,
                EvalRow.questions, EvalRow.at,
            )
            .where(EvalRow.attempt_id.in_(chunk))
            .order_by(EvalRow.attempt_id, EvalRow.step, EvalRow.seq)
        )  # fmt: skip
        for row in session.execute(query):
            found.setdefault(row[0], []).append(EvalPoint(*row[1:]))
    return found


def run(engine: Engine, name: str) -> Run | None:
    """The run with this id, or the newest one with this label, or with an id that begins so."""
    with Session(engine.execution_options(read_only=True)) as session:
        for condition in (RunRow.id == name, RunRow.label == name, RunRow.id.startswith(name, autoescape=True)):
            found = session.scalar(select(RunRow.id).where(condition).order_by(RunRow.created_at.desc()).limit(1))
            if found is not None:
                break
    return runs(engine, ids=[found])[0] if found else None


def conditions_called(engine: Engine, label: str, sweep: str | None = None) -> list[str]:
    """Ids of the conditions whose training runs have this label (in this sweep), the newest run's first."""
    query = select(RunRow.condition_id).where(RunRow.label == label, RunRow.kind == "train")
    if sweep is not None:
        query = query.join(SweepRunRow, SweepRunRow.run_id == RunRow.id).join(SweepRow).where(SweepRow.name == sweep)
    with Session(engine.execution_options(read_only=True)) as session:
        return list(dict.fromkeys(session.scalars(query.order_by(RunRow.created_at.desc()))))


def known_names(engine: Engine) -> list[str]:
    """Labels and ids of the newest thousand runs, for "did you mean"."""
    with Session(engine.execution_options(read_only=True)) as session:
        query = select(RunRow.label, RunRow.id).order_by(RunRow.created_at.desc()).limit(1000)
        return [name for pair in session.execute(query) for name in pair]


def conditions(engine: Engine, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Condition id → its body."""
    found: dict[str, dict[str, Any]] = {}
    with Session(engine.execution_options(read_only=True)) as session:
        for chunk in chunks(list(dict.fromkeys(ids))):
            query = select(ConditionRow.id, ConditionRow.body).where(ConditionRow.id.in_(chunk))
            found |= dict(session.execute(query).all())
    return found


def evidence(engine: Engine, attempt_id: int, kinds: Iterable[str] | None = None) -> list[Fact]:
    """Recorded evidence of one attempt, evals included, in the order of the spool."""
    query = select(EvidenceRow).where(EvidenceRow.attempt_id == attempt_id)
    if kinds is not None:
        query = query.where(EvidenceRow.kind.in_(list(kinds)))
    with Session(engine.execution_options(read_only=True)) as session:
        facts = [Fact(row.seq, row.kind, row.at, row.data) for row in session.scalars(query)]
        if kinds is None or "eval" in kinds:
            facts += [
                Fact(
                    r.seq,
                    "eval",
                    r.at,
                    {"step": r.step, "k": r.k, "n": r.n, "samples": r.samples, "questions": r.questions},
                )
                for r in session.scalars(select(EvalRow).where(EvalRow.attempt_id == attempt_id))
            ]
    return sorted(facts, key=lambda fact: fact.seq)


def facts_of_kind(engine: Engine, attempt_ids: Sequence[int], kind: str) -> dict[int, list[dict[str, Any]]]:
    """Attempt → what was recorded of one kind, in the order of the spool."""
    found: dict[int, list[dict[str, Any]]] = {}
    with Session(engine.execution_options(read_only=True)) as session:
        for chunk in chunks(attempt_ids):
            query = (
                select(EvidenceRow.attempt_id, EvidenceRow.data)
                .where(EvidenceRow.attempt_id.in_(chunk), EvidenceRow.kind == kind)
                .order_by(EvidenceRow.attempt_id, EvidenceRow.seq)
            )
            for attempt, data in session.execute(query):
                found.setdefault(attempt, []).append(data)
    return found


def scans(engine: Engine) -> list[tuple[str, str, dict[str, Any]]]:
    """(run id, label, what was measured) of every PROVEN layer scan, newest first."""
    query = (
        select(RunRow.id, RunRow.label, EvidenceRow.data)
        .join(AttemptRow, AttemptRow.run_id == RunRow.id)
        .join(EvidenceRow, EvidenceRow.attempt_id == AttemptRow.id)
        .where(RunRow.kind == "scan", EvidenceRow.kind == "scan", RunRow.verdict == "PROVEN")
        .order_by(RunRow.created_at.desc())
    )
    with Session(engine.execution_options(read_only=True)) as session:
        return [(run_id, label, data) for run_id, label, data in session.execute(query)]


def proven_scan(engine: Engine, condition_id: str) -> dict[str, Any] | None:
    """What the newest PROVEN scan of an id measured."""
    query = (
        select(EvidenceRow.data)
        .join(AttemptRow, AttemptRow.id == EvidenceRow.attempt_id)
        .join(RunRow, RunRow.id == AttemptRow.run_id)
        .where(RunRow.condition_id == condition_id, RunRow.verdict == "PROVEN", EvidenceRow.kind == "scan")
        .order_by(RunRow.created_at.desc())
        .limit(1)
    )
    with Session(engine.execution_options(read_only=True)) as session:
        return session.scalar(query)


def outcomes(engine: Engine, attempt_id: int, step: int) -> bytes | None:
    """The packed outcomes of the eval at a step."""
    with Session(engine.execution_options(read_only=True)) as session:
        query = select(EvalRow.outcomes).where(EvalRow.attempt_id == attempt_id, EvalRow.step == step)
        return session.scalar(query.order_by(EvalRow.seq.desc()).limit(1))


def steps(engine: Engine, attempt_id: int, after_seq: int = -1) -> list[tuple[int, int, float, dict[str, Any]]]:
    """(seq, step, time, metrics) of one attempt, past a sequence number."""
    query = select(StepRow).where(StepRow.attempt_id == attempt_id, StepRow.seq > after_seq).order_by(StepRow.seq)
    with Session(engine.execution_options(read_only=True)) as session:
        return [(row.seq, row.step, row.at, row.metrics) for row in session.scalars(query)]


def first_steps(engine: Engine, attempt_ids: Sequence[int]) -> dict[int, float]:
    """Attempt → time of its first training step's metrics."""
    found: dict[int, float] = {}
    with Session(engine.execution_options(read_only=True)) as session:
        for chunk in chunks(attempt_ids):
            query = select(StepRow.attempt_id, func.min(StepRow.at)).where(StepRow.attempt_id.in_(chunk))
            found |= {attempt: at for attempt, at in session.execute(query.group_by(StepRow.attempt_id))}  # noqa: C416
    return found


def last_steps(engine: Engine, attempt_ids: Sequence[int]) -> dict[int, tuple[int, dict[str, Any]]]:
    """Attempt → (last training step, its metrics)."""
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    with Session(engine.execution_options(read_only=True)) as session:
        for chunk in chunks(attempt_ids):
            other = aliased(StepRow)
            last = select(func.max(other.step)).where(other.attempt_id == StepRow.attempt_id).scalar_subquery()
            query = select(StepRow).where(StepRow.attempt_id.in_(chunk), StepRow.step == last)
            found |= {row.attempt_id: (row.step, row.metrics) for row in session.scalars(query)}
    return found


def transitions(engine: Engine, run_id: str) -> list[tuple[float, str | None, str, str]]:
    """(time, before, after, why) of a run, oldest first."""
    query = select(TransitionRow).where(TransitionRow.run_id == run_id).order_by(TransitionRow.id)
    with Session(engine.execution_options(read_only=True)) as session:
        return [(row.at, row.before, row.after, row.why) for row in session.scalars(query)]


def projection_state(run: Run) -> str:
    """What MLflow is told of a run's state, in one word; compared in :func:`needing_projection`."""
    attempts = run.attempts[-1].number if run.attempts else 0
    return f"{run.state}/{run.verdict or '-'}/{attempts}/{run.mark_changes}"


def needing_projection(engine: Engine) -> list[str]:
    """Ids of started runs that have events or a state that MLflow does not have yet, oldest first."""
    other = aliased(AttemptRow)
    last = select(func.max(other.number)).where(other.run_id == RunRow.id).scalar_subquery()
    told = (
        RunRow.state + "/" + func.coalesce(RunRow.verdict, "-") + "/" + cast(AttemptRow.number, String)
        + "/" + cast(RunRow.mark_changes, String)
    )  # fmt: skip
    query = (
        select(RunRow.id)
        .join(AttemptRow, (AttemptRow.run_id == RunRow.id) & (AttemptRow.number == last))
        .where(RunRow.kind != "scan")
        .where(
            RunRow.projected_state.is_(None)
            | (RunRow.projected_state != told)
            | (RunRow.projected_seq != AttemptRow.spool_seq)
        )
        .order_by(RunRow.created_at)
    )
    with Session(engine.execution_options(read_only=True)) as session:
        return list(session.scalars(query))


def state_counts(engine: Engine) -> dict[str, int]:
    """How many runs are in each state, layer scans not counted."""
    query = select(RunRow.state, func.count()).where(RunRow.kind == "train").group_by(RunRow.state)
    with Session(engine.execution_options(read_only=True)) as session:
        return {state: count for state, count in session.execute(query)}  # noqa: C416 - rows are not tuples to mypy


def sweep_names(engine: Engine) -> list[str]:
    with Session(engine.execution_options(read_only=True)) as session:
        return list(session.scalars(select(SweepRow.name).order_by(SweepRow.submitted_at.desc())))


def sweep_about(engine: Engine, name: str) -> str:
    """The question that a sweep asks."""
    with Session(engine.execution_options(read_only=True)) as session:
        return session.scalar(select(SweepRow.about).where(SweepRow.name == name)) or ""


def sweep_details(engine: Engine, name: str) -> dict[str, Any] | None:
    with Session(engine.execution_options(read_only=True)) as session:
        return session.scalar(select(SweepRow.details).where(SweepRow.name == name))
