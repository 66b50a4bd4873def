"""Names that stand for values: ``standard``, ``mxfp4``, ``none``; and the way back, from a value to its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from experiment_specs.errors import SpecError
from experiment_specs.language import NAMED_FIELDS, OPTIONAL_FIELDS, Aqn, Value
from experiment_specs.yaml_source import read_yaml

PACKAGE = Path(str(files("experiment_specs")))

MOST_DIFFERENCES = 3
"""With more than these a value is spelled out instead of named after a preset."""


def resolve_name(key: str, value: Any, fail: Callable[[str, Any, Iterable[str]], SpecError]) -> Any:
    """Replace a preset's name (or ``none``) by its meaning; a mapping may start from one with ``preset:``."""
    if key not in NAMED_FIELDS:
        return value
    known = presets().get(key, {})
    names = [*(["none"] if key in OPTIONAL_FIELDS else []), *known]
    if isinstance(value, bool) or value is None:
        hint = "a boolean" if isinstance(value, bool) else "empty"
        raise fail(f"{hint} stands where a name belongs", None, names)
    if isinstance(value, str):
        if value == "none" and key in OPTIONAL_FIELDS:
            return None
        if value not in known:
            raise fail(f"{value!r} is not a known {key}", value, names)
        return known[value]
    if isinstance(value, Mapping):
        if value.get("preset") == "none" and key in OPTIONAL_FIELDS:
            part = next((k for k in value if k != "preset"), "a part of it")
            raise fail(f"is none here, and {key}.{part} is set: exclude the pair, or start from a preset", None, known)
        if "preset" in value:
            if not isinstance(value["preset"], str) or value["preset"] not in known:
                raise fail(f"{value['preset']!r} is not a known {key}", value["preset"], list(known))
            return {**known[value["preset"]], **{k: v for k, v in value.items() if k != "preset"}}
        return dict(value)
    raise fail(f"{value!r} is neither a name nor a mapping", None, names)


def preset_name(key: str, value: Value | None) -> str:
    """The name under which a value is known (``none``, a preset), or the nearest preset and what differs from it."""
    if value is None:
        return "none"
    have = value.model_dump(mode="json")
    best: tuple[str, dict[str, Any]] | None = None
    for name, meaning in presets().get(key, {}).items():
        known = type(value).model_validate(meaning).model_dump(mode="json")
        differs = {k: v for k, v in have.items() if v != known[k]}
        if best is None or len(differs) < len(best[1]):
            best = (name, differs)
    if isinstance(value, Aqn) and best is not None and len(best[1]) > 1:
        return f"{value.schedule} {value.sigma_start:g}→{value.sigma_end:g}"
    if best is not None and len(best[1]) <= MOST_DIFFERENCES:
        return " ".join([best[0], *(_part(value, k, v) for k, v in best[1].items())])
    return " ".join(_part(value, k, v) for k, v in have.items() if v is not None and v is not False)


def _part(value: Value, key: str, dumped: Any) -> str:
    inner = getattr(value, key)
    if key in NAMED_FIELDS and isinstance(inner, Value):
        return f"in {preset_name(key, inner)}"
    return f"{key}={dumped}"


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Field → name → meaning, from ``presets.yaml``."""
    return read_yaml(PACKAGE / "presets.yaml").data
