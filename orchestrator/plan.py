"""Sweep → plan: what would run, in what steps, with which warnings. Pure; writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiment_specs.language import CONDITION_SCHEMA, Condition
from experiment_specs.load import Sweep
from orchestrator.arms import unmatched
from orchestrator.expand import Excluded, expand
from orchestrator.steps import Steps, plan_steps
from workers.launch import unsupported


@dataclass(frozen=True)
class PlannedCondition:
    """One condition as it would be run."""

    label: str
    condition: Condition
    seeds: tuple[int, ...]
    steps: Steps
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


def make_plan(sweep: Sweep) -> Plan:
    """Expand and check. Raises SpecError where a treatment would touch nothing or the spec contradicts itself."""
    expansion = expand(sweep)
    conditions = tuple(
        PlannedCondition(
            planned.label,
            planned.condition,
            sweep.seeds,
            steps := plan_steps(planned.condition),
            tuple(_warnings(sweep, planned.condition, steps)),
            tuple(unsupported(planned.condition)),
        )
        for planned in expansion.conditions
    )
    warnings = []
    if expansion.merged:
        warnings.append(f"{expansion.merged} conditions were written twice and are run once")
    if len(sweep.seeds) == 1 and len(conditions) > 1:
        warnings.append("one seed an arm: differences between conditions cannot be told from luck")
    if sweep.budget.gpu_hours is not None:
        warnings.append("budget.gpu_hours is recorded; this version does not stop at it")
    if sweep.contrasts:
        warnings.append("contrasts are checked here and recorded; this version does not test them on the scores")
    warnings += unmatched(sweep, [(c.label, c.condition) for c in conditions])
    return Plan(sweep, conditions, expansion.excluded, tuple(warnings))


def _warnings(sweep: Sweep, condition: Condition, steps: Steps) -> list[str]:
    warnings = []
    rows, prompts, gpus = condition.data.train_rows, condition.batch.prompts, sweep.resources.gpus
    if rows < prompts:
        raise sweep.error(f"{rows} training rows make no step of {prompts} prompts", ("set", "batch", "prompts"))
    for name, count in (("prompts", prompts), ("mini_batch", condition.batch.mini_batch)):
        if count * condition.algorithm.samples_per_prompt % gpus:
            raise sweep.error(
                f"{count} × {condition.algorithm.samples_per_prompt} samples cannot be shared out to {gpus} GPUs",
                ("set", "batch", name),
            )
    if condition.aqn is not None and condition.aqn.num_stages and steps.total < condition.aqn.num_stages:
        warnings.append(f"{steps.total} training steps cannot hold {condition.aqn.num_stages} noise stages")
    if steps.total % condition.eval.every:
        warnings.append(
            f"the last eval, at step {steps.total}, is off the rhythm of every {condition.eval.every} steps"
        )
    return warnings


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
                "eval_steps": list(c.steps.evals),
                "trainer_overrides": c.condition.trainer | plan.sweep.overrides,
                "warnings": [*c.warnings, *c.blockers],
            }
            for c in plan.conditions
        ],
        "excluded": [{"condition": e.choice, "reason": e.reason} for e in plan.excluded],
        "warnings": list(plan.warnings),
    }
