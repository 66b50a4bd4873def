"""What the lines of a trainer's log state, without what surrounds it. Pure.

A log mixes many processes. Each line loses its colours, its writer (Ray's workers, torchrun's ranks) and its header
(time, level, file and line of the logger); lines that quote code, a command, a configuration or a model's answer state
nothing, and so do tracebacks of errors that were caught. What is left is a :class:`Statement`, which knows its level
and the files of the traceback that it ends.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.raylog import ANSI, REPEATED, WRITER

INNER_FRAMES = 6
"""How many of a traceback's innermost files say where an error arose; library helpers take up the last few."""
MAX_CHARACTERS = 3000
"""How much of a statement is read: what it says stands near its beginning, and some lines hold whole batches."""
LINE_CHARACTERS = 4 * MAX_CHARACTERS
"""How much of a line is looked at: a statement, and before it colours, labels, a header, and indentation."""
RETRY_LINES = 3
"""Within how many lines of its writer an announced retry belongs to the error before it."""


@dataclass(frozen=True)
class Statement:
    """One line.

    ``low``: it calls itself a warning or information. ``logged``: a logger wrote it, or the line before the traceback
    that it ends, so its process continued. ``raised``: it is the exception that ends a traceback. ``files``: the
    innermost files of the traceback that it ends or, in a message of several lines, follows. ``outcomes``: the indices
    of the exceptions that were raised from this one or while it was being handled, and of further lines of its message.
    ``harmless``: it says itself, or a line after it, that it ended nothing. ``recovery``: it says that what had failed
    works again.
    """

    text: str
    writer: str
    low: bool = False
    logged: bool = False
    raised: bool = False
    files: tuple[str, ...] = ()
    outcomes: tuple[int, ...] = ()
    harmless: bool = False
    recovery: bool = False


_Level = Literal["low", "high", ""]
"""Empty where a line names none."""
_LEVEL = r"(?:DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL|FATAL)"
_DATE = r"\d{4}[-/.]\d\d[-/.]\d\d[ T_]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
_SOURCE = r"(?:[\w.~-]*/)*[\w.-]+\.(?:py|cc|cpp|cu|cuh|hpp|h|go|rs)(?::|\()\d+\)?"
_HEADER = re.compile(
    r"(?:(?:"
    rf"\[{_DATE} [WEIFC] \d+ \d+\]|\[?{_DATE}(?: [A-Z]{{2}}\d+)*[\],:]?"  # Ray's daemons; most loggers, SGLang's ranks
    r"|\[?[WEIFC]?\d{3,4} \d\d:\d\d:\d\d[.\d]*(?: +\d+)? [\w./-]+:\d+\]|(?<=\])\[[\w.]+\]"  # PyTorch's and glog's
    rf"|\[\d\d:\d\d:\d\d {_LEVEL} [\w.]+\]|\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?|\d\d-\d\d \d\d:\d\d:\d\d"
    rf"|[\[<]?{_LEVEL}\b[\]>]?:?(?:[\w.]+:(?=\S))?"
    rf"|\[{_SOURCE}\]|{_SOURCE}(?:[\]:]|(?=\s|$))|\((?:raylet|gcs_server)\)|(?:stdout|stderr) [FP]"
    r"|[\w.<>]+(?::[\w<>]+:\d+)?(?=\s+[-|]\s)|(?<=\s)(?:--?|\||:)(?=\s)"
    r")(?:[ \t]+(?=\S)|(?=[A-Z\d])|[ \t]?))+?"
)
_RANK = re.compile(r"\[(?:rank|default)\d+\]:\s?|\d{1,4}: |[\w.-]+\s+\| ")
"""Labels of torchrun, of `srun --label`, and of containers."""
_LABEL = re.compile(rf"\s*({WRITER.pattern}|{_RANK.pattern})")
_GROUP = re.compile(r"\s*(?:\|\s|\+ (?=Exception Group Traceback))")
"""Before the lines of an exception group."""
_LOW = re.compile(r"(?<![=\w])(?:WARN(?:ING)?|INFO|DEBUG|NOTICE)\b|^\[?[WI]\d{3,4} |\d [WI] \d")
_HIGH = re.compile(r"(?<![=\w])(?:ERROR|CRITICAL|FATAL)\b|^\[?[EFC]\d{3,4} |\d [EFC] \d|NCCL WARN")
"""NCCL calls its errors warnings."""
_LEVEL_WITHIN = 80
"""Where a header of unknown form may name its level, in characters."""
_WARNED = re.compile(r"^(?:\w*Warning:|warnings\.warn|\[\w+\] warning)")

_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
_FRAME = re.compile(r'^\s*File "([^"]+)", line \d+')
_CODE = re.compile(
    r"^(?:\s*(?:raise|return|assert|if|with|for|def|await|except|try|else|elif)\b.*|\s*self\.\w.*|\s{3,}[\w.]+ = .*"
    r"|[~\s]*\^[~^\s]*|\s*\[Previous line repeated .*)$"
)
"""No two repetitions that match the same character follow each other, here and below: on a long row of it, the time to
try every division between them grows with the square of its length."""
_QUOTED = re.compile(
    r"^[\s{\[(]*['\"](?!(?:level|severity|msg|message|reason|error)['\"])[\w.@/-]+['\"]\s*:"
    r"|^Namespace\(|^(?:[\w.]+=\S*(?:\s+|$))+$|^[+$] |^\[(?:prompt|response|ground_truth|score)\]"
    r"|^[│╭╰❱└]|^Error executing job with"
)
"""A printed configuration (verl prints all of its own, with the names of what might have gone wrong), a shell's trace,
a model's answer, a drawn frame, the command of a job."""
EXCEPTION = re.compile(
    r"^(?:\S*\s)?(?:[\w.]+\.)?([A-Z]\w*(?:Error|Interrupt|Warning)|(?:[A-Z]\w*)?(?:Exception|Timeout))\b(?:\([\w.]+\))?(?::|$)"
)
"""A line that states an exception by the usual ending of its name."""

_CHAIN = re.compile(r"^(?:During handling of the above exception|The above exception was the direct cause)")
_RETRY = re.compile(
    r"\b[Rr]e-?trying\b|\b[Rr]etry(?:ing)? (?:in|after) \d|[Tt]rying (?:again|(?:the )?next|another)"
    r"|will (?:be )?(?:retried|retry|try)\b|\b(?:and|before(?: the)?(?: next)?) (?:retry|attempt)\b"
    r"|\bbacking off\b|\bretry loop\b|\b[Rr]econnecting\b"
)
_ATTEMPT = re.compile(r"\b(?:[Aa]ttempt|[Rr]etry|[Tt]ry)[ #:=]*(\d+) ?(?:/|of|out of) ?(\d+)")
_HARMLESS = re.compile(
    r"will (?:be )?(?:continue|use|resume)d?\b|[Uu]sing (?:the )?default|may not be an issue"
    r"|thrown while requesting|[Ff]all(?:ing|s)? ?back"
    r"|(?:was|were) (?:ignored|caught|skipped)|[Ii]gnor(?:ed|ing)\b|[Rr]ecovered|^If you\b"
    r"|\b(?:optional|cache)\b.*\b(?:skip\w*|disabled?|not written)|continuing without|# harmless"
)
"""What says of itself that it ended nothing. Advice to a reader ("check your connection and try again") does not."""
_CAUGHT = re.compile(r"^Exception ignored (?:in|while)|^--- Logging error ---")
_FAILED = re.compile(r"(?i)fail|error|exception|attempt|caught|could not|unable")
_RECOVERY = re.compile(
    r"(?i)\bre-?connected\b|\brecovered\b|\b(?:succeeded|successful|answered|ok(?:ay)?|done) (?:on|after|at) .*"
    r"(?:attempt|retr|tri|try)|\b(?:attempt|try|retry) #?\d+:? (?:ok|succeeded|passed)\b"
    r"|\bis back\b|\b(?:back|available|reachable|up|online) again\b|\berror resolved\b|\bnfs: server \S+ OK\b"
)
_NOT_RECOVERED = re.compile(r"(?i)\b(?:not|fail\w*|giving up|gave up|could|unable)\b")


@dataclass
class _Writer:
    """What is known of a process while its lines are read.

    ``inside`` a traceback, whose ``files`` were seen, whose next line is ``source``, and which is ``harmless`` or
    ``logged`` as its statement will be. ``chain``: the indices of the exceptions so far of a chain, which continues
    where ``chained``. ``before``: the last statement. ``head``: the index of the exception whose message may have
    further lines, its level, and as ``trail`` its files. ``recent``: numbers of lines, out of ``count``, and their
    statements.
    """

    inside: bool = False
    source: bool = False
    harmless: bool = False
    logged: bool = False
    files: list[str] = field(default_factory=list)
    chain: list[int] = field(default_factory=list)
    chained: bool = False
    before: Statement | None = None
    trail: tuple[str, ...] = ()
    head: int | None = None
    head_level: _Level = ""
    recent: list[tuple[int, int]] = field(default_factory=list)
    count: int = 0


def read_statements(log: Iterable[str]) -> list[Statement]:
    """The statements of a log, in its order; several lines that a progress bar wrote over each other are several."""
    found: list[Statement] = []
    writers: defaultdict[str, _Writer] = defaultdict(_Writer)
    for line in log:
        for part in line.rstrip("\n").split("\r"):
            name, level, body = _split(part) if part.strip() else ("", "", "")
            if body.strip():
                _take(body, level, name, writers[name], found)
            else:
                writers[name].trail, writers[name].head = (), None
    return found


def read_statement(line: str) -> Statement:
    """One line by itself, such as the trainer's own last word."""
    name, level, body = _split(line)
    return Statement(body.strip()[:MAX_CHARACTERS], name, low=level == "low")


def _split(line: str) -> tuple[str, _Level, str]:
    """A line's writer, its level, and its body with its indentation."""
    text = REPEATED.sub("", ANSI.sub("", line[:LINE_CHARACTERS])).rstrip()
    writer, begin = "", 0
    while (label := _LABEL.match(text, begin)) is not None:
        writer, begin = writer + label[1].strip(), label.end()
    rest = text[begin:]
    header = _header(rest)
    end = len(header)
    if (rank := _RANK.match(rest, end)) is not None:
        end = rank.end()
    while (grouped := _GROUP.match(rest, end)) is not None:
        end = grouped.end()
    body = rest[end:]
    level = header if _LOW.search(header) or _HIGH.search(header) else rest[:_LEVEL_WITHIN]
    if _HIGH.search(level):
        return writer, "high", body
    return writer, "low" if _LOW.search(level) or _WARNED.match(body.lstrip()) else "", body


def _header(rest: str) -> str:
    """What a logger put before its message."""
    end = 0
    while (part := _HEADER.match(rest, end)) is not None and part.end() > end:
        end = part.end()
    return rest[:end]


def _take(body: str, level: _Level, name: str, writer: _Writer, found: list[Statement]) -> None:
    """Read one line that a process wrote, and add what it states."""
    writer.count += 1
    text = body.strip()[:MAX_CHARACTERS]
    if _TRACEBACK.search(text):
        writer.inside, writer.source, writer.files, writer.trail, writer.head = True, False, [], (), None
        writer.harmless = writer.before is not None and _announces_caught(writer.before)
        writer.logged = not level and writer.before is not None and writer.before.logged
        return
    if (frame := _FRAME.match(body)) is not None:
        writer.files = [*writer.files, frame[1]] if writer.inside else [frame[1]]
        writer.inside = writer.source = True
        return
    if _is_code(body, writer):
        writer.source = False
        return
    if _CHAIN.match(text):
        writer.chained = True
        return
    if _QUOTED.match(text):
        return
    writer.trail = tuple(writer.files[-INNER_FRAMES:]) if writer.inside else writer.trail
    statement = Statement(
        text,
        name,
        low=level == "low",
        logged=writer.logged if writer.inside else level != "",
        raised=writer.inside,
        files=writer.trail,
        harmless=writer.harmless or _is_retry(text) if writer.inside else _is_harmless(text),
        recovery=_RECOVERY.search(text) is not None and _NOT_RECOVERED.search(text) is None,
    )
    if _is_retry(text):
        _withdraw(writer, found)
    exception = writer.inside or EXCEPTION.match(text) is not None
    if writer.inside:
        _link(writer, found)
    elif writer.head is not None and not exception and level == writer.head_level:
        _lead_to_next(writer.head, found)
    if exception:
        writer.head, writer.head_level = len(found), level
    writer.inside = writer.logged = writer.harmless = False
    writer.before = statement
    writer.recent = [*writer.recent[-RETRY_LINES:], (writer.count, len(found))]
    found.append(statement)


def _is_code(body: str, writer: _Writer) -> bool:
    """Is a line source code or a marker of a traceback?"""
    if _CODE.match(body):
        return True
    if not writer.inside or not writer.files:
        return False
    return body.startswith("  ") or (writer.source and EXCEPTION.match(body) is None and not _names_class(body))


def _names_class(body: str) -> bool:
    return re.match(r"^(?:\w+\.)*[A-Z]\w*(?::\s|$)", body) is not None


def _is_retry(text: str) -> bool:
    """Does a line say that what failed is tried again? The last of so many attempts is not."""
    counted = _ATTEMPT.search(text)
    if counted is not None:
        return int(counted[1]) < int(counted[2])
    return _RETRY.search(text) is not None


def _is_harmless(text: str) -> bool:
    return _is_retry(text) or _HARMLESS.search(text) is not None


def _announces_caught(before: Statement) -> bool:
    """Does the line before a traceback say that its error was caught?"""
    if _CAUGHT.match(before.text) or before.harmless:
        return True
    return before.low and not before.raised and _FAILED.search(before.text) is not None


def _withdraw(writer: _Writer, found: list[Statement]) -> None:
    """What its writer stated just before is tried again: it ended nothing."""
    for count, index in writer.recent:
        if writer.count - count <= RETRY_LINES:
            found[index] = replace(found[index], harmless=True)


def _link(writer: _Writer, found: list[Statement]) -> None:
    """The exception that is added next is the outcome of those before it in its chain."""
    if not writer.chained:
        writer.chain = []
    for index in writer.chain:
        _lead_to_next(index, found)
    writer.chain, writer.chained = [*writer.chain, len(found)], False


def _lead_to_next(index: int, found: list[Statement]) -> None:
    found[index] = replace(found[index], outcomes=(*found[index].outcomes, len(found)))
