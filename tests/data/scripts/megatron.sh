#!/usr/bin/env bash
# Megatron and SGLang on several nodes; what the device is, nobody knows before.
DEVICE=${DEVICE:-$(python3 -c 'import torch_npu' 2>/dev/null && echo npu || echo gpu)}
TP=4
case "${DEVICE}" in
    gpu) PER_NODE=8; MORE=() ;;
    npu) PER_NODE=16; MORE=(trainer.device=npu actor_rollout_ref.actor.use_torch_compile=False) ;;
    *) echo "no such device" >&2; exit 1 ;;
esac
python3 -m verl.trainer.main_ppo --config-path=config --config-name='ppo_megatron_trainer' \
    actor@actor_rollout_ref.actor=megatron_actor \
    algorithm.adv_estimator=gae \
    data.train_files="['$HOME/a.parquet','$HOME/b.parquet']" data.val_files=$HOME/t.parquet \
    data.train_batch_size=1024 data.image_key=pictures \
    actor_rollout_ref.model.path=$WEIGHTS/model \
    actor_rollout_ref.actor.megatron.tensor_model_parallel_size=$TP \
    actor_rollout_ref.rollout.name=sglang \
    +actor_rollout_ref.rollout.engine_kwargs.sglang.attention_backend=fa3 \
    actor_rollout_ref.rollout.multi_turn.enable=True \
    actor_rollout_ref.rollout.multi_turn.max_assistant_turns=4 \
    reward_model.enable=True reward_model.model.path=judge \
    critic.optim.lr=1e-5 \
    ~actor_rollout_ref.ref.fsdp_config \
    trainer.nnodes=${SLURM_NNODES} trainer.n_gpus_per_node=${PER_NODE} "${MORE[@]}" $EXTRA_ARGS
