"""MXFP4 and NVFP4 values in plain torch operations: torchao's, bit for bit, in a fraction of its time.

Each block of weights is divided by its scale, clamped to ±6, rounded to E2M1 and multiplied back. E2M1's magnitudes are
0, ½, 1, 1½, 2, 3, 4, 6; ties go to the even code. Sources: the OCP Microscaling Formats (MX) Specification v1.0 (§5.3.3
E2M1, §5.4.1 E8M0, §6.3 conversion) for what MXFP4 is; torchao 0.18 (``mx_tensor``, ``nvfp4_tensor``) for what that
leaves open: scale rules, order of operations, extremes. That the bits equal torchao's on the same device is tested.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

ScaleRule = Literal["floor", "even", "rceil"]

SLAB = 2**19
"""Elements that a CPU takes at a time: they stay in its cache, and no large temporary is made. A GPU takes all."""

E2M1_MAX, E4M3_MAX, E4M3_LEAST_NORMAL = 6.0, 448.0, 2.0**-6
LEAST_TENSOR_SCALE = 2.0**-121
"""From here on 1 ÷ tensor scale ÷ block scale is finite. torchao has no bound: below this it may give NaN."""

_MAGNITUDE = 0x7FFFFFFF
_POWER_OF_TWO = 0x7F800000
_MAGIC = 1.5 * 2**22
"""fp32 numbers near 1.5·2²² are ½ apart: adding it, then subtracting it, rounds to a multiple of ½, ties to even."""


@torch.no_grad()
def mxfp4(weight: Tensor, rule: ScaleRule) -> Tensor:
    """``weight`` (… × in, float32) on the MXFP4 grid, in a new tensor: blocks of 32 along the last axis.

    With a block's largest magnitude m, its power-of-two scale is ``floor``: 2^(⌊log₂ m⌋ − 2), the specification's rule;
    ``even``: the same, of m rounded to E2M1's precision; ``rceil``: 2^⌈log₂(m ÷ 6)⌉ with the logarithm in fp32. A NaN
    makes its block NaN, an infinity stays one. Extremes are torchao's: a block whose scale would be 2⁻¹²⁷ or less comes
    out at half its value by ``floor`` and ``even``, and as zeros by ``rceil``.
    Raises TypeError unless float32; ValueError where 32 does not divide the last dimension, or for another rule.
    """
    blocks = _blocks(weight, 32)
    amax = _amax(blocks)
    if rule == "rceil":
        exponent = torch.log2(amax / E2M1_MAX).ceil_().clamp_(-127, 127).add_(127).int()
        reciprocal = torch.where(exponent == 0, 1.0, _two_to(254 - exponent))
    elif rule in ("floor", "even"):
        bits = amax.view(torch.int32) + (2**21 if rule == "even" else 0)
        exponent = (bits >> 23).sub_(2).clamp_(min=0)
        reciprocal = _two_to(254 - exponent.clamp(min=1))
    else:
        raise ValueError(f"a scale rule of floor, even, rceil, not {rule!r}")
    scale = torch.where(amax.isnan(), amax, _two_to(exponent))
    return _on_grid(blocks, reciprocal, scale).view(weight.shape)


@torch.no_grad()
def nvfp4(weight: Tensor) -> Tensor:
    """``weight`` (… × in, float32, not empty) on the NVFP4 grid, in a new tensor: blocks of 16 along the last axis.

    The tensor's scale is its largest magnitude ÷ (448·6), in fp32. A block's is its own ÷ 6 ÷ the tensor's, clamped to
    E4M3's normal range [2⁻⁶, 448] and rounded to E4M3. Zeros give zeros; a NaN or an infinity makes all values NaN.
    A tensor whose largest magnitude is below 2688·2⁻¹²¹ ≈ 1e-33 is rounded with the least tensor scale: only there do
    values differ from torchao's. Raises TypeError unless float32, ValueError where 16 does not divide.
    """
    blocks = _blocks(weight, 16)
    amax = _amax(blocks)
    whole = (amax.amax() / (E4M3_MAX * E2M1_MAX)).clamp_(min=LEAST_TENSOR_SCALE)
    stored = (amax / E2M1_MAX).div_(whole).clamp_(E4M3_LEAST_NORMAL, E4M3_MAX).to(torch.float8_e4m3fn).float()
    return _on_grid(blocks, (1.0 / whole) / stored, whole * stored).view(weight.shape)


def _blocks(weight: Tensor, size: int) -> Tensor:
    if weight.dtype != torch.float32:
        raise TypeError(f"weights must be float32, not {weight.dtype}")
    if weight.shape[-1] % size:
        raise ValueError(f"the input dimension must be a multiple of {size}, not {weight.shape[-1]}")
    return weight.reshape(-1, size)


def _slab(blocks: Tensor) -> int:
    """Blocks to take at a time."""
    return SLAB // blocks.shape[1] if blocks.device.type == "cpu" else max(len(blocks), 1)


def _amax(blocks: Tensor) -> Tensor:
    """Largest magnitude of each block (blocks × 1), or its NaN: without the sign, bits are ordered as numbers."""
    found = [(part.view(torch.int32) & _MAGNITUDE).amax(1, keepdim=True) for part in torch.split(blocks, _slab(blocks))]
    return torch.cat(found).view(torch.float32)


def _two_to(exponent: Tensor) -> Tensor:
    """2^(exponent − 127) for int32 exponents of 0 to 254; that of 0 is subnormal."""
    return (exponent << 23).clamp_(min=2**22).view(torch.float32)


def _on_grid(blocks: Tensor, reciprocal: Tensor, scale: Tensor) -> Tensor:
    """E2M1(blocks · reciprocal) · scale, the last two one per block. E2M1's step is ½·max(1, 2^⌊log₂|x|⌋)."""
    grid, slab = torch.empty_like(blocks), _slab(blocks)
    powers = torch.empty_like(blocks[:slab])
    for source, x, r, s in zip(*(torch.split(t, slab) for t in (blocks, grid, reciprocal, scale)), strict=True):
        power = powers[: len(x)]
        torch.mul(source, r, out=x).clamp_(-E2M1_MAX, E2M1_MAX)
        torch.bitwise_and(x.view(torch.int32), _POWER_OF_TWO, out=power.view(torch.int32))
        power.clamp_(min=1.0)
        x.add_(power, alpha=_MAGIC).sub_(power, alpha=_MAGIC)
        x.copysign_(source).mul_(s)  # adding and subtracting lost the sign of zero
    return grid
