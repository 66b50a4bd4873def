"""Typed access to a merged document, and pydantic's complaints in the words of the language, with file and line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from experiment_specs.errors import SpecError
from experiment_specs.language import Condition, Contrast, Value, record_in, unknown_part
from experiment_specs.presets import resolve_name
from experiment_specs.verl_keys import LOGGERS, decided_by
from experiment_specs.yaml_source import KeyPath, Mark, dotted, mark_of

V = TypeVar("V", bound=Value)


class Fail(Protocol):
    """Makes an error that points to where a path was written."""

    def __call__(
        self, problem: str, path: KeyPath, value: Any = None, accepted: Iterable[str] = (), /
    ) -> SpecError: ...


def problem_with_verl_key(key: str, value: Any) -> str | None:
    """Why a spec may not say this of verl, whatever verl accepts; None where it may."""
    if isinstance(value, dict):
        return f"write verl's keys dotted, as {key}.{next(iter(value), 'key')}: …"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value!r} is not a finite number"
    if key == "trainer.logger" and not (isinstance(value, list) and value and set(map(str, value)) <= set(LOGGERS)):
        return f"is a list of {', '.join(LOGGERS)}; MLflow is filled from the registry"
    by = decided_by(key) or decided_by(f"trainer.{key}")
    if by is None:
        return None
    return f"is decided by {by}" + ("" if by.startswith("the ") else "; say it there")


@dataclass(frozen=True)
class Reader:
    """Typed access to the merged document; every failure points to its line."""

    data: dict[str, Any]
    marks: dict[KeyPath, Mark]
    path: Path

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
            raise self.fail(f"{value!r} is not a whole number", (key,), value)
        return value

    def value(self, key: str, kind: type[V]) -> V:
        given = self.data.get(key)
        if given is not None and not isinstance(given, dict):
            raise self.fail(f"must be a mapping of {', '.join(_keys_of(kind))}", (key,), given)
        return self.value_at((key,), self.mapping(key), kind)

    def values(self, key: str, kind: type[V]) -> tuple[V, ...]:
        return tuple(self.value_at((key, i), item, kind) for i, item in enumerate(self.mappings(key)))

    def values_by_name(self, key: str, kind: type[V]) -> dict[str, V]:
        return {name: self.value_at((key, name), item, kind) for name, item in self.mapping(key).items()}

    def value_at(self, at: KeyPath, item: Any, kind: type[V]) -> V:
        try:
            return kind.model_validate(_tuples(item, kind))
        except ValidationError as error:
            raise translated(error, kind, self.fail, lambda loc: (*at, *loc)) from error

    def trainer(self) -> dict[str, Any]:
        """verl keys, dotted. Those that a field of the condition decides are refused: a thing is said in one place."""
        trainer = self.mapping("trainer")
        for key, value in trainer.items():
            if (problem := problem_with_verl_key(key, value)) is not None:
                raise self.fail(problem, ("trainer", key))
        return trainer

    def contrasts(self) -> dict[str, Contrast]:
        found = {}
        for name, value in self.mapping("contrasts").items():
            where: KeyPath = ("contrasts", name)
            contrast = self.value_at(where, value, Contrast)
            self._known_field(contrast.vary, (*where, "vary"))
            if contrast.from_ == contrast.to:
                raise self.fail("compares a thing with itself: from and to are equal", where)
            for index, key in enumerate(contrast.within):
                self._known_field(key, (*where, "within", index))
            for side, arm in (("from", contrast.from_), ("to", contrast.to)):
                resolve_name(contrast.vary, arm, partial(self._fail_at, (*where, side)))
            found[name] = contrast
        return found

    def _known_field(self, key: str, path: KeyPath) -> None:
        if (unknown := unknown_part(key)) is not None:
            raise self.fail("unknown field of a condition", path, *unknown)

    def _fail_at(self, path: KeyPath, problem: str, value: Any, accepted: Iterable[str]) -> SpecError:
        return self.fail(problem, path, value, accepted)

    def axes(self) -> dict[str, list[Any]]:
        axes = self.mapping("axes")
        for key, values in axes.items():
            self._known_field(key, ("axes", key))
            if isinstance(values, dict) and values:
                part = next(iter(values))
                raise self.fail(
                    f"an axis is a list; a part of a field is an axis of its own, {key}.{part}", ("axes", key)
                )
            if not isinstance(values, list) or not values:
                raise self.fail("an axis is a list of one value or more, as [1, 2]", ("axes", key), values)
        return axes

    def labels(self) -> dict[str, dict[str, Any]]:
        labels = self.mapping("labels")
        for name, match in labels.items():
            if not isinstance(match, dict):
                raise self.fail("a label is a mapping of fields to values", ("labels", name), match)
            if not 0 < len(name) <= MOST_LETTERS or not name.isprintable() or name != name.strip():
                raise self.fail(f"a label is up to {MOST_LETTERS} printable letters", ("labels", name))
        return labels

    def seeds(self) -> tuple[int, ...]:
        seeds = self.data.get("seeds", [1])
        if not isinstance(seeds, list) or not seeds:
            raise self.fail("must be a list of whole numbers, as [1, 2, 3]", ("seeds",), seeds)
        for index, seed in enumerate(seeds):
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
                raise self.fail(f"{seed!r} is not a whole number from 0 to 2147483647", ("seeds", index), seed)
            if seed in seeds[:index]:
                raise self.fail(f"seed {seed} is written twice", ("seeds", index), seed)
        return tuple(seeds)


def _tuples(item: Any, kind: type[Value]) -> Any:
    """Strict models want tuples where YAML gives lists."""
    if not isinstance(item, dict):
        return item
    return {k: tuple(v) if isinstance(v, list) and k in kind.model_fields else v for k, v in item.items()}


MOST_LETTERS = 200
"""Of a label."""


def translated(error: ValidationError, kind: type[Value], fail: Fail, where: Callable[[KeyPath], KeyPath]) -> SpecError:
    """pydantic's first complaint, in the words of the language and with the line it comes from."""
    first = error.errors()[0]
    loc: KeyPath = tuple(first["loc"])
    context = first.get("ctx", {})
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        parent = _fields_at(kind, loc[:-1])
        return fail("unknown key", where(loc), str(loc[-1]), parent)
    if first["type"] == "missing":
        base = "; a base says it (`aqn spec bases`)" if len(loc) == 1 and kind is Condition else ""
        return fail(f"{loc[-1]} is missing{base}", where(loc[:-1]), None, [])
    if first["type"] == "literal_error":
        accepted = [part.strip(" '") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
        if isinstance(value, bool):
            return fail(
                "is a boolean (YAML reads off, no, on and yes so) where a name belongs", where(loc), None, accepted
            )
        return fail(f"{value!r} is not accepted", where(loc), value, accepted)
    problem, accepted = _of_another_type(first["type"], value, _fields_at(kind, loc))
    if problem:
        return fail(problem, where(loc), value, accepted)
    message = str(context.get("error", first["msg"]))
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
    hint = "; without quotes it would be one" if isinstance(value, str) and _is_number(value) else ""
    if isinstance(value, list) and error != "tuple_type":
        hint = "; several values of a field are an axis, under axes"
    return f"{value!r} is not {_EXPECTED[error]}{hint}", []


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
