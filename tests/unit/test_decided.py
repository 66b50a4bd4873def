"""A key of verl's that a spec may not set is told with the value that holds in its place."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from experiment_specs.errors import SpecError, SpecErrors
from experiment_specs.verl_keys import DECIDED_BY
from orchestrator.prepare import prepare
from tests.conftest import TINY
from workers.verl_config import known_keys

pytestmark = pytest.mark.skipif(find_spec("verl") is None, reason="verl's defaults are read from its folder")

ACTOR = "actor_rollout_ref.actor"


def told(write_spec, trainer: str, more: str = "") -> str:
    with pytest.raises(SpecError) as caught:
        prepare(write_spec(f"{TINY}{more}trainer:\n  {trainer}\n"))
    assert not isinstance(caught.value, SpecErrors)
    return caught.value.problem


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (f"{ACTOR}.kl_loss_type: kl", "is decided by the workers, which set 'low_var_kl'"),
        (f"{ACTOR}.kl_loss_type: low_var_kl", "which set 'low_var_kl', the same value: leave the line out"),
        ("trainer.nnodes: 2", "is decided by the workers, which set 1"),
        (f"{ACTOR}.ppo_epochs: 4", "is decided by the workers, which keep the default 1"),
        (f"{ACTOR}.ppo_epochs: 1", "which keep the default 1, the same value: leave the line out"),
        ("algorithm.use_kl_in_reward: false", "algorithm.kl_loss, which sets false, the same value: leave the line out"),
        ("algorithm.use_kl_in_reward: true", "algorithm.kl_loss, which is 0.0 here and sets false; say it there"),
        ("algorithm.use_kl_in_reward: 0", "algorithm.kl_loss, which is 0.0 here and sets false; say it there"),
        (f"{ACTOR}.optim.lr: 0.5", "optimiser.lr, which is 5e-05 here; say it there"),
        ("data.seed: 7", "is decided by seeds, which is [3, 4] here; say it there"),
        ("actor_rollout_ref.model.lora_rank: 8", "is decided by lora.rank, which is none here"),
        ("trainer.n_gpus_per_node: 8", "is decided by resources.gpus, which is 1 here; say it there"),
        ("trainer.max_actor_ckpt_to_keep: 1", "is decided by checkpoints.keep, which is 'last' here"),
        ("data.val_max_samples: 10", "is decided by data.test_rows, which is 500 here; say it there"),
        ("trainer.total_training_steps: 9", "is decided by epochs and steps_per_epoch, which set 24 here; say it there"),
        ("trainer.experiment_name: mine", "is decided by the run"),
        ("reward.reward_kwargs.overlong_buffer_cfg.enable: true", "algorithm.overlong, which is none here; say it there"),
    ],
)  # fmt: skip
def test_the_value_that_holds_is_named(write_spec, trainer: str, words: str) -> None:
    assert words in told(write_spec, trainer, "seeds: [3, 4]\n")


def test_a_value_that_an_axis_varies_is_told_with_all_of_them(write_spec) -> None:
    problem = told(write_spec, f"{ACTOR}.clip_ratio_low: 0.3", "  algorithm.clip_low: [0.1, 0.3]\n")
    assert problem == "is decided by algorithm.clip_low, which is 0.1 or 0.3 here; say it there"


@pytest.mark.parametrize("place", ["set: {{trainer: {{{}: kl}}}}\n", "  trainer.{}: [kl, mse]\n"])
def test_it_is_named_wherever_the_key_is_written(write_spec, place: str) -> None:
    with pytest.raises(SpecError) as caught:
        prepare(write_spec(TINY + place.format(f"{ACTOR}.kl_loss_type")))
    found = caught.value.problems if isinstance(caught.value, SpecErrors) else [caught.value]
    assert {one.problem for one in found} == {"is decided by the workers, which set 'low_var_kl'"}


def test_every_key_that_a_spec_may_not_set_is_told_whatever_stands_there(write_spec) -> None:
    lines = "".join(f"  {key}: 12345\n" for key in DECIDED_BY)
    with pytest.raises(SpecErrors) as caught:
        prepare(write_spec(f"{TINY}trainer:\n{lines}"))
    assert [one.key for one in caught.value.problems] == [f"trainer.{key}" for key in DECIDED_BY]
    valued = {one.key.removeprefix("trainer."): one.problem.partition(", which ")[2] for one in caught.value.problems}
    for key, by in DECIDED_BY.items():
        if by == "the workers" and key in known_keys():
            assert valued[key], key
        if by.startswith(("algorithm.", "optimiser.", "batch.", "data.m", "eval.")) and " and " not in by:
            assert valued[key], key
        if by in ("the run", "the run directory"):
            assert not valued[key], key
