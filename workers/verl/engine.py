"""verl's FSDP engine with quantised linears, exporting Q(W) to the rollout, and measuring both on the real path."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from verl.utils.device import get_device_id
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from experiment_specs.modules import is_adapter, is_block_linear, is_quantised, plain
from workers.events import Spool
from workers.launch import RUN_DIR_VARIABLE, read_order
from workers.treatments import lora, quantize
from workers.treatments.noisy_ops import NoisyOps, by_turns
from workers.treatments.probe import Gradients, Probe


class TreatedEngine(FSDPEngineWithLMHead):
    """The policy (and, forward-only, the reference policy) with the condition's weight format, adapters and errors."""

    def _build_module(self) -> Any:
        module = super()._build_module()
        run_dir = os.environ[RUN_DIR_VARIABLE]
        self._spool = Spool(run_dir)
        self._order = read_order(run_dir)
        self._condition = self._order.typed_condition
        self._compute = torch.float32 if self._condition.compute == "fp32" else torch.bfloat16
        dtype = self._condition.dtype
        weights = [m.weight.detach().to(self._compute) for n, m in quantize.linears(module) if is_quantised(dtype, n)]
        self._format_error = quantize.quantisation_error(weights, dtype)
        quantize.attach(module, dtype)
        return module

    def _build_model_optimizer(self) -> None:
        super()._build_model_optimizer()
        self._start: dict[str, Tensor] = {}
        self._exports = 0
        self._batches = 0
        self._steps = self._updates = 0
        self._watching: list[str] = []
        self._probe_due = False
        self._quantised = quantize.quantised_modules(self.module)
        hw_noise = self._condition.hw_noise
        self._noisy_ops = NoisyOps(self.module, hw_noise) if hw_noise is not None else None
        if not self.engine_config.forward_only and self.rank == 0:
            names = [name for name, _ in quantize.linears(self.module)]
            parameters = list(self.module.named_parameters())
            self._spool.append(
                "quantised",
                {
                    "formats": quantize.formats(self.module),
                    "linears": [plain(name) for name in names],
                    "quantised": [plain(name) for name in self._quantised],
                    "adapted": sorted({plain(n).partition(".lora_")[0] for n in names if is_adapter(n)}),
                    "parameters": sum(p.numel() for _, p in parameters),
                    "trained": sum(p.numel() for _, p in parameters if p.requires_grad),
                    "adapter_types": sorted({str(p.dtype) for n, p in parameters if is_adapter(n)}),
                }
                | asdict(self._format_error),
            )

    # ------------------------------------------------------------------ weights to the rollout

    def get_per_tensor_param(self, *args: Any, **kwargs: Any) -> Any:
        if self._condition.lora is None:
            params, peft_config = super().get_per_tensor_param(*args, **kwargs)
            return self._exported(params), peft_config
        # Whole state, gathered; verl's own ways to export adapters send W instead of Q(W), or bfloat16.
        state = {name: _whole(value) for name, value in self.module.state_dict().items()}
        return self._exported_with_adapters(state), None

    def _exported(self, params: Any) -> Iterator[tuple[str, Tensor]]:
        """Stream the weights as the forward uses them: block linears as Q(W), everything in the compute type."""
        report = _ExportReport(set(self._watched()))
        for name, value in params:
            report.moved(name, value, self._start)
            exported = self._as_used(name, value)
            report.sent(name, exported)
            yield name, exported
        self._end_export(report)

    def _exported_with_adapters(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Adapter sync: all of it once, then the adapters. Merged sync: Q(W) + (alpha/rank)·B·A under bare names."""
        config = self._condition.lora
        assert config is not None  # noqa: S101 - the caller asked
        report = _ExportReport(set(self._watched()))
        for name, value in state.items():
            report.moved(name, value, self._start)
            exported = self._as_used(name, value)
            adapters = lora.adapters_of(name, state) if config.sync == "merged" else None
            if adapters is not None:
                a, b = (adapter.to(self._compute) for adapter in adapters)
                base, exported = exported, lora.merged(exported, a, b, config, self._compute)
                report.sent(name, exported)
                report.used(name, base)
                if report.watches(name):
                    report.merge(name, lora.merge_error(exported, base, a, b, config))
            elif config.sync == "merged" and is_adapter(name):
                report.used(name, exported)
                continue
            else:
                report.sent(name, exported)
            if config.sync == "merged":
                yield plain(name), exported
            elif self._exports == 0 or is_adapter(name):
                yield name, exported
        self._end_export(report)

    def _as_used(self, name: str, value: Tensor) -> Tensor:
        used = value.detach().to(self._compute)
        if (
            name.endswith(".weight")
            and used.dim() == 2
            and is_quantised(self._condition.dtype, name[: -len(".weight")])
        ):
            used = quantize.quantise(used, self._condition.dtype)
        return used

    def _end_export(self, report: _ExportReport) -> None:
        if self.rank == 0:
            self._spool.append("exported", {"export": self._exports} | report.facts())
            counters = {"optimiser_steps": self._steps, "optimiser_updates": self._updates}
            self._spool.append("moved", {"export": self._exports} | counters | report.movement())
            if self._noisy_ops is not None:
                seen = {"by": "policy", "phase": "train", "step": self._exports - 1, "ops": self._noisy_ops.take()}
                if seen["ops"]:
                    self._spool.append("noisy_ops", seen)
        self._exports += 1
        self._watching = self._watched()
        self._probe_due = True

    def _watched(self) -> list[str]:
        return quantize.sampled(self._quantised)

    # ------------------------------------------------------------------ real forwards and updates

    def forward_backward_batch(self, data: Any, loss_function: Any, forward_only: bool = False) -> Any:
        self._batches += 1
        noise: Any = nullcontext()
        if self._noisy_ops is not None:
            seed = (self._order.seed * 1009 + self._batches) * 1009 + 2 * self.rank + self.engine_config.forward_only
            noise = self._noisy_ops.phase("train", seed)
        with noise:
            return super().forward_backward_batch(data, loss_function, forward_only)

    def forward_step(self, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        watching, self._watching = self._watching, []
        modules: dict[str, Any] = dict(self.module.named_modules()) if watching or self._probe_due else {}
        adapters = _AdapterWatch(modules, watching)
        for name in watching:
            modules[name].watch = True
        if self._probe_due and not forward_only:
            self._probe_due = False
            self._arm_probes(modules)
        result = super().forward_step(micro_batch, loss_function, forward_only)
        if watching and self.rank == 0:
            seen = {plain(name): modules[name].seen for name in watching} | adapters.seen
            self._spool.append("forward_weights", {"export": self._exports - 1, "weights": seen})
        return result

    def _arm_probes(self, modules: dict[str, Any]) -> None:
        """Another linear at every sync, so that a run of some length probes all depths; and one of its adapters."""
        names = self._quantised
        if not names or self.rank != 0:
            return
        name, dtype = by_turns(names, self._condition.hw_noise, self._exports), self._condition.dtype
        self._arm(name, modules[name], lambda w: quantize.quantise(w.to(self._compute), dtype))
        side = f"{name.removesuffix('.base_layer')}.lora_{'AB'[self._exports % 2]}.default"
        if side in modules:
            self._arm(side, modules[side], lambda w: w)

    def _arm(self, name: str, module: Any, means: Any) -> None:
        export = self._exports - 1

        def report(gradients: Gradients) -> None:
            self._spool.append("gradient_probe", {"export": export, "module": plain(name)} | asdict(gradients))

        Probe(module, means, report)

    def optimizer_step(self) -> Any:
        gradient_norm = super().optimizer_step()
        self._steps += 1
        self._updates += math.isfinite(gradient_norm) and gradient_norm > 0  # verl skips the others in silence
        return gradient_norm


class _ExportReport:
    """What one export is remembered by: fingerprints of what was sent, how far each group of weights has moved."""

    def __init__(self, watched: set[str]) -> None:
        self._watched = {plain(name) for name in watched}
        self._weights: dict[str, str] = {}
        self._used: dict[str, str] = {}
        self._merges: dict[str, dict[str, float]] = {}
        self._moved = {"block_linears": [0.0, 0.0], "adapters": [0.0, 0.0], "other": [0.0, 0.0]}

    def moved(self, name: str, value: Tensor, start: dict[str, Tensor]) -> None:
        now = value.detach().to("cpu", torch.float32)
        first = start.setdefault(name, now.clone())
        module = name.removesuffix(".weight")
        group = self._moved["adapters" if is_adapter(name) else "block_linears" if is_block_linear(module) else "other"]
        group[0] += float((now - first).square().sum(dtype=torch.float64))
        group[1] += float(first.square().sum(dtype=torch.float64))

    def sent(self, name: str, exported: Tensor) -> None:
        if (module := self._fingerprinted(name)) is not None:
            self._weights[module] = quantize.fingerprint(exported)

    def used(self, name: str, value: Tensor) -> None:
        """A weight that the policy's forward uses and that is not sent as it is."""
        if (module := self._fingerprinted(name)) is not None:
            self._used[module] = quantize.fingerprint(value)

    def watches(self, name: str) -> bool:
        return self._fingerprinted(name) is not None

    def merge(self, name: str, error: dict[str, float]) -> None:
        self._merges[plain(name.removesuffix(".weight"))] = error

    def _fingerprinted(self, name: str) -> str | None:
        module = plain(name.removesuffix(".weight"))
        adapted = module.partition(".lora_")[0] in self._watched
        if name.endswith(".weight") and (adapted or "norm" in module):
            return module
        return None

    def facts(self) -> dict[str, Any]:
        """``weights``: fingerprints of what was sent; ``used``: of base and adapters where a merged weight was sent."""
        merged = {"used": self._used, "merges": self._merges} if self._merges else {}
        return {"weights": self._weights} | merged

    def movement(self) -> dict[str, float]:
        """Distance from the start relative to the norm at the start; adapters, which start at BA = 0, by A's norm."""
        return {group: (d / s) ** 0.5 if s else 0.0 for group, (d, s) in self._moved.items()}


class _AdapterWatch:
    """Fingerprints of the adapter weights that the next forward multiplies with."""

    def __init__(self, modules: Mapping[str, Any], bases: list[str]) -> None:
        self.seen: dict[str, str] = {}
        for base in bases:
            for side in "AB":
                name = f"{base.removesuffix('.base_layer')}.lora_{side}.default"
                if name in modules:
                    self._watch(plain(name), modules[name])

    def _watch(self, name: str, module: Any) -> None:
        def look(called: Any, _: Any) -> None:
            handle.remove()
            self.seen[name] = quantize.fingerprint(called.weight)

        handle = module.register_forward_pre_hook(look)


def _whole(value: Any) -> Tensor:
    """A weight gathered from all ranks, on the device that gathers."""
    whole: Tensor = value.to(get_device_id()).full_tensor() if hasattr(value, "full_tensor") else value
    return whole
