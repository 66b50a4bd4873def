"""YAML with line numbers: plain data beside a map from key path to (file, line).

Differences from PyYAML's safe loader, each because it once cost somebody an experiment: numbers are those of YAML 1.2
(:mod:`experiment_specs.scalars`), a key written twice is an error, and every value remembers its line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from experiment_specs import scalars
from experiment_specs.errors import Problems, SpecError

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


_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2; what cannot be read is an error with its line."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a number of more digits than Python reads
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


for _kind, _pattern, _first in (
    ("null", scalars.NULL, ["~", "n", "N", ""]),
    ("bool", scalars.BOOLEAN, list("tTfF")),
    ("int", scalars.INTEGER, list("-+0123456789")),
    ("float", scalars.FLOAT, list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"^(?:{_pattern.pattern})$"), _first)
_Loader.add_constructor(f"{_TAG}int", lambda _, node: scalars.integer(node.value))
_Loader.add_constructor(f"{_TAG}float", lambda _, node: scalars.real(node.value))


def dotted(path: KeyPath) -> str:
    """``("axes", "dtype", 1)`` → ``axes.dtype[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def mark_of(marks: dict[KeyPath, Mark], path: KeyPath) -> Mark | None:
    """The mark of a path, or of its nearest ancestor that was written down."""
    for end in range(len(path), -1, -1):
        if path[:end] in marks:
            return marks[path[:end]]
    return None


def read_yaml(path: Path, shown_as: str | None = None, problems: Problems | None = None) -> Source:
    """Read one YAML mapping. Raises :class:`SpecError` for a missing file, a syntax error, or a key written twice.

    ``problems``: values that could mean two things are noted there and read as YAML 1.2 does; without it they are
    raised too.
    """
    name = shown_as or str(path)
    noted = problems if problems is not None else Problems()
    text = _text_of(path, name)
    loader: _Loader | None = None
    try:
        _refuse_aliases_and_tags(text, name)
        loader = _Loader(text)
        node = loader.get_single_node()
        walk = _Walk(name)
        if node is not None:
            walk.value(node, ())
        walk.errors.raise_all()
        data = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        problem += _spaces_near(text, mark.line) if mark else ""
        raise SpecError(f"not valid YAML: {problem}", file=name, line=mark.line + 1 if mark else None) from error
    except RecursionError:
        raise SpecError("is nested too deeply", file=name, line=1) from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(data, dict):
        raise SpecError("is not a mapping of keys to values", file=name, line=1)
    for ambiguous in walk.ambiguous:
        noted.add(ambiguous, hides=True)
    if problems is None:
        noted.raise_all()
    return Source(path, data, walk.marks)


def _text_of(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpecError(f"is larger than {MOST_BYTES // 1_000_000} MB: no spec is", file=name)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror or error})", file=name) from error
    except UnicodeDecodeError as error:
        raise SpecError("is not UTF-8 text", file=name) from error


def _refuse_aliases_and_tags(text: str, name: str) -> None:
    """An alias can refer to itself, or make a file of a kilobyte mean a terabyte. A tag would be a second way to say
    which values are numbers."""
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent):
            raise SpecError(
                "aliases (*name) are not part of the language; use base, a preset, or ${other.key}",
                file=name, line=line,
            )  # fmt: skip
        if (tag := getattr(event, "tag", None)) is not None:
            shown = str(tag).replace(_TAG, "!!")
            raise SpecError(
                f"not valid YAML here: tags, as {shown}, are not part of the language; write a number plain and a text"
                " in quotes",
                file=name, line=line,
            )  # fmt: skip


def _spaces_near(text: str, line: int) -> str:
    """YAML takes a no-break space for a letter: ``lr:\u00a01e-5`` is one word, which nobody sees."""
    for number, near in enumerate(text.split("\n")[max(0, line - 1) : line + 1], max(0, line - 1) + 1):
        for letter in near:
            if not letter.isascii() and unicodedata.category(letter) in ("Zs", "Cf"):
                return f" (line {number} has U+{ord(letter):04X} {unicodedata.name(letter, '')} for a space)"
    return ""


class _Walk:
    """Goes through the nodes of a file once: where each value stands, and what is wrong with it.

    ``errors``: the file cannot be used with them. ``ambiguous``: values that YAML 1.1 and 1.2 read differently.
    """

    def __init__(self, name: str) -> None:
        self.marks: dict[KeyPath, Mark] = {}
        self.errors, self.ambiguous = Problems(), list[SpecError]()
        self._name = name

    def value(self, node: yaml.Node, path: KeyPath) -> None:
        line = node.start_mark.line + 1
        self.marks.setdefault(path, Mark(self._name, line))
        if isinstance(node, yaml.ScalarNode):
            self._half_a_letter(node)
            if node.style is None and (why := scalars.ambiguity(node.value)) is not None:
                self.ambiguous.append(SpecError(why, file=self._name, line=line, key=dotted(path)))
        elif isinstance(node, yaml.MappingNode):
            self._mapping(node, path)
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.value(item, (*path, index))

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> None:
        seen: set[Hashable] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if (problem := self._problem_with_key(key_node, value_node)) is not None:
                shown = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
                self.errors.add(SpecError(problem, file=self._name, line=line, key="" if shown == "<<" else shown))
                continue
            self._half_a_letter(key_node)
            key = key_node.value
            if key in seen:
                self.errors.add(SpecError("written twice", file=self._name, line=line, key=dotted((*path, key))))
            seen.add(key)
            self.marks[(*path, key)] = Mark(self._name, line)
            self.value(value_node, (*path, key))

    def _problem_with_key(self, key: yaml.Node, value: yaml.Node) -> str | None:
        plain = isinstance(key, yaml.ScalarNode) and key.style is None
        if plain and key.value == "<<":
            return "merge keys are not part of the language; use base or a preset"
        if key.tag == f"{_TAG}str":
            if plain and (why := scalars.ambiguity(key.value)) is not None and key.value.isascii():
                return f"a key must be a word; quote it ({why})"
            return None
        nothing = isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None
        comma = nothing and plain and key.value.isdigit()
        return "a key must be a word; quote it" + ("; a decimal sign is a point, as 0.5" if comma else "")

    def _half_a_letter(self, node: yaml.ScalarNode) -> None:
        if any("\ud800" <= c <= "\udfff" for c in node.value):
            self.errors.add(SpecError("holds half a character", file=self._name, line=node.start_mark.line + 1))
