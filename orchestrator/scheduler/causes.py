"""Why an attempt ended badly, read from its log: a table of causes, and one rule for choosing between them. Pure.

What verl reports last is seldom what went wrong: a worker runs out of memory, its actor dies, the trainer complains of
the dead actor, verl's rollout manager of "an empty list as keys". So every line is looked at, and the cause that ranks
highest counts; of equals the one that was there first. What stands before the last training step that was completed did
not end the run, and is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from orchestrator.raylog import plain
from workers.launch import TOLD_TO_GO

Budget = Literal["infrastructure", "memory", "hang", "unexplained", "own"]
"""Whose fault it was; each has its own number of tries. ``own``: none, it would come again."""


@dataclass(frozen=True)
class Cause:
    """``rank``: how near to the root; a cause beats those of lower rank. ``wait``: seconds before the first try again;
    each later one waits four times as long. ``about``: what it means, and what to do, as `aqn show` says it."""

    name: str
    budget: Budget
    rank: int
    about: str
    patterns: tuple[str, ...] = ()
    wait: float = 0.0
    any_level: bool = False
    """Do lines count that call themselves a warning or information?"""
    announced: bool = False
    """Is it said some time before the run ends?"""


def _read() -> tuple[Cause, ...]:
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return tuple(Cause(name, **said | {"patterns": tuple(said.get("patterns", ()))}) for name, said in table.items())


TABLE = Path(__file__).with_name("causes.yaml")
CAUSES = _read()
BY_NAME = {cause.name: cause for cause in CAUSES}

_STEP_DONE = re.compile(r"\bstep:\d+ - ")
_LOW_LEVEL = re.compile(r"\b(WARN(ING)?|INFO|DEBUG)\b|\[[WI]\d* |\[[\d :,-]+ [WI] |Warning:|warnings\.warn")
"""A line that calls itself a warning or information."""
_REMOTE = re.compile(r"^\S*RayTaskError\(\w+\): ray::")
"""The head of another process's traceback; what it died of stands at its end."""
_VLLM_ERROR = re.compile(r"^(?:ERROR|CRITICAL) \d\d-\d\d [\d:]+ \[[\w.]+:\d+\] ?")
"""Before every line of a traceback that vLLM logs."""
_HARMLESS = re.compile(
    r"[Rr]etry(ing)?\b|trying (the )?(next|another)|try(ing)? again|will (be )?(retried|continue|use)"
    r"|thrown while requesting"
    r"|[Ff]all(ing|s)? ?back|(was|were) (ignored|caught|skipped)|[Ii]gnor(ed|ing)\b|[Rr]ecovered|^If you\b"
    r"|(optional|cache).*(skip|disabled?|not written)"
)
"""What says of itself that it ended nothing."""
_ERROR_LINE = re.compile(
    r"^(?:\S*\s)?(?:[\w.]+\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Timeout|Warning))\b(?:\([\w.]+\))?(?::|$)"
)
_SETTING = re.compile(r"^[\s{\[(]*['\"][\w.@/-]+['\"]\s*:")
"""A line of a printed configuration: verl prints all of its own, with the names of what might have gone wrong."""
_FRAME = re.compile(
    r'^\s*File "|^\s*(raise|return|assert|if|with|for|def|self\.|await|[\w.]+ = )\b|^\s*~*\^+|^\s*Traceback'
)


@dataclass(frozen=True)
class Found:
    """A cause and the line that says it; no line where silence or a signal does."""

    cause: Cause
    line: str | None


@cache
def _compiled() -> tuple[tuple[Cause, re.Pattern[str]], ...]:
    """The highest rank first."""
    ranked = sorted(CAUSES, key=lambda cause: -cause.rank)
    return tuple((cause, re.compile("|".join(cause.patterns))) for cause in ranked if cause.patterns)


def find_cause(log: Sequence[str], error: str | None, exit_code: int | None) -> Found:
    """``log``: the lines that an attempt wrote; ``error``: its own last word; ``exit_code``: negative for a signal,
    None where nobody saw it end."""
    lines = [_VLLM_ERROR.sub("", plain(line)) for line in _unfolded(log)]
    begin = max((index + 1 for index, line in enumerate(lines) if _STEP_DONE.search(line)), default=0)
    all_found = [(index, found) for index, line in enumerate(lines) if (found := _match(line)) is not None]
    candidates = [found for index, found in all_found if index >= begin or found.cause.announced]
    if error:
        candidates.append(_of_error(error))
    best = max(candidates, key=lambda found: found.cause.rank, default=None)
    if best is not None and (best.cause.rank > BY_NAME["consequence"].rank or not _by_signal(exit_code)):
        return best
    if _by_signal(exit_code):
        return Found(BY_NAME["killed"], None)
    return best or Found(BY_NAME["unknown"], None)


def _by_signal(exit_code: int | None) -> bool:
    return exit_code is None or exit_code < 0 or exit_code == TOLD_TO_GO


def _unfolded(log: Iterable[str]) -> Iterable[str]:
    """Progress bars write many lines over each other."""
    for line in log:
        yield from line.rstrip("\n").split("\r")


def _match(line: str) -> Found | None:
    """What a line of the log says, if it says anything that ends a run."""
    if not line or _FRAME.match(line) or _SETTING.match(line) or _HARMLESS.search(line):
        return None
    if _REMOTE.match(line):
        return Found(BY_NAME["consequence"], line)
    low = _LOW_LEVEL.search(line) is not None
    for cause, pattern in _compiled():
        if (cause.any_level or not low) and pattern.search(line):
            return Found(cause, line)
    return Found(BY_NAME["own-error"], line) if not low and _ERROR_LINE.match(line) else None


def _of_error(error: str) -> Found:
    return _match(error) or Found(BY_NAME["own-error"], error)
