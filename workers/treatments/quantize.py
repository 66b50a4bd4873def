"""Fake quantisation of weights: values on a 4-bit grid, gradients straight through.

The values are torchao's, bit for bit, computed in :mod:`workers.treatments.fp4`; the autograd function is ours, because
torchao's own training linears do not do weight-only on a CPU. Which modules are quantised is decided by name, in
:mod:`experiment_specs.modules`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiment_specs.language import Dtype
from experiment_specs.modules import idle_patterns, is_quantised
from workers.treatments.fp4 import mxfp4, nvfp4


def quantise(weight: Tensor, dtype: Dtype) -> Tensor:
    """``weight`` (out × in, any float type) on the grid of ``dtype``, in the same type and shape.

    bf16: round to nearest even. mxfp4: OCP MX, blocks of 32 along the input dimension. nvfp4: blocks of 16 and a
    scale amax/(448·6) for the tensor. Scaling is done in fp32. Raises ValueError where a block does not divide.
    """
    exact = weight.detach().float()
    if dtype.format == "bf16":
        return exact.bfloat16().to(weight.dtype)
    values = nvfp4(exact) if dtype.scale_rule is None else mxfp4(exact, dtype.scale_rule)
    return values.to(weight.dtype)


class _StraightThrough(torch.autograd.Function):
    """Q(W) forward, identity backward: dL/dW passes unchanged, while dL/dx multiplies with Q(W)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: Dtype) -> Tensor:
        return quantise(weight, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class QuantisedLinear(nn.Linear):
    """A linear that multiplies with Q(W). Made by changing an existing module's class, so parameter names stay."""

    weight_dtype: Dtype
    watch: bool
    """Set: the next forward stores the fingerprint of the weight that it multiplies with, and clears the flag."""
    seen: str | None

    def forward(self, input: Tensor) -> Tensor:
        weight: Tensor = _StraightThrough.apply(self.weight, self.weight_dtype)  # type: ignore[no-untyped-call]
        if self.watch:
            self.watch, self.seen = False, fingerprint(weight)
        return nn.functional.linear(input, weight, self.bias)


def attach(model: nn.Module, dtype: Dtype) -> list[str]:
    """Make the linears that ``dtype`` means multiply with Q(W); returns their names in order.

    Raises ValueError for a pattern of ``dtype`` that matches no block linear.
    """
    if idle := idle_patterns(dtype, [name for name, _ in linears(model)]):
        raise ValueError(f"dtype names modules that the model does not have: {', '.join(idle)}")
    names = []
    for name, module in linears(model):
        if is_quantised(dtype, name) and type(module) is nn.Linear:
            module.__class__ = QuantisedLinear
            quantised: Any = module
            quantised.weight_dtype, quantised.watch, quantised.seen = dtype, False, None
            names.append(name)
    return names


def linears(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Every linear of a module tree by its name."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, module


def quantised_modules(model: nn.Module) -> list[str]:
    """Names of the modules that multiply with Q(W), as found in the tree, whoever attached them."""
    return [name for name, module in model.named_modules() if isinstance(module, QuantisedLinear)]


def formats(model: nn.Module) -> list[dict[str, Any]]:
    """The formats that the tree's quantised modules carry, each once."""
    found = [m.weight_dtype.model_dump(mode="json") for m in model.modules() if isinstance(m, QuantisedLinear)]
    return [f for i, f in enumerate(found) if f not in found[:i]]


@dataclass(frozen=True)
class Error:
    """Error of a format on real weights: signal-to-noise in dB, and mean|e| / mean|w|."""

    sqnr_db: float
    mean_abs_ratio: float


def quantisation_error(weights: list[Tensor], dtype: Dtype) -> Error:
    """Pooled over the tensors: 10·log10(Σw²/Σe²) and Σ|e|/Σ|w|."""
    signal = noise = absolute = error = 0.0
    for weight in weights:
        exact = weight.detach().double()
        difference = quantise(weight, dtype).double() - exact
        signal += float(exact.square().sum())
        noise += float(difference.square().sum())
        absolute += float(exact.abs().sum())
        error += float(difference.abs().sum())
    sqnr = float("inf") if noise == 0 else 10 * float(torch.log10(torch.tensor(signal / noise)))
    return Error(sqnr, error / absolute if absolute else 0.0)


def fingerprint(tensor: Tensor) -> str:
    """Hash of a tensor's values, the same whatever float type holds them exactly."""
    # a copy, because numpy pins the storage that it looks at, and FSDP frees that of unsharded weights
    exact = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    return hashlib.sha256(exact.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def sampled(names: list[str], count: int = 8) -> list[str]:
    """An even sample of module names, first and last included: what is fingerprinted at every sync."""
    if len(names) <= count:
        return list(names)
    return [names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)]
