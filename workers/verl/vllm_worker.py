"""What is added to vLLM's worker process, where the model is: the treatments, and the evidence for them.

vLLM mixes this class into its worker and calls the methods by name in every worker of a replica.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from workers.events import Kind, Spool
from workers.launch import RUN_DIR_VARIABLE, read_order
from workers.verl.plugins import load_worker_plugins
from workers.verl.rollout_copy import RolloutCopy
from workers.verl.vllm_held import VllmHeld


class AqnExtension(vLLMColocateWorkerExtension):
    """The rollout copy around vLLM's model, made when the first weights come."""

    def __new__(cls, **kwargs: Any) -> Any:
        if os.environ.get("VERL_PLATFORM") == "cpu":
            keep_plain_weights()
        load_worker_plugins()
        return super().__new__(cls, **kwargs)

    def aqn_begin_sync(self) -> None:
        if not hasattr(self, "aqn_copy"):
            run_dir = os.environ[RUN_DIR_VARIABLE]
            order = read_order(run_dir)
            self.aqn_spool, self.aqn_spell = Spool(run_dir), ExitStack()
            self.aqn_copy = RolloutCopy(VllmHeld(self.get_model(), order.typed_condition.lora), order)
            self.aqn_who = {"replica": int(os.environ.get("VERL_REPLICA_RANK", "0")), "replicas": order.gpus}
        self._aqn_emit_all(self.aqn_copy.begin_sync())

    def aqn_end_sync(self, step: int) -> None:
        self.aqn_copy.end_sync(step)

    def aqn_begin_eval(self) -> None:
        self._aqn_emit_all(self.aqn_copy.begin_eval())

    def aqn_end_eval(self) -> None:
        self._aqn_emit_all(self.aqn_copy.end_eval())

    def aqn_begin_answers(self) -> None:
        self.aqn_spell.enter_context(self.aqn_copy.answering(self._aqn_emit))

    def aqn_end_answers(self) -> None:
        self.aqn_spell.close()

    def _aqn_emit_all(self, events: list[tuple[Kind, dict[str, Any]]]) -> None:
        for kind, facts in events:
            self._aqn_emit(kind, facts)

    def _aqn_emit(self, kind: Kind, facts: dict[str, Any]) -> None:
        self.aqn_spool.append(kind, facts | self.aqn_who)


def keep_plain_weights() -> None:
    """On a CPU vLLM packs the weights of linears for its kernels and drops the tensors, which could then be neither
    reloaded nor looked at: plain products instead."""
    import torch
    import vllm.model_executor.layers.utils as layers

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layers.dispatch_cpu_unquantized_gemm = plain
