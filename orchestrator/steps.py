"""Step arithmetic: how many training steps a condition has, and at which of them it is evaluated.

The unit is the training step, verl's global step: one batch of prompts generated, scored and learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiment_specs.language import Condition


@dataclass(frozen=True)
class Steps:
    """Planned counts of one run."""

    per_epoch: int
    total: int
    optimiser_updates: int
    evals: tuple[int, ...]


def plan_steps(condition: Condition) -> Steps:
    """Steps an epoch = ⌊rows / prompts⌋ (the last partial batch is dropped), or what the condition says instead."""
    per_epoch = condition.steps_per_epoch or condition.data.train_rows // condition.batch.prompts
    total = per_epoch * condition.epochs
    evals = list(range(condition.eval.every, total, condition.eval.every))
    if total:
        evals.append(total)
    if condition.eval.before_training:
        evals.insert(0, 0)
    return Steps(per_epoch, total, total * (condition.batch.prompts // condition.batch.mini_batch), tuple(evals))
