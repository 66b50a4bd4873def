"""Typed access to a merged document, and pydantic's complaints in the words of the language, with file and line."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from experiment_specs.errors import DecidedKeyError, Problems, SpecError, nearest, raise_all
from experiment_specs.language import Condition, Contrast, Value, record_in, unknown_part
from experiment_specs.paths import expand_paths
from experiment_specs.presets import resolve_name
from experiment_specs.scalars import is_number, odd_letters
from experiment_specs.verl_keys import LOGGERS, decided_by
from experiment_specs.yaml_source import KeyPath, Mark, dotted, mark_of

V = TypeVar("V", bound=Value)


class Fail(Protocol):
    """Makes an error that points to where a path was written."""

    def __call__(
        self, problem: str, path: KeyPath, value: Any = None, accepted: Iterable[str] = (), /
    ) -> SpecError: ...


def refuse_verl_key(key: str, value: Any, error: Callable[[str, Any], SpecError]) -> None:
    """Raises what a spec may not say of verl, whatever verl accepts. ``error`` makes it, from a problem and a value."""
    by = decided_by(key) or decided_by(f"trainer.{key}")
    if (problem := _problem_with_verl_value(key, value)) is not None:
        raise error(problem, None)
    if by is not None:
        name = key if decided_by(key) is not None else f"trainer.{key}"
        raise DecidedKeyError(error("", value), name, by)


def _problem_with_verl_value(key: str, value: Any) -> str | None:
    if isinstance(value, dict):
        return f"write verl's keys dotted, as {key}.{next(iter(value), 'key')}: …"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value!r} is not a finite number"
    if key == "trainer.logger" and not (isinstance(value, list) and value and set(map(str, value)) <= set(LOGGERS)):
        return f"is a list of {', '.join(LOGGERS)}; MLflow is filled from the registry"
    if isinstance(value, str) and not value.isascii() and (odd := odd_letters(value)) is not None:
        return f"{value!r} is no number: {odd.told}"
    return None


@dataclass(frozen=True)
class Reader:
    """Typed access to the merged document; every failure points to its line."""

    data: dict[str, Any]
    marks: dict[KeyPath, Mark]
    path: Path
    complete: bool = True
    """False where a base could not be read, so that nothing can be said of what is missing."""

    def fail(self, problem: str, path: KeyPath, value: Any = None, accepted: Iterable[str] = ()) -> SpecError:
        mark = mark_of(self.marks, path)
        return SpecError(
            problem, file=mark.file if mark else str(self.path), line=mark.line if mark else None,
            key=dotted(path), value=value, accepted=accepted,
        )  # fmt: skip

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.data.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail("must be a mapping", (key,), value)
        return value

    def mappings(self, key: str) -> list[dict[str, Any]]:
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fail("must be a list of mappings: each begins with a dash", (key,), value)
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.fail("must be a mapping of fields to values", (key, index), item)
        return value

    def text_of(self, key: str) -> str:
        value = self.data.get(key, "")
        if not isinstance(value, str):
            raise self.fail(f"{value!r} is not a text", (key,), value)
        return value

    def integer(self, key: str, default: int) -> int:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(f"{value!r} is not a whole number{_hint(value)}", (key,), value)
        return value

    def value(self, key: str, kind: type[V]) -> V:
        given = self.data.get(key)
        if given is not None and not isinstance(given, dict):
            raise self.fail(f"must be a mapping of {', '.join(_keys_of(kind))}", (key,), given)
        return self.value_at((key,), self.mapping(key), kind)

    def values(self, key: str, kind: type[V], problems: Problems) -> tuple[V, ...]:
        """Those that are sound; what is wrong with the others is noted."""
        items = problems.value_of(lambda: self.mappings(key), list[dict[str, Any]]())
        return tuple(self._sound([((key, i), item) for i, item in enumerate(items)], kind, problems).values())

    def values_by_name(self, key: str, kind: type[V], problems: Problems) -> dict[str, V]:
        """Those that are sound; what is wrong with the others is noted."""
        found = self._sound([((key, name), item) for name, item in self._entries(key, problems)], kind, problems)
        return {str(at[-1]): value for at, value in found.items()}

    def _sound(self, items: list[tuple[KeyPath, Any]], kind: type[V], problems: Problems) -> dict[KeyPath, V]:
        found: dict[KeyPath, V] = {}
        for at, item in items:
            with problems.noted():
                found[at] = self.value_at(at, item, kind)
        return found

    def _entries(self, key: str, problems: Problems) -> list[tuple[str, Any]]:
        return list(problems.value_of(lambda: self.mapping(key), dict[str, Any]()).items())

    def value_at(self, at: KeyPath, item: Any, kind: type[V]) -> V:
        try:
            return kind.model_validate(_tuples(item, kind))
        except ValidationError as error:
            raise_all(translated(error, kind, item, self.fail, lambda loc: (*at, *loc)))
            raise

    def trainer(self, problems: Problems) -> dict[str, Any]:
        """verl keys, dotted. Those that a field of the condition decides are refused: a thing is said in one place."""
        return self.verl_keys(self._entries("trainer", problems), ("trainer",), problems)

    def verl_keys(self, entries: Iterable[tuple[str, Any]], at: KeyPath, problems: Problems) -> dict[str, Any]:
        """Those that a spec may say, with their paths expanded; the others are noted."""
        found = {}
        for key, value in entries:
            error = partial(self._error, (*at, key))
            with problems.noted():
                refuse_verl_key(key, value, error)
                found[key] = expand_paths(f"trainer.{key}", value, partial(_at_key, error))
        return found

    def contrasts(self, problems: Problems) -> dict[str, Contrast]:
        """Those that are sound; what is wrong with the others is noted."""
        found = {}
        for name, value in self._entries("contrasts", problems):
            with problems.noted():
                found[name] = self._contrast(("contrasts", name), value)
        return found

    def _contrast(self, where: KeyPath, value: Any) -> Contrast:
        contrast = self.value_at(where, value, Contrast)
        problems = Problems()
        named: list[tuple[str, KeyPath]] = [(contrast.vary, ("vary",))]
        for key, at in named + [(key, ("within", index)) for index, key in enumerate(contrast.within)]:
            with problems.noted():
                self.known_field(key, (*where, *at))
        if contrast.from_ == contrast.to:
            problems.add(self.fail("compares a thing with itself: from and to are equal", where))
        for side, arm in (("from", contrast.from_), ("to", contrast.to)):
            with problems.noted():
                resolve_name(contrast.vary, arm, partial(self._fail_at, (*where, side)))
        problems.raise_all()
        return contrast

    def known_field(self, key: str, path: KeyPath) -> None:
        """Raises what a condition does not have."""
        if (unknown := unknown_part(key)) is not None:
            raise self.fail("unknown field of a condition", path, *unknown)

    def _fail_at(self, path: KeyPath, problem: str, value: Any, accepted: Iterable[str]) -> SpecError:
        return self.fail(problem, path, value, accepted)

    def _error(self, path: KeyPath, problem: str, value: Any) -> SpecError:
        return self.fail(problem, path, value)

    def axes(self, problems: Problems) -> dict[str, list[Any]]:
        """Those that are sound; what is wrong with the others is noted."""
        found = {}
        for key, values in self._entries("axes", problems):
            with problems.noted():
                self.known_field(key, ("axes", key))
                if not isinstance(values, list | dict | None):
                    found[key] = [values]  # what a list of it would mean is checked all the same
                found[key] = self._axis(key, values)
        return found

    def _axis(self, key: str, values: Any) -> list[Any]:
        at: KeyPath = ("axes", key)
        if isinstance(values, dict) and values:
            part = next(iter(values))
            raise self.fail(f"an axis is a list; a part of a field is an axis of its own, {key}.{part}", at)
        if not isinstance(values, list) or not values:
            raise self.fail("an axis is a list of one value or more, as [1, 2]", at, values)
        return values

    def labels(self, problems: Problems) -> dict[str, dict[str, Any]]:
        """Those that are sound; what is wrong with the others is noted."""
        found = {}
        for name, match in self._entries("labels", problems):
            if not isinstance(match, dict):
                problems.add(self.fail("a label is a mapping of fields to values", ("labels", name), match))
            elif not 0 < len(name) <= MOST_LETTERS or not name.isprintable() or name != name.strip():
                problems.add(self.fail(f"a label is up to {MOST_LETTERS} printable letters", ("labels", name)))
            else:
                found[name] = match
        return found

    def seeds(self) -> tuple[int, ...]:
        seeds = self.data.get("seeds", [1])
        if not isinstance(seeds, list) or not seeds:
            raise self.fail("must be a list of whole numbers, as [1, 2, 3]", ("seeds",), seeds)
        problems = Problems()
        for index, seed in enumerate(seeds):
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
                told = f"{seed!r} is not a whole number from 0 to 2147483647{_hint(seed)}"
                problems.add(self.fail(told, ("seeds", index), seed))
            elif seed in seeds[:index]:
                problems.add(self.fail(f"seed {seed} is written twice", ("seeds", index), seed))
        problems.raise_all()
        return tuple(seeds)


def _tuples(item: Any, kind: type[Value]) -> Any:
    """Strict models want tuples where YAML gives lists."""
    if not isinstance(item, dict):
        return item
    return {k: tuple(v) if isinstance(v, list) and k in kind.model_fields else v for k, v in item.items()}


def _at_key(error: Callable[[str, Any], SpecError], _: str, problem: str, value: Any) -> SpecError:
    """For a path of verl's, whose key the error already points to."""
    return error(problem, value)


MOST_LETTERS = 200
"""Of a label."""


def translated(
    error: ValidationError,
    kind: type[Value],
    item: Any,
    fail: Fail,
    where: Callable[[KeyPath], KeyPath],
    *,
    without: Collection[str] = (),
) -> list[SpecError]:
    """pydantic's complaints about ``item``, one per place, in the words of the language and with their lines.

    A part that is missing is not told where a misspelt one beside it was probably meant for it. ``without``: fields
    that were left out of ``item`` because something is wrong with them; complaints about them, or about fields that do
    not go together, would only be consequences.
    """
    complaints: dict[KeyPath, ErrorDetails] = {}
    for complaint in error.errors():
        if without and (not complaint["loc"] or complaint["loc"][0] in without):
            continue
        complaints.setdefault(_written_part(tuple(complaint["loc"]), item, complaint["type"]), complaint)
    extra = [loc for loc, complaint in complaints.items() if complaint["type"] == "extra_forbidden"]
    missing = [
        loc
        for loc, complaint in complaints.items()
        if complaint["type"] == "missing"
        and not any(loc[:-1] == other[:-1] and nearest(str(other[-1]), [str(loc[-1])]) for other in extra)
    ]
    fields = [str(loc[0]) for loc in missing if len(loc) == 1] if kind is Condition else []
    if len(fields) > 1:  # there is no base, most likely
        told = [fail(f"{', '.join(fields)} are missing; a base says them (`aqn spec bases`)", where(()))]
        missing = [loc for loc in missing if len(loc) > 1]
    else:
        told = []
    above = {loc[:end] for loc in complaints for end in range(len(loc))}  # a list without its wrong items is too short
    others = [loc for loc, complaint in complaints.items() if complaint["type"] != "missing" and loc not in above]
    return told + [_translated(complaints[loc], loc, kind, fail, where) for loc in (*missing, *others)]


def _written_part(loc: KeyPath, item: Any, kind: str) -> KeyPath:
    """The part of a place that a file can have: pydantic appends which of several types it tried."""
    part: Any = item
    for depth, word in enumerate(loc):
        there = isinstance(part, Mapping) and word in part
        if not there and not (isinstance(part, list | tuple) and isinstance(word, int) and word < len(part)):
            return loc[: depth + (kind == "missing")]
        part = part[word]
    return loc


def _translated(
    complaint: ErrorDetails, loc: KeyPath, kind: type[Value], fail: Fail, where: Callable[[KeyPath], KeyPath]
) -> SpecError:
    context = complaint.get("ctx", {})
    value = complaint.get("input")
    if complaint["type"] == "extra_forbidden":
        parent = _fields_at(kind, loc[:-1])
        return fail("unknown key", where(loc), str(loc[-1]), parent)
    if complaint["type"] == "missing":
        base = "; a base says it (`aqn spec bases`)" if len(loc) == 1 and kind is Condition else ""
        return fail(f"{loc[-1]} is missing{base}", where(loc[:-1]), None, [])
    if complaint["type"] == "literal_error":
        accepted = [part.strip(" '") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
        return fail(f"{value!r} is not accepted", where(loc), value, accepted)
    problem, accepted = _of_another_type(complaint["type"], value, _fields_at(kind, loc))
    if problem:
        return fail(problem, where(loc), value, accepted)
    message = str(context.get("error", complaint["msg"]))
    head = message.split(":", maxsplit=1)[0].split(" ", maxsplit=1)[0].split(".", maxsplit=1)[0]
    if not loc and head in kind.model_fields:  # two fields that do not go together: the message begins with one
        loc = (head,)
    shown = f"{value!r}: " if not isinstance(value, dict | BaseModel) else ""
    return fail(f"{shown}{message[0].lower()}{message[1:]}", where(loc))


_EXPECTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "finite_number": "a finite number", "bool_type": "true or false", "string_type": "a text", "tuple_type": "a list",
}  # fmt: skip


def _of_another_type(error: str, value: Any, fields: list[str]) -> tuple[str, list[str]]:
    """A number where a text stands, and the like; nothing for other complaints."""
    if error in ("model_type", "dict_type", "model_attributes_type"):
        return f"{value!r} stands where a mapping belongs", fields
    if error not in _EXPECTED:
        return "", []
    hint = _hint(value)
    if isinstance(value, list) and error != "tuple_type":
        hint = "; several values of a field are an axis, under axes"
    return f"{value!r} is not {_EXPECTED[error]}{hint}", []


def _hint(value: Any) -> str:
    """What keeps a text from being a number."""
    if not isinstance(value, str):
        return ""
    if is_number(value):
        return "; without quotes it would be one"
    odd = odd_letters(value)
    return f"; {odd.told}" if odd is not None else ""


def _keys_of(kind: type[Value]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _fields_at(kind: type[Value], loc: KeyPath) -> list[str]:
    current: Any = kind
    for part in loc:
        if isinstance(part, int):  # of a list: what its items are
            continue
        current = record_in(current.model_fields[part].annotation) if part in current.model_fields else None
        if current is None:
            return []
    return _keys_of(current)
