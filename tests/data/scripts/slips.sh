# Slips that bash does not report: a lost backslash, and words behind the pipe.
python3 -m verl.trainer.main_ppo \
    algorithm.adv_estimator=grpo \
    data.train_files=/data/train.parquet data.val_files=/data/test.parquet \
    data.train_batch_size=64 data.train_batch_size=32 \
    actor_rollout_ref.actor.ppo_mini_batch_size=32 \
    actor_rollout_ref.model.path=/models/small \
    actor_rollout_ref.rollout.n=4 \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.actor.no_such_key=1 \
    trainer.test_freq=10 trainer.total_epochs=1 trainer.n_gpus_per_node=1 > log.txt \
    trainer.val_before_train=False 2>&1 | tee log.txt \
    trainer.save_freq=7

    trainer.resume_mode=disable \
    trainer.nnodes=1
