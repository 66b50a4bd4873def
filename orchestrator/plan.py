"""Sweep → plan: what would run, in what steps, on which modules, with which warnings. Pure; writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiment_specs.architecture import Architecture, shipped
from experiment_specs.errors import Problems
from experiment_specs.language import CONDITION_SCHEMA, Condition
from experiment_specs.load import Sweep
from experiment_specs.yaml_source import KeyPath
from orchestrator import checks
from orchestrator.arms import unmatched
from orchestrator.expand import Excluded, Planned, expand
from orchestrator.steps import Steps, plan_steps
from orchestrator.touched import Touched, touched
from orchestrator.touched import problems as problems_with_modules
from workers.launch import unsupported


@dataclass(frozen=True)
class PlannedCondition:
    """One condition as it would be run."""

    label: str
    condition: Condition
    where: Callable[[KeyPath], KeyPath]
    """Maps a path inside the condition to the place in the spec that decided it."""
    seeds: tuple[int, ...]
    steps: Steps
    touched: Touched | None
    """What the treatments touch; None where the model's architecture is not known here."""
    warnings: tuple[str, ...]
    blockers: tuple[str, ...]
    """Why the workers cannot carry it out; empty where they can."""


@dataclass(frozen=True)
class Plan:
    sweep: Sweep
    conditions: tuple[PlannedCondition, ...]
    excluded: tuple[Excluded, ...]
    warnings: tuple[str, ...]

    @property
    def runs(self) -> int:
        return sum(len(c.seeds) for c in self.conditions)


NOT_HERE = "is not here to look at"
Look = Callable[[str], Architecture | str]
"""A model's path to its architecture, or why it is not known."""


def _shipped(path: str) -> Architecture | str:
    return shipped().get(path, NOT_HERE)


def make_plan(sweep: Sweep, look: Look = _shipped, problems: Problems | None = None) -> Plan:
    """Expand and check. Raises SpecError where a treatment would touch nothing or the spec contradicts itself.

    ``problems``: what is wrong is noted there, and the plan has the conditions that are sound.
    """
    noted = problems if problems is not None else Problems()
    expansion = expand(sweep, noted)
    seen = {path: look(path) for path in dict.fromkeys(p.condition.model.path for p in expansion.conditions)}
    conditions = tuple(_sound_conditions(sweep, expansion.conditions, seen, noted))
    warnings = []
    if expansion.merged:
        twice = "condition was" if expansion.merged == 1 else "conditions were"
        warnings.append(f"{expansion.merged} {twice} written twice and run once")
    if len(sweep.seeds) == 1 and len(conditions) > 1:
        warnings.append("one seed an arm: differences between conditions cannot be told from luck")
    unknown = [f"{path} {found}" for path, found in seen.items() if isinstance(found, str)]
    warnings += [f"what treatments touch is not checked: {text}" for text in unknown]
    arms = [(c.label, c.condition) for c in conditions]
    warnings += checks.mixed_modes(arms)
    if expansion.complete:
        arms = [(p.label, p.condition) for p in expansion.conditions]
        warnings += noted.value_of(lambda: unmatched(sweep, arms), [])
    if problems is None:
        noted.raise_all()
    return Plan(sweep, conditions, expansion.excluded, tuple(warnings))


def _sound_conditions(
    sweep: Sweep, planned: Sequence[Planned], seen: Mapping[str, Architecture | str], problems: Problems
) -> Iterator[PlannedCondition]:
    """What is wrong with the others is noted: once, with the first condition that it is true of."""
    told: set[tuple[str, str]] = set()
    for one in planned:
        found = Problems()
        with found.noted():
            yield planned_condition(sweep, one, seen[one.condition.model.path])
        for problem in found.found:
            same = (problem.key, problem.problem.removesuffix(f" ({one.label})"))
            if same not in told:
                problems.add(problem)
            told.add(same)


def planned_condition(sweep: Sweep, planned: Planned, found: Architecture | str) -> PlannedCondition:
    """Raises SpecError for all that keeps the condition from being run."""
    condition, model = planned.condition, None if isinstance(found, str) else found
    wrong = Problems()
    with wrong.noted():
        checks.refuse(sweep, condition, planned.where)
    if model is not None:
        for problem, place in problems_with_modules(condition, model):
            wrong.add(sweep.error(f"{problem} ({planned.label})", planned.where(place)))
    wrong.raise_all()
    steps = plan_steps(condition)
    return PlannedCondition(
        label=planned.label,
        condition=condition,
        where=planned.where,
        seeds=sweep.seeds,
        steps=steps,
        touched=touched(condition, model) if model is not None else None,
        warnings=tuple(checks.warnings(condition, steps)),
        blockers=tuple(unsupported(condition)),
    )


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The stable form of ``aqn plan --json``."""
    return {
        "sweep": plan.sweep.name,
        "conditions": [
            {
                "label": c.label,
                "condition_id": c.condition.id,
                "condition": c.condition.model_dump(mode="json"),
                "condition_schema": CONDITION_SCHEMA,
                "seeds": list(c.seeds),
                "steps_per_epoch": c.steps.per_epoch,
                "total_steps": c.steps.total,
                "optimiser_updates": c.steps.optimiser_updates,
                "prompts_per_step": c.condition.batch.prompts,
                "eval_steps": list(c.steps.evals),
                "eval_mode": checks.eval_mode(c.condition),
                "touched": vars(c.touched) if c.touched is not None else None,
                "trainer_overrides": c.condition.trainer | plan.sweep.overrides,
                "warnings": [*c.warnings, *c.blockers],
            }
            for c in plan.conditions
        ],
        "excluded": [{"condition": e.choice, "reason": e.reason} for e in plan.excluded],
        "warnings": list(plan.warnings),
    }
