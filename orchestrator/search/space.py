"""Points of a space, as decisions, pictures and Optuna see them. Pure, and without Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from experiment_specs.search_language import SearchSettings

Point = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """A trial as Optuna is told of it. ``values``: of its objectives; None while it runs, or where it has none.

    ``curve``: step → score, of a run that was ended early.
    """

    point: Mapping[str, Any]
    values: tuple[float, ...] | None
    running: bool = False
    pruned: bool = False
    curve: Mapping[int, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def directions(settings: SearchSettings) -> list[Literal["minimize", "maximize"]]:
    return ["maximize", "minimize"] if settings.objective.also else ["maximize"]


def startup(settings: SearchSettings, total: int) -> int:
    """Random trials before the sampler learns."""
    return settings.sampler.startup or max(4, round(total / 6))


def place(settings: SearchSettings, point: Mapping[str, Any]) -> list[float]:
    """Where a point lies in the unit cube: ranges by their share (of the logarithm), choices one by one."""
    found: list[float] = []
    for key, parameter in settings.space.items():
        if parameter.choices is not None:
            found += [math.sqrt(0.5) * (point.get(key) == choice) for choice in parameter.choices]
            continue
        assert parameter.low is not None and parameter.high is not None  # noqa: S101, PT018
        scale: Callable[[float], float] = math.log if parameter.log else float
        low, high = scale(parameter.low), scale(parameter.high)
        found.append((scale(point[key]) - low) / (high - low) if key in point else 0.5)
    return found


def column(settings: SearchSettings, field: str) -> int:
    """Where a range stands in :func:`place`."""
    found = 0
    for key, parameter in settings.space.items():
        if key == field:
            return found
        found += len(parameter.choices) if parameter.choices is not None else 1
    raise KeyError(field)


def headings(settings: SearchSettings) -> dict[str, str]:
    """Field of the space → a short heading: its last word, or all of it where two end alike."""
    last = [key.rpartition(".")[2] for key in settings.space]
    return {key: word if last.count(word) == 1 else key for key, word in zip(settings.space, last, strict=True)}


def spelled(value: Any) -> str:
    """``0.0123``, ``kstage``; nothing for a field that does not exist at a point."""
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
