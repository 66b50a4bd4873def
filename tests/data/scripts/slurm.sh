#!/bin/bash
# Writes a Slurm job and submits it.
PARTITION=${1:-long}
NODES=2
EPOCHS=2
sbatch <<EOF
#!/bin/bash
#SBATCH --partition=${PARTITION}
#SBATCH --nodes=${NODES}
srun --overlap --nodes=1 apptainer run --nv image.sif \
    python3 -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    data.train_files=/data/train.parquet data.val_files=/data/test.parquet \
    data.train_batch_size=64 actor_rollout_ref.actor.ppo_mini_batch_size=64 \
    actor_rollout_ref.model.path=/models/small actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=4 trainer.nnodes=${NODES} trainer.n_gpus_per_node=4 \
    trainer.total_epochs=${EPOCHS} trainer.test_freq=10 2>&1 | tee run.log
EOF
