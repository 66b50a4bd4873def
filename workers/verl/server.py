"""The process that generates: a Ray actor around the rollout copy. Imports no verl, so it starts in seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch

from workers.events import Kind, Spool
from workers.launch import RUN_DIR_VARIABLE, read_order
from workers.treatments import lora
from workers.treatments.attention import watch_attention
from workers.treatments.held import Held
from workers.verl.generate import Answer, Request, sample
from workers.verl.plugins import load_worker_plugins
from workers.verl.rollout_copy import RolloutCopy

ROWS = 128
"""Every batch is padded to this many rows: the result of a request must not depend on its company."""


def server_name(replica: int, rollout: str = "transformers") -> str:
    """The actor's name, as verl makes it of the rollout's and the replica's."""
    return f"{rollout}_server_{replica}_0"


def replicas(config: Any) -> int:
    """One model a GPU."""
    return int(config.trainer.n_gpus_per_node * config.trainer.nnodes)


def start_servers(config: Any) -> None:
    """Start every replica's process. Called before verl is imported: the two rounds of imports then overlap."""
    for replica in range(replicas(config)):
        ray.remote(Server).options(name=server_name(replica), lifetime="detached", num_cpus=0).remote(
            str(config.actor_rollout_ref.model.path), replica, replicas(config)
        )


class Server:
    """One replica. verl's weight sync calls ``load``; the wave manager calls ``answer``; the trainer marks evals."""

    def __init__(self, model_path: str, replica: int, replicas: int) -> None:
        import transformers

        load_worker_plugins()
        run_dir = os.environ[RUN_DIR_VARIABLE]
        order = read_order(run_dir)
        self._spool = Spool(run_dir)
        compute = torch.float32 if order.condition["compute"] == "fp32" else torch.bfloat16
        config = transformers.AutoConfig.from_pretrained(model_path)
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=compute, attn_implementation=order.typed_condition.attention
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
        cpu = os.environ.get("VERL_PLATFORM") == "cpu" or not torch.cuda.is_available()
        device = "cpu" if cpu else f"cuda:{replica}"
        adapters = order.typed_condition.lora
        if adapters is not None and adapters.sync == "adapter":
            model = lora.wrap(model, adapters)
        self._copy = RolloutCopy(Held(model.to(device)), order)
        self._who = {"replica": replica, "replicas": replicas}
        self._attention_known = False
        self._width = int(order.condition["data"]["max_prompt_tokens"])
        self._eos, self._pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    def load(self, state: dict[str, torch.Tensor], step: int) -> None:
        """Take over the weights exported after training step ``step``."""
        self._emit_all(self._copy.load(state, step))

    def begin_eval(self) -> None:
        self._emit_all(self._copy.begin_eval())

    def end_eval(self) -> None:
        self._emit_all(self._copy.end_eval())

    def _emit_all(self, events: list[tuple[Kind, dict[str, Any]]]) -> None:
        for kind, facts in events:
            self._emit(kind, facts)

    def _emit(self, kind: Kind, facts: dict[str, Any]) -> None:
        self._spool.append(kind, facts | self._who)

    def weights_version(self) -> int:
        """The training step after which the present weights were exported."""
        return self._copy.step or 0

    def answer(self, requests: list[Request]) -> list[Answer]:
        """Sample all requests, which share temperature, top_p, top_k and length limit, in their order."""
        with self._copy.answering(self._emit), self._attention_noted():
            return sample(self._copy.held.model, requests, eos=self._eos, pad=self._pad, rows=ROWS, width=self._width)

    @contextmanager
    def _attention_noted(self) -> Iterator[None]:
        """Of the first answers: a model's attention does not change while it lives."""
        if self._attention_known:
            yield
            return
        with watch_attention(self._copy.held.model) as seen:
            yield
        self._attention_known = True
        self._emit("attention", seen.facts("rollout"))

    # verl puts replicas to sleep and wakes them around a sync; this one has nothing to free.

    def sleep(self) -> None:
        return None

    def wake_up(self, tags: Any = None) -> None:
        return None

    def clear_kv_cache(self) -> None:
        return None

    def release_kv_cache(self) -> None:
        return None

    def resume_kv_cache(self) -> None:
        return None
