#!/bin/bash
# LoRA, once per seed, in a function; hardware noise by the environment.
export VERL_NOISY_OPS_ENABLED=1 VERL_NOISY_OPS_SCALE=0.05
export CUDA_VISIBLE_DEVICES=0
rank=32

train() {
    local seed=$1
    shift
    torchrun --nproc_per_node 1 -m verl.trainer.main_ppo \
        algorithm.adv_estimator=grpo data.seed=$seed \
        data.train_files=data/gsm8k/train.parquet data.val_files=data/gsm8k/test.parquet \
        data.train_batch_size=64 data.max_prompt_length=512 data.max_response_length=512 \
        actor_rollout_ref.model.path=Qwen/Qwen2.5-1.5B-Instruct \
        actor_rollout_ref.model.lora_rank=$rank actor_rollout_ref.model.lora_alpha=$((rank * 2)) \
        actor_rollout_ref.model.target_modules=all-linear \
        ++actor_rollout_ref.model.lora.merge=true \
        actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=8 \
        actor_rollout_ref.rollout.load_format=safetensors \
        actor_rollout_ref.actor.ppo_mini_batch_size=64 actor_rollout_ref.actor.optim.lr=3e-5 \
        actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.1 \
        trainer.n_gpus_per_node=1 trainer.test_freq=-1 trainer.total_epochs=1 \
        trainer.experiment_name=lora-s$seed "$@"
}

for seed in 1 2 3; do
    train $seed trainer.val_before_train=False
done
