"""From prompts to scored answers in waves: verl's agent-loop manager for single-turn questions, one call a wave.

verl runs an asyncio task, a server call, a reward call and a queue write for every single answer, in processes of
their own; a wave does each once for all answers. What lands in the transfer queue is the same.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray
import torch
import transfer_queue as tq
from tensordict import TensorDict
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.protocol import DataProto
from verl.trainer.ppo.reward import load_reward_manager
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from workers.verl.generate import Answer, Request
from workers.verl.server import replicas, server_name


class WaveManager:
    """Asks the servers, scores with verl's reward manager, writes to the transfer queue. Blocks until all is done."""

    @classmethod
    def create(cls, config: Any, **_: Any) -> WaveManager:
        """The constructor that verl calls."""
        return cls(config)

    def __init__(self, config: Any) -> None:
        self._config = config
        self._rollout = config.actor_rollout_ref.rollout
        self._tokenizer = omega_conf_to_dataclass(config.actor_rollout_ref.model).tokenizer
        self._servers = [ray.get_actor(server_name(i, self._rollout.name)) for i in range(replicas(config))]
        self._asked: Counter[tuple[bool, tuple[int, ...]]] = Counter()
        self._version = -1
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._rewards = load_reward_manager(config, self._tokenizer)

    def generate_sequences(self, batch: Any) -> None:
        """Answer every prompt of a batch, ``rollout.n`` times in training and ``val_kwargs.n`` times in validation."""
        validating = bool(batch["validate"]) if "validate" in batch else False
        sampling = self._rollout.val_kwargs if validating else self._rollout
        version = ray.get(self._servers[0].weights_version.remote())
        rows = _rows(batch)
        prompts = [self._tokens(row) for row in rows]
        sessions = [(i, j) for i in range(len(rows)) for j in range(sampling.n)]
        first_copy = [self._count(version, validating, prompt, sampling.n) for prompt in prompts]
        requests = [
            Request(
                prompt=prompts[i],
                max_tokens=self._rollout.response_length,
                temperature=float(sampling.temperature),
                top_p=float(sampling.top_p),
                top_k=int(sampling.top_k),
                seed=_seed(self._rollout.seed, version, prompts[i], first_copy[i] + j, validating),
            )
            for i, j in sessions
        ]
        answers = self._ask(requests)
        scores = self._score([rows[i] for i, _ in sessions], requests, answers)
        wave = [
            Trajectory(rows[i], j, request, answer, score)
            for (i, j), request, answer, score in zip(sessions, requests, answers, scores, strict=True)
        ]
        _store(rows, wave, version, "val" if validating else "train")

    def _count(self, version: int, validating: bool, prompt: tuple[int, ...], samples: int) -> int:
        """How often this prompt was answered under these weights before: a prompt that comes again gets new answers."""
        if self._version != version:
            self._version = version
            self._asked.clear()
        before = self._asked[validating, prompt]
        self._asked[validating, prompt] += samples
        return before

    def _tokens(self, row: dict[str, Any]) -> tuple[int, ...]:
        tokens = self._tokenizer.apply_chat_template(
            list(row["raw_prompt"]), add_generation_prompt=True, tokenize=True, return_dict=False,
            **self._config.data.get("apply_chat_template_kwargs", {}),
        )  # fmt: skip
        if len(tokens) > self._rollout.prompt_length:
            raise RuntimeError(
                f"a prompt of {len(tokens)} tokens is longer than the {self._rollout.prompt_length} allowed"
            )
        return tuple(tokens)

    def _ask(self, requests: list[Request]) -> list[Answer]:
        share = -(-len(requests) // len(self._servers))
        calls = [
            server.answer.remote(requests[k * share : (k + 1) * share])
            for k, server in enumerate(self._servers)
            if requests[k * share : (k + 1) * share]
        ]
        return [answer for part in ray.get(calls) for answer in part]

    def _score(
        self, rows: list[dict[str, Any]], requests: list[Request], answers: list[Answer]
    ) -> list[dict[str, Any]]:
        async def all_scores() -> list[dict[str, Any]]:
            calls = [
                self._rewards.run_single(_for_scoring(row, request, answer))
                for row, request, answer in zip(rows, requests, answers, strict=True)
            ]
            return list(await asyncio.gather(*calls))

        return self._loop.run_until_complete(all_scores())


@dataclass(frozen=True)
class Trajectory:
    """One scored answer: the prompt's row, which copy of it this is, what was asked, answered, and earned."""

    row: dict[str, Any]
    session: int
    request: Request
    answer: Answer
    score: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.row['uid']}_{self.session}_0"

    def fields(self, version: int) -> dict[str, Any]:
        """The queue's fields, as verl's own agent loop fills them."""
        versions = dict.fromkeys(("global_steps", "min_global_steps", "max_global_steps"), version)
        output = AgentLoopOutput(
            prompt_ids=list(self.request.prompt),
            response_ids=self.answer.tokens,
            response_mask=[1] * len(self.answer.tokens),
            response_logprobs=self.answer.log_probs,
            reward_score=self.score["reward_score"],
            num_turns=2,
            metrics=AgentLoopMetrics(),
            extra_fields=versions | {"reward_extra_info": self.score["reward_extra_info"]},
        )
        field: dict[str, Any] = output.as_dict() | self.row | {"session_id": self.session}
        field["loss_mask"] = field["response_mask"]
        field["input_ids"] = torch.cat([field["prompts"], field["responses"]])
        field["position_ids"] = torch.arange(len(field["input_ids"]))
        field["multi_modal_inputs"] = {}
        return field

    def tag(self, version: int) -> dict[str, Any]:
        lengths = {"prompt_len": len(self.request.prompt), "response_len": len(self.answer.tokens)}
        return {
            "status": "success",
            **lengths,
            "seq_len": sum(lengths.values()),
            "global_steps": self.row["global_steps"],
            "min_global_steps": version,
            "max_global_steps": version,
        }


def _store(rows: list[dict[str, Any]], wave: list[Trajectory], version: int, partition: str) -> None:
    """Trajectories first, then their prompts as finished: who sees a finished prompt finds its answers."""
    tq.kv_batch_put(
        keys=[t.key for t in wave],
        partition_id=partition,
        fields=list_of_dict_to_tensordict([t.fields(version) for t in wave]),
        tags=[t.tag(version) for t in wave],
    )
    done = [{"is_prompt": True, "status": "finished", "global_steps": row["global_steps"]} for row in rows]
    tq.kv_batch_put(keys=[row["uid"] for row in rows], partition_id=partition, tags=done)


def _rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a tensordict as plain values; what is one value for the whole batch is in every row."""
    columns = {}
    for key in batch.keys():  # noqa: SIM118 - a tensordict is not a dict
        value = batch.get(key)
        if isinstance(value, torch.Tensor):
            columns[key] = list(value)
        elif value.batch_dims:
            columns[key] = value.tolist()
        else:
            columns[key] = [value.data] * len(batch)
    columns.pop("validate", None)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _seed(seed: int, version: int, prompt: tuple[int, ...], copy: int, validating: bool) -> int:
    """Every answer's own: from the run's seed, the weights' version, the prompt, and which copy of it this is."""
    digest = hashlib.sha256(repr((seed, version, prompt, copy, validating)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _for_scoring(row: dict[str, Any], request: Request, answer: Answer) -> DataProto:
    """What verl's reward managers read: one answer, unpadded."""
    import numpy as np

    tensors = TensorDict(
        {
            "prompts": torch.tensor([request.prompt]),
            "responses": torch.tensor([answer.tokens]),
            "attention_mask": torch.ones(1, len(request.prompt) + len(answer.tokens), dtype=torch.long),
        },
        batch_size=1,
    )
    others = {}
    for key in ("data_source", "reward_model", "extra_info"):
        others[key] = np.empty(1, dtype=object)
        others[key][0] = row.get(key, {})
    return DataProto(batch=tensors, non_tensor_batch=others)
