"""YAML with line numbers: plain data beside a map from key path to (file, line).

Differences from PyYAML's safe loader, each because it once cost somebody an experiment: ``3e-5`` is a number,
a key written twice is an error, and every value remembers its line.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from experiment_specs.errors import SpecError

KeyPath = tuple[str | int, ...]
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Mark:
    """Where a value stands."""

    file: str
    line: int


@dataclass(frozen=True)
class Source:
    """One YAML document: its data and the mark of every key path in it."""

    path: Path
    data: dict[str, Any]
    marks: dict[KeyPath, Mark] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Without dates, which no key of the language takes; what cannot be read is told with its line."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a number of more digits than Python reads
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


_Loader.add_implicit_resolver(  # YAML 1.1 wants a dot and a signed exponent: 1e-3 would be a string
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)|[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+(?:[eE][-+]?[0-9]+)?)$"
    ),
    list("-+0123456789."),
)


def mark_of(marks: dict[KeyPath, Mark], path: KeyPath) -> Mark | None:
    """The mark of a path, or of its nearest ancestor that was written down."""
    for end in range(len(path), -1, -1):
        if path[:end] in marks:
            return marks[path[:end]]
    return None


def read_yaml(path: Path, shown_as: str | None = None) -> Source:
    """Read one YAML mapping. Raises :class:`SpecError` for a missing file, a syntax error, or a key written twice."""
    name = shown_as or str(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpecError(f"is larger than {MOST_BYTES // 1_000_000} MB: no spec is", file=name)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror or error})", file=name) from error
    except UnicodeDecodeError as error:
        raise SpecError("is not UTF-8 text", file=name) from error
    loader: _Loader | None = None
    try:
        _refuse_aliases(text, name)
        loader = _Loader(text)
        node = loader.get_single_node()
        marks: dict[KeyPath, Mark] = {}
        if node is not None:
            _walk(node, (), marks, name)
        data = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise SpecError(f"not valid YAML: {problem}", file=name, line=mark.line + 1 if mark else None) from error
    except RecursionError:
        raise SpecError("is nested too deeply", file=name, line=1) from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(data, dict):
        raise SpecError("is not a mapping of keys to values", file=name, line=1)
    return Source(path, data, marks)


def _refuse_aliases(text: str, name: str) -> None:
    """An alias can refer to itself, or make a file of a kilobyte mean a terabyte."""
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise SpecError(
                "aliases (*name) are not part of the language; use base, a preset, or ${other.key}",
                file=name, line=event.start_mark.line + 1 if event.start_mark else None,
            )  # fmt: skip


def _walk(node: yaml.Node, path: KeyPath, marks: dict[KeyPath, Mark], name: str) -> None:
    marks.setdefault(path, Mark(name, node.start_mark.line + 1))
    if isinstance(node, yaml.ScalarNode) and any("\ud800" <= c <= "\udfff" for c in node.value):
        raise SpecError("holds half a character", file=name, line=node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            _walk(key_node, (*path, ""), {}, name)
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise SpecError("merge keys are not part of the language; use base or a preset", file=name, line=line)
            if key_node.tag != "tag:yaml.org,2002:str":
                raise SpecError("a key must be a word; quote it", file=name, line=line, key=str(key))
            if key in seen:
                raise SpecError("written twice", file=name, line=line, key=".".join(map(str, (*path, key))))
            seen.add(key)
            marks[(*path, key)] = Mark(name, line)
            _walk(value_node, (*path, key), marks, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), marks, name)
