"""Our values against two libraries that are not torchao's kin: gfloat (numpy, by definition) and compressed-tensors.

gfloat rounds to any small float format by its definition. It has the specification's MXFP4 whole (scale rule ``floor``);
for the other rules and NVFP4 it rounds the scales and the elements that are put together here. compressed-tensors writes
the 4-bit checkpoints that vLLM reads. Its MXFP4 is our rule ``even``. Its NVFP4 takes the tensor's scale the other way
round (2688 ÷ amax) and multiplies where ours divides: the last bit of a scale may differ, and with it a tie's side.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressed_tensors import quantization
from compressed_tensors.quantization import utils
from gfloat import RoundMode, compute_scale_amax, quantize_block, round_float, round_ndarray
from gfloat.formats import format_info_mxfp4_e2m1, format_info_ocp_e2m1, format_info_ocp_e4m3, format_info_ocp_e8m0
from torch import Tensor

from workers.treatments.fp4 import mxfp4, nvfp4


def normal(scale: float) -> Tensor:
    return scale * torch.randn(64, 256, generator=torch.Generator().manual_seed(0))


def ties() -> Tensor:
    points = torch.arange(0, 8.25, 0.25)
    signed = torch.cat([points, -points])
    return signed[torch.randint(len(signed), (64, 256), generator=torch.Generator().manual_seed(0))]


WEIGHTS = {
    "0.02": normal(0.02),
    "0.02 in bf16": normal(0.02).bfloat16().float(),
    "1e-20": normal(1e-20),
    "1e+20": normal(1e20),
    "heavy": normal(1) ** 5,
    "ties": ties(),
}
every_weight = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())


def same(found: Tensor, expected: np.ndarray) -> bool:
    """Equal numbers and equal signs, those of zeros included."""
    exact = found.double().numpy()
    return bool(np.array_equal(exact, expected) and np.array_equal(np.signbit(exact), np.signbit(expected)))


@every_weight
def test_mxfp4_floor_is_gfloats_whole(weight) -> None:
    few = weight[:4]
    blocks = few.double().numpy().reshape(-1, 32)
    expected = [quantize_block(format_info_mxfp4_e2m1, block, compute_scale_amax) for block in blocks]
    assert same(mxfp4(few, "floor"), np.reshape(expected, few.shape))


@every_weight
@pytest.mark.parametrize("rule", ["floor", "even", "rceil"])
def test_mxfp4_is_gfloats_by_each_rules_definition(weight, rule) -> None:
    blocks = weight.double().numpy().reshape(-1, 32)
    amax = np.abs(blocks).max(1)
    if rule == "rceil":  # the next power of two up from amax ÷ 6, as NVIDIA's conversion instruction has it
        up = RoundMode.TowardPositive
        scale = np.array([round_float(format_info_ocp_e8m0, m / 6, up, sat=True) for m in amax])
    else:  # the largest power of two in amax, ÷ 4; even: of an amax that counts as the next power from 7 ÷ 4 of it on
        mantissa, exponent = np.frexp(amax)
        scale = np.ldexp(1.0, exponent - 3 + (mantissa >= 7 / 8 if rule == "even" else 0))
    expected = round_ndarray(format_info_ocp_e2m1, blocks / scale[:, None], sat=True) * scale[:, None]
    assert same(mxfp4(weight, rule), expected.reshape(weight.shape))


@every_weight
def test_nvfp4_is_gfloats_in_the_same_order_of_operations(weight) -> None:
    blocks = weight.numpy().reshape(-1, 16)
    amax = np.abs(blocks).max(1, keepdims=True)
    whole = amax.max() / np.float32(448 * 6)
    stored = np.clip(amax / np.float32(6) / whole, np.float32(2**-6), np.float32(448))
    stored = round_ndarray(format_info_ocp_e4m3, stored).astype(np.float32)
    scaled = blocks * (np.float32(1) / whole / stored)
    expected = round_ndarray(format_info_ocp_e2m1, scaled, sat=True).astype(np.float32) * (whole * stored)
    assert same(nvfp4(weight), expected.astype(np.float64).reshape(weight.shape))


def through_compressed_tensors(weight: Tensor, scheme: str) -> Tensor:
    args = quantization.preset_name_to_scheme(scheme, ["Linear"]).weights
    blocks = weight.unflatten(-1, (-1, args.group_size))
    whole = utils.generate_gparam(weight.min(), weight.max()) if scheme == "NVFP4A16" else None
    scale, zero = utils.calculate_qparams(blocks.amin(-1), blocks.amax(-1), args, global_scale=whole)
    values: Tensor = quantization.fake_quantize(weight, scale, zero, args, global_scale=whole)
    return values


@every_weight
def test_mxfp4_even_is_compressed_tensors_mxfp4(weight) -> None:
    assert torch.equal(mxfp4(weight, "even"), through_compressed_tensors(weight, "MXFP4A16"))


@every_weight
def test_nvfp4_is_compressed_tensors_nvfp4_but_for_the_last_bits_and_ties(weight) -> None:
    found, theirs = nvfp4(weight), through_compressed_tensors(weight, "NVFP4A16")
    elsewhere = (found - theirs).abs() > 1e-6 * found.abs()
    assert elsewhere.float().mean() < 0.01
    # where they differ, the weight lies in the middle between their value and ours
    middle = (found + theirs)[elsewhere] / 2
    assert torch.allclose(weight[elsewhere], middle, rtol=1e-5, atol=0)
