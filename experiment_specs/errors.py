"""Errors of the language: one message that names file, line, key, value, what is accepted and the nearest name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class AqnError(Exception):
    """Base of every error that a user can mend; the command line prints it and exits with ``exit_code``."""

    exit_code = 2


class SpecError(AqnError, ValueError):
    """A spec says something that the language does not know.

    ``file`` and ``line`` say where, ``key`` is the dotted path, ``value`` what stands there.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str = "",
        line: int | None = None,
        key: str = "",
        value: Any = None,
        accepted: Iterable[str] = (),
    ) -> None:
        self.problem, self.file, self.line, self.key, self.value = problem, file, line, key, value
        self.accepted = tuple(accepted)
        self.nearest = nearest(str(value), self.accepted) if value is not None else None
        super().__init__(self._message())

    def _message(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else (f"{self.file}: " if self.file else "")
        problem = one_line(self.problem)
        text = f"{where}{one_line(self.key)}: {problem}" if self.key else f"{where}{problem}"
        if self.accepted:
            text += f"; accepted: {', '.join(self.accepted)}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text


MOST_LETTERS = 400


def one_line(text: str) -> str:
    """What a file holds may have line ends, bells and ten thousand letters; a message has none of them."""
    plain = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = MOST_LETTERS // 2
    return plain if len(plain) <= MOST_LETTERS else f"{plain[:half]} … {plain[-half:]}"


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that a misspelt word most likely meant, or None when nothing is close."""
    import difflib  # not at the top: every command imports this module

    known = list(names)
    begun = [name for name in known if str(name).startswith(f"{word}_")]
    if len(begun) > 1:  # sigma: which of sigma_start and sigma_end was meant, nobody can tell
        return None
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None
