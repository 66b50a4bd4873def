"""Conditions in the words of the spec, for tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from experiment_specs.language import (
    NAMED_FIELDS,
    OPTIONAL_FIELDS,
    Condition,
    Value,
    needs_eager_attention,
    record_in,
)
from experiment_specs.presets import preset_name

MOST_VARIED = 3
"""With more varied fields than these, a row leaves out the treatments that it does not have."""


def condition_words(conditions: Sequence[Condition]) -> list[str]:
    """What tells conditions from each other, in the words of the spec, one text each."""
    dumped = [c.model_dump(mode="json") for c in conditions]
    keys = [k for k in Condition.model_fields if len({repr(d[k]) for d in dumped}) > 1]
    if "attention" in keys and all((c.attention == "eager") == needs_eager_attention(c.hw_noise) for c in conditions):
        keys.remove("attention")  # it follows from hw_noise, which is shown
    keys = keys or ["dtype", "aqn"]
    if len(keys) <= MOST_VARIED:
        parts = _varied_parts(dumped)
        return [_words(c, keys, parts) for c in conditions]
    own = [[k for k in keys if k not in OPTIONAL_FIELDS or d[k] is not None] for d in dumped]
    parts = _varied_parts(dumped)
    return [
        _words(c, some, parts) or _words(c, ["dtype", "aqn"], parts) for c, some in zip(conditions, own, strict=True)
    ]


def typed_condition(body: Mapping[str, Any]) -> Condition:
    """A condition as the registry has it."""
    return Condition.model_validate(body, strict=False)


def readable(body: Mapping[str, Any]) -> Condition | None:
    """A condition as the registry has it; None where another version wrote it, whose rules were looser."""
    try:
        return typed_condition(body)
    except ValidationError:
        return None


def treatments(condition: Condition) -> str:
    """What was done to the model, whatever else the condition says: ``mxfp4, lora r32, epochs 2``."""
    have = [key for key in NAMED_FIELDS if key == "dtype" or (key in OPTIONAL_FIELDS and getattr(condition, key))]
    return _words(condition, [*have, "epochs"], {})


def _varied_parts(dumped: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Field → which of its parts are not the same everywhere, for fields that have no presets."""
    found = {}
    for key in dumped[0]:
        values = [d[key] for d in dumped]
        if key not in NAMED_FIELDS and all(isinstance(value, Mapping) for value in values):
            found[key] = [part for part in values[0] if len({repr(value.get(part)) for value in values}) > 1]
    return found


def _words(condition: Condition, keys: Sequence[str], varied: Mapping[str, list[str]]) -> str:
    parts = []
    for key in keys:
        value = getattr(condition, key)
        if key in NAMED_FIELDS:
            name = preset_name(key, value)
            parts.append(name if key == "dtype" else f"{key} {name}")
        elif isinstance(value, Value):
            shown = value.model_dump(mode="json")
            parts += [f"{part} {_number(shown[part])}" for part in varied.get(key) or shown]
        else:
            parts.append(f"{key} {value}")
    return ", ".join(parts)


def short_value(key: str, value: Any) -> str:
    """A (dotted) part of a dumped condition, in a few letters; presets by name."""
    kind = record_in(Condition.model_fields[key].annotation) if key in NAMED_FIELDS else None
    if kind is not None and isinstance(value, Mapping):
        return preset_name(key, kind.model_validate(value, strict=False))
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_short(v)}" for k, v in value.items() if v is not None) + "}"
    return "none" if value is None else _number(value)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
