"""Errors of the language: each names file, line, key, value, what is accepted and the nearest name.

A function that checks several things notes each problem in a :class:`Problems` and raises all of them at its end, so
that nobody corrects a file one problem per try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class AqnError(Exception):
    """Base of every error that a user can correct; the command line prints it and exits with ``exit_code``."""

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


class DecidedKeyError(SpecError):
    """A spec sets a key of verl's that a field or the workers decide.

    ``verl_key`` and ``value``: what the spec says; ``by``: who decides; ``holds``: what they say instead, in words.
    """

    def __init__(self, place: SpecError, verl_key: str, by: str, holds: str = "") -> None:
        self.place, self.verl_key, self.by = place, verl_key, by
        told = holds or ("" if by.startswith("the ") else "; say it there")
        super().__init__(
            f"is decided by {by}{told}", file=place.file, line=place.line, key=place.key, value=place.value
        )

    def which(self, holds: str) -> DecidedKeyError:
        """The same, with what holds instead."""
        return DecidedKeyError(self.place, self.verl_key, self.by, holds)


class SpecErrors(SpecError):  # noqa: N818 - several of them
    """Several problems of a spec: one line per problem in file order, and their number at the end.

    It has the file, line, key and value of the first one. Made by :func:`raise_all` only, for two problems or more.
    """

    def __init__(self, problems: Iterable[SpecError]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        super().__init__(
            first.problem, file=first.file, line=first.line, key=first.key, value=first.value, accepted=first.accepted
        )

    def _message(self) -> str:
        return "\n".join([*map(str, self.problems), f"{len(self.problems)} problems"])


def raise_all(problems: Iterable[SpecError]) -> None:
    """Raise what was found: nothing where there is none, a single problem as it is, several as :class:`SpecErrors`.

    The same words are reported once.
    """
    flat = [one for problem in problems for one in (problem.problems if isinstance(problem, SpecErrors) else [problem])]
    different = list({str(problem): problem for problem in flat}.values())
    files = list(dict.fromkeys(problem.file for problem in different))
    found = sorted(different, key=lambda problem: (files.index(problem.file), problem.line or 0))
    if len(found) == 1:
        raise found[0]
    if found:
        raise SpecErrors(found)


class Problems:
    """Collects problems of a spec while it is read and checked.

    ``hides``: a value that could not be read has an unknown meaning; what is found later at the same place would only
    be a consequence, and is not noted.
    """

    def __init__(self) -> None:
        self.found: list[SpecError] = []
        self._hidden: set[tuple[str, int | None, str]] = set()

    def add(self, problem: SpecError, *, hides: bool = False) -> None:
        for one in problem.problems if isinstance(problem, SpecErrors) else [problem]:
            if (one.file, one.line, one.key) not in self._hidden:
                self.found.append(one)
            if hides:
                self.hide(one)

    def hide(self, problem: SpecError) -> None:
        """Its place has no meaning: nothing is noted there from now on."""
        self._hidden.add((problem.file, problem.line, problem.key))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Of a block: what it raises is noted, and the rest of the block is skipped."""
        try:
            yield
        except SpecError as problem:
            self.add(problem)

    def value_of(self, read: Callable[[], T], otherwise: T) -> T:
        """What ``read`` returns; where it raises, that is noted and ``otherwise`` stands in."""
        try:
            return read()
        except SpecError as problem:
            self.add(problem)
            return otherwise

    def below(self, *heads: str) -> bool:
        """Is there a problem with one of these top-level keys, or below it?"""
        return any(problem.key.partition(".")[0].partition("[")[0] in heads for problem in self.found)

    def raise_all(self) -> None:
        """See :func:`raise_all`."""
        raise_all(self.found)


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
