"""Condition → verl: every key is verl's own, every decided key is known to the language, every share is equal."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiment_specs.errors import SpecError
from experiment_specs.load import build_condition, load_sweep
from experiment_specs.verl_keys import DECIDED_BY, RESULT_NEUTRAL_OVERRIDES
from tests.conftest import TINY
from workers.launch import Order
from workers.overrides import CPU, VLLM_ON_CPU, micro_batch, overrides
from workers.verl_config import compose

FILES = {"model": "/m", "train": "/a", "test": "/b"}


@pytest.fixture
def table(write_spec):
    def made(**fields: object) -> dict[str, object]:
        dotted = {key.replace("__", "."): value for key, value in fields.items()}
        condition = build_condition(load_sweep(write_spec(TINY)), {"dtype": "mxfp4", "aqn": "standard"} | dotted)
        order = Order(
            "r", 1, "t", "l", condition.id, condition.model_dump(mode="json"), seed=3, total_steps=24,
            steps_per_epoch=24, eval_steps=[0, 24], gpus=1, assets="",
        )  # fmt: skip
        return overrides(order, Path("/run"), FILES, cpu=True)

    return made


@pytest.mark.parametrize(
    "fields", [{}, {"rollout": "vllm"}, {"algorithm": "grpo"}, {"algorithm__overlong": {"buffer": 4, "penalty": 0.5}}]
)
def test_verl_knows_every_key(table, fields) -> None:
    config = compose(table(**fields))
    assert config.actor_rollout_ref.actor.optim.lr == 5e-5
    assert config.data.seed == config.actor_rollout_ref.rollout.seed == 3


def test_what_the_table_sets_cannot_be_set_a_second_time(table) -> None:
    keys = set(table()) | set(table(algorithm="grpo")) | set(table(algorithm__overlong={"buffer": 4, "penalty": 0.5}))
    keys |= set(table(lora="r32")) | set(table(rollout="vllm"))
    machine = set(CPU) | set(VLLM_ON_CPU)
    assert keys - set(RESULT_NEUTRAL_OVERRIDES) - (machine - set(DECIDED_BY)) == set(DECIDED_BY) - NEVER_SET


NEVER_SET = {
    "actor_rollout_ref.actor.use_remove_padding", "actor_rollout_ref.actor.ppo_micro_batch_size",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size", "actor_rollout_ref.ref.log_prob_micro_batch_size",
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio", "actor_rollout_ref.actor.optim.total_training_steps",
    "actor_rollout_ref.actor.ppo_epochs", "data.train_max_samples", "data.val_max_samples", "trainer.critic_warmup",
    "trainer.max_actor_ckpt_to_keep", "trainer.resume_from_path", "trainer.val_only",
    "actor_rollout_ref.actor.fsdp_config.qat", "actor_rollout_ref.actor.qat", "actor_rollout_ref.ref.fsdp_config.qat",
    "actor_rollout_ref.rollout.qat", "actor_rollout_ref.rollout.quantization",
    "actor_rollout_ref.rollout.quantization_config_file",
    "actor_rollout_ref.actor.checkpoint.async_save", "actor_rollout_ref.actor.checkpoint.load_contents",
    "actor_rollout_ref.actor.checkpoint.save_contents", "trainer.del_local_ckpt_after_load",
    "trainer.remove_previous_ckpt_in_save",
}  # fmt: skip
"""verl's own value is meant; another would make a plan's counts false, or quantise a second time."""


def test_a_misspelt_key_is_an_error_with_verls_nearest() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'algorithm\.gamma'"):
        compose({"algorithm.gama": 1.0})


@pytest.mark.parametrize(
    ("answers", "gpus", "size"), [(128, 1, 128), (40, 1, 40), (160, 1, 80), (256, 8, 32), (240, 1, 120), (131, 1, 1)]
)
def test_micro_batches_are_equal_shares(answers, gpus, size) -> None:
    assert micro_batch(answers, gpus, 40) == size
    assert (answers // gpus) % size == 0


def test_long_answers_come_few_at_once() -> None:
    assert micro_batch(1024, 8, tokens=2048) == 8
    assert micro_batch(1024, 8, tokens=50_000) == 1


ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"


@pytest.mark.parametrize(
    ("fields", "kernel", "packs"),
    [
        ({}, "sdpa", False),
        ({"attention": "eager"}, "eager", False),
        ({"attention": "flash_attention_2", "compute": "bf16"}, "flash_attention_2", True),
        ({"hw_noise": "matmul-5pct"}, "eager", False),
        ({"hw_noise": {"scale": 0.05, "ops": ["linear"]}}, "sdpa", False),
    ],
)
def test_verl_gets_the_attention_of_the_condition_and_packs_for_flash_attn_alone(table, fields, kernel, packs) -> None:
    made = table(**fields)
    assert (made[ATTENTION], made["actor_rollout_ref.model.use_remove_padding"]) == (kernel, packs)
    config = compose(made)
    assert config.actor_rollout_ref.actor.use_remove_padding is packs


def test_answers_that_cannot_be_shared_out_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 GPUs"):
        micro_batch(128, 3, 40)


def test_warm_up_and_precision_reach_actor_and_reference(table) -> None:
    config = compose(table(algorithm="grpo", optimiser__warmup_steps=10))
    assert config.actor_rollout_ref.actor.optim.lr_warmup_steps == 10
    for role in ("actor", "ref"):
        assert config.actor_rollout_ref[role].fsdp_config.mixed_precision.param_dtype == "fp32"
