"""Imported by driver, engine and rollout server (``model.external_lib``): enters our engine and rollout into verl."""

from __future__ import annotations

from typing import Any

from verl.workers.engine.base import EngineRegistry
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplicaRegistry

from workers.verl.engine import TreatedEngine
from workers.verl.plugins import load_worker_plugins

ROLLOUT_NAME = "transformers"

_ROLLOUT_REGISTRY[(ROLLOUT_NAME, "async")] = "workers.verl.rollout.ServerAdapter"


_ROLLOUT_REGISTRY[("vllm", "async")] = "workers.verl.vllm_rollout.VllmAdapter"


def _replica() -> Any:
    from workers.verl.rollout import Replica

    return Replica


def _vllm_replica() -> Any:
    from workers.verl.vllm_rollout import VllmReplica

    return VllmReplica


RolloutReplicaRegistry.register(ROLLOUT_NAME, _replica)
RolloutReplicaRegistry.register("vllm", _vllm_replica)

# The same engine on every device: it is verl's own, plus the treatments.
for _backend in ("fsdp", "fsdp2"):
    for _device in ("cpu", "cuda"):
        EngineRegistry._engines.setdefault("language_model", {}).setdefault(_backend, {})[_device] = TreatedEngine

load_worker_plugins()
