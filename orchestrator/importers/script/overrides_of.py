"""The words behind a trainer's module → Hydra's overrides, with values as Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.importers.script.text import HOLE, Text


@dataclass(frozen=True)
class Unknown:
    """A value that the script alone does not tell. ``written``: as it stands there."""

    written: str
    why: str = "is not known before the script runs"


@dataclass(frozen=True)
class Override:
    """``key=value`` as verl gets it. ``deletes``: it is ``~key``. ``when``: the condition under which it is there."""

    key: str
    value: Any
    word: str
    when: str = ""
    deletes: bool = False


@dataclass(frozen=True)
class CommandLine:
    """All words of one command line, each in exactly one of these."""

    overrides: tuple[Override, ...]
    options: tuple[tuple[str, str], ...]
    """Hydra's own, as (``--config-name``, ``ppo_trainer``)."""
    rest: tuple[tuple[str, str], ...]
    """(word, why it is no override)."""
    unread: int = 0
    """How many words may set any key, because their keys are not known."""


_SHORT = {"-cn": "--config-name", "-cp": "--config-path", "-cd": "--config-dir", "-m": "--multirun"}
_WITH_VALUE = ("--config-name", "--config-path", "--config-dir", "--experimental-rerun", "--package")
_KEY = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[A-Za-z_][\w@/.:-]*)(?:=(?P<value>.*))?", re.DOTALL)


def read_words(words: Sequence[Text]) -> CommandLine:
    """Every word is an override, an option of Hydra's, or told in ``rest``."""
    overrides: list[Override] = []
    options: list[tuple[str, str]] = []
    rest: list[tuple[str, str]] = []
    unread = 0
    following = iter(words)
    for word in following:
        text = word.text
        if text.startswith("-"):
            options.append(_option(word, following))
        elif not text.strip():
            if text:
                rest.append((repr(text), "is a blank: a backslash is followed by a space, and ends nothing"))
        elif (found := _KEY.fullmatch(text)) is None or (found["value"] is None and found["sign"] != "~"):
            why = "is not known before the script runs" if word.unknown else "is no override of Hydra's"
            rest.append((word.shown, why))
            unread += bool(word.unknown)
        elif HOLE in found["key"]:
            rest.append((word.shown, "has a key that is not known before the script runs"))
            unread += 1
        else:
            overrides.append(_override(word, found))
    return CommandLine(tuple(overrides), tuple(options), tuple(rest), unread)


def _option(word: Text, following: Iterator[Text]) -> tuple[str, str]:
    name, has_value, value = word.shown.partition("=")
    name = _SHORT.get(name, name)
    if not has_value and name in _WITH_VALUE:
        after = next(following, None)
        value = after.shown if after is not None else ""
    return name, value


def _override(word: Text, found: re.Match[str]) -> Override:
    key, value, deletes = found["key"], found["value"], found["sign"] == "~"
    if deletes and value is None:
        return Override(key, None, word.shown, word.when, deletes=True)
    if word.unknown:
        written = word.shown[word.shown.index("=") + 1 :]
        return Override(key, Unknown(written), word.shown, word.when, deletes=deletes)
    try:
        return Override(key, hydra_value(value), word.shown, word.when, deletes=deletes)
    except ValueError as error:
        return Override(key, Unknown(value, str(error)), word.shown, word.when, deletes=deletes)


def hydra_value(text: str) -> Any:
    """A value as Hydra's grammar reads it: numbers, booleans, null, lists, mappings, quoted and bare texts. Raises
    ValueError where Hydra would refuse it, or where it stands for several runs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = _parser(OverridesParser).parse_override(f"k={text}")
    except HydraException as error:
        raise ValueError(f"Hydra does not read it: {str(error).splitlines()[0]}") from error
    if override.is_sweep_override():
        raise ValueError("is several values for one key (a Hydra sweep): write an axis of the sweep by hand")
    return _plain(override.value())


@cache
def _parser(kind: Any) -> Any:
    return kind.create()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(getattr(value, "text", value))
