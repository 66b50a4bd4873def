"""Rules over the registry: who is affected, before anything is written; then marks, in one transaction.

Everything that ends or enters is judged by the rules that stand: runs when they end (:func:`judged_at_the_end`), claims
when they are imported, and all of them when a rule is applied or amended.
"""

from __future__ import annotations

import getpass
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from db import bug_reads, bug_writes, reads
from db.bug_writes import Judged, MovedOnError, Rules
from db.records import Bug, NewFacts, Run
from experiment_specs.bug_rules import (
    Answer,
    Comparison,
    Header,
    Point,
    Rule,
    find_rule,
    load_rule,
    rule_from_text,
    shipped_rules,
)
from experiment_specs.errors import SpecError
from orchestrator.bugs.evaluate import CodeBefore, Finding, evaluate, names_used
from orchestrator.bugs.facts import FACTS_VERSION, facts_of_run, unreadable
from orchestrator.measured import measured
from orchestrator.verdict import Measured

TRIES = 20
"""How often a transaction is made anew because a run ended, or a rule came, in between."""


@dataclass(frozen=True)
class Checked:
    """What a rule says of one run or claim."""

    subject: str
    label: str
    finding: Finding


@dataclass(frozen=True)
class Check:
    """What a rule says of everything in the registry."""

    rule: Rule
    found: tuple[Checked, ...]
    new_facts: tuple[NewFacts, ...]
    """Of runs whose facts were not recorded yet, or in an older way."""
    seen: tuple[int, int]
    """What the registry's facts were when they were read."""
    idle: tuple[str, ...] = ()
    """Names in the rule's lists that no run or claim has."""

    def of(self, answer: Answer) -> list[Checked]:
        return [one for one in self.found if one.finding.answer == answer]


def user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, in a container for example
        return "unknown"


# ------------------------------------------------------------------------------------------------------ judging


def check(engine: Engine, rule: Rule) -> Check:
    """Judge every run that ended and every claim. Writes nothing."""
    seen = bug_reads.stamp(engine)
    fresh = tuple(_facts_anew(engine, run_id) for run_id in bug_reads.without_facts(engine, FACTS_VERSION))
    renewed = {facts.subject for facts in fresh}
    names = _names(engine, rule)
    labels = bug_reads.names(engine)
    known = (facts for facts in bug_reads.facts(engine) if facts.subject not in renewed)
    twins = {name: bug_reads.twins(engine, name.removesuffix("_twins"), fresh) for name in _twins_asked(rule)}
    code_before = _placed()

    def judged() -> Iterator[Checked]:
        for facts in (*fresh, *known):
            subject = facts.subject
            body = _with_twins(facts.body, {name: int(subject in found) for name, found in twins.items()})
            yield Checked(subject, labels.get(subject, subject), ask(rule, body, names(subject), code_before))

    found = tuple(judged())
    listed = {entry.run for entry in (*rule.header.except_, *rule.header.include)}
    idle = listed - {name for one in found for name in names(one.subject)} if listed else set()
    return Check(rule, found, fresh, seen, tuple(sorted(idle)))


def _names(engine: Engine, rule: Rule) -> Callable[[str], tuple[str, ...]]:
    """The names by which a rule's lists may mean a run: its id, its label, aliases. Of a run that was made in the place
    of another, which has the same label, the id alone."""
    if not (rule.header.except_ or rule.header.include):
        return lambda subject: (subject,)
    labels, aliases, stand_ins = bug_reads.names(engine), bug_reads.aliases(engine), bug_reads.stand_ins(engine)

    def names(subject: str) -> tuple[str, ...]:
        if subject in stand_ins:
            return (subject,)
        return (subject, labels.get(subject, subject), *aliases.get(subject, ()))

    return names


def _with_twins(body: Mapping[str, Any], counts: Mapping[str, int]) -> Mapping[str, Any]:
    if not counts or not body.get("artefact"):
        return body
    hashes = body["artefact"]
    known = {name: count for name, count in counts.items() if hashes.get(name.removesuffix("_twins")) is not None}
    return {**body, "artefact": {**hashes, **known}}


def _facts_anew(engine: Engine, run_id: str) -> NewFacts:
    run = reads.runs(engine, ids=[run_id])[0]
    facts = measured(engine, run.attempt.id) if run.attempt else []
    return facts_for(engine, run, run.state, run.verdict, facts)


def facts_for(engine: Engine, run: Run, state: str, verdict: str | None, facts: Sequence[Measured]) -> NewFacts:
    """``state`` and ``verdict``: as the run ends; the score of some rules is that of a run that has ended."""
    run = replace(run, state=state, verdict=verdict)
    try:
        steps = {run.curve[0].step, run.score.step} if run.curve and run.score else set()
        outcomes = {step: packed for step in steps if (packed := _outcomes(engine, run, step)) is not None}
        return facts_of_run(run, facts, outcomes)
    except (OperationalError, OSError):
        raise
    except Exception:  # noqa: BLE001 - evidence that cannot be understood: the run is over all the same
        return unreadable(run)


def _outcomes(engine: Engine, run: Run, step: int) -> bytes | None:
    return reads.outcomes(engine, run.attempt.id, step) if run.attempt else None


def rules(engine: Engine) -> list[Rule]:
    """Every applied rule in its newest version."""
    return [_readable(bug) for bug in bug_reads.bugs(engine)]


def _readable(bug: Bug) -> Rule:
    """A rule that this version of the code cannot read answers unknown: runs must be able to end, and none is valid
    beside a rule that nobody could ask."""
    try:
        return parsed(bug.text)
    except SpecError:
        values: dict[str, Any] = {
            "bug": bug.bug, "version": bug.version, "title": bug.title, "found": "1970-01-01", "status": bug.status,
            "disposition": bug.disposition, "except_": (), "include": (),
        }  # fmt: skip
        header = Header.model_construct(**values)  # unchecked: words of a newer version
        return Rule(header, Comparison("record", "a rule that this version of aqn cannot read", "is", True), bug.text)


@cache
def parsed(text: str) -> Rule:
    """A rule as the registry keeps it."""
    with tempfile.TemporaryDirectory() as folder:
        return rule_from_text(text, Path(folder) / "rule.yaml")


def named_rule(engine: Engine, name: str) -> Rule:
    """A rule by its file, by the name of an applied one, or of a shipped one; of the last two, the later version."""
    applied = {bug.bug: bug for bug in bug_reads.bugs(engine)}
    if Path(name).suffix in (".yaml", ".yml") or name not in applied:
        return find_rule(name, applied)
    shipped = shipped_rules().get(name)
    own = parsed(applied[name].text)
    if shipped is not None and (other := load_rule(shipped)).header.version > own.header.version:
        return other
    return own


def versions_of(applied: Sequence[Rule]) -> Rules:
    return tuple((rule.name, rule.header.version) for rule in applied)


def judge_one(engine: Engine, applied: Sequence[Rule], facts: NewFacts, names: Sequence[str]) -> list[Judged]:
    """What rules say of one run or claim that enters, and of the runs that it turns out to be the twin of.

    ``names``: its id, label and aliases.
    """
    code_before = _placed()
    judged = []
    for rule in applied:
        asked = _twins_asked(rule)
        twins = {name: _twins_of(engine, facts, name) for name in asked}
        body = _with_twins(facts.body, {name: int(bool(found)) for name, found in twins.items()})
        judged.append(_judged(rule, facts.subject, ask(rule, body, names, code_before)))
        newly = {other for found in twins.values() if len(found) < bug_reads.MOST_TWINS for other in found}
        called = _names(engine, rule) if newly else None
        for other in bug_reads.facts(engine, sorted(newly)):
            known = {name: int(bool(_twins_of(engine, other, name)) or other.subject in twins[name]) for name in asked}
            finding = ask(rule, _with_twins(other.body, known), called(other.subject) if called else (), code_before)
            judged.append(_judged(rule, other.subject, finding))
    return judged


def ask(rule: Rule, body: Mapping[str, Any], names: Sequence[str], code_before: CodeBefore) -> Finding:
    """What a rule says of facts. One that cannot be asked of them answers unknown, and stops nobody."""
    try:
        return evaluate(rule, body, names, code_before)
    except Exception as error:  # noqa: BLE001 - facts of an older version, a rule of a newer one
        return Finding("unknown", (f"cannot be judged: {type(error).__name__}: {error}",))


def _twins_asked(rule: Rule) -> list[str]:
    """Facts of a rule that only the registry as a whole can tell."""
    return [n for source, n in names_used(rule.affects) if source == "artefact" and n.endswith("_twins")]


def _twins_of(engine: Engine, facts: NewFacts, name: str) -> list[str]:
    """Of a run that may not be recorded yet: runs of another condition or seed with the same hash."""
    column = name.removesuffix("_twins")
    value = facts.answers if column == "answers" else facts.checkpoint
    return bug_reads.twins_of(engine, column, value, facts.subject) if value is not None else []


def _judged(rule: Rule, subject: str, finding: Finding) -> Judged:
    header = rule.header
    return Judged(rule.name, header.version, rule.effect, header.disposition, subject, finding.answer, finding.facts)


def judged_at_the_end(
    engine: Engine, run: Run, state: str, verdict: str | None, facts: Sequence[Measured]
) -> tuple[NewFacts, list[Judged], Rules]:
    """What the transaction that ends a run records of it for the rules that stand."""
    new = facts_for(engine, run, state, verdict, facts)
    applied = rules(engine)
    names = (run.id,) if bug_reads.stand_ins(engine, run.id) else (run.id, run.label)
    return new, judge_one(engine, applied, new, names), versions_of(applied)


# ------------------------------------------------------------------------------------------------------ applying


@dataclass(frozen=True)
class Change:
    """What applying a rule would change for one run or claim. None: no mark."""

    subject: str
    label: str
    before: str | None
    after: str
    facts: tuple[str, ...]


def changes(engine: Engine, found: Check) -> list[Change]:
    """What applying the rule would change. Writes nothing."""
    judged = [_judged(found.rule, one.subject, one.finding) for one in found.found]
    labels = {one.subject: one.label for one in found.found}
    return [
        Change(after.subject, labels[after.subject], before.state if before else None, after.state, after.facts)
        for before, after in bug_writes.foreseen(engine, judged)
        if before is None or before.state != after.state or before.effect != after.effect
    ]


def apply(engine: Engine, rule: Rule, why: str) -> tuple[dict[str, int], Check]:
    """Record the rule and mark whom it affects. The same version again judges anew.

    Raises :class:`SpecError` where a newer version stands, or the same one with another text.
    """
    for _ in range(TRIES):
        check_version(engine, rule)
        found = check(engine, rule)
        judged = [_judged(rule, one.subject, one.finding) for one in found.found]
        bug = Bug(
            rule.name, rule.header.version, rule.header.status, rule.header.disposition, rule.header.title, rule.text,
            time.time(), user(), why,
        )  # fmt: skip
        try:
            return bug_writes.apply_rule(engine, bug, judged, found.new_facts, found.seen), found
        except MovedOnError:
            continue
    raise RuntimeError("runs end faster than they can be judged")  # pragma: no cover - twenty times in a row


def check_version(engine: Engine, rule: Rule) -> None:
    """Raises :class:`SpecError` where the registry has a newer version, or another text of this one."""
    known = {bug.bug: bug for bug in bug_reads.bugs(engine)}.get(rule.name)
    if known is None:
        return
    where = {"file": str(rule.source), "key": "version", "value": rule.header.version}
    if rule.header.version < known.version:
        raise SpecError(f"version {known.version} of this rule is applied already", **where)  # type: ignore[arg-type]
    if rule.header.version == known.version and rule.text != known.text:
        raise SpecError(
            f"version {known.version} is applied with another text; raise the version, then `aqn bugs amend`",
            **where,  # type: ignore[arg-type]
        )


# ------------------------------------------------------------------------------------------------------ code


def _placed() -> CodeBefore:
    """Did a run's code come before a point? By git ancestry; by date where a commit is not recorded or not known."""

    def before(point: Point, code: Mapping[str, Any]) -> bool | None:
        commit = code.get("commit")
        if point.commit is not None and commit is not None:
            there = contains(commit, point.commit)
            if there is not None:
                return not there
        if point.date is not None and code.get("date") is not None:
            return bool(code["date"] < point.date)
        return None

    return before


ROOT = Path(__file__).resolve().parents[2]


@cache
def contains(newer: str, older: str) -> bool | None:
    """Does the history of commit ``newer`` contain ``older``? None where git does not know one of them."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "merge-base", "--is-ancestor", older, newer], cwd=ROOT, capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {0: True, 1: False}.get(done.returncode)
