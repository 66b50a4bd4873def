"""Rollouts by transformers, as verl knows a rollout: the adapter beside the engine, and the replica that it feeds.

Slow and simple next to vLLM; its virtue is that it runs anywhere and repeats exactly.
"""

from __future__ import annotations

import os
from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica

from workers.verl.server import server_name


class ServerAdapter(BaseRollout):
    """Lives beside the engine; hands the exported weights to the server of its replica."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        super().__init__(config, model_config, device_mesh)
        rank = int(os.environ["RANK"])
        size = self.config.tensor_model_parallel_size * self.config.data_parallel_size
        self._replica = rank // size if replica_rank == -1 else replica_rank
        self._leads = rank % size == 0

    async def resume(self, tags: list[str]) -> None:
        return None

    async def release(self) -> None:
        return None

    @torch.no_grad()
    async def update_weights(self, weights: Any, global_steps: int | None = None, **options: Any) -> None:
        """Send one sync. ``weights``: (name, tensor) pairs, drained by every rank, because gathering is collective.

        Adapters come among them, under the names that they have in the policy.
        """
        state = {name: value.detach().cpu() for name, value in weights}
        if self._leads:
            await ray.get_actor(server_name(self._replica)).load.remote(state, global_steps or 0)


class Replica(RolloutReplica):
    """Points verl to the server that was started for it."""

    async def launch_servers(self) -> None:
        server = ray.get_actor(server_name(self.replica_rank))
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)
