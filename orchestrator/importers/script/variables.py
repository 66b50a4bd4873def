"""The variables of a script: reading, assigning, and forgetting what is not sure any more.

Every assignment goes through :func:`put`, which knows attributes (``declare -i``) and what a trap may change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from orchestrator.importers.script.arithmetic import Evaluation, NotKnownError, targets
from orchestrator.importers.script.text import EVERY, HOLE, UNSURE, List, State, Text, Value, hole

_DYNAMIC = (
    "RANDOM SRANDOM SECONDS LINENO BASHPID PPID EPOCHSECONDS EPOCHREALTIME REPLY OPTARG OPTIND PIPESTATUS BASH_REMATCH"
    " FUNCNAME BASH_SOURCE BASH_COMMAND DIRSTACK HOSTNAME HOSTTYPE OSTYPE MACHTYPE UID EUID BASH_VERSION BASH_VERSINFO"
    " SHLVL BASHOPTS SHELLOPTS _ COMP_WORDS COPROC MAPFILE"
)
DYNAMIC = frozenset(_DYNAMIC.split())
"""Variables that bash sets itself."""


def get(name: str, state: State) -> Value | None:
    """None where the variable is not set, as far as the script says."""
    name = _target(name, state)
    if name == "" or name in state.volatile or EVERY in state.volatile:
        return hole(f"${name}")
    if name in state.variables:
        return state.variables[name]
    return hole(f"${name}") if state.obscured or name in DYNAMIC else None


def put(name: str, value: Value, state: State) -> None:
    """Assign. What an attribute does to the value is done."""
    name = _target(name, state)
    if not name:
        forget_all(state)
        return
    attributes = state.attributes.get(name, "")
    if name in DYNAMIC and name not in ("REPLY", "MAPFILE"):
        value = hole(f"${name}")
    if attributes:
        value = _attributed(name, value, attributes, state)
    old = state.variables.get(name)
    if isinstance(old, tuple) and isinstance(value, Text):  # a list's first item is what its bare name stands for
        value = (value, *old[1:]) if countable(old) else hole(f"${name}")
    state.variables[name] = value


def unset(name: str, state: State) -> None:
    name = _target(name, state)
    state.variables[name] = None
    state.attributes.pop(name, None)


def forget(names: Iterable[str], state: State) -> None:
    """Something may have assigned these."""
    for name in names:
        at = _target(name, state)
        if not at:
            forget_all(state)
            return
        state.variables[at] = hole(f"${at}")


def forget_all(state: State) -> None:
    """Something may have assigned any variable. What the reader says of a variable (``--env``) stays."""
    state.variables = dict(state.given)
    state.attributes = dict.fromkeys((name for name, set_ in state.attributes.items() if set_), UNSURE)
    state.obscured = True


def countable(items: List) -> bool:
    """Whether it is sure how many items there are, and which is the first."""
    return not any(item.when or item.many for item in items)


def compute(text: Text, state: State) -> int | None:
    """The value of an arithmetic expression; None where a part of it is not known, and then what it may assign is
    forgotten."""
    evaluation = Evaluation(
        lambda name: _scalar(name, state),
        lambda name, index: _item(name, index, state),
        lambda name, value: put(name, Text(str(value)), state),
    )
    try:
        if not text.known or text.when:
            raise NotKnownError(text.shown)
        return evaluation.value(text.text)
    except (NotKnownError, RecursionError):
        touched = evaluation.touched | targets(text.text)
        if re.search(HOLE + r"\s*(?:(?:<<|>>|[-+*/%&|^])?=(?!=)|\+\+|--)|(?:\+\+|--)\s*" + HOLE, text.text):
            forget_all(state)
        else:
            forget(touched, state)
        return None


def _scalar(name: str, state: State) -> str:
    value = get(name, state)
    if isinstance(value, tuple):
        return _item(name, 0, state)
    if value is None or not value.known or value.when:
        raise NotKnownError(name)
    return value.text


def _item(name: str, index: int, state: State) -> str:
    items = get(name, state)
    if isinstance(items, Text) and not index:
        items = (items,)
    if not isinstance(items, tuple) or not countable(items) or not -len(items) <= index < len(items):
        raise NotKnownError(name)
    if not items[index].known:
        raise NotKnownError(name)
    return items[index].text


def _target(name: str, state: State) -> str:
    """The variable that a reference (``declare -n``) stands for; empty where that is not known."""
    for _ in range(10):
        if "n" not in state.attributes.get(name, ""):
            return name
        value = state.references.get(name)
        if value is None or not value.known or not re.fullmatch(r"[A-Za-z_]\w*", value.text):
            return ""
        name = value.text
    return ""


def _attributed(name: str, value: Value, attributes: str, state: State) -> Value:
    if "A" in attributes or "r" in attributes:
        return hole(f"${name}")  # the order of a map is bash's own; and what is read-only refuses
    if isinstance(value, tuple):
        return tuple(_attribute(name, item, attributes, state) for item in value)
    return _attribute(name, value, attributes, state)


def _attribute(name: str, value: Text, attributes: str, state: State) -> Text:
    if "i" in attributes:
        number = compute(value, state)
        return hole(f"${name}") if number is None else Text(str(number), (), value.when)
    if "u" in attributes or "l" in attributes:
        changed = value.text.upper() if "u" in attributes else value.text.lower()
        return Text(changed, (), value.when) if value.known else hole(f"${name}")
    return hole(f"${name}") if "c" in attributes else value
