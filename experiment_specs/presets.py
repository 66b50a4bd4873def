"""Names that stand for values: ``standard``, ``mxfp4``, ``none``; and the way back, from a value to its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from experiment_specs.errors import SpecError
from experiment_specs.language import NAMED_FIELDS, OPTIONAL_FIELDS, Value
from experiment_specs.yaml_source import read_yaml

PACKAGE = Path(str(files("experiment_specs")))


def resolve_name(key: str, value: Any, fail: Callable[[str, Any, Iterable[str]], SpecError]) -> Any:
    """Replace a preset's name (or ``none``) by its meaning; a mapping may start from one with ``preset:``."""
    if key not in NAMED_FIELDS:
        return value
    known = presets().get(key, {})
    names = [*(["none"] if key in OPTIONAL_FIELDS else []), *known]
    if isinstance(value, bool) or value is None:
        hint = "a boolean (YAML reads off, no, on and yes as booleans)" if isinstance(value, bool) else "empty"
        raise fail(f"{hint} stands where a name belongs", None, names)
    if isinstance(value, str):
        if value == "none" and key in OPTIONAL_FIELDS:
            return None
        if value not in known:
            raise fail(f"{value!r} is not a known {key}", value, names)
        return known[value]
    if isinstance(value, Mapping):
        if "preset" in value:
            if value["preset"] not in known:
                raise fail(f"{value['preset']!r} is not a known {key}", value["preset"], list(known))
            return {**known[value["preset"]], **{k: v for k, v in value.items() if k != "preset"}}
        return dict(value)
    raise fail(f"{value!r} is neither a name nor a mapping", None, names)


def preset_name(key: str, value: Value | None) -> str:
    """The name under which a value is known (``none``, a preset), or a short spelling of it."""
    if value is None:
        return "none"
    dumped = value.model_dump(mode="json")
    for name, meaning in presets().get(key, {}).items():
        if type(value).model_validate(meaning).model_dump(mode="json") == dumped:
            return name
    return ",".join(f"{k}={v}" for k, v in dumped.items() if v is not None)


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Field → name → meaning, from ``presets.yaml``."""
    return read_yaml(PACKAGE / "presets.yaml").data
