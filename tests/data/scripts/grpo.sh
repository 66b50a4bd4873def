#!/usr/bin/env bash
# GRPO on one node, in arrays; the launcher depends on a variable.
set -xeuo pipefail

MODEL=${MODEL:-Qwen/Qwen2.5-1.5B-Instruct}
DATA_ROOT="$HOME/data"
prompts=${PROMPTS:-128}
answers=5
lr=5e-7
max_answer=$((1024 * 1))
run_name=grpo_$(date +%m%d)

DATA=(
    algorithm.adv_estimator=grpo
    data.train_files="${DATA_ROOT}/gsm8k/train.parquet"
    data.val_files="['${DATA_ROOT}/gsm8k/test.parquet']"   # a list of one
    # data.shuffle=False
    data.train_batch_size=${prompts}
    data.max_prompt_length=1024
    data.max_response_length=${max_answer}
    data.truncation='error'
)
ACTOR=(
    actor_rollout_ref.model.path="$MODEL"
    actor_rollout_ref.actor.optim.lr=${lr}
    actor_rollout_ref.actor.ppo_mini_batch_size=$((prompts / 4))
    actor_rollout_ref.actor.use_kl_loss=True
    actor_rollout_ref.actor.kl_loss_coef=0.001
    actor_rollout_ref.actor.kl_loss_type=low_var_kl
    actor_rollout_ref.actor.entropy_coeff=0
    actor_rollout_ref.ref.fsdp_config.param_offload=True
)
ROLLOUT=(
    actor_rollout_ref.rollout.name=vllm
    actor_rollout_ref.rollout.n=${answers}
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6
    actor_rollout_ref.rollout.tensor_model_parallel_size=2
)
EXTRA=()
if [ "${OFFLOAD:-0}" != 0 ]; then
    EXTRA+=(actor_rollout_ref.actor.fsdp_config.param_offload=True)
fi
START=(python3)
[[ -n "${PROFILE:-}" ]] && START=(nsys profile python3)

"${START[@]}" -m verl.trainer.main_ppo \
    "${DATA[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${EXTRA[@]}" \
    trainer.logger='["console","wandb"]' \
    trainer.project_name=maths \
    trainer.experiment_name=${run_name} \
    trainer.n_gpus_per_node=8 \
    trainer.nnodes=1 \
    trainer.save_freq=20 \
    trainer.test_freq=5 \
    trainer.total_epochs=3 "$@"
