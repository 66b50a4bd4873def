"""verl's FSDP engine with quantised linears, exporting Q(W) to the rollout, and measuring both on the real path."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from workers.events import Spool
from workers.launch import RUN_DIR_VARIABLE, read_order
from workers.treatments import quantize
from workers.treatments.probe import Gradients, Probe


class TreatedEngine(FSDPEngineWithLMHead):
    """The policy (and, forward-only, the reference policy) with the condition's weight format."""

    def _build_module(self) -> Any:
        module = super()._build_module()
        run_dir = os.environ[RUN_DIR_VARIABLE]
        self._spool = Spool(run_dir)
        self._condition = read_order(run_dir).typed_condition
        self._compute = torch.float32 if self._condition.compute == "fp32" else torch.bfloat16
        weights = [
            m.weight.detach().to(self._compute) for n, m in quantize.linears(module) if quantize.is_block_linear(n)
        ]
        error = quantize.quantisation_error(weights, self._condition.dtype)
        quantize.attach(module, self._condition.dtype)
        self._start: dict[str, Tensor] = {}
        self._exports = 0
        self._updates = 0
        self._watching: list[str] = []
        self._probe_due = False
        if not self.engine_config.forward_only and self.rank == 0:
            self._spool.append(
                "quantised",
                {
                    "formats": quantize.formats(module),
                    "linears": [name for name, _ in quantize.linears(module)],
                    "quantised": quantize.quantised_modules(module),
                    "parameters": sum(p.numel() for p in module.parameters()),
                }
                | asdict(error),
            )
        return module

    def get_per_tensor_param(self, *args: Any, **kwargs: Any) -> Any:
        params, peft_config = super().get_per_tensor_param(*args, **kwargs)
        return self._exported(params), peft_config

    def _exported(self, params: Any) -> Iterator[tuple[str, Tensor]]:
        """Stream the weights as the forward uses them: block linears as Q(W), everything in the compute type."""
        moved: dict[str, list[float]] = {"block_linears": [0.0, 0.0], "other": [0.0, 0.0]}
        watched = set(quantize.sampled(self._quantised_names()))
        prints: dict[str, str] = {}
        for name, value in params:
            self._measure_movement(name, value, moved)
            exported = value.detach().to(self._compute)
            module_name = name.removesuffix(".weight")
            if name.endswith(".weight") and exported.dim() == 2 and module_name in self._quantised_names():
                exported = quantize.quantise(exported, self._condition.dtype)
            if module_name in watched or "norm" in module_name:
                prints[module_name] = quantize.fingerprint(exported)
            yield name, exported
        if self.rank == 0:
            self._spool.append("exported", {"export": self._exports, "weights": prints})
            shares = {k: (d / s) ** 0.5 if s else 0.0 for k, (d, s) in moved.items()}
            self._spool.append("moved", {"export": self._exports, "optimiser_updates": self._updates} | shares)
        self._exports += 1
        self._watching = quantize.sampled(self._quantised_names())
        self._probe_due = True

    def _measure_movement(self, name: str, value: Tensor, moved: dict[str, list[float]]) -> None:
        start = self._start.setdefault(name, value.detach().to("cpu", torch.float32, copy=True))
        group = moved["block_linears" if quantize.is_block_linear(name.removesuffix(".weight")) else "other"]
        group[0] += float((value.detach().to("cpu", torch.float32) - start).square().sum(dtype=torch.float64))
        group[1] += float(start.square().sum(dtype=torch.float64))

    def _quantised_names(self) -> list[str]:
        return quantize.quantised_modules(self.module)

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        watching, self._watching = self._watching, []
        modules: dict[str, Any] = dict(self.module.named_modules()) if watching or self._probe_due else {}
        for name in watching:
            modules[name].watch = True
        if self._probe_due and not forward_only:
            self._probe_due = False
            self._arm_probe(modules)
        result = super().forward_step(micro_batch, loss_function, forward_only)
        if watching and self.rank == 0:
            seen = {name: modules[name].seen for name in watching}
            self._spool.append("forward_weights", {"export": self._exports - 1, "weights": seen})
        return result

    def _arm_probe(self, modules: dict[str, Any]) -> None:
        """Another linear at every sync, so that a run of some length probes all depths."""
        names = self._quantised_names()
        if not names or self.rank != 0:
            return
        name = names[self._exports % len(names)]

        def report(gradients: Gradients) -> None:
            self._spool.append("gradient_probe", {"export": self._exports - 1, "module": name} | asdict(gradients))

        Probe(modules[name], self._condition.dtype, report)

    def optimizer_step(self) -> Any:
        gradient_norm = super().optimizer_step()
        self._updates += math.isfinite(gradient_norm) and gradient_norm > 0  # verl skips the others in silence
        return gradient_norm
