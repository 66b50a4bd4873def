"""The typed vocabulary of searches: parameters of a space, requirements, objective, replicates, budget."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from experiment_specs.language import Positive, Value

TEST = "test"
"""The questions of the condition itself."""


class Parameter(Value):
    """What one field may be: one of ``choices``, or a number from ``low`` to ``high``.

    Whole numbers where both bounds are. ``log``: as likely between 0.001 and 0.01 as between 0.01 and 0.1. ``step``:
    the grid from ``low`` on. ``when``: only where other fields of the space have these values. ``points``: of a range,
    how many values a grid takes.
    """

    choices: Annotated[tuple[Any, ...], Field(strict=False, min_length=1)] | None = None
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: Annotated[float, Field(gt=0)] | None = None
    points: Annotated[int, Field(ge=2)] = 3
    when: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("choices, or low and high: one of the two")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("log needs a low above 0")
        if self.step is not None and (self.log or self.choices is not None):
            raise ValueError("step belongs to a range without log")
        if self.step is not None and self.low is not None and self.high is not None:
            steps = (self.high - self.low) / self.step
            if (self.whole and self.step % 1) or steps < 1 or abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"step ({self.step:g}) must divide {self.low:g} to {self.high:g}, in whole steps")
        return self

    @property
    def whole(self) -> bool:
        """Whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, chance: random.Random) -> Any:
        """A value by chance."""
        if self.choices is not None:
            return chance.choice(self.choices)
        assert self.low is not None and self.high is not None  # noqa: S101, PT018 - checked when it was made
        if self.step is not None:
            return chance.choice(self.grid())
        if self.log:
            value = math.exp(chance.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = chance.uniform(self.low, self.high)
        return round(value) if self.whole else value

    def grid(self) -> tuple[Any, ...]:
        """The values of a grid: all choices, or ``points`` of the range, evenly (in its logarithm where ``log``)."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None and self.high is not None  # noqa: S101, PT018 - checked when it was made
        if self.step is not None:
            count = math.floor((self.high - self.low) / self.step + 1e-9)
            values = [self.low + index * self.step for index in range(count + 1)]
        else:
            low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
            even = [low + (high - low) * index / (self.points - 1) for index in range(self.points)]
            values = [math.exp(value) for value in even] if self.log else even
            values[0], values[-1] = self.low, self.high
        return tuple(dict.fromkeys(round(value) for value in values)) if self.whole else tuple(map(float, values))


class Requirement(Value):
    """``at_most``: [a, b] means a ≤ b; ``below``: a < b; fields or numbers. ``never``: not all of these at once."""

    at_most: Annotated[tuple[str | float | int, ...], Field(strict=False, min_length=2, max_length=2)] | None = None
    below: Annotated[tuple[str | float | int, ...], Field(strict=False, min_length=2, max_length=2)] | None = None
    never: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.at_most, self.below, self.never)) != 1:
            raise ValueError("one of at_most, below and never")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        if self.never is not None:
            return tuple(self.never)
        return tuple(side for side in self.at_most or self.below or () if isinstance(side, str))

    def holds(self, point: Mapping[str, Any]) -> bool:
        """True also where a field of it is not part of the point."""
        if any(field not in point for field in self.fields):
            return True
        if self.never is not None:
            return any(point[field] != value for field, value in self.never.items())
        a, b = (point[side] if isinstance(side, str) else side for side in self.at_most or self.below or ())
        return bool(a <= b if self.at_most is not None else a < b)


class Objective(Value):
    """``score``: mean over seeds, in percent. ``difference``: in points, to the condition ``against`` (fields on top of
    ``set``), seed by seed. ``also``: a second objective, to be small. ``questions``: those that are selected on."""

    maximise: Literal["score", "difference"] = "difference"
    against: dict[str, Any] = Field(default_factory=lambda: {"aqn": "none"})
    questions: str = "selection"
    also: Literal["gpu_hours", "response_length"] | None = None


class Replicates(Value):
    """Seeds of one trial: 1, 2, …"""

    first: Positive = 1
    up_to: Positive = 4

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.first > self.up_to:
            raise ValueError(f"first ({self.first}) must not be above up_to ({self.up_to})")
        return self


class Confirm(Value):
    """``top``: how many trials. ``fresh_seeds``: of each. ``beside``: name to fields, what they are held against; the
    presets of what is searched where nothing is said."""

    questions: str = TEST
    fresh_seeds: Annotated[int, Field(ge=2)] = 3
    top: Positive = 3
    beside: dict[str, dict[str, Any]] | None = None


class SearchBudget(Value):
    """``runs``: how many may be started. ``gpu_hours``: none starts that would be expected to exceed it."""

    runs: Positive | None = None
    gpu_hours: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.runs is None and self.gpu_hours is None:
            raise ValueError("runs or gpu_hours must be said: a search ends where its budget does")
        return self


class Sampler(Value):
    """``startup``: random trials before the sampler learns from results; a sixth of the budget where nothing is
    said."""

    name: Literal["tpe", "gp", "random", "grid"] = "tpe"
    startup: Positive | None = None


class Pruner(Value):
    """A run is ended early where, at a step from ``from_step`` on at which the leader was evaluated with the same seed,
    it is behind by more than ``z`` standard errors of the difference."""

    from_step: Positive
    z: Annotated[float, Field(ge=1)] = 2.0


class SearchSettings(Value):
    """What a search says of its own, beside what all of its runs share; as the registry keeps it too."""

    space: dict[str, Parameter]
    require: Annotated[tuple[Requirement, ...], Field(strict=False)] = ()
    objective: Objective = Objective()
    replicates: Replicates = Replicates()
    confirm: Confirm = Confirm()
    budget: SearchBudget
    sampler: Sampler = Sampler()
    pruner: Pruner | None = None
    parallel: Positive = 1
    seed: int = 0

    def active(self, point: Mapping[str, Any], key: str) -> bool:
        """Does a field of the space exist, given the others?"""
        return all(
            point.get(other, _ABSENT) in (wanted if isinstance(wanted, list) else [wanted])
            for other, wanted in self.space[key].when.items()
        )

    def present(self, values: Sequence[Any]) -> dict[str, Any]:
        """A point of one value a field, without the fields that do not exist there."""
        point: dict[str, Any] = {}
        for key, value in zip(self.space, values, strict=True):
            if self.active(point, key):
                point[key] = value
        return point

    def allows(self, point: Mapping[str, Any]) -> bool:
        return all(requirement.holds(point) for requirement in self.require)

    def draw(self, chance: random.Random) -> dict[str, Any]:
        """A point of the space by chance, allowed or not."""
        return self.present([parameter.draw(chance) for parameter in self.space.values()])


_ABSENT = object()
