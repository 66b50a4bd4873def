"""By what signs a line says a cause. Pure.

An error is named in few ways: by the number, the name or the text of an operating system's error; by an exception's
class; by the text of a device's error, which CUDA's libraries all print in their own frame; and, for the rest, by free
text. The table of causes lists names, and this module knows how each kind of name is spelled in a log.
"""

from __future__ import annotations

import builtins
import errno as numbers
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache

from orchestrator.scheduler.statements import Statement

_NEVER = r"(?!)"
_NAME = re.compile(r"(?<![\w/'-])[A-Za-z_]\w*(?![\w/]|\.\w)")
_DEVICE = re.compile(
    r"(?<![“‘])(?<!\s[\"'])\b(?i:cuda\w*|hip\w*|npu|xpu|curesult|cumem\w*|cublas\w*|cudnn\w*|cufft\w*)\b"
)
"""How messages of device errors begin: ``CUDA error:``, ``Cuda failure 2 '…'``, ``Triton Error [CUDA]:``, … Not in
a quotation."""
_DEVICE_SPAN = 110
"""Characters from that beginning within which the error's text stands."""
_NUMBER = re.compile(r"(?:[Ee]rrno:?[ =]*|os error |[{,] code: )-?(\d+)\b")
_BEFORE_TEXT = r"(?:^|[:\]\[(=,-]\s?|\d, ')"
"""What stands before the text of an operating system's error; a sentence that only mentions it has none of these."""
_OS_TEXT = re.compile(
    _BEFORE_TEXT + rf"({'|'.join(re.escape(os.strerror(number)) for number in numbers.errorcode)})", re.I
)
_OS_NAMES = {os.strerror(number).lower(): name for number, name in numbers.errorcode.items()}
_NAMES_A_FILE = re.compile(r"(?:^|[\s'\"(=:])/[\w.~-]+/|: '[^']*'$")
_MISTAKES = (
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "LookupError",
    "NameError",
    "NotImplementedError",
    "SyntaxError",
    "TypeError",
    "ValueError",
)
"""What Python raises where code or a value is wrong; with their built-in subclasses."""
_STATED = re.compile(
    r"\b([A-Z]\w*(?:Error|Exception|Timeout))(?:\)?:(?:\s|$)|\(['\"])"
    r"|[Ee]rrno:?[ =]*\d|\(os error \d|ConnectionPool\(host=|\b\d{3} (?:Client|Server) Error: "
)
"""Where a text states an error, its own or one that it wraps: ``ValueError: …``, ``ConnectionError('…')``,
``[Errno 111]``, urllib3's ``HTTPSConnectionPool(host=…``, requests' ``503 Server Error: …``."""


@lru_cache(maxsize=1024)
def is_mistake(text: str) -> bool:
    """Does a text state, as the innermost of its errors, that code or a value is wrong? Its words then name what was
    wrong, as in ``ValueError: rate limit must be positive``, and not what happened."""
    stated = _STATED.findall(text)
    return bool(stated) and stated[-1] in _with_subclasses(_MISTAKES)


@lru_cache(maxsize=1024)
def names_in(text: str) -> frozenset[str]:
    """The words of a text that may name a class or an errno; not parts of paths or quotations."""
    return frozenset(_NAME.findall(text))


@lru_cache(maxsize=1024)
def errnos_in(text: str) -> frozenset[str]:
    """Names of the operating system's errors: of ``[Errno 5]``, ``(os error 5)``, ``errno: 5``, ``EIO`` and
    ``Input/output error`` alike, ``EIO``."""
    found = {numbers.errorcode.get(int(number), "") for number in _NUMBER.findall(text)}
    found.update(_OS_NAMES[said.lower()] for said in _OS_TEXT.findall(text))
    return frozenset(found | names_in(text))


@lru_cache(maxsize=1024)
def _device_error(text: str) -> str:
    """What a message says where it begins as device errors do; empty if it nowhere does."""
    return "\n".join(text[begun.start() : begun.start() + _DEVICE_SPAN] for begun in _DEVICE.finditer(text))


@dataclass(frozen=True)
class Signs:
    """``errnos``: names such as ``ESTALE``, for their numbers and texts too. ``exceptions``: classes; a built-in one
    stands for its built-in subclasses. ``device``: texts of device errors. ``patterns``: regular expressions. Raises
    ValueError for an unknown errno."""

    errnos: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.errnos:
            if not hasattr(numbers, name):
                raise ValueError(f"unknown errno {name!r}")

    @cached_property
    def _classes(self) -> frozenset[str]:
        return _with_subclasses(self.exceptions)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _any_of(self.patterns)

    @cached_property
    def _device_texts(self) -> re.Pattern[str]:
        return re.compile(rf"(?i:{'|'.join(map(re.escape, self.device))})(?!\w)")

    def said_by(self, statement: Statement) -> bool:
        text = statement.text
        return (
            not self._classes.isdisjoint(names_in(text))
            or not errnos_in(text).isdisjoint(self.errnos)
            or (self.device != () and self._device_texts.search(_device_error(text)) is not None)
            or self._pattern.search(text) is not None
        )


@dataclass(frozen=True)
class Place:
    """Signs that count only at a place: where the message names such a file, peer or library or, if the message names
    no file, where the innermost files of its traceback do."""

    at: tuple[str, ...]
    signs: Signs = field(default_factory=Signs)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _any_of(self.at)

    def said_by(self, statement: Statement) -> bool:
        return self.signs.said_by(statement) and self.holds(statement)

    def holds(self, statement: Statement) -> bool:
        """Is it the place of a statement?"""
        if self._pattern.search(statement.text) is not None:
            return True
        if not statement.files or _NAMES_A_FILE.search(statement.text) is not None:
            return False
        return any(self._pattern.search(file) for file in statement.files)


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """One regular expression of several; a flag at the beginning of one holds for it alone."""
    scoped = [f"(?i:{said[4:]})" if said.startswith("(?i)") else f"(?:{said})" for said in patterns]
    return re.compile("|".join(scoped) or _NEVER)


@cache
def _with_subclasses(names: tuple[str, ...]) -> frozenset[str]:
    """Exception classes, and the built-in ones that inherit from them."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        found.add(name)
        known: type | None = getattr(builtins, name, None)
        children: list[type] = [] if known is None else known.__subclasses__()
        todo.extend(child.__name__ for child in children if child.__module__ == "builtins")
    return frozenset(found)
