"""Paths in a spec: ``~`` and ``$NAME`` are expanded, so that a condition holds the path that is opened.

A path belongs to one machine however it is written; everything else in a spec means the same everywhere, so nothing
else reads the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from experiment_specs.errors import SpecError

PATH_FIELDS = ("model.path", "data.train", "data.test")
"""Fields of a condition that are paths (or names on a hub)."""

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_IN_PATH = re.compile(r"~[^/\s]*(?:/\S*)?|\S*/\$[A-Za-z_][A-Za-z0-9_]*(?:/\S*)?|\$[A-Za-z_][A-Za-z0-9_]*/\S*")
"""What is taken for a path among verl's values: nothing but a path, begun by ``~``, or with a part ``$NAME``. A
variable alone is refused there: it may hold a secret, and a condition is written to the registry and to MLflow."""


def depends_on_user(text: str) -> bool:
    """Does a path begin with ``~`` or name a variable of the environment?"""
    return text.startswith("~") or _VARIABLE.search(text) is not None


def expanded(text: str) -> str:
    """The path with ``~``, ``~user`` and ``$NAME`` replaced. Raises ValueError for a user or a variable that is
    unknown here."""

    def value(found: re.Match[str]) -> str:
        if not (known := os.environ.get(found[1], "")):
            raise ValueError(f"{found[0]} is not set in the environment")
        return known

    home = os.path.expanduser(text)
    if home.startswith("~"):
        raise ValueError(f"{text.partition('/')[0]} is no home folder here")
    return _VARIABLE.sub(value, home)


def expand_paths(key: str, value: Any, fail: Callable[[str, str, Any], SpecError]) -> Any:
    """A field's value, or a part's under its dotted key, with the paths in it expanded; other values as they are.

    ``fail`` makes the error that is raised, from the dotted key, a problem and the value.
    """
    if isinstance(value, Mapping):
        return {name: expand_paths(f"{key}.{name}", inner, fail) for name, inner in value.items()}
    verl = key.startswith("trainer.")
    if isinstance(value, list | tuple) and verl:
        return [expand_paths(key, inner, fail) for inner in value]
    if verl and isinstance(value, str) and _VARIABLE.fullmatch(value):
        raise fail(key, f"{value} alone is not expanded here: write what it holds", value)
    if not isinstance(value, str) or not (key in PATH_FIELDS or (verl and _IN_PATH.fullmatch(value))):
        return value
    try:
        return expanded(value)
    except ValueError as error:
        raise fail(key, str(error), value) from error
