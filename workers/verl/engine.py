"""verl's FSDP engine with quantised linears, exporting Q(W) to the rollout, and measuring both on the real path."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from verl.utils.device import get_device_id
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from experiment_specs.language import Dtype
from experiment_specs.modules import is_adapter, is_block_linear, is_quantised, plain
from workers.events import Spool, read_events
from workers.launch import RUN_DIR_VARIABLE, read_order
from workers.treatments import lora, quantize
from workers.treatments.attention import watch_attention
from workers.treatments.noisy_ops import NoisyOps, by_turns
from workers.treatments.probe import Gradients, Probe

MEASURED = 16
"""Linears whose error of the format is measured."""


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
        self._format_error = self._measure_format(module)
        quantize.attach(module, dtype)
        return module

    def _build_lora_module(self, module: Any) -> Any:
        """Adapters start from the run's seed. verl draws them from whatever state the process is in: it reads the seed
        of its engine with ``full_determinism`` alone."""
        with torch.random.fork_rng():
            torch.manual_seed(self._order.seed)
            return super()._build_lora_module(module)

    def _measure_format(self, module: Any) -> quantize.Error | None:
        """Error of the format on an even sample of the real weights. Other ranks may have none yet (meta device)."""
        if self.engine_config.forward_only or self.rank != 0:
            return None
        by_name = {n: m.weight for n, m in quantize.linears(module) if is_quantised(self._condition.dtype, n)}
        names = quantize.sampled(list(by_name), MEASURED)
        weights = [by_name[name].detach().to(self._compute) for name in names]
        return quantize.quantisation_error(weights, self._condition.dtype)

    def _build_model_optimizer(self) -> None:
        super()._build_model_optimizer()
        self._start: dict[str, Tensor] = {}
        self._exports = 0
        self._batches = 0
        self._steps = self._updates = self._skipped = 0
        self._all_sent = False
        self._watching = False
        self._probe_due = False
        self._attention_known = False
        self._quantised = quantize.quantised_modules(self.module)
        self._block_linears = [name for name, _ in quantize.linears(self.module) if is_block_linear(name)]
        self._tied = bool(getattr(self.model_config.hf_config, "tie_word_embeddings", False))
        hw_noise = self._condition.hw_noise
        self._noisy_ops = NoisyOps(self.module, hw_noise) if hw_noise is not None else None
        if self.rank == 0:
            self._say_what_is_quantised()

    def _say_what_is_quantised(self) -> None:
        names = [name for name, _ in quantize.linears(self.module)]
        parameters = list(self.module.named_parameters())
        self._spool.append(
            "quantised",
            {
                "role": self._role,
                "formats": quantize.formats(self.module),
                "linears": [plain(name) for name in names],
                "quantised": [plain(name) for name in self._quantised],
                "adapted": sorted({plain(n).partition(".lora_")[0] for n in names if is_adapter(n)}),
                "parameters": sum(p.numel() for _, p in parameters),
                "trained": sum(p.numel() for _, p in parameters if p.requires_grad),
                "adapter_types": sorted({str(p.dtype) for n, p in parameters if is_adapter(n)}),
            }
            | (asdict(self._format_error) if self._format_error is not None else {}),
        )

    # ------------------------------------------------------------------ weights to the rollout

    def get_per_tensor_param(self, *args: Any, **kwargs: Any) -> Any:
        if self._condition.lora is None:
            params, peft_config = super().get_per_tensor_param(*args, **kwargs)
            return self._exported(params), peft_config
        if self._vllm_adapters:
            return self._for_vllm_adapters(bool(kwargs.get("base_sync_done", True)))
        return self._exported_with_adapters(self._whole_state()), None

    def _for_vllm_adapters(self, base_sync_done: bool) -> tuple[Iterator[tuple[str, Tensor]], dict[str, Any]]:
        """verl asks for the adapters first, and then, once, for the base. vLLM multiplies B by alpha/rank when it loads
        it, and rounds: here it comes multiplied."""
        config = self._condition.lora
        assert config is not None  # noqa: S101 - the caller asked
        state = self._whole_state()
        told = {"r": config.rank, "lora_alpha": config.rank, "target_modules": "all-linear", "bias": "none"}
        if base_sync_done:
            return self._exported_with_adapters(state), told
        base = ((plain(name), self._as_used(name, value)) for name, value in state.items() if not is_adapter(name))
        return base, told

    @property
    def _vllm_adapters(self) -> bool:
        config = self._condition.lora
        return self._condition.rollout == "vllm" and config is not None and config.sync == "adapter"

    def _whole_state(self) -> dict[str, Tensor]:
        """Gathered; verl's own ways to export adapters send W instead of Q(W), or bfloat16."""
        return {name: _whole(value) for name, value in self.module.state_dict().items()}

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint: movement is still measured from where the run started, and counters go on."""
        goes_on = self._order.kind == "train" and not self.engine_config.forward_only
        if goes_on:
            first = super().get_per_tensor_param()[0] if self._condition.lora is None else self._whole_state().items()
            nowhere = self._report()
            for name, value in first:
                self._measure_movement(nowhere, name, value)
        super().load_checkpoint(*args, **kwargs)
        if goes_on:
            self._go_on()

    def _go_on(self) -> None:
        """Counters as the past that was taken over has them last."""
        moved = [event.data for event in read_events(self._spool.path.parent)[0] if event.kind == "moved"]
        if moved:
            last = moved[-1]
            self._exports, self._batches = int(last["export"]), int(last["batches"])
            self._steps, self._updates = int(last["optimiser_steps"]), int(last["optimiser_updates"])
            self._skipped = int(last["not_finite"])

    def _exported(self, params: Any) -> Iterator[tuple[str, Tensor]]:
        """Stream the weights as the forward uses them: block linears as Q(W), everything in the compute type."""
        report = self._report()
        for name, value in params:
            self._measure_movement(report, name, value)
            self._note_loaded(report, name, value)
            exported = self._as_used(name, value)
            report.sent(name, exported)
            yield name, exported
        self._end_export(report)

    def _exported_with_adapters(self, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Adapter sync: all of it once, then the adapters (to vLLM the adapters always). Merged sync: Q(W) +
        (alpha/rank)·B·A under bare names."""
        config = self._condition.lora
        assert config is not None  # noqa: S101 - the caller asked
        report = self._report()
        watched = set(quantize.sampled(self._quantised))
        for name, value in state.items():
            self._measure_movement(report, name, value)
            self._note_loaded(report, name, value)
            exported = self._as_used(name, value)
            adapters = lora.adapters_of(name, state) if config.sync == "merged" else None
            if adapters is not None:
                a, b = (adapter.to(self._compute) for adapter in adapters)
                base, exported = exported, lora.merged(exported, a, b, config, self._compute)
                report.sent(name, exported, base)
                if name.removesuffix(".weight") in watched:
                    report.merge(name, lora.merge_error(exported, base, a, b, config))
            elif config.sync == "merged" and is_adapter(name):
                report.kept(name, exported)
                continue
            elif self._vllm_adapters and ".lora_B." in name:
                base, exported = exported, (exported.float() * lora.scaling(config)).to(self._compute)
                report.sent(name, exported, base)
            else:
                report.sent(name, exported)
            if config.sync == "merged":
                yield plain(name), exported
            elif self._vllm_adapters:
                if is_adapter(name):
                    yield name.replace(".default.", "."), exported
            elif not self._all_sent or is_adapter(name):
                yield name, exported
        self._all_sent = True
        self._end_export(report)

    def _as_used(self, name: str, value: Tensor, dtype: Dtype | None = None) -> Tensor:
        """A weight as a forward multiplies with it: in the condition's format, or in another."""
        dtype = dtype or self._condition.dtype
        used = value.detach().to(self._compute)
        if name.endswith(".weight") and used.dim() == 2 and is_quantised(dtype, name[: -len(".weight")]):
            used = quantize.quantise(used, dtype)
        return used

    def _note_loaded(self, report: _ExportReport, name: str, value: Tensor) -> None:
        """Of an eval: what was loaded, fingerprinted in the format of the run that saved it."""
        source = self._order.source
        if source is not None and self.rank == 0:
            report.loaded(name, self._as_used(name, value, Dtype.model_validate(source["dtype"], strict=False)))

    def _report(self) -> _ExportReport:
        """``used``: what the forward of the policy is asked for its fingerprints of, the quantised and the adapters."""
        used = {plain(name) for name in self._quantised}
        return _ExportReport(lambda name: name in used or is_adapter(name), tied=self._tied)

    def _measure_movement(self, report: _ExportReport, name: str, value: Tensor) -> None:
        if self.rank == 0:
            report.moved(name, value, self._start)

    def _end_export(self, report: _ExportReport) -> None:
        if self.rank == 0:
            self._spool.append("exported", {"export": self._exports} | report.facts())
            if self._order.source is not None:
                self._spool.append("loaded", report.loaded_facts(), durable=True)
            counters = {
                "optimiser_steps": self._steps, "optimiser_updates": self._updates, "not_finite": self._skipped,
                "batches": self._batches,
            }  # fmt: skip
            self._spool.append("moved", {"export": self._exports} | counters | report.movement())
            if self._noisy_ops is not None:
                seen = {"by": "policy", "phase": "train", "step": self._exports - 1, "ops": self._noisy_ops.take()}
                if seen["ops"]:
                    self._spool.append("noisy_ops", seen)
        self._exports += 1
        self._watching = True
        self._probe_due = True

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
        watching, self._watching = self._watching, False
        modules: dict[str, Any] = dict(self.module.named_modules()) if watching or self._probe_due else {}
        adapters = _AdapterWatch(modules if watching else {})
        for name in self._quantised if watching else ():
            modules[name].watch = True
        if self._probe_due and not forward_only:
            self._probe_due = False
            self._arm_probes(modules)
        with self._attention_noted():
            result = super().forward_step(micro_batch, loss_function, forward_only)
        if watching:
            adapters.remove()
            seen = {plain(name): str(modules[name].seen) for name in self._quantised} | adapters.seen
            if self.rank == 0:
                facts = {"export": self._exports - 1, "weights": quantize.grouped(seen)}
                self._spool.append("forward_weights", facts)
        return result

    @contextmanager
    def _attention_noted(self) -> Iterator[None]:
        """Of the first forward: a model's attention does not change while it lives."""
        if self._attention_known or self.rank != 0:
            yield
            return
        with watch_attention(self.module) as seen:
            yield
        self._attention_known = True
        self._spool.append("attention", seen.facts(self._role))

    @property
    def _role(self) -> str:
        return "reference" if self.engine_config.forward_only else "policy"

    def _arm_probes(self, modules: dict[str, Any]) -> None:
        """Another linear at every sync, so that a run of some length probes all depths; and one of its adapters."""
        if not self._block_linears or self.rank != 0:
            return
        name, dtype = by_turns(self._block_linears, self._condition.hw_noise, self._exports), self._condition.dtype
        quantised = name in self._quantised
        self._arm(name, modules[name], lambda w: quantize.quantise(w.to(self._compute), dtype) if quantised else w)
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
        finite = math.isfinite(gradient_norm)
        self._skipped += not finite  # verl skips these with a line in the log
        self._updates += finite and gradient_norm > 0
        return gradient_norm


class _ExportReport:
    """What one export is remembered by: fingerprints of what was sent, how far each group of weights has moved."""

    def __init__(self, used: Callable[[str], bool], *, tied: bool) -> None:
        self._is_used, self._tied = used, tied
        self._sent: dict[str, str] = {}
        self._used: dict[str, str] = {}
        self._merges: dict[str, dict[str, float]] = {}
        self._loaded: dict[str, str] = {}
        self._moved = {"block_linears": [0.0, 0.0], "adapters": [0.0, 0.0], "other": [0.0, 0.0]}

    def moved(self, name: str, value: Tensor, start: dict[str, Tensor]) -> None:
        now = value.detach().to("cpu", torch.float32)
        first = start.setdefault(name, now.clone())
        module = name.removesuffix(".weight")
        group = self._moved["adapters" if is_adapter(name) else "block_linears" if is_block_linear(module) else "other"]
        group[0] += float((now - first).square().sum(dtype=torch.float64))
        group[1] += float(first.square().sum(dtype=torch.float64))

    def sent(self, name: str, exported: Tensor, base: Tensor | None = None) -> None:
        """A weight that goes to the rollout. ``base``: what the policy's forward uses of it, where it is another."""
        if self._tied and name.endswith("lm_head.weight"):
            return  # the embeddings under another name
        key = plain(name.removesuffix(".weight"))
        self._sent[key] = quantize.fingerprint(exported)
        if name.endswith(".weight") and self._is_used(key):
            self._used[key] = self._sent[key] if base is None else quantize.fingerprint(base)

    def loaded(self, name: str, value: Tensor) -> None:
        """A weight that an eval loaded, as the training run would have exported it."""
        if not (self._tied and name.endswith("lm_head.weight")):
            self._loaded[plain(name.removesuffix(".weight"))] = quantize.fingerprint(value)

    def loaded_facts(self) -> dict[str, Any]:
        """``weights``: of everything; ``used``: of what a merged export is remembered by, the bases and adapters."""
        used = {key: print_ for key, print_ in self._loaded.items() if self._is_used(key)}
        return {"weights": quantize.grouped(self._loaded), "used": quantize.grouped(used)}

    def kept(self, name: str, value: Tensor) -> None:
        """An adapter that the policy's forward uses and that is not sent, because it is merged."""
        self._used[plain(name.removesuffix(".weight"))] = quantize.fingerprint(value)

    def merge(self, name: str, error: dict[str, float]) -> None:
        self._merges[plain(name.removesuffix(".weight"))] = error

    def facts(self) -> dict[str, Any]:
        """``weights``: fingerprints of all that was sent; ``used``: of what the policy's forward multiplies with."""
        found: dict[str, Any] = {"weights": quantize.grouped(self._sent), "used": quantize.grouped(self._used)}
        return found | ({"merges": self._merges} if self._merges else {})

    def movement(self) -> dict[str, float]:
        """Distance from the start relative to the norm at the start; adapters, which start at BA = 0, by A's norm."""
        return {group: (d / s) ** 0.5 if s else 0.0 for group, (d, s) in self._moved.items()}


class _AdapterWatch:
    """Fingerprints of the adapter weights that the next forward multiplies with."""

    def __init__(self, modules: Mapping[str, Any]) -> None:
        self.seen: dict[str, str] = {}
        self._handles = [
            module.register_forward_pre_hook(self._looker(plain(name)))
            for name, module in modules.items()
            if is_adapter(name) and isinstance(module, torch.nn.Linear)
        ]

    def _looker(self, name: str) -> Any:
        def look(called: Any, _: Any) -> None:
            if name not in self.seen:
                self.seen[name] = quantize.fingerprint(called.weight)

        return look

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _whole(value: Any) -> Tensor:
    """A weight gathered from all ranks, on the device that gathers."""
    whole: Tensor = value.to(get_device_id()).full_tensor() if hasattr(value, "full_tensor") else value
    return whole
