"""Reads of what lies over the runs: claims, facts for bug rules, bugs, marks, links. Nothing here changes a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, String, cast, func, or_, select, true
from sqlalchemy.orm import Session

from db.schema import (
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

CHUNK = 500
"""Ids in one IN (…): SQLite's limit of variables is far above, PostgreSQL plans short lists better."""


def chunks(ids: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK))


@dataclass(frozen=True)
class NewFacts:
    """What bug rules may ask of one run or claim."""

    subject: str
    version: int
    body: dict[str, Any]
    answers: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Bug:
    """A bug rule as it was applied last."""

    bug: str
    version: int
    status: str
    disposition: str
    title: str
    text: str
    at: float
    by: str
    why: str


@dataclass(frozen=True)
class Mark:
    bug: str
    subject: str
    state: str
    effect: str
    disposition: str
    rule_version: int
    facts: tuple[str, ...]
    at: float
    by: str
    why: str
    replacement: str | None

    @property
    def open(self) -> bool:
        """Does it still want something done?"""
        return self.state in ("affected", "unknown")


@dataclass(frozen=True)
class Link:
    kind: str
    source: str
    target: str
    why: str


@dataclass(frozen=True)
class Claim:
    """What people wrote of a run, in its newest version."""

    id: str
    history: str
    label: str
    version: int
    condition_id: str | None
    recorded_at: float
    body: dict[str, Any]
    marks: tuple[Mark, ...] = ()
    links: tuple[Link, ...] = field(default=())

    @property
    def validity(self) -> str:
        return validity(None, self.marks, replaced=replacement_of(self.id, self.links) is not None)


def validity(verdict: str | None, marks: Iterable[Mark], *, replaced: bool) -> str:
    """valid: PROVEN, not marked, not replaced. affected: a bug is known to touch it. superseded: a PROVEN run stands in
    its place. unverified: everything else, what a rule could not decide included."""
    marks = list(marks)
    if any(mark.state == "affected" and mark.effect == "invalid" for mark in marks):
        return "affected"
    if replaced or any(mark.state == "resolved" and mark.effect != "none" for mark in marks):
        return "superseded"
    doubted = any(mark.open and mark.effect != "none" for mark in marks)
    return "valid" if verdict == "PROVEN" and not doubted else "unverified"


def replacement_of(subject: str, links: Iterable[Link]) -> str | None:
    """The run that stands in its place; :func:`links_of` gives such links of PROVEN runs alone."""
    return next((link.source for link in links if link.kind == "supersedes" and link.target == subject), None)


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
    found: dict[str, list[Mark]] = {}
    for chunk in chunks(subjects):
        for row in session.scalars(select(MarkRow).where(MarkRow.subject.in_(chunk)).order_by(MarkRow.bug)):
            found.setdefault(row.subject, []).append(_mark(row))
    return found


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


def links_of(session: Session, subjects: Sequence[str]) -> dict[str, list[Link]]:
    """Links from or to each; one of kind ``supersedes`` only once the newer run is PROVEN (:func:`reruns` has all)."""
    found: dict[str, list[Link]] = {}
    for chunk in chunks(subjects):
        query = (
            select(LinkRow, RunRow.verdict)
            .outerjoin(RunRow, RunRow.id == LinkRow.source)
            .where(or_(LinkRow.source.in_(chunk), LinkRow.target.in_(chunk)))
            .order_by(LinkRow.at, LinkRow.kind, LinkRow.source)
        )
        wanted = set(chunk)
        for row, verdict in session.execute(query):
            if row.kind == "supersedes" and verdict != "PROVEN":
                continue
            link = Link(row.kind, row.source, row.target, row.why)
            for subject in {row.source, row.target} & wanted:
                found.setdefault(subject, []).append(link)
    return found


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
    """Claims as recorded, newest history first, in the order of their files."""
    if ids is not None and len(ids) > CHUNK:
        return [claim for chunk in chunks(ids) for claim in claims(engine, history=history, ids=chunk)]
    query = select(ClaimRow).order_by(ClaimRow.recorded_at.desc(), ClaimRow.history, ClaimRow.position)
    if history is not None:
        query = query.where(ClaimRow.history == history)
    if ids is not None:
        query = query.where(ClaimRow.id.in_(ids))
    if limit is not None:
        query = query.limit(limit)
    with Session(engine.execution_options(read_only=True)) as session:
        rows = session.scalars(query).all()
        found = [row.id for row in rows]
        marked, linked = marks_of(session, found), links_of(session, found)
        return [
            Claim(
                row.id, row.history, row.label, row.version, row.condition_id, row.recorded_at, row.body,
                tuple(marked.get(row.id, ())), tuple(linked.get(row.id, ())),
            )
            for row in rows
        ]  # fmt: skip


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
    """Training runs that ended and whose facts are missing, or of another version."""
    query = (
        select(RunRow.id)
        .outerjoin(FactsRow, FactsRow.subject == RunRow.id)
        .where(RunRow.state.in_(("succeeded", "failed", "cancelled")), RunRow.kind == "train")
        .where(or_(FactsRow.subject.is_(None), FactsRow.version != version))
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
