"""What a key of the language means, accepts and decides, from the types and their own words. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from experiment_specs.errors import SpecError
from experiment_specs.language import (
    NAMED_FIELDS,
    OPTIONAL_FIELDS,
    Budget,
    Checkpoints,
    Condition,
    Contrast,
    Exclusion,
    Questions,
    Resources,
    ScoreRule,
    record_in,
)
from experiment_specs.load import SWEEP_KEYS
from experiment_specs.presets import presets
from experiment_specs.schema import sweep_schema
from experiment_specs.verl_keys import DECIDED_BY

_RECORDS: Mapping[str, type[BaseModel]] = {
    "score": ScoreRule, "contrasts": Contrast, "resources": Resources, "checkpoints": Checkpoints, "budget": Budget,
    "exclude": Exclusion, "questions": Questions,
}  # fmt: skip


@dataclass(frozen=True)
class Explanation:
    """One key. ``parts``: the keys below it; ``verl_keys``: what it decides there."""

    key: str
    about: str
    accepts: str
    default: str
    presets: dict[str, dict[str, Any]]
    parts: tuple[str, ...]
    verl_keys: tuple[str, ...]


def keys() -> list[str]:
    """All that can be explained: top-level keys, fields of a condition and their parts."""
    records = [f"{name}.{part}" for name, record in _RECORDS.items() for part in _parts(record)]
    return [*SWEEP_KEYS, *records, *_schema_parts()]


def explain(key: str) -> Explanation:
    """Raises SpecError, with the nearest name, for a key that the language does not have."""
    wanted = key.removeprefix("set.").removeprefix("axes.")
    if wanted not in keys():
        raise SpecError("is no key of the language", key=key, value=wanted, accepted=_near(wanted))
    head, _, rest = wanted.partition(".")
    if wanted in SWEEP_KEYS:
        record = _RECORDS.get(wanted)
        about = SWEEP_KEYS[wanted] + (f"\n\n{inspect.getdoc(record)}" if record is not None and record.__doc__ else "")
        return Explanation(wanted, about, _shape(wanted), "", {}, _parts(record) if record else (), ())
    if head in _RECORDS:
        record = _RECORDS[head]
        field = next(f for name, f in record.model_fields.items() if rest in (name, f.alias))
        return Explanation(
            wanted, inspect.getdoc(record) or "", _words(_node(record, rest)), _default(field.default), {}, (), ()
        )
    kind, field, parents = _resolve(wanted)
    inner = record_in(field.annotation)
    return Explanation(
        key=wanted,
        about=field.description or inspect.getdoc(inner or kind) or "",
        accepts=_accepts(wanted, inner),
        default=_default(field.default if field.default_factory is None else field.default_factory()),
        presets=presets().get(wanted, {}) if wanted in NAMED_FIELDS else {},
        parts=tuple(f"{wanted}.{part}" for part in inner.model_fields) if inner is not None else (),
        verl_keys=tuple(verl for verl, by in DECIDED_BY.items() if by in (wanted, *parents)),
    )


def _near(key: str) -> list[str]:
    """A short list of what is accepted: parts of the same field, or the fields."""
    head = key.partition(".")[0]
    below = [name for name in keys() if name.startswith(f"{head}.")]
    return below or [name for name in keys() if "." not in name]


def _schema_parts() -> list[str]:
    return [key for key in _fields() if key not in SWEEP_KEYS]


def _fields() -> dict[str, Any]:
    """Field of a condition, or dotted part of one → its schema."""
    found: dict[str, Any] = sweep_schema()["$defs"]["Fields"]["properties"]
    return found


def _parts(record: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in record.model_fields.items())


def _resolve(key: str) -> tuple[type[BaseModel], Any, tuple[str, ...]]:
    """The record that has the key's last word, its field there, and the keys above."""
    kind: type[BaseModel] = Condition
    words = key.split(".")
    for word in words[:-1]:
        inner = record_in(kind.model_fields[word].annotation)
        assert inner is not None  # noqa: S101 - the schema listed the key
        kind = inner
    return kind, kind.model_fields[words[-1]], tuple(".".join(words[:end]) for end in range(1, len(words)))


def _default(value: Any) -> str:
    if value is PydanticUndefined or value is Ellipsis:
        return ""
    return "none" if value is None else str(value)


def _accepts(key: str, inner: type[BaseModel] | None) -> str:
    node = _fields()[key]
    if key in NAMED_FIELDS:
        names = [*(["none"] if key in OPTIONAL_FIELDS else []), *presets().get(key, {})]
        return f"a name ({', '.join(names)}), or a mapping of its parts"
    return "a mapping of its parts" if inner is not None else _words(node)


def _shape(key: str) -> str:
    return _words(sweep_schema()["properties"][key])


def _node(record: type[BaseModel], name: str) -> dict[str, Any]:
    found: dict[str, Any] = record.model_json_schema(by_alias=True)["properties"][name]
    return found


_TYPES = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false"}
_BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}


def _words(node: Mapping[str, Any]) -> str:
    """A schema in words: ``a number above 0, below 10, or none``."""
    if "anyOf" in node:
        options = [_words(option) for option in node["anyOf"] if option.get("pattern") != r"^\$\{"]
        return " or ".join(dict.fromkeys(options))
    if "enum" in node or "const" in node:
        return ", ".join(map(str, node.get("enum", [node.get("const")])))
    kind = node.get("type")
    if kind == "null":
        return "none"
    if kind == "array":
        return f"a list, each {_words(node.get('items', {}))}"
    if kind == "object" or "$ref" in node:
        return "a mapping"
    bounds = [f"{word} {node[key]:g}" for key, word in _BOUNDS.items() if key in node]
    return " ".join([_TYPES.get(str(kind), "any value"), ", ".join(bounds)]).strip()
