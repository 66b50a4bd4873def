"""Reads of what lies over the runs: claims, facts for bug rules, bugs, marks, links. Nothing here changes a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, String, cast, exists, func, or_, select, text, true
from sqlalchemy.orm import Session

from db import listing
from db.listing import Rows, chunks
from db.records import Bug, Claim, Mark, NewFacts
from db.schema import (
    AttemptRow,
    BugRow,
    ClaimRow,
    ClaimVersionRow,
    FactsRow,
    HistoryRow,
    LinkRow,
    MarkChangeRow,
    MarkRow,
    RunRow,
)


def rows_of(session: Session) -> Rows:
    """What :mod:`db.listing` asks, by a session of SQLAlchemy's."""
    return lambda query, values: session.execute(text(query), values)


@contextmanager
def reading(engine: Engine) -> Iterator[Rows]:
    """Rows of one reading transaction."""
    with Session(engine.execution_options(read_only=True)) as session:
        yield rows_of(session)


def current_rules(session: Session) -> tuple[tuple[str, int], ...]:
    query = select(BugRow.bug, func.max(BugRow.version)).group_by(BugRow.bug).order_by(BugRow.bug)
    return tuple((bug, version) for bug, version in session.execute(query))


def bugs(engine: Engine) -> list[Bug]:
    """Every applied bug in its newest version, by name."""
    newest = select(BugRow.bug, func.max(BugRow.version).label("version")).group_by(BugRow.bug).subquery()
    query = select(BugRow).join(newest, (newest.c.bug == BugRow.bug) & (newest.c.version == BugRow.version))
    with Session(engine.execution_options(read_only=True)) as session:
        return [_bug(row) for row in session.scalars(query.order_by(BugRow.bug))]


def bug_versions(engine: Engine, bug: str) -> list[Bug]:
    """Every version of a bug, oldest first."""
    with Session(engine.execution_options(read_only=True)) as session:
        return [_bug(row) for row in session.scalars(select(BugRow).where(BugRow.bug == bug).order_by(BugRow.version))]


def _bug(row: BugRow) -> Bug:
    return Bug(**{name: getattr(row, name) for name in Bug.__dataclass_fields__})


def marks_of(session: Session, subjects: Sequence[str]) -> dict[str, list[Mark]]:
    """Those that a transaction sees, its own included."""
    return listing.marks_of(rows_of(session), subjects)


def _mark(row: MarkRow) -> Mark:
    values = {name: getattr(row, name) for name in Mark.__dataclass_fields__}
    return Mark(**values | {"facts": tuple(row.facts)})


def marks(engine: Engine, bug: str) -> dict[str, Mark]:
    """Subject → mark of one bug."""
    with Session(engine.execution_options(read_only=True)) as session:
        return {row.subject: _mark(row) for row in session.scalars(select(MarkRow).where(MarkRow.bug == bug))}


def mark_counts(engine: Engine) -> dict[str, dict[str, int]]:
    """Bug → state → how many."""
    found: dict[str, dict[str, int]] = {}
    query = select(MarkRow.bug, MarkRow.state, func.count()).group_by(MarkRow.bug, MarkRow.state)
    with Session(engine.execution_options(read_only=True)) as session:
        for bug, state, count in session.execute(query):
            found.setdefault(bug, {})[state] = count
    return found


def mark_changes(engine: Engine, subject: str) -> list[tuple[float, str, str | None, str, str, str]]:
    """(time, bug, before, after, who, why) of one run or claim, oldest first."""
    query = select(MarkChangeRow).where(MarkChangeRow.subject == subject).order_by(MarkChangeRow.id)
    with Session(engine.execution_options(read_only=True)) as session:
        return [(r.at, r.bug, r.before, r.after, r.by, r.why) for r in session.scalars(query)]


def reruns(
    engine: Engine, targets: Sequence[str] | None = None, kind: str = "supersedes"
) -> dict[str, list[tuple[str, str, str | None]]]:
    """Run or claim → (id, state, verdict) of the runs that were made to replace it, oldest first.

    ``kind``: re-evaluation-of for native evaluations of its checkpoints instead.
    """
    found: dict[str, list[tuple[str, str, str | None]]] = {}
    query = (
        select(LinkRow.target, RunRow.id, RunRow.state, RunRow.verdict)
        .join(RunRow, RunRow.id == LinkRow.source)
        .where(LinkRow.kind == kind)
        .where(true() if kind == "supersedes" else RunRow.score_rule["mode"].as_string() == "native")
        .order_by(LinkRow.at, RunRow.created_at)
    )
    with Session(engine.execution_options(read_only=True)) as session:
        for chunk in [None] if targets is None else chunks(targets):
            asked = query if chunk is None else query.where(LinkRow.target.in_(chunk))
            for target, run_id, state, verdict in session.execute(asked):
                found.setdefault(target, []).append((run_id, state, verdict))
    return found


def claims(
    engine: Engine, *, history: str | None = None, ids: Sequence[str] | None = None, limit: int | None = None
) -> list[Claim]:
    """:func:`db.listing.claims` of an engine."""
    with reading(engine) as rows:
        return listing.claims(rows, history=history, ids=ids, limit=limit)


def claim(engine: Engine, name: str) -> Claim | None:
    """The claim with this id, label or alias, or with an id that begins so; of several, the newest history's."""
    with Session(engine.execution_options(read_only=True)) as session:
        for condition in (ClaimRow.id == name, ClaimRow.label == name, ClaimRow.id.startswith(name, autoescape=True)):
            found = session.scalar(
                select(ClaimRow.id).where(condition).order_by(ClaimRow.recorded_at.desc(), ClaimRow.history).limit(1)
            )
            if found is not None:
                return claims(engine, ids=[found])[0]
        aliased = session.execute(select(ClaimRow.id, ClaimRow.body).order_by(ClaimRow.recorded_at.desc()))
        found = next((id_ for id_, body in aliased if name in body["claim"].get("aliases", ())), None)
    return claims(engine, ids=[found])[0] if found is not None else None


def labels(engine: Engine, history: str) -> dict[str, str]:
    """Id → label of the claims of a history."""
    with Session(engine.execution_options(read_only=True)) as session:
        return dict(session.execute(select(ClaimRow.id, ClaimRow.label).where(ClaimRow.history == history)).all())


def claim_names(engine: Engine) -> list[str]:
    with Session(engine.execution_options(read_only=True)) as session:
        query = select(ClaimRow.label, ClaimRow.id).order_by(ClaimRow.recorded_at.desc()).limit(1000)
        return [name for pair in session.execute(query) for name in pair]


def claim_versions(engine: Engine, claim_id: str) -> list[tuple[int, float, dict[str, Any]]]:
    """(version, imported at, body), oldest first."""
    query = select(ClaimVersionRow).where(ClaimVersionRow.claim_id == claim_id).order_by(ClaimVersionRow.version)
    with Session(engine.execution_options(read_only=True)) as session:
        return [(row.version, row.imported_at, row.body) for row in session.scalars(query)]


def histories(engine: Engine) -> dict[str, dict[str, Any]]:
    """Name → what the newest version of its file says beside its runs."""
    with Session(engine.execution_options(read_only=True)) as session:
        rows = session.scalars(select(HistoryRow).order_by(HistoryRow.name, HistoryRow.version))
        return {row.name: row.body for row in rows}


def facts_stamp(session: Session) -> tuple[int, int]:
    """Changes whenever the facts of a run or claim enter or are made anew."""
    count, revisions = session.execute(select(func.count(), func.sum(FactsRow.revision)).select_from(FactsRow)).one()
    return int(count), int(revisions or 0)


def stamp(engine: Engine) -> tuple[int, int]:
    with Session(engine.execution_options(read_only=True)) as session:
        return facts_stamp(session)


def stand_ins(engine: Engine, run_id: str | None = None) -> set[str]:
    """Runs that were made in the place of others, with whom they share their labels; or that one, if it was."""
    query = select(LinkRow.source).where(LinkRow.kind == "supersedes")
    if run_id is not None:
        query = query.where(LinkRow.source == run_id)
    with Session(engine.execution_options(read_only=True)) as session:
        return set(session.scalars(query))


def facts(engine: Engine, subjects: Sequence[str] | None = None) -> Iterator[NewFacts]:
    """Recorded facts of all runs that ended and of all claims, or of some."""
    query = select(FactsRow.subject, FactsRow.version, FactsRow.body, FactsRow.answers, FactsRow.checkpoint)
    with Session(engine.execution_options(read_only=True)) as session:
        for chunk in [None] if subjects is None else chunks(subjects):
            asked = query if chunk is None else query.where(FactsRow.subject.in_(chunk))
            for row in session.execute(asked.execution_options(yield_per=1000)):
                yield NewFacts(*row)


def without_facts(engine: Engine, version: int) -> list[str]:
    """Training runs that ended and whose facts are missing, or of another version. One that was cancelled before it
    began is nobody's victim: nothing was computed."""
    query = (
        select(RunRow.id)
        .outerjoin(FactsRow, FactsRow.subject == RunRow.id)
        .where(RunRow.state.in_(("succeeded", "failed", "cancelled")), RunRow.kind == "train")
        .where(or_(FactsRow.subject.is_(None), FactsRow.version != version))
        .where(exists().where(AttemptRow.run_id == RunRow.id))
        .order_by(RunRow.created_at)
    )
    with Session(engine.execution_options(read_only=True)) as session:
        return list(session.scalars(query))


def names(engine: Engine) -> dict[str, str]:
    """Run or claim → label."""
    with Session(engine.execution_options(read_only=True)) as session:
        found: dict[str, str] = dict(session.execute(select(RunRow.id, RunRow.label)).all())
        return found | dict(session.execute(select(ClaimRow.id, ClaimRow.label)).all())


def aliases(engine: Engine) -> dict[str, tuple[str, ...]]:
    """Claim → its other names."""
    with Session(engine.execution_options(read_only=True)) as session:
        rows = session.execute(select(ClaimRow.id, ClaimRow.body))
        return {id_: tuple(names) for id_, body in rows if (names := body["claim"].get("aliases"))}


def twins(engine: Engine, column: str, fresh: Sequence[NewFacts] = ()) -> set[str]:
    """Runs that share their ``answers`` or ``checkpoint`` with a run of another condition or seed.

    ``fresh``: facts that stand in the place of recorded ones. Equal runs of one condition and seed are no surprise:
    arithmetic repeats itself.
    """
    hashed = FactsRow.answers if column == "answers" else FactsRow.checkpoint
    what = RunRow.condition_id + "/" + cast(RunRow.seed, String)
    found: dict[str, tuple[str | None, str]] = {}
    with Session(engine.execution_options(read_only=True)) as session:
        query = select(FactsRow.subject, hashed, what).join(RunRow, RunRow.id == FactsRow.subject)
        for subject, value, same in session.execute(query.where(hashed.is_not(None))):
            found[subject] = (value, same)
        newer = {facts.subject: facts.answers if column == "answers" else facts.checkpoint for facts in fresh}
        for chunk in chunks(list(newer)):
            for subject, same in session.execute(select(RunRow.id, what).where(RunRow.id.in_(chunk))):
                found[subject] = (newer[subject], same)
    groups: dict[str, set[str]] = {}
    for value, same in found.values():
        if value is not None:
            groups.setdefault(value, set()).add(same)
    return {subject for subject, (value, _) in found.items() if value is not None and len(groups[value]) > 1}


MOST_TWINS = 20
"""Of more, each has long been told that it is one."""


def twins_of(engine: Engine, column: str, value: str, run_id: str) -> list[str]:
    """Some runs of another condition or seed than a run's with this hash of ``answers`` or ``checkpoint``."""
    hashed = FactsRow.answers if column == "answers" else FactsRow.checkpoint
    with Session(engine.execution_options(read_only=True)) as session:
        own = session.execute(select(RunRow.condition_id, RunRow.seed).where(RunRow.id == run_id)).one_or_none()
        if own is None:
            return []
        query = (
            select(FactsRow.subject)
            .join(RunRow, RunRow.id == FactsRow.subject)
            .where(hashed == value, FactsRow.subject != run_id)
            .where(or_(RunRow.condition_id != own[0], RunRow.seed != own[1]))
            .limit(MOST_TWINS)
        )
        return list(session.scalars(query))
