"""What a run refuses before it starts."""

from __future__ import annotations

import pytest

from experiment_specs.load import build_condition, load_sweep
from tests.conftest import TINY
from tests.unit.test_rollout import TOTAL
from workers.launch import TOKEN_VARIABLE, Order, code_version
from workers.train import _refuse, _refuse_other_code


@pytest.fixture
def order(write_spec):
    def make(code: str, **fields: object) -> Order:
        condition = build_condition(load_sweep(write_spec(TINY)), fields)
        return Order(
            "r", 1, "t", "l", condition.id, condition.model_dump(mode="json"), seed=1, total_steps=TOTAL,
            steps_per_epoch=TOTAL, eval_steps=[0, TOTAL], gpus=1, assets="", code=code,
        )  # fmt: skip

    return make


def test_a_run_of_other_code_than_submitted_does_not_train_for_hours_in_vain(order) -> None:
    launched = {TOKEN_VARIABLE: "t"}
    _refuse_other_code(order(code_version().id), launched)
    _refuse_other_code(order("another"), {})  # by hand
    with pytest.raises(RuntimeError, match="the code has changed since the run was submitted"):
        _refuse_other_code(order("another"), launched)


def test_what_the_workers_cannot_do_and_what_the_environment_contradicts_is_refused(order) -> None:
    with pytest.raises(RuntimeError, match="rollout: vllm needs vLLM, which is not installed here"):
        _refuse(order("", rollout="vllm"), {})
    with pytest.raises(RuntimeError, match="say it in the spec, or unset it"):
        _refuse(order(""), {"VERL_NOISY_OPS_ENABLED": "1"})
