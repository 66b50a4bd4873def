"""Writes of what lies over the runs: claims, facts, bugs, marks, links. Each call is one transaction.

Runs and scores are never edited: a mark lies beside its run, says who, when, which version of the rule and why, and
every change of it stays on record. Who records facts says which rules they were judged by; where a rule came in
between, nothing is written and :class:`MovedOnError` asks to judge again. There is one writer at a time, so no run
ends beside a rule.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update
from sqlalchemy.orm import Session

from db.bug_reads import Bug, Mark, NewFacts, count_facts, current_rules, marks_of
from db.schema import (
    BugRow,
    ClaimRow,
    ClaimVersionRow,
    ConditionRow,
    FactsRow,
    HistoryRow,
    LinkRow,
    MarkChangeRow,
    MarkRow,
    RunRow,
)

Rules = Sequence[tuple[str, int]]
"""(bug, version), sorted by bug."""


class MovedOnError(Exception):
    """Rules or facts changed since they were read; read them again."""


@dataclass(frozen=True)
class Judged:
    """What a rule says of one run or claim."""

    bug: str
    rule_version: int
    effect: str
    disposition: str
    subject: str
    answer: str
    """match, clean, unknown"""
    facts: tuple[str, ...]


def next_state(before: str | None, answer: str, *, replaced: bool) -> str | None:
    """What becomes of a mark when its rule answers (anew). None: there is none."""
    if answer == "clean":
        return None if before is None else "withdrawn"
    if before in ("waived", "resolved"):
        return before
    if replaced and answer == "match":
        return "resolved"
    return "affected" if answer == "match" else "unknown"


def record_facts(session: Session, facts: NewFacts, judged: Sequence[Judged], rules: Rules, by: str) -> None:
    """Within the transaction that ends a run: its facts and the marks that follow. Raises :class:`MovedOnError`."""
    if current_rules(session) != tuple(rules):
        raise MovedOnError
    _store_facts(session, [facts])
    _mark(session, judged, by, "judged when the run ended", time.time())


def _store_facts(session: Session, facts: Iterable[NewFacts]) -> None:
    rows = [
        {"subject": f.subject, "version": f.version, "body": f.body, "answers": f.answers, "checkpoint": f.checkpoint}
        for f in facts
    ]
    for start in range(0, len(rows), 500):
        some = rows[start : start + 500]
        session.execute(delete(FactsRow).where(FactsRow.subject.in_([row["subject"] for row in some])))
        session.execute(insert(FactsRow), some)


def apply_rule(
    engine: Engine, bug: Bug, judged: Sequence[Judged], new_facts: Sequence[NewFacts], known_facts: int
) -> dict[str, int]:
    """Record a (version of a) rule and mark whom it affects. Returns how many marks are in which state afterwards.

    ``known_facts``: how many runs and claims were judged, those of ``new_facts`` included. Raises
    :class:`MovedOnError` where a run has ended since.
    """
    with Session(engine) as session, session.begin():
        _store_facts(session, new_facts)
        if count_facts(session) != known_facts:
            raise MovedOnError
        if session.get(BugRow, (bug.bug, bug.version)) is None:
            session.add(BugRow(**{name: getattr(bug, name) for name in Bug.__dataclass_fields__}))
            session.flush()
        _mark(session, judged, bug.by, bug.why, bug.at)
        query = select(MarkRow.state, func.count()).where(MarkRow.bug == bug.bug).group_by(MarkRow.state)
        return {state: count for state, count in session.execute(query)}  # noqa: C416 - rows are not tuples to mypy


def _mark(session: Session, judged: Sequence[Judged], by: str, why: str, at: float) -> None:
    subjects = [j.subject for j in judged]
    have = {(m.bug, m.subject): m for group in marks_of(session, subjects).values() for m in group}
    stand_ins = replaced(session, [j.subject for j in judged if j.answer == "match"])
    changes = []
    for j in judged:
        before = have.get((j.bug, j.subject))
        replacement = stand_ins.get(j.subject)
        after = next_state(before.state if before else None, j.answer, replaced=replacement is not None)
        if after is None:
            continue
        by_whom = (before.replacement if before else None) or replacement if after == "resolved" else None
        mark = Mark(j.bug, j.subject, after, j.effect, j.disposition, j.rule_version, j.facts, at, by, why, by_whom)
        changes.append((before, mark))
    _set(session, changes)


def _set(session: Session, changes: Sequence[tuple[Mark | None, Mark]]) -> None:
    """Write marks and the record of their changes; nothing where nothing changes."""
    changes = [(before, mark) for before, mark in changes if before is None or _differ(before, mark)]
    for start in range(0, len(changes), 500):
        some = changes[start : start + 500]
        if new := [_row(mark) for before, mark in some if before is None]:
            session.execute(insert(MarkRow), new)
        if old := [_row(mark) for before, mark in some if before is not None]:
            session.execute(update(MarkRow), old)  # by primary key
        session.execute(
            insert(MarkChangeRow),
            [
                {
                    "bug": m.bug, "subject": m.subject, "before": before.state if before else None, "after": m.state,
                    "effect": m.effect, "rule_version": m.rule_version, "at": m.at, "by": m.by, "why": m.why,
                }
                for before, m in some
            ],
        )  # fmt: skip
        subjects = [mark.subject for _, mark in some]
        session.execute(
            update(RunRow).where(RunRow.id.in_(subjects)).values(mark_changes=RunRow.mark_changes + 1),
            execution_options={"synchronize_session": False},
        )


def _differ(before: Mark, after: Mark) -> bool:
    return any(
        getattr(before, name) != getattr(after, name)
        for name in ("state", "effect", "disposition", "rule_version", "facts", "replacement")
    )


def _row(mark: Mark) -> dict[str, Any]:
    return {name: getattr(mark, name) for name in Mark.__dataclass_fields__} | {"facts": list(mark.facts)}


def replaced(session: Session, subjects: Sequence[str]) -> dict[str, str]:
    """Subject → the PROVEN run that was made to replace it."""
    found: dict[str, str] = {}
    for start in range(0, len(subjects), 500):
        query = (
            select(LinkRow.target, RunRow.id)
            .join(RunRow, RunRow.id == LinkRow.source)
            .where(LinkRow.kind == "supersedes", RunRow.verdict == "PROVEN")
            .where(LinkRow.target.in_(subjects[start : start + 500]))
        )
        found |= dict(session.execute(query).all())
    return found


def waive(engine: Engine, bug: str, subjects: Sequence[str], by: str, why: str) -> list[str]:
    """Say that a mark does not count, and why. Returns those that had an open mark of the bug."""
    done = []
    with Session(engine) as session, session.begin():
        for subject, found in marks_of(session, subjects).items():
            for mark in found:
                if mark.bug == bug and mark.open:
                    _set(session, [(mark, _changed(mark, "waived", by, why))])
                    done.append(subject)
    return done


def _changed(mark: Mark, state: str, by: str, why: str, replacement: str | None = None) -> Mark:
    return dataclasses.replace(mark, state=state, at=time.time(), by=by, why=why, replacement=replacement)


def resolve_replaced(session: Session, run_id: str) -> None:
    """Within the transaction in which a run becomes PROVEN: marks of the run that it replaces are resolved, but for
    those of bugs that it has itself."""
    own = {mark.bug for mark in marks_of(session, [run_id]).get(run_id, ()) if mark.open}
    query = select(LinkRow).where(LinkRow.kind.in_(("supersedes", "re-evaluation-of")), LinkRow.source == run_id)
    for link in session.scalars(query).all():
        again = link.kind == "re-evaluation-of"
        if again and not _native(session, run_id):
            continue
        for found in marks_of(session, [link.target]).values():
            for mark in found:
                if mark.open and mark.bug not in own and again == (mark.disposition == "re-evaluate"):
                    why = f"run {run_id}, which {'re-evaluates' if again else 'replaces'} it, is PROVEN"
                    _set(session, [(mark, _changed(mark, "resolved", "aqn", why, run_id))])
        # the old run's place in MLflow says by whom it is superseded, whatever its marks
        session.execute(update(RunRow).where(RunRow.id == link.target).values(mark_changes=RunRow.mark_changes + 1))


def _native(session: Session, run_id: str) -> bool:
    """Was it evaluated in the mode of the run's own scores?"""
    rule = session.scalar(select(RunRow.score_rule).where(RunRow.id == run_id))
    return rule is not None and rule.get("mode") == "native"


def link(session: Session, kind: str, source: str, target: str, why: str = "") -> None:
    """Make a link, if there is none."""
    if session.get(LinkRow, (kind, source, target)) is None:
        session.add(LinkRow(kind=kind, source=source, target=target, at=time.time(), why=why))
        session.flush()


@dataclass(frozen=True)
class NewClaim:
    """A claim as it enters. ``body``: as :mod:`experiment_specs.claims` dumps it, and where it stood in its file."""

    id: str
    label: str
    body: dict[str, Any]
    condition_id: str | None
    condition: dict[str, Any] | None
    facts: NewFacts
    position: int = 0
    links: Sequence[tuple[str, str]] = ()
    """(kind, id of another claim)."""


@dataclass(frozen=True)
class Imported:
    """Labels: new ones, those that changed (a new version each), those that are as they were, and those that the
    registry has of this history and the file no longer."""

    created: tuple[str, ...]
    changed: tuple[str, ...]
    same: tuple[str, ...]
    missing: tuple[str, ...]


def import_claims(  # noqa: PLR0917 - one call site
    engine: Engine, name: str, about: dict[str, Any], claims: Sequence[NewClaim], recorded_at: float, schema: int,
    judged: Sequence[Judged], rules: Rules, *, partial: bool = False,
) -> Imported:  # fmt: skip
    """Record a history: new claims, new versions of changed ones. Raises :class:`MovedOnError`.

    ``judged``: what the applied ``rules`` say of the claims. ``partial``: these are not all claims of the history.
    """
    now = time.time()
    with Session(engine) as session, session.begin():
        if current_rules(session) != tuple(rules):
            raise MovedOnError
        _note_history(session, name, about, now)
        have = {row.id: row for row in session.scalars(select(ClaimRow).where(ClaimRow.history == name))}
        fresh = [claim for claim in claims if claim.id not in have]
        changed = [c for c in claims if c.id in have and not _alike(have[c.id], c, recorded_at)]
        versions = {c.id: have[c.id].version + 1 if c.id in have else 1 for c in (*fresh, *changed)}
        _note_conditions(session, (*fresh, *changed), schema)
        rows = {
            claim.id: {
                "id": claim.id, "history": name, "label": claim.label, "version": versions[claim.id],
                "condition_id": claim.condition_id, "recorded_at": recorded_at, "position": claim.position,
                "body": claim.body,
            }
            for claim in (*fresh, *changed)
        }  # fmt: skip
        _in_bulk(session, insert(ClaimRow), [rows[claim.id] for claim in fresh])
        _in_bulk(session, update(ClaimRow), [rows[claim.id] for claim in changed])  # by primary key
        _in_bulk(
            session, insert(ClaimVersionRow),
            [{"claim_id": id_, "version": row["version"], "body": row["body"], "imported_at": now}
             for id_, row in rows.items()],
        )  # fmt: skip
        _store_facts(session, [claim.facts for claim in (*fresh, *changed)])
        _mark(session, [j for j in judged if j.subject in rows], "aqn", "judged when it was imported", now)
        _relink(session, (*fresh, *changed), now)
        ids = {claim.id for claim in claims}
        missing = () if partial else tuple(row.label for id_, row in have.items() if id_ not in ids)
        same = tuple(claim.label for claim in claims if claim.id not in rows)
    return Imported(tuple(c.label for c in fresh), tuple(c.label for c in changed), same, missing)


def _in_bulk(session: Session, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(rows), 1000):
        session.execute(statement, list(rows[start : start + 1000]))


def _note_conditions(session: Session, claims: Iterable[NewClaim], schema: int) -> None:
    wanted = {c.condition_id: c.condition for c in claims if c.condition_id is not None}
    for condition_id, body in wanted.items():
        if session.get(ConditionRow, condition_id) is None:
            session.add(ConditionRow(id=condition_id, schema_version=schema, body=body))
    session.flush()


def _relink(session: Session, claims: Sequence[NewClaim], now: float) -> None:
    """Links as these versions of the claims have them."""
    for start in range(0, len(claims), 500):
        some = [claim.id for claim in claims[start : start + 500]]
        session.execute(delete(LinkRow).where(LinkRow.source.in_(some)))
    _in_bulk(
        session, insert(LinkRow),
        [{"kind": kind, "source": claim.id, "target": target, "at": now, "why": ""}
         for claim in claims for kind, target in dict.fromkeys(claim.links)],
    )  # fmt: skip


def _alike(row: ClaimRow, claim: NewClaim, recorded_at: float) -> bool:
    return (row.body, row.position, row.condition_id, row.recorded_at) == (
        claim.body, claim.position, claim.condition_id, recorded_at,
    )  # fmt: skip


def _note_history(session: Session, name: str, about: Mapping[str, Any], now: float) -> None:
    newest = select(HistoryRow).where(HistoryRow.name == name).order_by(HistoryRow.version.desc()).limit(1)
    last = session.scalar(newest)
    if last is None or last.body != about:
        version = 1 if last is None else last.version + 1
        session.add(HistoryRow(name=name, version=version, body=dict(about), imported_at=now))
        session.flush()
