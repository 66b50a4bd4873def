"""Fake quantisation of weights: values on a 4-bit grid, gradients straight through.

The values are torchao's, bit for bit, computed in :mod:`workers.treatments.fp4`; the autograd function is ours, because
torchao's own training linears do not do weight-only on a CPU. Which modules are quantised is decided by name, in
:mod:`experiment_specs.modules`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiment_specs.language import Dtype
from experiment_specs.modules import idle_patterns, is_quantised, layer_of
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
    """Error of a format on real weights: signal-to-noise in dB (None without any error), and mean|e| / mean|w|."""

    sqnr_db: float | None
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
    sqnr = None if noise == 0 else 10 * float(torch.log10(torch.tensor(signal / noise)))
    return Error(sqnr, error / absolute if absolute else 0.0)


def fingerprint(tensor: Tensor) -> str:
    """Checksum of a tensor's values, the same whatever float type holds them exactly, computed where the tensor is.

    Sum of bits · odd(position) modulo 2⁶⁴: any change of one element changes it, and two tensors with other values have
    the same one by a chance of about 2⁻⁶⁴. Not for protection against somebody who wants to deceive.
    """
    flat = tensor.detach().flatten()
    total = 0
    for start in range(0, flat.numel(), _CHUNK):
        bits = flat[start : start + _CHUNK].float().view(torch.int32).long()
        place = torch.arange(start, start + len(bits), device=flat.device)
        total += int((bits * ((place * _ODD) | 1)).sum())
    return f"{total % 2**64:016x}"


_CHUNK = 1 << 22
_ODD = -7046029254386353131
"""2⁶⁴ divided by the golden ratio, as a signed number: neighbours get unlike factors."""

MOST_NAMES = 64


def grouped(prints: Mapping[str, str]) -> dict[str, str]:
    """Fingerprints by name; of a large model one for each decoder layer, and one for what is in none."""
    if len(prints) <= MOST_NAMES:
        return dict(prints)
    lines: dict[str, list[str]] = {}
    for name in sorted(prints):
        layer = layer_of(name)
        lines.setdefault("outside the layers" if layer is None else f"layer {layer}", []).append(
            f"{name} {prints[name]}"
        )
    return {where: hashlib.sha256("\n".join(many).encode()).hexdigest()[:16] for where, many in lines.items()}


def sampled(names: list[str], count: int = 8) -> list[str]:
    """An even sample of module names, first and last included."""
    if len(names) <= count:
        return list(names)
    return [names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)]
