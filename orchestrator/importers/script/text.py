"""Values of a script that is read without being run: texts with parts that are not known, lists of them, variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

UNSURE = "A"
"""The attributes of a variable that may have one: nothing that is assigned to it is known."""
HOLE = "\ufffc"
"""Stands in a text for a part that is not known."""


@dataclass(frozen=True)
class Text:
    """A word or a value. Every :data:`HOLE` in ``text`` is a part that is not known, and ``unknown`` says in the same
    order what the script writes there. ``when``: the condition under which the word is there; empty where it is
    always there. ``many``: it may turn out to be no word, or several."""

    text: str
    unknown: tuple[str, ...] = ()
    when: str = ""
    many: bool = False

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
EVERY = "*"
"""Stands for every name in :attr:`State.volatile`."""


def hole(source: str) -> Text:
    """A value that is not known."""
    return Text(HOLE, (source,), many="[@]" in source or source.startswith(("$@", "${@")))


def join(pieces: Iterable[Text], between: str = "") -> Text:
    """One text out of several."""
    every = list(pieces)
    whens = dict.fromkeys(piece.when for piece in every if piece.when)
    return Text(
        between.join(piece.text for piece in every),
        tuple(source for piece in every for source in piece.unknown),
        " and ".join(whens),
        any(piece.many for piece in every),
    )


def split(text: Text) -> list[Text]:
    """The words of a value that stands unquoted, as bash splits it."""
    found, holes = [], list(text.unknown)
    for word in text.text.split():
        count = word.count(HOLE)
        found.append(Text(word, tuple(holes[:count]), text.when, text.many or bool(count)))
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
    """What is known at one place of the script. A variable whose value is None is not set. ``given``: what the reader
    says of variables. ``obscured``: a variable that is not in ``variables`` may be set. ``references``: what each
    ``declare -n`` names. ``volatile``: variables that a trap may change at any time. ``outer``: of the function that is
    walked, the values that its local variables hide, with their attributes. A function that is None may be one of
    several."""

    variables: dict[str, Value | None] = field(default_factory=dict)
    functions: dict[str, Node | None] = field(default_factory=dict)
    arguments: List = ()
    exported: frozenset[str] = frozenset()
    ended: bool = False
    """Nothing more is reached from here: exit, return, break or continue."""
    given: Mapping[str, Value] = field(default_factory=dict)
    obscured: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    references: dict[str, Text] = field(default_factory=dict)
    volatile: frozenset[str] = frozenset()
    outer: dict[str, tuple[Value | None, str]] | None = None

    def copy(self) -> State:
        return replace(
            self, variables=dict(self.variables), functions=dict(self.functions), attributes=dict(self.attributes),
            references=dict(self.references), outer=None if self.outer is None else dict(self.outer),
        )  # fmt: skip

    def take(self, other: State) -> None:
        """Become the other."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(other, name))

    def value(self, name: str) -> Value | None:
        """As it is stored; not known where anything may have set it."""
        return self.variables.get(name, hole(f"${name}") if self.obscured else None)


def merged(branches: Sequence[tuple[str, State]]) -> State:
    """What holds after one of several branches was taken, and it is not known which. ``branches``: (condition, state
    at its end). A variable that differs is unknown; a list keeps what its branches share, and its other items are
    there under a condition."""
    alive = [(when, state) for when, state in branches if not state.ended]
    if not alive:
        return branches[0][1]
    result = alive[0][1].copy()
    states = [state for _, state in alive]
    result.exported = frozenset().union(*(state.exported for state in states))
    result.volatile = frozenset().union(*(state.volatile for state in states))
    result.obscured = any(state.obscured for state in states)
    _merge_functions(result, states)
    for name in dict.fromkeys(name for state in states for name in state.variables):
        values = [(when, state.value(name)) for when, state in alive]
        if any(value != values[0][1] for _, value in values[1:]):
            result.variables[name] = _either(name, values)
        else:
            result.variables[name] = values[0][1]
    _merge_scopes(result, states)
    return result


def _merge_functions(result: State, states: Sequence[State]) -> None:
    for name in dict.fromkeys(name for state in states for name in state.functions):
        bodies = [state.functions.get(name) for state in states]
        result.functions[name] = bodies[0] if all(body == bodies[0] for body in bodies[1:]) else None


def _merge_scopes(result: State, states: Sequence[State]) -> None:
    """Attributes, references, arguments, and what local variables hide."""
    for name in dict.fromkeys(name for state in states for name in state.attributes):
        if len({state.attributes.get(name, "") for state in states}) > 1:
            result.variables[name], result.attributes[name] = hole(f"${name}"), UNSURE
    for name in dict.fromkeys(name for state in states for name in state.references):
        if any(state.references.get(name) != states[0].references.get(name) for state in states):
            result.references[name] = hole(f"${name}")
    if any(state.arguments != states[0].arguments for state in states):
        told = _either("@", [("", state.arguments) for state in states])
        result.arguments = told if isinstance(told, tuple) else (told,)
    if result.outer is not None:
        for name in dict.fromkeys(name for state in states for name in state.outer or {}):
            hidden = [(state.outer or {}).get(name) for state in states]
            if any(item != hidden[0] for item in hidden):
                result.outer[name] = (hole(f"${name}"), "")


def _either(name: str, values: Sequence[tuple[str, Value | None]]) -> Value:
    lists = [(when, value if isinstance(value, tuple) else ()) for when, value in values]
    if any(isinstance(value, tuple) for _, value in values) and not any(isinstance(v, Text) for _, v in values):
        shared = 0
        while all(len(items) > shared and items[shared] == lists[0][1][shared] for _, items in lists):
            shared += 1
        rest = [replace(item, when=_both(when, item.when)) for when, items in lists for item in items[shared:]]
        again = [item for item in lists[0][1][:shared] if item.when]
        return (*lists[0][1][:shared], *(item for item in dict.fromkeys(rest) if item not in again))
    for _, value in values:  # not known already, for the same reason
        if isinstance(value, Text) and value.text == HOLE and value.unknown[0].startswith(f"<{name}: "):
            return value
    told = "; ".join(f"{_plain(value)} if {when}" if when else f"{_plain(value)} otherwise" for when, value in values)
    return hole(f"<{name}: {told}>")


def _both(outer: str, inner: str) -> str:
    return f"{outer} and {inner}" if inner and outer and outer != inner else outer or inner


def _plain(value: Value | None) -> str:
    if value is None:
        return "not set"
    shown = value.shown if isinstance(value, Text) else " ".join(item.shown for item in value)
    return re.sub(r"\s+", " ", shown) or "empty"
