"""Why an attempt ended badly, read from its log: a table of causes, and one rule for choosing between them. Pure.

What verl reports last is seldom what went wrong: a worker runs out of memory, its actor dies, the trainer complains of
the dead actor, verl's rollout manager of "an empty list as keys". So every statement of the log is looked at
(:mod:`.statements` says what one is, :mod:`.signs` how it names a cause), and the cause that ranks highest counts; of
equals the one that was there first. These do not count: what stands before the last training step that was completed,
what says that it is harmless or tried again, a loss of a process that said later that it recovered from it, and an own
error or a bare class from which, in a chain of exceptions or further down in its message, something more definite came.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from orchestrator.scheduler.signs import Place, Signs, is_mistake
from orchestrator.scheduler.statements import EXCEPTION, Statement, read_statement, read_statements

Budget = Literal["infrastructure", "memory", "hang", "unexplained", "own"]
"""Whose fault it was; each has its own number of tries. ``own``: none, it would come again."""


@dataclass(frozen=True)
class Cause:
    """``rank``: how near to the root; a cause beats those of lower rank. ``wait``: seconds before the first try again;
    each later one waits four times as long. ``about``: what it means, and what to do, as `aqn show` says it. ``signs``:
    what a statement of it has; ``there``: what it has at certain places; ``unless``: where it is something else."""

    name: str
    budget: Budget
    rank: int
    about: str
    signs: Signs
    there: tuple[Place, ...]
    unless: Place
    wait: float = 0.0
    any_level: bool = False
    """Do lines count that call themselves a warning or information?"""
    announced: bool = False
    """Is it said some time before the run ends?"""

    outside: bool = False
    """Does it arise outside the code? Then an exception that says that code or a value is wrong does not say it."""

    def said_by(self, statement: Statement) -> bool:
        if (statement.low and not self.any_level) or (self.outside and is_mistake(statement.text)):
            return False
        said = self.signs.said_by(statement) or any(place.said_by(statement) for place in self.there)
        return said and not self.unless.holds(statement)


_SIGNS = [field.name for field in fields(Signs)]


def _signs(row: dict[str, Any]) -> Signs:
    return Signs(**{key: tuple(row.pop(key)) for key in _SIGNS if key in row})


def _cause(name: str, row: dict[str, Any]) -> Cause:
    signs = _signs(row)
    there = tuple(Place(tuple(place.pop("at")), _signs(place)) for place in row.pop("there", ()))
    unless = Place(tuple(row.pop("unless", ())))
    return Cause(name, signs=signs, there=there, unless=unless, **row)


TABLE = Path(__file__).with_name("causes.yaml")
CAUSES = tuple(_cause(name, row) for name, row in yaml.safe_load(TABLE.read_text(encoding="utf-8")).items())
BY_NAME = {cause.name: cause for cause in CAUSES}

_STEP_DONE = re.compile(r"\bstep:\d+ - ")
_REMOTE = re.compile(r"^\S*RayTaskError\(\w+\): ray::")
"""The head of another process's traceback; what it died of stands at its end."""
_BARE_CLASS = re.compile(r"^[\w.]+:?$")
SIGNALLED = range(129, 193)
"""Exit codes of commands that a signal ended, as shells give them: 128 and the signal's number."""


@dataclass(frozen=True)
class Found:
    """A cause and the line that says it; no line where silence or a signal does."""

    cause: Cause
    line: str | None


@cache
def _ranked() -> tuple[Cause, ...]:
    """The highest rank first; of equals, the one that the table has first."""
    return tuple(sorted(CAUSES, key=lambda cause: -cause.rank))


def find_cause(log: Sequence[str], error: str | None, exit_code: int | None) -> Found:
    """``log``: the lines that an attempt wrote; ``error``: its own last word; ``exit_code``: negative for a signal,
    None where nobody saw it end."""
    candidates = _candidates(read_statements(log))
    if error:
        last = read_statement(error)
        candidates.append(_match(last) or Found(BY_NAME["own-error"], error))
    best = max(candidates, key=lambda found: found.cause.rank, default=None)
    if best is not None and (best.cause.rank > BY_NAME["consequence"].rank or not _by_signal(exit_code)):
        return best
    if _by_signal(exit_code):
        return Found(BY_NAME["killed"], None)
    return best or Found(BY_NAME["unknown"], None)


def _by_signal(exit_code: int | None) -> bool:
    return exit_code is None or exit_code < 0 or exit_code in SIGNALLED


def _candidates(statements: Sequence[Statement]) -> list[Found]:
    """What may have ended the attempt, in the order of the log. Own errors that were only logged come after the rest:
    the process that logged one continued."""
    begin = max((index + 1 for index, said in enumerate(statements) if _STEP_DONE.search(said.text)), default=0)
    recovered = {said.writer: index for index, said in enumerate(statements) if said.recovery}
    matches = [_match(said, only_announced=index < begin) for index, said in enumerate(statements)]
    found = {index: match for index, match in enumerate(matches) if match is not None}
    order = sorted(found, key=lambda index: statements[index].logged and found[index].cause.name == "own-error")
    return [
        match
        for index, match in ((index, found[index]) for index in order)
        if not (index < recovered.get(statements[index].writer, 0) and _transient(match.cause))
        and not any(_replaced(match, matches[outcome]) for outcome in statements[index].outcomes)
    ]


def _transient(cause: Cause) -> bool:
    return cause.budget == "infrastructure"


def _replaced(match: Found, outcome: Found | None) -> bool:
    """Was it an own error (a file that was looked for, a package that is optional), or a class without a message, of
    which something more definite came?"""
    if outcome is None or outcome.cause in (BY_NAME["own-error"], BY_NAME["consequence"]):
        return False
    return match.cause.budget == "own" or (match.line is not None and _BARE_CLASS.match(match.line) is not None)


def _match(statement: Statement, *, only_announced: bool = False) -> Found | None:
    """What a statement says, if it says anything that ends a run."""
    if only_announced:
        cause = next((cause for cause in _ranked() if cause.announced and cause.said_by(statement)), None)
        return None if cause is None or statement.harmless else Found(cause, statement.text)
    if statement.harmless:
        return None
    if _REMOTE.match(statement.text):
        return Found(BY_NAME["consequence"], statement.text)
    for cause in _ranked():
        if cause.said_by(statement):
            return Found(cause, statement.text)
    if statement.low or not (statement.raised or EXCEPTION.match(statement.text)):
        return None
    return Found(BY_NAME["own-error"], statement.text)
