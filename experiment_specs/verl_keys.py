"""verl's keys and a condition: which of them a spec may not set, and which do not enter a condition's id."""

from __future__ import annotations

RESULT_NEUTRAL_OVERRIDES = (
    "actor_rollout_ref.rollout.gpu_memory_utilization",
    "actor_rollout_ref.rollout.free_cache_engine",
    "actor_rollout_ref.actor.fsdp_config.param_offload",
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload",
    "actor_rollout_ref.ref.fsdp_config.param_offload",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
    "actor_rollout_ref.model.enable_gradient_checkpointing",
    "data.dataloader_num_workers",
    "trainer.logger",
    "trainer.project_name",
)
"""verl keys that move memory, speed and where metrics are shown, not the result: not in a condition's id."""

LOGGERS = ("console", "wandb", "swanlab", "tensorboard", "clearml", "trackio")
"""verl's own backends that a spec may switch on beside the record kept here. MLflow is filled from that record."""

DECIDED_BY: dict[str, str] = {
    "actor_rollout_ref.actor.clip_ratio": "algorithm.clip_low",
    "actor_rollout_ref.actor.clip_ratio_high": "algorithm.clip_high",
    "actor_rollout_ref.actor.clip_ratio_low": "algorithm.clip_low",
    "actor_rollout_ref.actor.data_loader_seed": "seeds",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision": "compute",
    "actor_rollout_ref.actor.fsdp_config.qat": "the field dtype",
    "actor_rollout_ref.actor.fsdp_config.seed": "seeds",
    "actor_rollout_ref.actor.fsdp_config.strategy": "the workers",
    "actor_rollout_ref.actor.grad_clip": "optimiser.grad_clip",
    "actor_rollout_ref.actor.kl_loss_coef": "algorithm.kl_loss",
    "actor_rollout_ref.actor.kl_loss_type": "the workers",
    "actor_rollout_ref.actor.loss_agg_mode": "algorithm.loss_aggregation",
    "actor_rollout_ref.actor.optim.clip_grad": "optimiser.grad_clip",
    "actor_rollout_ref.actor.optim.lr": "optimiser.lr",
    "actor_rollout_ref.actor.optim.lr_warmup_steps": "optimiser.warmup_steps",
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": "optimiser.warmup_steps",
    "actor_rollout_ref.actor.optim.total_training_steps": "epochs and steps_per_epoch",
    "actor_rollout_ref.actor.optim.weight_decay": "optimiser.weight_decay",
    "actor_rollout_ref.actor.ppo_epochs": "the workers",
    "actor_rollout_ref.actor.ppo_mini_batch_size": "batch.mini_batch",
    "actor_rollout_ref.actor.qat": "the field dtype",
    "actor_rollout_ref.actor.strategy": "the workers",
    "actor_rollout_ref.actor.use_kl_loss": "algorithm.kl_loss",
    "actor_rollout_ref.model.external_lib": "the workers",
    "actor_rollout_ref.model.lora.merge": "lora.sync",
    "actor_rollout_ref.model.lora_alpha": "lora.alpha",
    "actor_rollout_ref.model.lora_rank": "lora.rank",
    "actor_rollout_ref.model.override_config.attn_implementation": "hw_noise",
    "actor_rollout_ref.model.path": "model.path",
    "actor_rollout_ref.model.target_modules": "lora",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision": "compute",
    "actor_rollout_ref.ref.fsdp_config.qat": "the field dtype",
    "actor_rollout_ref.ref.fsdp_config.strategy": "the workers",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class": "rollout",
    "actor_rollout_ref.rollout.calculate_log_probs": "the workers",
    "actor_rollout_ref.rollout.dtype": "compute",
    "actor_rollout_ref.rollout.enforce_eager": "the workers",
    "actor_rollout_ref.rollout.max_model_len": "data.max_prompt_tokens and data.max_response_tokens",
    "actor_rollout_ref.rollout.n": "algorithm.samples_per_prompt",
    "actor_rollout_ref.rollout.name": "rollout",
    "actor_rollout_ref.rollout.qat": "the field dtype",
    "actor_rollout_ref.rollout.quantization": "the field dtype",
    "actor_rollout_ref.rollout.quantization_config_file": "the field dtype",
    "actor_rollout_ref.rollout.seed": "seeds",
    "actor_rollout_ref.rollout.temperature": "algorithm.temperature",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "the workers",
    "actor_rollout_ref.rollout.val_kwargs.do_sample": "eval.temperature",
    "actor_rollout_ref.rollout.val_kwargs.n": "eval.samples",
    "actor_rollout_ref.rollout.val_kwargs.temperature": "eval.temperature",
    "algorithm.adv_estimator": "algorithm",
    "algorithm.filter_groups.enable": "algorithm.dynamic_sampling",
    "algorithm.filter_groups.metric": "algorithm.dynamic_sampling",
    "algorithm.use_kl_in_reward": "algorithm.kl_loss",
    "critic.enable": "algorithm",
    "data.max_prompt_length": "data.max_prompt_tokens",
    "data.max_response_length": "data.max_response_tokens",
    "data.seed": "seeds",
    "data.train_batch_size": "batch.prompts",
    "data.train_files": "data.train",
    "data.train_max_samples": "data.train_rows",
    "data.val_files": "data.test",
    "data.val_max_samples": "data.test_rows",
    "reward.custom_reward_function.name": "the workers",
    "reward.custom_reward_function.path": "the workers",
    "reward.num_workers": "rollout",
    "reward.reward_kwargs": "algorithm.overlong",
    "reward.reward_manager.name": "algorithm.overlong",
    "trainer.critic_warmup": "the workers",
    "trainer.default_local_dir": "the run directory",
    "trainer.experiment_name": "the run",
    "trainer.max_actor_ckpt_to_keep": "checkpoints.keep",
    "trainer.n_gpus_per_node": "resources.gpus",
    "trainer.nnodes": "the workers",
    "actor_rollout_ref.actor.checkpoint.async_save": "the workers",
    "actor_rollout_ref.actor.checkpoint.load_contents": "the workers",
    "actor_rollout_ref.actor.checkpoint.save_contents": "the workers",
    "trainer.del_local_ckpt_after_load": "the workers",
    "trainer.remove_previous_ckpt_in_save": "the workers",
    "trainer.resume_from_path": "the workers",
    "trainer.resume_mode": "the workers",
    "trainer.save_freq": "checkpoints.every",
    "trainer.test_freq": "eval.every",
    "trainer.total_epochs": "epochs",
    "trainer.total_training_steps": "epochs and steps_per_epoch",
    "trainer.v1.trainer_mode": "the workers",
    "trainer.val_before_train": "eval.before_training",
    "trainer.val_only": "the workers",
    "trainer.validation_data_dir": "the run directory",
}
"""verl keys that the workers set, or whose other values would make a plan's steps and counts false or quantise
a second time, and who decides them. A spec may not set them itself (checked by a test against the workers' own
table)."""


def decided_by(key: str) -> str | None:
    """Who decides a key of verl's, or one above or below it; None where a spec may set it."""
    for decided, by in DECIDED_BY.items():
        if key == decided or key.startswith(f"{decided}.") or decided.startswith(f"{key}."):
            return by
    return None
