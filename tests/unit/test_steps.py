"""Step arithmetic, on the numbers of the field."""

from __future__ import annotations

import pytest

from experiment_specs.load import build_condition, load_sweep
from orchestrator.steps import plan_steps
from tests.conftest import TINY


@pytest.mark.parametrize(
    ("rows", "prompts", "epochs", "override", "every", "total", "evals"),
    [
        (7473, 128, 1, None, 20, 58, (0, 20, 40, 58)),
        (7473, 256, 1, None, 20, 29, (0, 20, 29)),
        (7473, 128, 2, 29, 10, 58, (0, 10, 20, 30, 40, 50, 58)),
        (7473, 32, 1, None, 100, 233, (0, 100, 200, 233)),
        (4000, 16, 1, 24, 6, 24, (0, 6, 12, 18, 24)),
    ],
)
def test_steps_and_evals(write_spec, rows, prompts, epochs, override, every, total, evals) -> None:
    sweep = load_sweep(write_spec(TINY))
    fields = {
        "data.train_rows": rows, "batch.prompts": prompts, "batch.mini_batch": prompts // 2, "epochs": epochs,
        "eval.every": every, "steps_per_epoch": override,
    }  # fmt: skip
    steps = plan_steps(build_condition(sweep, fields))
    assert (steps.total, steps.evals) == (total, evals)
    assert steps.optimiser_updates == 2 * total
    assert steps.evals[-1] == steps.total


def test_without_an_eval_before_training_there_is_no_step_0(write_spec) -> None:
    sweep = load_sweep(write_spec(TINY))
    assert plan_steps(build_condition(sweep, {"eval.before_training": False})).evals[0] == 6
