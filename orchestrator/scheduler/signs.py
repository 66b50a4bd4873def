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
from dataclasses import dataclass
from functools import cached_property

from orchestrator.scheduler.statements import Statement

_NEVER = r"(?!)"
_DEVICE = r"(?<![“‘])(?<!\s[\"'])\b(?i:cuda\w*|hip\w*|npu|xpu|curesult|cumem\w*|cublas\w*|cudnn\w*|cufft\w*)\b"
"""How messages of device errors begin: ``CUDA error:``, ``Cuda failure 2 '…'``, ``Triton Error [CUDA]:``, … Not in
a quotation."""
_DEVICE_SPAN = 100
"""Characters between that beginning and the error's text."""
_BEFORE_TEXT = r"(?:^|[:\]\[(=,-]\s?|\d, ')"
"""What stands before the text of an operating system's error; a sentence that only mentions it has none of these."""
_NAMES_A_FILE = re.compile(r"(?:^|[\s'\"(=:])/[\w.~-]+/|: '[^']*'$")


@dataclass(frozen=True)
class Signs:
    """``errnos``: names such as ``ESTALE``, for their numbers and texts too. ``exceptions``: classes; a built-in one
    stands for its built-in subclasses. ``device``: texts of device errors. ``patterns``: regular expressions. Raises
    ValueError for an unknown errno."""

    errnos: tuple[str, ...] = ()
    exceptions: tuple[str, ...] = ()
    device: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    @cached_property
    def regex(self) -> re.Pattern[str]:
        parts = [_scoped(pattern) for pattern in self.patterns]
        parts.extend(_spellings(name) for name in self.errnos)
        if self.exceptions:
            parts.append(rf"(?<![\w/'-])(?:\w+\.)*(?:{'|'.join(sorted(_with_subclasses(self.exceptions)))})(?![\w/]|\.\w)")
        if self.device:
            parts.append(rf"{_DEVICE}.{{0,{_DEVICE_SPAN}}}?(?i:{'|'.join(map(re.escape, self.device))})(?!\w)")
        return re.compile("|".join(parts) or _NEVER)

    def said_by(self, statement: Statement) -> bool:
        return self.regex.search(statement.text) is not None


@dataclass(frozen=True)
class Place:
    """Signs that count only at a place: where the message names such a file, peer or library or, if the message names
    no file, where the innermost files of its traceback do."""

    at: tuple[str, ...]
    signs: Signs

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_scoped, self.at)))

    def said_by(self, statement: Statement) -> bool:
        return self.signs.said_by(statement) and self.holds(statement)

    def holds(self, statement: Statement) -> bool:
        """Is it the place of a statement?"""
        if self.regex.search(statement.text) is not None:
            return True
        if _NAMES_A_FILE.search(statement.text) is not None:
            return False
        return any(self.regex.search(file) for file in statement.files)


def _scoped(pattern: str) -> str:
    """As one alternative of several: a flag at its beginning holds for it alone."""
    return f"(?i:{pattern[4:]})" if pattern.startswith("(?i)") else f"(?:{pattern})"


def _spellings(name: str) -> str:
    """``[Errno 5]``, ``(os error 5)``, ``errno: 5``, ``EIO``, ``Input/output error``."""
    number = getattr(numbers, name, None)
    if number is None:
        raise ValueError(f"unknown errno {name!r}")
    text = os.strerror(number)
    first = f"[{text[0].upper()}{text[0].lower()}]" + re.escape(text[1:])
    return rf"(?:[Ee]rrno:?[ =]*|os error |[{{,] code: )-?{number}\b|\b{name}\b|{_BEFORE_TEXT}{first}"


def _with_subclasses(names: Iterable[str]) -> set[str]:
    """Exception classes, and the built-in ones that inherit from them."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        found.add(name)
        known = getattr(builtins, name, None)
        if isinstance(known, type):
            todo.extend(child.__name__ for child in known.__subclasses__() if child.__module__ == "builtins")
    return found
