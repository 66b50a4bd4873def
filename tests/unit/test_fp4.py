"""MXFP4 and NVFP4 values are torchao's, bit for bit, signs of zeros included."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torchao.prototype.mx_formats.mx_tensor import MXTensor, ScaleCalculationMode
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

from workers.treatments import fp4

RULES = ("floor", "even", "rceil")
FORMATS = (*RULES, "nvfp4")
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LEAST_NVFP4 = 2688 * 2.0**-121
"""Largest magnitude of a tensor from which NVFP4 is compared: below it torchao divides by zero or overflows."""


def ours(weight: Tensor, format: str) -> Tensor:
    return fp4.nvfp4(weight) if format == "nvfp4" else fp4.mxfp4(weight, format)


def torchaos(weight: Tensor, format: str) -> Tensor:
    if format == "nvfp4":
        return NVFP4Tensor.to_nvfp4(
            weight, 16, per_tensor_scale=per_tensor_amax_to_scale(weight.abs().max())
        ).dequantize(torch.float32)
    return MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode(format)).dequantize(torch.float32)


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    """Equal bits; a NaN equals any NaN."""
    same = (found.view(torch.int32) == expected.view(torch.int32)) | (found.isnan() & expected.isnan())
    if not same.all():
        i = tuple((~same).nonzero()[0].tolist())
        pytest.fail(f"{int((~same).sum())} of {same.numel()} differ, first {found[i]} for {expected[i]} at {i}")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape, generator=seeded()) - 1


def two_to(exponents: Tensor) -> Tensor:
    return torch.pow(torch.tensor(2.0, dtype=torch.float64), exponents)


def block_exponents(least: int, most: int) -> Tensor:
    """128 × 256 exponents, one for each block of 32."""
    return torch.randint(least, most, (128, 8), generator=seeded(1)).repeat_interleave(32, 1)


def ties() -> Tensor:
    """Grid points of E2M1 and the middles between them, up to where every rule has clamped."""
    points = torch.arange(0, 8.25, 0.25)
    return torch.cat([points, -points])[torch.randint(66, (128, 256), generator=seeded())]


def near_ties() -> Tensor:
    up = torch.randint(2, (128, 256), generator=seeded(2)).bool()
    return torch.nextafter(ties(), torch.where(up, torch.inf, -torch.inf))


def rows_of_zeros() -> Tensor:
    weight = uniform(8, 64)
    weight[3], weight[4], weight[5, ::2] = 0.0, -0.0, -0.0
    return weight


def with_values(*values: float) -> Tensor:
    weight = uniform(8, 64)
    for row, value in enumerate(values):
        weight[row, 5 * row] = value
    return weight


CASES: dict[str, Tensor] = {
    **{f"normal 1e{e}": torch.randn(16, 256, generator=seeded(e + 99)) * 10.0**e for e in range(-30, 31, 3)},
    "uniform": uniform(64, 256),
    "heavy-tailed": uniform(64, 256) / torch.rand(64, 256, generator=seeded(3)) ** 3,
    "bf16": (0.02 * torch.randn(64, 256, generator=seeded())).bfloat16().float(),
    "ties": ties(),
    "near ties": near_ties(),
    "ties at all scales": (ties().double() * two_to(block_exponents(-149, 125))).float(),
    "blocks of all scales": (uniform(128, 256).double() * two_to(block_exponents(-149, 128))).float(),
    "powers of two": (two_to(torch.randint(-149, 128, (64, 256), generator=seeded())) * uniform(64, 256).sign()).float(),
    "zeros among numbers": rows_of_zeros(),
    "tiny blocks": torch.cat([(uniform(128, 256).double() * two_to(block_exponents(-149, -110))).float(), uniform(1, 256)]),
    "huge": uniform(64, 256) * torch.finfo(torch.float32).max,
    "fp32's largest": torch.where(uniform(64, 256) > 0.9, torch.finfo(torch.float32).max, uniform(64, 256)),
    "NaN": with_values(math.nan),
    "infinities": with_values(math.inf, -math.inf),
    "infinity among huge": with_values(math.inf, 3e38, math.nan) * 1e38,
    "three dimensions": uniform(3, 5, 64),
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_bits_equal_torchaos(case, format) -> None:
    weight = CASES[case]
    assert_same_bits(ours(weight, format), torchaos(weight, format))


@pytest.mark.parametrize("rule", RULES)
def test_zeros_keep_their_sign(rule) -> None:
    zeros = torch.zeros(2, 32) * torch.tensor([[1.0], [-1.0]])
    assert_same_bits(fp4.mxfp4(zeros, rule), torchaos(zeros, rule))
    assert_same_bits(fp4.mxfp4(zeros, rule), zeros)


@pytest.mark.parametrize("slab", [64, 4096])
@pytest.mark.parametrize("format", FORMATS)
def test_the_slab_changes_nothing(format, slab, monkeypatch) -> None:
    weight = torch.randn(96, 544, generator=seeded())  # 1632 or 3264 blocks: the last slab is not full
    whole = ours(weight, format)
    monkeypatch.setattr(fp4, "SLAB", slab)
    assert_same_bits(ours(weight, format), whole)


@pytest.mark.parametrize("ulps", range(-3, 4))
def test_rceil_next_to_a_power_of_two(ulps) -> None:
    amax = (6 * two_to(torch.arange(-120, 120, dtype=torch.float64))).float()
    amax = (amax.view(torch.int32) + ulps).view(torch.float32)
    weight = uniform(240, 32) * 0.9 * amax[:, None]
    weight[:, 7] = -amax
    assert_same_bits(fp4.mxfp4(weight, "rceil"), torchaos(weight, "rceil"))


def test_nvfp4_scales_at_their_ends() -> None:
    """From a block of the largest magnitude (scale 448) to one whose scale torchao holds at 2⁻⁶ and beyond."""
    weight = uniform(64, 16) * 2.0 ** -torch.arange(64.0)[:, None]
    assert_same_bits(fp4.nvfp4(weight), torchaos(weight, "nvfp4"))
    assert fp4.nvfp4(torch.full((1, 16), 448.0 * 6.0)).eq(448.0 * 6.0).all()
    tiny = torch.cat([torch.ones(1, 16), torch.full((1, 16), 2.0**-20)])  # scale 448·2⁻²⁰ before it is held at 2⁻⁶
    assert not fp4.nvfp4(tiny)[1].any()


def test_nvfp4_of_nothing_is_nothing() -> None:
    zeros = torch.zeros(4, 32)
    zeros[1] = -0.0
    assert torchaos(zeros, "nvfp4").isnan().all()  # 0 ÷ 0
    assert_same_bits(fp4.nvfp4(zeros), zeros)


@pytest.mark.parametrize("exponent", range(-149, -110, 3))
def test_nvfp4_of_a_tiny_tensor_is_near_it(exponent) -> None:
    weight = (uniform(16, 64).double() * 2.0**exponent).float()
    weight[:, 3], weight[5] = 0.0, 0.0
    found = fp4.nvfp4(weight)
    assert torch.all((found - weight).abs() <= torch.maximum(weight.abs().amax() / 5, torch.tensor(2.0**-128)))
    assert not found[:, 3].any()
    assert not found[5].any()
    if weight.abs().max() >= LEAST_NVFP4:
        assert_same_bits(found, torchaos(weight, "nvfp4"))


def test_a_nan_spoils_its_block_or_its_tensor() -> None:
    weight = with_values(math.nan)
    for rule in RULES:
        assert fp4.mxfp4(weight, rule).isnan().nonzero().tolist() == [[0, i] for i in range(32)]
    assert fp4.nvfp4(weight).isnan().all()
    assert fp4.nvfp4(with_values(math.inf)).isnan().all()


@pytest.mark.parametrize("format", FORMATS)
def test_values_are_new_and_the_weight_stays(format) -> None:
    weight = torch.nn.Parameter(torch.randn(64, 32, generator=seeded()).t().repeat(2, 1))
    before = weight.detach().clone()
    found = ours(weight, format)
    assert not found.requires_grad
    assert found.shape == weight.shape
    assert torch.equal(weight, before)
    assert_same_bits(found, ours(before.contiguous(), format))
    across = before.t()  # 64 × 64 seen from the other side: blocks run along what is now the last dimension
    assert_same_bits(ours(across, format), torchaos(across.contiguous(), format))


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, not 48"):
        fp4.mxfp4(torch.ones(2, 48), "floor")
    with pytest.raises(ValueError, match="multiple of 16, not 40"):
        fp4.nvfp4(torch.ones(2, 40))
    with pytest.raises(ValueError, match="not 'ceil'"):
        fp4.mxfp4(torch.ones(2, 32), "ceil")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bfloat16"):
        fp4.nvfp4(torch.ones(2, 32, dtype=torch.bfloat16))


def from_bits(bits: list[int]) -> Tensor:
    return torch.tensor(struct.unpack(f"<{len(bits)}f", struct.pack(f"<{len(bits)}I", *bits)), dtype=torch.float32)


EXPONENTS = st.integers(0, 254) | st.integers(100, 130)
TIES = [0, 1, 2**21 - 1, 2**21, 2**21 + 1, 2**22 - 1, 2**22, 3 * 2**21, 2**23 - 1]
MANTISSAS = st.sampled_from(TIES) | st.integers(0, 2**23 - 1)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Two rows of 32: signs and mantissas at will, exponents of a row together, so that its elements share a grid."""
    rows = []
    for _ in range(2):
        most = draw(EXPONENTS)
        element = st.tuples(st.integers(0, 1), st.integers(max(most - 5, 0), most), MANTISSAS)
        rows.append(from_bits([s << 31 | e << 23 | m for s, e, m in draw(st.lists(element, min_size=32, max_size=32))]))
    return torch.stack(rows)


@given(weight=weights(), format=st.sampled_from(FORMATS))
def test_bits_equal_torchaos_whatever_the_bits(weight, format) -> None:
    if format != "nvfp4" or weight.abs().max() >= LEAST_NVFP4:
        assert_same_bits(ours(weight, format), torchaos(weight, format))


@given(weight=weights(), rule=st.sampled_from(RULES), shift=st.integers(-8, 8))
def test_mxfp4_is_the_nearest_of_eight_magnitudes_and_moves_with_the_weight(weight, rule, shift) -> None:
    amax = weight.abs().amax(1, keepdim=True)
    assume(2.0**-90 < amax.min() <= amax.max() < 2.0**90)
    found = fp4.mxfp4(weight, rule)
    assert_same_bits(fp4.mxfp4(weight * 2.0**shift, rule), found * 2.0**shift)
    floor = torch.frexp(amax).exponent - 3  # ⌊log₂ m⌋ − 2; a rule that rounds up may take one more
    nearest = [nearest_error(weight, two_to(floor + more)) for more in (0, 1)]
    error = (found.double() - weight.double()).abs()
    assert torch.all((error == nearest[0]).all(1) | (error == nearest[1]).all(1))


def nearest_error(weight: Tensor, scale: Tensor) -> Tensor:
    """Distance of each element to the nearest of ± E2M1 · scale."""
    grid = torch.tensor(E2M1, dtype=torch.float64) * scale[..., None]
    return (weight.double().abs()[..., None] - grid).abs().amin(-1)
