"""The reads of the registry. Plain frozen records come out; nothing here changes a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Engine, String, cast, func, select
from sqlalchemy.orm import Session, aliased

from db import listing
from db.bug_reads import reading
from db.listing import chunks
from db.records import Fact, Run, SearchArm
from db.schema import (
    AttemptRow,
    EvalRow,
    EvidenceRow,
    RunRow,
    SearchArmRow,
    StepRow,
    SweepRow,
    SweepRunRow,
    TransitionRow,
)


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
    """:func:`db.listing.runs` of an engine."""
    with reading(engine) as rows:
        return listing.runs(rows, ids=ids, sweep=sweep, states=states, kinds=kinds, conditions=conditions, limit=limit)


def run(engine: Engine, name: str) -> Run | None:
    """The run with this id, or the newest one with this label, or with an id that begins so."""
    with Session(engine.execution_options(read_only=True)) as session:
        for condition in (RunRow.id == name, RunRow.label == name, RunRow.id.startswith(name, autoescape=True)):
            found = session.scalar(select(RunRow.id).where(condition).order_by(RunRow.created_at.desc()).limit(1))
            if found is not None:
                break
    return runs(engine, ids=[found])[0] if found else None


def run_of_attempt(engine: Engine, attempt_id: int) -> Run:
    """The run that an attempt is of. Raises LookupError where there is no such attempt."""
    with Session(engine.execution_options(read_only=True)) as session:
        run_id = session.scalar(select(AttemptRow.run_id).where(AttemptRow.id == attempt_id))
    if run_id is None:
        raise LookupError(f"no attempt {attempt_id}")
    return runs(engine, ids=[run_id])[0]


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
    with reading(engine) as rows:
        return listing.conditions(rows, ids)


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
    with reading(engine) as rows:
        return listing.sweep_names(rows)


def search_arms(engine: Engine, name: str) -> list[SearchArm]:
    """What a search looks at, in the order in which it was decided; nothing where the sweep is no search."""
    query = select(SearchArmRow).join(SweepRow).where(SweepRow.name == name).order_by(SearchArmRow.number)
    with Session(engine.execution_options(read_only=True)) as session:
        return [
            SearchArm(row.number, row.role, row.label, row.condition_id, row.point, row.trial, row.why)
            for row in session.scalars(query)
        ]


def sweep_about(engine: Engine, name: str) -> str:
    """The question that a sweep asks."""
    with Session(engine.execution_options(read_only=True)) as session:
        return session.scalar(select(SweepRow.about).where(SweepRow.name == name)) or ""


def sweep_details(engine: Engine, name: str) -> dict[str, Any] | None:
    with Session(engine.execution_options(read_only=True)) as session:
        return session.scalar(select(SweepRow.details).where(SweepRow.name == name))
