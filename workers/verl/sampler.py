"""verl's replay buffer with a fixed order: the same prompts give the same batch, whatever finished first.

Two differences. A batch is put together in the order in which its prompts were sent. And dynamic sampling goes in
waves: a wave is answered completely, groups whose answers all score alike are dropped, and twice as many prompts as are
short are sent anew. verl sends replacements while answers still come in, so that the clock decides which ones.
"""

from __future__ import annotations

import time
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import DAPO_FILTERED_REWARD_COUNTS_KEY, ReplayBuffer

POLL_SECONDS = 0.02


class OrderedReplayBuffer(ReplayBuffer):
    """Drop-in for :class:`ReplayBuffer` in synchronous training."""

    def start_counting(self, most_prompts: int, generated: int = 0, kept: int = 0) -> None:
        """``most_prompts``: how many a step may send before it is given up, one pass over the data. ``generated`` and
        ``kept``: by the steps before a checkpoint that the run goes on from."""
        self._most = most_prompts
        self._sent: dict[str, int] = {}
        self.prompts_generated = generated
        self.prompts_kept = kept

    def note_sent(self, uids: list[str]) -> None:
        """Training prompts that were just sent for generation, in order."""
        for uid in uids:
            self._sent[uid] = self.prompts_generated
            self.prompts_generated += 1

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        metrics: dict[str, Any] = {}
        sent_before = self.prompts_generated - batch_size
        filtering = partition_id != "val" and self.filter_groups_metric is not None
        while True:
            self._wait_until_idle(partition_id)
            if filtering:
                dropped, rewards = self._dapo_filtered_keys(partition_id)
                self._clear_groups(partition_id, dropped)
                key = "training/filter_groups/evicted_samples"
                metrics[key] = metrics.get(key, 0) + len(dropped)
                counts = metrics.setdefault(DAPO_FILTERED_REWARD_COUNTS_KEY, {})
                for reward, count in rewards.items():
                    counts[reward] = counts.get(reward, 0) + count
            finished = sorted(self.finished_keys[partition_id], key=lambda uid: self._sent.get(uid, 0))
            if len(finished) >= batch_size:
                break
            if not filtering:
                raise RuntimeError(f"{len(finished)} of {batch_size} prompts came back")
            sent = self.prompts_generated - sent_before
            if sent >= self._most:
                raise RuntimeError(
                    f"dynamic sampling found {len(finished)} of {batch_size} groups with unlike scores in {sent} "
                    "prompts, one pass over the data: the policy has collapsed, or has nothing left to learn"
                )
            self.refill_fn(min(2 * (batch_size - len(finished)), self._most - sent))
        chosen, surplus = finished[:batch_size], set(finished[batch_size:])
        if surplus:
            self._clear_groups(partition_id, surplus)
            metrics["training/filter_groups/discarded_surplus_samples"] = len(surplus)
        if partition_id != "val":
            self.prompts_kept += len(chosen)
        return self._materialize_batch(partition_id, chosen, dict(self.partitions[partition_id])), metrics

    def _wait_until_idle(self, partition_id: str) -> None:
        self._sync_metadata_from_transfer_queue()
        while self.pending_keys[partition_id] or self.running_keys[partition_id]:
            time.sleep(POLL_SECONDS)  # verl's own interval is 2 s
            self._sync_metadata_from_transfer_queue()
        if self.failure_keys[partition_id]:  # verl would pad the hole that a failed answer leaves
            raise RuntimeError(
                f"{len(self.failure_keys[partition_id])} prompts failed in the rollout; see the log above"
            )

    def _materialize_batch(self, partition_id: str, selected_prompt_uids: Any, partition_snapshot: Any) -> Any:
        batch = super()._materialize_batch(partition_id, selected_prompt_uids, partition_snapshot)
        place = {uid: index for index, uid in enumerate(selected_prompt_uids)}

        def order(index: int) -> tuple[int, int]:
            uid, session, _ = batch.keys[index].split("_")
            return place[uid], int(session)

        batch.reorder(sorted(range(len(batch.keys)), key=order))
        return batch
