"""Rollouts by vLLM: verl's own adapter, server and replica, which tell the worker process what it has to know.

The weights travel verl's way, in buckets; around each sync, each eval and each wave of answers the worker is told, so
that noise is drawn, lifted and measured there, on the modules that generate.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from workers.verl.generate import Answer, Request


class VllmAdapter(ServerAdapter):
    """Beside the engine: hands the exported weights over, and says when a sync begins and ends, and of which step."""

    async def update_weights(self, weights: Any, global_steps: int | None = None, **options: Any) -> None:
        await self._execute_method("aqn_begin_sync")
        await super().update_weights(weights, global_steps=global_steps, **options)
        await self._execute_method("aqn_end_sync", kwargs={"step": global_steps or 0})


class VllmServer(vLLMHttpServer):
    """One replica's server, with the same questions asked of it as of the server of transformers."""

    def _get_worker_extension_cls(self) -> str:
        return "workers.verl.vllm_worker.AqnExtension"

    async def begin_eval(self) -> None:
        await self._change("aqn_begin_eval")

    async def end_eval(self) -> None:
        await self._change("aqn_end_eval")

    async def _change(self, method: str) -> None:
        """The weights change: what was computed of a prompt with those before must not be gone on with."""
        await self.collective_rpc(method)
        await self.clear_kv_cache()

    def weights_version(self) -> int:
        """The training step after which the present weights were exported."""
        return self.global_steps or 0

    async def answer(self, requests: list[Request]) -> list[Answer]:
        """Sample all requests; vLLM batches them as it sees fit."""
        await self.collective_rpc("aqn_begin_answers")
        try:
            return list(await asyncio.gather(*map(self._one, requests)))
        finally:
            await self.collective_rpc("aqn_end_answers")

    async def _one(self, request: Request) -> Answer:
        sampling = {
            "temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k,
            "seed": request.seed % 2**63, "max_tokens": request.max_tokens, "logprobs": True,
        }  # fmt: skip
        found = await self.generate(list(request.prompt), sampling, uuid.uuid4().hex)
        tokens = list(found.token_ids)
        if not tokens or found.log_probs is None:
            raise RuntimeError(f"vLLM gave no answer to a prompt of {len(request.prompt)} tokens: {found.stop_reason}")
        return Answer(tokens, list(found.log_probs), tokens[-1] == self.model_config.tokenizer.eos_token_id)


class VllmReplica(vLLMReplica):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.server_class = ray.remote(VllmServer)
