"""Values of a script that is read without being run: texts with parts that are not known, lists of them, variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

HOLE = "\ufffc"
"""Stands in a text for a part that is not known."""


@dataclass(frozen=True)
class Text:
    """A word or a value. Every :data:`HOLE` in ``text`` is a part that is not known, and ``unknown`` says in the same
    order what the script writes there. ``when``: the condition under which the word is there; empty where it is
    always there."""

    text: str
    unknown: tuple[str, ...] = ()
    when: str = ""

    @property
    def known(self) -> bool:
        return not self.unknown

    @property
    def shown(self) -> str:
        """As a reader would write it, with the unknown parts as the script has them."""
        parts = self.text.split(HOLE)
        return parts[0] + "".join(hole + part for hole, part in zip(self.unknown, parts[1:], strict=True))


List = tuple[Text, ...]
Value = Text | List
EMPTY = Text("")


def hole(source: str) -> Text:
    """A value that is not known."""
    return Text(HOLE, (source,))


def join(pieces: Iterable[Text], between: str = "") -> Text:
    """One text out of several."""
    every = list(pieces)
    whens = dict.fromkeys(piece.when for piece in every if piece.when)
    return Text(
        between.join(piece.text for piece in every),
        tuple(source for piece in every for source in piece.unknown),
        " and ".join(whens),
    )


def split(text: Text) -> list[Text]:
    """The words of a value that stands unquoted, as bash splits it."""
    found, holes = [], list(text.unknown)
    for word in text.text.split():
        count = word.count(HOLE)
        found.append(Text(word, tuple(holes[:count]), text.when))
        del holes[:count]
    return found


class Fields:
    """The words that one piece of a command line becomes: pieces are added, and unquoted ones may end a word."""

    def __init__(self) -> None:
        self._done: list[Text] = []
        self._open: Text | None = None

    def add(self, piece: Text) -> None:
        self._open = piece if self._open is None else join((self._open, piece))

    def add_unquoted(self, piece: Text) -> None:
        words = split(piece)
        if piece.text[:1].isspace():
            self._close()
        for index, word in enumerate(words):
            if index:
                self._close()
            self.add(word)
        if words and piece.text[-1:].isspace():
            self._close()

    def add_items(self, items: Sequence[Text]) -> None:
        for index, item in enumerate(items):
            if index:
                self._close()
            self.add(item)

    def _close(self) -> None:
        if self._open is not None:
            self._done.append(self._open)
        self._open = None

    def words(self) -> list[Text]:
        self._close()
        return self._done


@dataclass
class State:
    """What is known at one place of the script."""

    variables: dict[str, Value] = field(default_factory=dict)
    functions: dict[str, Node] = field(default_factory=dict)
    arguments: List = ()
    exported: frozenset[str] = frozenset()
    ended: bool = False
    """The script has ended here (exit), or the function (return)."""

    def copy(self) -> State:
        return replace(self, variables=dict(self.variables), functions=dict(self.functions))

    def take(self, other: State) -> None:
        """Become the other."""
        self.variables, self.functions = other.variables, other.functions
        self.arguments, self.exported, self.ended = other.arguments, other.exported, other.ended


def merged(branches: Sequence[tuple[str, State]]) -> State:
    """What holds after one of several branches was taken, and it is not known which. ``branches``: (condition, state
    at its end). A variable that differs is unknown; a list keeps what its branches share, and its other items are
    there under a condition."""
    alive = [(when, state) for when, state in branches if not state.ended]
    if not alive:
        return branches[0][1]
    result = alive[0][1].copy()
    result.exported = frozenset().union(*(state.exported for _, state in alive))
    for _, state in alive[1:]:
        result.functions |= state.functions
    for name in dict.fromkeys(name for _, state in alive for name in state.variables):
        values = [(when, state.variables.get(name)) for when, state in alive]
        if any(value != values[0][1] for _, value in values[1:]):
            result.variables[name] = _either(name, values)
    return result


def _either(name: str, values: Sequence[tuple[str, Value | None]]) -> Value:
    lists = [(when, value if isinstance(value, tuple) else ()) for when, value in values]
    if any(isinstance(value, tuple) for _, value in values) and not any(isinstance(v, Text) for _, v in values):
        shared = 0
        while all(len(items) > shared and items[shared] == lists[0][1][shared] for _, items in lists):
            shared += 1
        rest = [replace(item, when=_both(when, item.when)) for when, items in lists for item in items[shared:]]
        return (*lists[0][1][:shared], *rest)
    told = "; ".join(f"{_plain(value)} if {when}" for when, value in values)
    return hole(f"<{name}: {told}>")


def _both(outer: str, inner: str) -> str:
    return f"{outer} and {inner}" if inner and outer != inner else outer


def _plain(value: Value | None) -> str:
    if value is None:
        return "not set"
    shown = value.shown if isinstance(value, Text) else " ".join(item.shown for item in value)
    return re.sub(r"\s+", " ", shown) or "empty"
