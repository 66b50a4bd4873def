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

from db.bug_reads import current_rules, facts_stamp, marks_of
from db.listing import chunks
from db.records import Bug, Mark, NewFacts
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
    """What becomes of a mark when its rule answers (anew). None: there is none. A waiver outlasts every answer.

    ``replaced``: a run that is PROVEN and does not have this bug stands in its place.
    """
    if before == "waived":
        return before
    if answer == "clean":
        return None if before is None else "withdrawn"
    if replaced and (answer == "match" or before == "resolved"):
        return "resolved"
    return "affected" if answer == "match" else "unknown"


def next_marks(  # noqa: PLR0917 - all that a decision depends on
    judged: Sequence[Judged], have: Mapping[tuple[str, str], Mark], stand_ins: StandIns, known: Mapping[str, float],
    by: str, why: str, at: float,
) -> list[tuple[Mark | None, Mark]]:  # fmt: skip
    """(mark before, mark after) of everything that rules say. Pure.

    ``have``: marks by (bug, subject), those of stand-ins too. ``known``: bug → since when; an evaluation from before
    that was made with the bug, for all that anybody knew.
    """
    answers = {(j.bug, j.subject): j.answer for j in judged}

    def spoilt(bug: str, run: str) -> bool:
        mark, answer = have.get((bug, run)), answers.get((bug, run))
        if mark is not None and mark.state == "waived":
            return False
        return answer != "clean" if answer is not None else mark is not None and mark.open

    changes = []
    for j in judged:
        before = have.get((j.bug, j.subject))
        wanted = "re-evaluation-of" if j.disposition == "re-evaluate" else "supersedes"
        stand_in = next(
            (
                run
                for kind, run, made in stand_ins.get(j.subject, ())
                if kind == wanted and not spoilt(j.bug, run)
                and (kind == "supersedes" or made >= known.get(j.bug, at))
            ),
            None,
        )  # fmt: skip
        after = next_state(before.state if before else None, j.answer, replaced=stand_in is not None)
        if after is None:
            continue
        same = before is not None and before.state == after
        who, reason, when = (before.by, before.why, before.at) if same and before else (by, why, at)
        mark = Mark(
            j.bug, j.subject, after, j.effect, j.disposition, j.rule_version, j.facts, when, who, reason,
            stand_in if after == "resolved" else None,
        )  # fmt: skip
        changes.append((before, mark))
    return changes


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
    for some in chunks(rows):
        subjects = [row["subject"] for row in some]
        query = select(FactsRow.subject, FactsRow.revision).where(FactsRow.subject.in_(subjects))
        before = dict(session.execute(query).all())
        session.execute(delete(FactsRow).where(FactsRow.subject.in_(subjects)))
        session.execute(insert(FactsRow), [row | {"revision": before.get(row["subject"], 0) + 1} for row in some])


def apply_rule(
    engine: Engine, bug: Bug, judged: Sequence[Judged], new_facts: Sequence[NewFacts], seen: tuple[int, int]
) -> dict[str, int]:
    """Record a (version of a) rule and mark whom it affects. Returns how many marks are in which state afterwards.

    ``seen``: :func:`db.bug_reads.stamp` from before the facts were read. Raises :class:`MovedOnError` where facts have
    changed since, or another version of the rule has come.
    """
    with Session(engine) as session, session.begin():
        newest = session.scalar(select(BugRow).where(BugRow.bug == bug.bug).order_by(BugRow.version.desc()).limit(1))
        other = newest is not None and (newest.version > bug.version or
                                        (newest.version == bug.version and newest.text != bug.text))  # fmt: skip
        if other or facts_stamp(session) != seen:
            raise MovedOnError
        _store_facts(session, new_facts)
        if newest is None or newest.version < bug.version:
            session.add(BugRow(**{name: getattr(bug, name) for name in Bug.__dataclass_fields__}))
            session.flush()
        _mark(session, judged, bug.by, bug.why, bug.at)
        query = select(MarkRow.state, func.count()).where(MarkRow.bug == bug.bug).group_by(MarkRow.state)
        return {state: count for state, count in session.execute(query)}  # noqa: C416 - rows are not tuples to mypy


def _mark(session: Session, judged: Sequence[Judged], by: str, why: str, at: float) -> None:
    _set(session, _decided(session, judged, by, why, at))


def _decided(
    session: Session, judged: Sequence[Judged], by: str, why: str, at: float
) -> list[tuple[Mark | None, Mark]]:
    subjects = [j.subject for j in judged]
    stood_in = stand_ins_for(session, subjects)
    runs = {run for found in stood_in.values() for _, run, _ in found}
    marked = marks_of(session, list({*subjects, *runs}))
    have = {(m.bug, m.subject): m for group in marked.values() for m in group}
    return next_marks(judged, have, stood_in, _known_since(session), by, why, at)


def _known_since(session: Session) -> dict[str, float]:
    """Bug → when it was first applied."""
    return dict(session.execute(select(BugRow.bug, func.min(BugRow.at)).group_by(BugRow.bug)).all())


def foreseen(engine: Engine, judged: Sequence[Judged]) -> list[tuple[Mark | None, Mark]]:
    """What marking would change, without changing it."""
    with Session(engine.execution_options(read_only=True)) as session:
        return _decided(session, judged, "", "", time.time())


def _set(session: Session, changes: Sequence[tuple[Mark | None, Mark]]) -> None:
    """Write marks and the record of their changes; nothing where nothing changes."""
    changes = [(before, mark) for before, mark in changes if before is None or _differ(before, mark)]
    for some in chunks(changes):
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
        _touch(session, [mark.subject for _, mark in some])


def _touch(session: Session, subjects: Sequence[str]) -> None:
    """MLflow is to be told anew of these runs, and of the evaluations that stand and fall with them."""
    query = select(LinkRow.source).where(LinkRow.kind == "re-evaluation-of", LinkRow.target.in_(subjects))
    for ids in chunks([*subjects, *session.scalars(query)]):
        session.execute(
            update(RunRow).where(RunRow.id.in_(ids)).values(mark_changes=RunRow.mark_changes + 1),
            execution_options={"synchronize_session": False},
        )


def _differ(before: Mark, after: Mark) -> bool:
    return any(
        getattr(before, name) != getattr(after, name)
        for name in ("state", "effect", "disposition", "rule_version", "facts", "replacement")
    )


def _row(mark: Mark) -> dict[str, Any]:
    return {name: getattr(mark, name) for name in Mark.__dataclass_fields__} | {"facts": list(mark.facts)}


StandIns = dict[str, list[tuple[str, str, float]]]
"""Subject → (kind of link, run, when it was made)."""


def stand_ins_for(session: Session, subjects: Sequence[str]) -> StandIns:
    """The PROVEN runs that replace each, directly or by replacing what replaces it, or evaluate its own score anew."""
    found: StandIns = {}
    for chunk in chunks(subjects):
        query = (
            select(LinkRow.target, LinkRow.kind, RunRow)
            .join(RunRow, RunRow.id == LinkRow.source)
            .where(LinkRow.kind.in_(("supersedes", "re-evaluation-of")), RunRow.verdict == "PROVEN")
            .where(LinkRow.target.in_(chunk))
            .order_by(LinkRow.at)
        )
        for target, kind, run in session.execute(query):
            if kind == "supersedes" or _of_its_score(session, run, target):
                found.setdefault(target, []).append((kind, run.id, run.created_at))
    nearer = {run for runs in found.values() for kind, run, _ in runs if kind == "supersedes"}
    further = stand_ins_for(session, list(nearer)) if nearer else {}
    for runs in found.values():
        for kind, nearest, _ in list(runs):
            if kind == "supersedes":
                runs += [one for one in further.get(nearest, ()) if one[0] == "supersedes"]
    return found


def replaced(session: Session, subjects: Sequence[str]) -> set[str]:
    """Those of them in whose place a PROVEN run stands."""
    found = stand_ins_for(session, subjects)
    return {subject for subject, runs in found.items() if any(kind == "supersedes" for kind, *_ in runs)}


def waive(engine: Engine, bug: str, subjects: Sequence[str], by: str, why: str, *, undo: bool = False) -> list[str]:
    """Say that a mark does not count, and why; or take that back. Returns those that had an open (waived) mark."""
    done = []
    with Session(engine) as session, session.begin():
        for subject, found in marks_of(session, subjects).items():
            for mark in found:
                if mark.bug == bug and (mark.state == "waived" if undo else mark.open):
                    _set(session, [(mark, _changed(mark, "affected" if undo else "waived", by, why))])
                    done.append(subject)
    return done


def _changed(mark: Mark, state: str, by: str, why: str, replacement: str | None = None) -> Mark:
    return dataclasses.replace(mark, state=state, at=time.time(), by=by, why=why, replacement=replacement)


def resolve_replaced(session: Session, run_id: str) -> None:
    """Within the transaction in which a run becomes PROVEN: marks of what it replaces, and of what that replaced, are
    resolved, but for those of bugs that it has itself. An evaluation resolves those of bugs that a new evaluation
    mends, if they were known when it was made."""
    run = session.get_one(RunRow, run_id)
    own = {mark.bug for mark in marks_of(session, [run_id]).get(run_id, ()) if mark.open}
    since = _known_since(session)
    for target, again in _replaces(session, run):
        for found in marks_of(session, [target]).values():
            for mark in found:
                mends = mark.disposition == "re-evaluate" and run.created_at >= since.get(mark.bug, 0.0)
                if mark.open and mark.bug not in own and (mends if again else mark.disposition != "re-evaluate"):
                    why = f"run {run_id}, which {'re-evaluates' if again else 'replaces'} it, is PROVEN"
                    _set(session, [(mark, _changed(mark, "resolved", "aqn", why, run_id))])
        _touch(session, [target])  # by whom it is superseded, whatever its marks


def _replaces(session: Session, run: RunRow) -> list[tuple[str, bool]]:
    """(subject, is it an evaluation of it?) of everything that a run stands in the place of."""
    query = select(LinkRow.target).where(LinkRow.kind == "re-evaluation-of", LinkRow.source == run.id)
    found = [(target, True) for target in session.scalars(query) if _of_its_score(session, run, target)]
    nearest, seen = [run.id], {run.id}
    while nearest:
        query = select(LinkRow.target).where(LinkRow.kind == "supersedes", LinkRow.source.in_(nearest))
        nearest = [target for target in session.scalars(query) if target not in seen]
        seen.update(nearest)
        found += [(target, False) for target in nearest]
    return found


def _of_its_score(session: Session, evaluation: RunRow, source: str) -> bool:
    """Was the checkpoint of the run's score evaluated, in the mode of that score?"""
    run = session.get(RunRow, source)
    if run is None or evaluation.score_rule.get("mode") != "native":
        return False
    condition = session.get_one(ConditionRow, run.condition_id).body
    noised = bool((condition.get("aqn") or {}).get("during_eval"))  # its own scores are not of the lifted noise
    return not noised and evaluation.plan.get("source", {}).get("step") == run.plan["total_steps"]


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
    recorded_at: float | None = None
    """Seconds since 1970; None: as the history."""


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
        _note_history(session, name, about, now, partial=partial)
        have = {row.id: row for row in session.scalars(select(ClaimRow).where(ClaimRow.history == name))}
        days = {c.id: recorded_at if c.recorded_at is None else c.recorded_at for c in claims}
        fresh = [claim for claim in claims if claim.id not in have]
        changed = [c for c in claims if c.id in have and not _alike(have[c.id], c, days[c.id])]
        versions = {c.id: have[c.id].version + 1 if c.id in have else 1 for c in (*fresh, *changed)}
        _note_conditions(session, (*fresh, *changed), schema)
        rows = {
            claim.id: {
                "id": claim.id, "history": name, "label": claim.label, "version": versions[claim.id],
                "condition_id": claim.condition_id, "recorded_at": days[claim.id], "position": claim.position,
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
    for some in chunks(rows):
        session.execute(statement, list(some))


def _note_conditions(session: Session, claims: Iterable[NewClaim], schema: int) -> None:
    wanted = {c.condition_id: c.condition for c in claims if c.condition_id is not None}
    for condition_id, body in wanted.items():
        if session.get(ConditionRow, condition_id) is None:
            session.add(ConditionRow(id=condition_id, schema_version=schema, body=body))
    session.flush()


def _relink(session: Session, claims: Sequence[NewClaim], now: float) -> None:
    """Links as these versions of the claims have them."""
    for some in chunks(claims):
        session.execute(delete(LinkRow).where(LinkRow.source.in_([claim.id for claim in some])))
    _in_bulk(
        session, insert(LinkRow),
        [{"kind": kind, "source": claim.id, "target": target, "at": now, "why": ""}
         for claim in claims for kind, target in dict.fromkeys(claim.links)],
    )  # fmt: skip


def _alike(row: ClaimRow, claim: NewClaim, recorded_at: float) -> bool:
    return (row.body, row.position, row.condition_id, row.recorded_at) == (
        claim.body, claim.position, claim.condition_id, recorded_at,
    )  # fmt: skip


def _note_history(session: Session, name: str, about: Mapping[str, Any], now: float, *, partial: bool) -> None:
    """What a file says beside its runs; a few curves more say nothing of what is there."""
    newest = select(HistoryRow).where(HistoryRow.name == name).order_by(HistoryRow.version.desc()).limit(1)
    last = session.scalar(newest)
    if last is None or (last.body != about and not partial):
        version = 1 if last is None else last.version + 1
        session.add(HistoryRow(name=name, version=version, body=dict(about), imported_at=now))
        session.flush()
