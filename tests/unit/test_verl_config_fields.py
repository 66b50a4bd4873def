"""verl's configuration → fields of a condition: what it decides alone, and nothing that it does not say."""

from __future__ import annotations

from typing import Any

import pytest

from experiment_specs.language import Condition, unknown_part
from orchestrator.importers.verl_config_fields import DIRECT, HIDDEN, MAX_TEXT, read_config
from workers.verl_config import compose, known_keys

KEY = "actor_rollout_ref.actor.entropy_coeff"


def of(**keys: Any) -> dict[str, Any]:
    """Fields of a configuration; ``__`` stands for a dot, and the key that makes it verl's is always there."""
    return dict(read_config({KEY: 0, **{key.replace("__", "."): value for key, value in keys.items()}}).fields)


def test_every_key_is_one_of_the_installed_verls_and_every_field_one_of_a_condition() -> None:
    assert set(DIRECT) <= set(known_keys())
    assert [field for field in DIRECT.values() if unknown_part(field) is not None] == []


def test_verls_whole_configuration_says_nothing_of_treatments() -> None:
    from omegaconf import OmegaConf

    changes = {
        "actor_rollout_ref.rollout.name": "vllm", "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.rollout.n": 8, "trainer.test_freq": 20, "data.train_files": "/data/train.parquet",
    }  # fmt: skip
    read = read_config(OmegaConf.to_container(compose(changes), resolve=False))
    fields = dict(read.fields)
    assert fields.pop("model.path") == "~/models/deepseek-llm-7b-chat"
    assert fields == {
        "data.train": "/data/train.parquet", "data.test": "~/data/rlhf/gsm8k/test.parquet",
        "data.max_prompt_tokens": 512, "data.max_response_tokens": 512,
        "algorithm.name": "grpo", "algorithm.samples_per_prompt": 8, "algorithm.temperature": 1.0,
        "algorithm.loss_aggregation": "token-mean", "algorithm.dynamic_sampling": False,
        "algorithm.clip_low": 0.2, "algorithm.clip_high": 0.2, "algorithm.kl_loss": 0.0,
        "optimiser.lr": 1e-6, "optimiser.weight_decay": 0.01, "optimiser.warmup_steps": 0, "optimiser.grad_clip": 1.0,
        "batch.prompts": 1024, "batch.mini_batch": 256, "epochs": 30, "rollout": "vllm", "lora": None,
        "eval.every": 20, "eval.before_training": True, "eval.samples": 1, "eval.temperature": 0,
    }  # fmt: skip
    unsaid = {"dtype", "aqn", "srdd", "hw_noise", "compute"}
    assert unsaid <= set(Condition.model_fields)
    assert not {name.partition(".")[0] for name in read.fields} & unsaid
    assert read.text["actor_rollout_ref.rollout.dtype"] == "bfloat16"
    assert read.planned_steps is None


def test_mlflows_texts_say_the_same_as_typed_values() -> None:
    nested = {
        "actor_rollout_ref": {"actor": {"optim": {"lr": 1e-6}}, "model": {"lora_rank": 32, "lora_alpha": 16,
                                                                        "lora": {"merge": True}}},
        "data": {"train_files": ["a.parquet"], "val_files": "b.parquet"},
        "trainer": {"total_training_steps": None, "total_epochs": 2, "val_before_train": False},
    }  # fmt: skip
    flat = {
        "actor_rollout_ref/actor/optim/lr": "1e-06", "actor_rollout_ref/model/lora_rank": "32",
        "actor_rollout_ref/model/lora_alpha": "16", "actor_rollout_ref/model/lora/merge": "True",
        "data/train_files/list_len": "1", "data/train_files/0": "a.parquet", "data/val_files": "b.parquet",
        "trainer/total_training_steps": "None", "trainer/total_epochs": "2", "trainer/val_before_train": "False",
    }  # fmt: skip
    assert read_config(nested) == read_config(flat)
    assert read_config(flat).fields == {
        "optimiser.lr": 1e-6, "lora.rank": 32, "lora.alpha": 16, "lora.sync": "merged",
        "lora": {"rank": 32, "alpha": 16, "sync": "merged"}, "data.train": "a.parquet", "data.test": "b.parquet",
        "epochs": 2, "eval.before_training": False,
    }  # fmt: skip
    assert read_config(flat).text == {}


CLIP = {"actor_rollout_ref__actor__clip_ratio_low": 0.2, "actor_rollout_ref__actor__clip_ratio_high": 0.28}
BUFFER = "reward__reward_kwargs__overlong_buffer_cfg__"


@pytest.mark.parametrize(
    ("keys", "said", "unsaid"),
    [
        ({"algorithm__adv_estimator": "gae"}, {}, {"algorithm.name"}),
        ({"algorithm__adv_estimator": "grpo"}, {}, {"algorithm.name"}),  # dynamic sampling is not told
        ({"algorithm__adv_estimator": "grpo", "algorithm__filter_groups__enable": True} | CLIP,
         {"algorithm.name": "dapo", "algorithm.clip_high": 0.28}, set()),
        ({"algorithm__adv_estimator": "grpo", "algorithm__filter_groups__enable": False} | CLIP,
         {"algorithm.dynamic_sampling": False}, {"algorithm.name"}),  # half of DAPO
        ({"actor_rollout_ref__actor__clip_ratio": 0.1}, {"algorithm.clip_low": 0.1, "algorithm.clip_high": 0.1}, set()),
        ({"actor_rollout_ref__actor__use_kl_loss": True, "actor_rollout_ref__actor__kl_loss_coef": 0.001},
         {"algorithm.kl_loss": 0.001}, set()),
        ({"actor_rollout_ref__actor__kl_loss_coef": 0.001}, {}, {"algorithm.kl_loss"}),
        ({f"{BUFFER}enable": True, f"{BUFFER}len": 4096, f"{BUFFER}penalty_factor": 1.0},
         {"algorithm.overlong": {"buffer": 4096, "penalty": 1.0}}, set()),
        ({f"{BUFFER}enable": False, f"{BUFFER}len": 4096}, {"algorithm.overlong": None}, set()),
        ({f"{BUFFER}enable": True}, {}, {"algorithm.overlong"}),
        ({"trainer__total_epochs": 30, "trainer__total_training_steps": 58}, {}, {"epochs"}),
        ({"trainer__total_epochs": 30}, {}, {"epochs"}),
        ({"actor_rollout_ref__actor__grad_clip": 1.0, "actor_rollout_ref__actor__optim__clip_grad": 0.5}, {},
         {"optimiser.grad_clip"}),
        ({"actor_rollout_ref__actor__grad_clip": 0.3}, {"optimiser.grad_clip": 0.3}, set()),
        ({"actor_rollout_ref__actor__optim__lr_warmup_steps": -1,
          "actor_rollout_ref__actor__optim__lr_warmup_steps_ratio": 0.1}, {}, {"optimiser.warmup_steps"}),
        ({"actor_rollout_ref__actor__optim__lr_warmup_steps": 10}, {"optimiser.warmup_steps": 10}, set()),
        ({"actor_rollout_ref__rollout__val_kwargs__do_sample": False,
          "actor_rollout_ref__rollout__val_kwargs__temperature": 0.6}, {}, {"eval.temperature"}),
        ({"actor_rollout_ref__rollout__val_kwargs__do_sample": True,
          "actor_rollout_ref__rollout__val_kwargs__temperature": 0.6}, {"eval.temperature": 0.6}, set()),
        ({"actor_rollout_ref__model__lora_rank": 0}, {"lora": None}, set()),
        ({"actor_rollout_ref__model__lora_rank": 8}, {"lora.rank": 8}, {"lora", "lora.alpha", "lora.sync"}),
        ({"actor_rollout_ref__model__lora_rank": 0, "actor_rollout_ref__model__lora__rank": 8}, {},
         {"lora", "lora.rank"}),
        ({"actor_rollout_ref__rollout__name": "hf"}, {}, {"rollout"}),
        ({"trainer__test_freq": -1}, {}, {"eval.every"}),
        ({"data__train_files": ["a", "b"]}, {}, {"data.train"}),
        ({"actor_rollout_ref__actor__optim__lr": "${oc.env:LR}"}, {}, {"optimiser.lr"}),
        ({"data__train_batch_size": True}, {}, {"batch.prompts"}),
    ],
)  # fmt: skip
def test_a_field_is_said_only_where_the_configuration_decides_it(
    keys: dict[str, Any], said: dict[str, Any], unsaid: set[str]
) -> None:
    fields = of(**keys)
    assert {name: fields.get(name, "unsaid") for name in said} == said
    assert not unsaid & fields.keys()


def test_what_sets_no_field_is_kept_as_text_and_secrets_are_not() -> None:
    read = read_config(
        {
            KEY: 0.001, "trainer": {"project_name": "p", "empty": None, "api_key": "sk-123", "n_gpus": 8},
            "env": {"HF_TOKEN": "hf_x", "WANDB_API_KEY": "k", "max_tokens": 5, "eos_token": "</s>"},
            "long": "x" * 2000, "data.train_files": ["a", "b"], "trainer.total_training_steps": 58,
        }
    )  # fmt: skip
    assert read.planned_steps == 58
    assert read.text == {
        KEY: "0.001", "trainer.project_name": "p", "trainer.api_key": HIDDEN, "trainer.n_gpus": "8",
        "env.HF_TOKEN": HIDDEN, "env.WANDB_API_KEY": HIDDEN, "env.max_tokens": "5", "env.eos_token": "</s>",
        "long": "x" * (MAX_TEXT - 1) + "…", "data.train_files": "['a', 'b']", "trainer.total_training_steps": "58",
    }  # fmt: skip


def test_another_trainers_configuration_sets_no_field() -> None:
    read = read_config({"lr": 1e-5, "data": {"train_batch_size": 8}, "trainer.total_epochs": 3})
    assert (read.fields, read.planned_steps) == ({}, None)
    assert read.text == {"lr": "1e-05", "data.train_batch_size": "8", "trainer.total_epochs": "3"}
