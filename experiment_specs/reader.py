"""Typed access to a merged document, and pydantic's complaints in the words of the language, with file and line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from experiment_specs.errors import SpecError
from experiment_specs.language import DECIDED_BY, Condition, Contrast, Value
from experiment_specs.presets import resolve_name
from experiment_specs.yaml_source import KeyPath, Mark, mark_of

V = TypeVar("V", bound=Value)


class Fail(Protocol):
    """Makes an error that points to where a path was written."""

    def __call__(
        self, problem: str, path: KeyPath, value: Any = None, accepted: Iterable[str] = (), /
    ) -> SpecError: ...


def dotted(path: KeyPath) -> str:
    """``("axes", "dtype", 1)`` → ``axes.dtype[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


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
            raise self.fail("must be a list of mappings", (key,), value)
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
        return self.value_at((key,), self.mapping(key), kind)

    def values(self, key: str, kind: type[V]) -> tuple[V, ...]:
        return tuple(self.value_at((key, i), item, kind) for i, item in enumerate(self.mappings(key)))

    def value_at(self, at: KeyPath, item: Any, kind: type[V]) -> V:
        try:
            return kind.model_validate(_tuples(item, kind))
        except ValidationError as error:
            raise translated(error, kind, self.fail, lambda loc: (*at, *loc)) from error

    def trainer(self) -> dict[str, Any]:
        """verl keys, dotted. Those that a field of the condition decides are refused: a thing is said in one place."""
        trainer = self.mapping("trainer")
        for key, value in trainer.items():
            if isinstance(value, dict):
                raise self.fail("write verl's keys dotted, as algorithm.gamma: 1.0", ("trainer", key))
            decided = DECIDED_BY.get(key)
            if decided is not None:
                raise self.fail(f"is decided by {decided}; say it there", ("trainer", key))
        return trainer

    def contrasts(self) -> dict[str, Contrast]:
        found = {}
        for name, value in self.mapping("contrasts").items():
            where: KeyPath = ("contrasts", name)
            contrast = self.value_at(where, value, Contrast)
            for key in (contrast.vary, *contrast.within):
                head = key.partition(".")[0]
                if head not in Condition.model_fields:
                    raise self.fail("unknown field of a condition", (*where, "vary"), head, Condition.model_fields)
            for side, arm in (("from", contrast.from_), ("to", contrast.to)):
                resolve_name(contrast.vary, arm, partial(self._fail_at, (*where, side)))
            found[name] = contrast
        return found

    def _fail_at(self, path: KeyPath, problem: str, value: Any, accepted: Iterable[str]) -> SpecError:
        return self.fail(problem, path, value, accepted)

    def axes(self) -> dict[str, list[Any]]:
        axes = self.mapping("axes")
        for key, values in axes.items():
            if not isinstance(values, list) or not values:
                raise self.fail("an axis is a list of one value or more", ("axes", key), values)
            head = key.partition(".")[0]
            if head not in Condition.model_fields:
                raise self.fail("unknown field of a condition", ("axes", key), head, Condition.model_fields)
        return axes

    def labels(self) -> dict[str, dict[str, Any]]:
        labels = self.mapping("labels")
        for name, match in labels.items():
            if not isinstance(match, dict):
                raise self.fail("a label is a mapping of fields to values", ("labels", name), match)
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
        return fail(f"{loc[-1]} is missing", where(loc[:-1]), None, [])
    if first["type"] == "literal_error":
        accepted = [part.strip(" '") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
        if isinstance(value, bool):
            return fail(
                "is a boolean (YAML reads off, no, on and yes so) where a name belongs", where(loc), None, accepted
            )
        return fail(f"{value!r} is not accepted", where(loc), value, accepted)
    message = str(context.get("error", first["msg"]))
    shown = f"{value!r}: " if not isinstance(value, dict | BaseModel) else ""
    return fail(f"{shown}{message[0].lower()}{message[1:]}", where(loc))


def _fields_at(kind: type[Value], loc: KeyPath) -> list[str]:
    current: Any = kind
    for part in loc:
        annotation = current.model_fields[part].annotation if part in getattr(current, "model_fields", {}) else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, Value)), None)
        if current is None:
            return []
    return [f.alias or n for n, f in current.model_fields.items()]
