"""Condition → verl's configuration: one table of its keys, checked against verl's own by :mod:`workers.verl_config`.

Part of the contract (no torch, no verl): `aqn plan` shows with it what a node would run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiment_specs.language import Condition
from workers.launch import Order


def overrides(
    order: Order, run_dir: Path, files: dict[str, str], *, cpu: bool, resume_from: str | None = None
) -> dict[str, Any]:
    """verl key → value for one attempt. ``files``: where model, train and test data really lie. ``resume_from``: the
    folder of the checkpoint to go on from."""
    c = order.typed_condition
    result = {
        **_fixed(run_dir),
        **_from_condition(c, order),
        "actor_rollout_ref.model.path": files["model"],
        "data.train_files": files["train"],
        "data.val_files": files["test"],
        "trainer.project_name": "aqn",
        "trainer.experiment_name": order.run_id,
        "trainer.n_gpus_per_node": order.gpus,
    }
    if cpu:
        result |= CPU
    result |= WAVES if c.rollout == "transformers" else WAVES | vllm_rollout(c, cpu=cpu)
    result |= c.trainer | order.overrides | _evaluated(order) | _resumed(resume_from)
    result |= {key: smaller(int(result[key]), order.halvings) for key in MICRO_BATCHES}
    return result | {"trainer.logger": list(dict.fromkeys(["console", *result["trainer.logger"]]))}


def _evaluated(order: Order) -> dict[str, Any]:
    """Of an eval: resume from the checkpoint, ask the test questions, end; nothing is saved."""
    if order.kind != "eval" or order.source is None:
        return {}
    return {
        "trainer.resume_mode": "resume_path",
        "trainer.resume_from_path": order.source["checkpoint"],
        "trainer.val_only": True,
        "trainer.val_before_train": True,
        "trainer.save_freq": -1,
    }


def _resumed(resume_from: str | None) -> dict[str, Any]:
    """What was answered at the checkpoint's step is in the past that was taken over."""
    if resume_from is None:
        return {}
    return {
        "trainer.resume_mode": "resume_path",
        "trainer.resume_from_path": resume_from,
        "trainer.val_before_train": False,
    }


MICRO_BATCHES = (
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
)


def smaller(answers: int, halvings: int) -> int:
    """A micro-batch after running out of memory: the same answers in more portions, which are equal as verl wants
    them, so the same gradient. The largest divisor of ``answers`` that is at most so many times halved."""
    most = max(1, answers >> halvings)
    return max(size for size in range(1, most + 1) if answers % size == 0)


def _from_condition(c: Condition, order: Order) -> dict[str, Any]:
    a, actor, rollout = c.algorithm, "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    tokens = c.data.max_prompt_tokens + c.data.max_response_tokens
    update = micro_batch(c.batch.mini_batch * a.samples_per_prompt, order.gpus, tokens)
    forward = micro_batch(c.batch.prompts * a.samples_per_prompt, order.gpus, tokens)
    precision = {"param_dtype": c.compute, "reduce_dtype": "fp32", "buffer_dtype": c.compute}
    table = {
        "algorithm.adv_estimator": "grpo",
        "algorithm.use_kl_in_reward": False,
        "algorithm.filter_groups.enable": a.dynamic_sampling,
        "algorithm.filter_groups.metric": "acc",
        "critic.enable": False,
        "data.train_batch_size": c.batch.prompts,
        "data.max_prompt_length": c.data.max_prompt_tokens,
        "data.max_response_length": c.data.max_response_tokens,
        "data.seed": order.seed,
        f"{actor}.ppo_mini_batch_size": c.batch.mini_batch,
        f"{actor}.ppo_micro_batch_size_per_gpu": update,
        f"{actor}.clip_ratio": a.clip_low,
        f"{actor}.clip_ratio_low": a.clip_low,
        f"{actor}.clip_ratio_high": a.clip_high,
        f"{actor}.loss_agg_mode": a.loss_aggregation,
        f"{actor}.use_kl_loss": a.kl_loss > 0,
        f"{actor}.kl_loss_coef": a.kl_loss,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.grad_clip": c.optimiser.grad_clip,
        f"{actor}.optim.clip_grad": c.optimiser.grad_clip,
        f"{actor}.optim.lr": c.optimiser.lr,
        f"{actor}.optim.weight_decay": c.optimiser.weight_decay,
        f"{actor}.optim.lr_warmup_steps": c.optimiser.warmup_steps,
        f"{actor}.data_loader_seed": order.seed,
        f"{actor}.fsdp_config.seed": order.seed,
        f"{actor}.fsdp_config.mixed_precision": precision,
        "actor_rollout_ref.model.override_config.attn_implementation": c.attention,
        # verl packs sequences into one row without a mask: in sdpa and eager, tokens would see earlier sequences
        "actor_rollout_ref.model.use_remove_padding": c.attention == "flash_attention_2",
        f"{rollout}.name": c.rollout,
        f"{rollout}.n": a.samples_per_prompt,
        f"{rollout}.temperature": a.temperature,
        f"{rollout}.seed": order.seed,
        f"{rollout}.dtype": {"fp32": "float32", "bf16": "bfloat16"}[c.compute],
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": forward,
        f"{rollout}.val_kwargs.n": c.eval.samples,
        f"{rollout}.val_kwargs.temperature": c.eval.temperature,
        f"{rollout}.val_kwargs.do_sample": c.eval.temperature > 0,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": forward,
        "actor_rollout_ref.ref.fsdp_config.mixed_precision": precision,
        "trainer.total_training_steps": order.total_steps,
        # verl ends at whichever comes first, and skips the last eval where it is the epochs
        "trainer.total_epochs": order.total_steps // (c.data.train_rows // c.batch.prompts) + 2,
        "trainer.test_freq": c.eval.every,
        "trainer.val_before_train": c.eval.before_training,
        "trainer.save_freq": 1 if order.kind == "train" else -1,  # asked at every step, the trainer decides
    }  # fmt: skip
    if c.lora is not None:
        model = "actor_rollout_ref.model"
        table |= {
            f"{model}.lora_rank": c.lora.rank,
            f"{model}.lora_alpha": c.lora.alpha,
            f"{model}.target_modules": "all-linear",
            f"{model}.lora.merge": c.lora.sync == "merged",
        }
    if a.overlong is not None:
        table |= {
            "reward.reward_manager.name": "dapo",
            "reward.reward_kwargs": {
                "max_resp_len": c.data.max_response_tokens,
                "overlong_buffer_cfg": {
                    "enable": True, "len": a.overlong.buffer, "penalty_factor": a.overlong.penalty, "log": False,
                },
            },
        }  # fmt: skip
    return table


MOST_ANSWERS_AT_ONCE = 128
MOST_TOKENS_AT_ONCE = 16_384
"""Logits of a vocabulary of 150 000 are 10 GB in fp32 for so many."""


def micro_batch(answers: int, gpus: int, tokens: int) -> int:
    """Answers of up to ``tokens`` that a GPU takes at once: the largest divisor of its share that is not too much.

    verl wants equal micro-batches. Raises ValueError where the answers cannot be shared out equally.
    """
    share, rest = divmod(answers, gpus)
    if rest:
        raise ValueError(f"{answers} answers cannot be shared out equally to {gpus} GPUs")
    most = max(1, min(share, MOST_ANSWERS_AT_ONCE, MOST_TOKENS_AT_ONCE // tokens))
    return max(size for size in range(1, most + 1) if share % size == 0)


def _fixed(run_dir: Path) -> dict[str, Any]:
    fsdp = "actor_rollout_ref.actor.fsdp_config"
    return {
        "trainer.v1.trainer_mode": "aqn",
        "trainer.nnodes": 1,
        "trainer.logger": ["console"],
        "trainer.default_local_dir": str(run_dir / "checkpoints"),
        "trainer.validation_data_dir": str(run_dir / "answers"),
        "trainer.resume_mode": "disable",
        "actor_rollout_ref.model.external_lib": "workers.verl.register",
        "actor_rollout_ref.actor.strategy": "fsdp2",
        f"{fsdp}.strategy": "fsdp2",
        "actor_rollout_ref.ref.fsdp_config.strategy": "fsdp2",
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "reward.custom_reward_function.path": str(Path(__file__).parent / "verl" / "reward.py"),
        "reward.custom_reward_function.name": "compute_score",
    }


CPU: dict[str, Any] = {
    "trainer.device": "cpu",
    "actor_rollout_ref.model.enable_gradient_checkpointing": False,
    "actor_rollout_ref.actor.use_torch_compile": False,
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile": False,
    "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    "data.dataloader_num_workers": 0,
}
"""A bare machine: no device, no compilation, no spare processes."""

WAVES: dict[str, Any] = {
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class": "workers.verl.waves.WaveManager",
    "reward.num_workers": 0,  # a wave is scored where it is collected
}


def vllm_rollout(c: Condition, *, cpu: bool) -> dict[str, Any]:
    """Eager, because what is compiled can neither be noised nor looked at."""
    return {
        "actor_rollout_ref.rollout.enforce_eager": True,
        "actor_rollout_ref.rollout.max_model_len": c.data.max_prompt_tokens + c.data.max_response_tokens,
    } | (VLLM_ON_CPU if cpu else {})


VLLM_ON_CPU: dict[str, Any] = {
    "actor_rollout_ref.rollout.free_cache_engine": False,
    "actor_rollout_ref.rollout.enable_sleep_mode": False,
    "actor_rollout_ref.rollout.max_num_seqs": 128,
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": 16,
    "actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend": "uni",
}
"""Nothing to put to sleep, weights that go through shared memory, and the worker in the engine's process, which saves
importing everything once more (benchmarks/results/first-run.md)."""
