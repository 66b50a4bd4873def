"""vLLM's model, seen as the tensors of its checkpoint: fused linears taken apart, padding left out, adapters found.

Imports torch alone: what is asked of vLLM's modules is asked by the names of their attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from experiment_specs.language import HwNoise, Lora
from experiment_specs.modules import is_block_linear, plain
from workers.treatments.aqn import is_linear
from workers.treatments.held import Held, Part
from workers.treatments.noisy_ops import NoisyOps
from workers.treatments.probe import Compared, OutputCheck

HEAD = "logits_processor"
"""What calls the output layer: vLLM never calls that layer itself."""


class VllmHeld(Held):
    """One process's model; it must hold all of it (no tensor parallelism)."""

    def __init__(self, model: Any, lora: Lora | None) -> None:
        super().__init__(model)
        self._adapters = lora if lora is not None and lora.sync == "adapter" else None
        self._packed: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", {})

    def load(self, weights: Mapping[str, Tensor], *, first: bool) -> None:
        raise NotImplementedError("weights come by verl's own transfer")

    def parts(self) -> Iterator[Part]:
        for name, parameter in self.model.named_parameters():
            if self.tied and name.endswith("lm_head.weight"):
                continue
            holder, _, leaf = name.rpartition(".")
            for module, rows in self._taken_apart(holder):
                part = module if leaf == "weight" else f"{module}.{leaf}"
                tensor = parameter.detach()
                yield Part(part, holder, tensor if rows is None else tensor[rows], leaf == "weight", rows)
        if self._adapters is not None:
            yield from self._adapter_parts(self._adapters)

    def linears(self) -> dict[str, Part]:
        linear = {name for name, module in self.model.named_modules() if is_linear(module)}
        parts = self.parts()
        return {p.name: p for p in parts if p.is_weight and p.holder in linear and is_block_linear(p.name)}

    def _taken_apart(self, holder: str) -> list[tuple[str, slice | None]]:
        """The modules of the checkpoint that a module stands for, and their rows of its weight and bias."""
        module: Any = self.model.get_submodule(holder)
        stem = holder.removesuffix(".base_layer")
        wrapped = holder.removeprefix(stem)
        parent, _, last = stem.rpartition(".")
        if last in self._packed:
            bounds = [0, *accumulate(module.output_sizes)]
            names = [f"{parent}.{name}{wrapped}" for name in self._packed[last]]
            return [(name, slice(*rows)) for name, rows in zip(names, pairwise(bounds), strict=True)]
        if hasattr(module, "org_vocab_size"):
            return [(stem, slice(0, module.org_vocab_size))]  # the rest is padding
        return [(holder, None)]

    def _adapter_parts(self, lora: Lora) -> Iterator[Part]:
        """A and B of each linear of the checkpoint, as vLLM stacks them: the first slot of a table of adapters."""
        for name, module in self.model.named_modules():
            if not (hasattr(module, "base_layer") and isinstance(getattr(module, "lora_a_stacked", None), tuple)):
                continue
            owners = [owner.removesuffix(".base_layer") for owner, _ in self._taken_apart(f"{name}.base_layer")]
            stacks = zip(owners, module.lora_a_stacked, module.lora_b_stacked, strict=True)
            for owner, a, b in stacks:
                yield Part(f"{owner}.lora_A.default", name, a[0, 0, : lora.rank], False)
                yield Part(f"{owner}.lora_B.default", name, b[0, 0, :, : lora.rank], False)

    def check_output(self, part: Part, call: int) -> OutputCheck:
        return ProductCheck(plain(part.holder), self.model.get_submodule(part.holder), call)

    def noisy_ops(self, noise: HwNoise) -> NoisyOps:
        return NoisyOps(self.model, noise, heads=(HEAD,), is_linear=is_linear)


class ProductCheck(OutputCheck):
    """The same check where vLLM makes the product: a linear that is wrapped in adapters is not called itself."""

    def __init__(self, name: str, module: Any, until: int = 1) -> None:
        self._name, self._left, self._module = name, until, module
        self._found = Compared()
        self._method = module.quant_method
        module.quant_method = self

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """vLLM's call for a linear's result, x · Wᵀ + b. Adapters are added to it in place, later."""
        y: Tensor = self._method.apply(layer, x, bias)
        self._left -= 1
        if self._left <= 0:
            self._remove()
        self._found = Compared.of(x, y, layer.weight, torch.zeros(1, device=y.device) if bias is None else bias)
        return y

    def _remove(self) -> None:
        if self._module.quant_method is self:
            self._module.quant_method = self._method

    def __getattr__(self, name: str) -> Any:
        return getattr(self._method, name)
