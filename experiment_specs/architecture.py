"""What a model is made of, by name and shape: what a plan needs to know to say what a treatment would touch.

Shipped for the models of the shipped bases, so that a plan needs no torch; made from a model's own configuration by
:mod:`workers.architecture` (a test makes the shipped ones anew and compares).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from experiment_specs.presets import PACKAGE

FOLDER = PACKAGE / "architectures"


@dataclass(frozen=True)
class Linear:
    """A linear's name and the shape of its weight, ``out`` × ``into``."""

    name: str
    out: int
    into: int


@dataclass(frozen=True)
class Architecture:
    """``parameters`` counts tied weights once."""

    layers: int
    parameters: int
    norms: tuple[str, ...]
    linears: tuple[Linear, ...]


def from_json(data: Mapping[str, Any]) -> Architecture:
    """``{}`` in a name stands for the index of every decoder layer."""
    layers = int(data["layers"])

    def spread(name: str) -> list[str]:
        return [name.format(i) for i in range(layers)] if "{}" in name else [name]

    return Architecture(
        layers=layers,
        parameters=int(data["parameters"]),
        norms=tuple(full for name in data["norms"] for full in spread(name)),
        linears=tuple(Linear(full, out, into) for name, out, into in data["linears"] for full in spread(name)),
    )


@cache
def shipped() -> dict[str, Architecture]:
    """Model path, as specs name it → architecture."""
    found: dict[str, Architecture] = {}
    for path in sorted(FOLDER.glob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        found |= dict.fromkeys(data["models"], from_json(data["inventory"]))
    return found
