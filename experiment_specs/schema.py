"""The language as a JSON Schema, made from the types: completion and red lines in editors. Pure.

It knows names, types and ranges; what needs two keys at once (stages that belong to a schedule) `aqn plan` tells.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from experiment_specs.language import (
    NAMED_FIELDS,
    OPTIONAL_FIELDS,
    Budget,
    Checkpoints,
    Condition,
    Contrast,
    Questions,
    Resources,
    ScoreRule,
)
from experiment_specs.load import SWEEP_KEYS, shipped_bases
from experiment_specs.presets import presets

FILE_NAME = "sweep.schema.json"

_REFERENCE = {"type": "string", "pattern": r"^\$\{", "description": "another key of the spec, as ${set.epochs}"}


@cache
def sweep_schema() -> dict[str, Any]:
    """The schema of a sweep file, draft 2020-12; made once, not to be changed."""
    fields, definitions = _condition()
    parts = fields | _dotted(fields, definitions)
    whole = {"$ref": "#/$defs/Fields"}
    definitions["Fields"] = {"type": "object", "properties": parts, "additionalProperties": False}
    values = {key: {"type": "array", "minItems": 1, "items": node} for key, node in parts.items()}
    because = {"because": {"type": "string", "description": "why"}}
    definitions["FieldsBecause"] = definitions["Fields"] | {"properties": parts | because}
    when = {"type": "object", "required": ["when", "because"], "properties": {"when": whole, **because}}
    properties: dict[str, Any] = {
        "sweep": {"type": "string"},
        "about": {"type": "string"},
        "base": {"anyOf": [{"enum": shipped_bases()}, {"type": "string"}]},
        "set": whole,
        "axes": {"type": "object", "properties": values, "additionalProperties": False},
        "exclude": {"type": "array", "items": when | {"additionalProperties": False}},
        "include": {"type": "array", "items": {"$ref": "#/$defs/FieldsBecause"}},
        "labels": {"type": "object", "additionalProperties": whole},
        "seeds": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "integer", "minimum": 0}},
        "score": _plain(ScoreRule),
        "contrasts": {"type": "object", "additionalProperties": _plain(Contrast)},
        "resources": _plain(Resources),
        "checkpoints": _plain(Checkpoints),
        "budget": _plain(Budget),
        "priority": {"type": "integer"},
        "trainer": {"type": "object", "propertyNames": {"pattern": r"^\w+(\.\w+)+$"}},
        "questions": {"type": "object", "additionalProperties": _plain(Questions)},
    }
    assert properties.keys() == SWEEP_KEYS.keys()  # noqa: S101 - a key of the language without a schema
    for key, about in SWEEP_KEYS.items():
        properties[key] = {"description": about, **properties[key]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A sweep of aqn",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _plain(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = kind.model_json_schema(by_alias=True)
    return found


def _condition() -> tuple[dict[str, Any], dict[str, Any]]:
    """Field → schema, and the definitions that they refer to: nothing is required, because a base may have said it."""
    schema = Condition.model_json_schema(by_alias=True)
    definitions = {name: _partial(node) for name, node in schema["$defs"].items()}
    fields = {name: _field(name, node, definitions) for name, node in schema["properties"].items()}
    for name in NAMED_FIELDS:  # a mapping may start from a preset
        definitions[_definition(fields[name])]["properties"]["preset"] = {"enum": list(presets().get(name, {}))}
    return fields, definitions


def _partial(node: dict[str, Any]) -> dict[str, Any]:
    kept = copy.deepcopy({key: value for key, value in node.items() if key not in ("required", "title")})
    kept["properties"] = {name: _leaf(name, child) for name, child in kept.get("properties", {}).items()}
    return kept


def _field(name: str, node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if name not in NAMED_FIELDS:
        return _leaf(name, node)
    reference = next(option for option in (node, *node.get("anyOf", ())) if "$ref" in option)
    names = [*(["none"] if name in OPTIONAL_FIELDS else []), *presets().get(name, {})]
    about = definitions[reference["$ref"].rpartition("/")[2]].get("description", "")
    return {"description": about, "anyOf": [{"enum": names}, {"$ref": reference["$ref"]}]}


def _leaf(name: str, node: dict[str, Any]) -> dict[str, Any]:
    """A value, or a reference to another; a part that can be named by a preset (``srdd.dtype``) has no names here."""
    bare = {key: value for key, value in node.items() if key not in ("title", "default")}
    scalar = "$ref" not in bare and bare.get("type") not in ("object", "string")
    return {"anyOf": [*bare.get("anyOf", [bare]), _REFERENCE]} if scalar else bare


def _definition(field: dict[str, Any]) -> str:
    reference = next(option["$ref"] for option in (field, *field.get("anyOf", ())) if "$ref" in option)
    return str(reference).rpartition("/")[2]


def _dotted(fields: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """``optimiser.lr`` and its like, two words deep and deeper."""
    found: dict[str, Any] = {}
    for name, node in fields.items():
        options = [node, *node.get("anyOf", ())]
        for reference in (option["$ref"] for option in options if "$ref" in option):
            inner = definitions[reference.rpartition("/")[2]]["properties"]
            below = {key: child for key, child in inner.items() if key != "preset"}
            below |= _dotted(below, definitions)
            found |= {f"{name}.{key}": child for key, child in below.items()}
    return found
