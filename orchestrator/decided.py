"""Which value holds where a spec sets a key of verl's that it may not set. Reads verl's configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiment_specs.errors import AqnError, DecidedKeyError, SpecError
from orchestrator.composed import show
from orchestrator.plan import Plan, PlannedCondition

MAX_COMPOSED = 50
"""Conditions that are composed to see whether a value is the same in all of them; with more, no value is shown."""

WORKERS = "the workers"
PER_RUN = ("the run", "the run directory")
"""Decided for each run, so that no value can be told beforehand."""


def with_what_holds(problems: Iterable[SpecError], plan: Plan) -> list[SpecError]:
    """The problems, each refused key of verl's with the value that holds in the plan's conditions."""
    found = list(problems)
    refused = [problem for problem in found if isinstance(problem, DecidedKeyError)]
    if not refused or not 0 < len(plan.conditions) <= MAX_COMPOSED:
        return found
    try:
        composed = [_composed(plan, one) for one in plan.conditions]
    except AqnError:  # verl is not here, or cannot take something else that the spec says
        return found
    return [p.which(_words(p, plan, composed)) if isinstance(p, DecidedKeyError) else p for p in found]


@dataclass(frozen=True)
class _Composed:
    """verl's configuration for a condition without the spec's own keys; which of them the workers set."""

    config: Mapping[str, Any]
    is_set: frozenset[str]


def _composed(plan: Plan, planned: PlannedCondition) -> _Composed:
    bare = replace(planned, condition=planned.condition.model_copy(update={"trainer": {}}))
    shown = show(replace(plan, sweep=replace(plan.sweep, overrides={})), bare, cpu=False)
    return _Composed(shown.config, frozenset(shown.changes))


_NOWHERE = object()


def _words(problem: DecidedKeyError, plan: Plan, composed: list[_Composed]) -> str:
    """What follows ``is decided by …``; "" where no value can be told."""
    if problem.by in PER_RUN:
        return ""
    values = _different(_at(one.config, problem.verl_key) for one in composed)
    fields = _different(_field(problem.by, plan, one) for one in plan.conditions)
    known = values[0] if len(values) == 1 and not isinstance(values[0], Mapping) else _NOWHERE
    is_set = any(problem.verl_key == key or problem.verl_key.startswith(f"{key}.") for key in composed[0].is_set)
    one = problem.by != WORKERS and " and " not in problem.by
    verb = f"set{'s' * one}" if is_set else f"keep{'s' * one} the default"
    if known is not _NOWHERE and _equal(known, problem.value):
        return f", which {verb} {_spelled(known)}, the same value: leave the line out"
    if problem.by == WORKERS:
        return "" if known is _NOWHERE else f", which {verb} {_spelled(known)}"
    sets = f"{verb} {_spelled(known)}" if is_set and known is not _NOWHERE else ""
    if _NOWHERE in fields:
        return f", which {sets} here; say it there" if sets else ""
    here = f", which is {' or '.join(map(_spelled, fields))} here"
    differs = len(fields) == 1 and not _equal(known, fields[0]) and problem.by != "seeds"
    return f"{here}{f' and {sets}' if sets and differs else ''}; say it there"


def _equal(one: Any, other: Any) -> bool:
    """False is not 0 here, as in YAML."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _different(values: Iterable[Any]) -> list[Any]:
    return list({repr(value): value for value in values}.values())


def _at(config: Any, key: str) -> Any:
    """The value of a dotted key in verl's composed configuration; nowhere where it has none."""
    for part in key.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return _NOWHERE
        config = config[part]
    return _NOWHERE if config == "???" else config


def _field(by: str, plan: Plan, planned: PlannedCondition) -> Any:
    """The value of a field of the spec that is a number, a name or absent; nowhere for all else."""
    head, _, rest = by.partition(".")
    sweep = plan.sweep
    said: dict[str, Any] = {
        **planned.condition.model_dump(mode="json"),
        "resources": sweep.resources.model_dump(mode="json"),
        "checkpoints": sweep.checkpoints.model_dump(mode="json"),
    }
    if by == "seeds":
        return list(sweep.seeds)
    value = said.get(head, _NOWHERE)
    for part in rest.split(".") if rest else ():
        if value is None:
            break
        value = value.get(part, _NOWHERE) if isinstance(value, Mapping) else _NOWHERE
    return _NOWHERE if isinstance(value, Mapping) else value


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else repr(value)
