"""Schedules, quantisation and noise against reference numbers, and the traps that this field fell into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from experiment_specs.errors import SpecError
from experiment_specs.language import Aqn, Dtype
from experiment_specs.load import build_condition, load_sweep
from experiment_specs.modules import is_block_linear
from experiment_specs.schedules import sigma_at
from workers.treatments.aqn import Noise
from workers.treatments.probe import Gradients, Probe
from workers.treatments.quantize import (
    QuantisedLinear,
    attach,
    fingerprint,
    quantisation_error,
    quantise,
    sampled,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SCHEDULES = json.loads((GOLDEN / "schedules.json").read_text())["cases"]
SPEC_ERRORS = json.loads((GOLDEN / "schedules.json").read_text())["spec_errors"]
FP4 = json.loads((GOLDEN / "fp4.json").read_text())
FLOOR, NVFP4, BF16 = Dtype(format="mxfp4", scale_rule="floor"), Dtype(format="nvfp4"), Dtype(format="bf16")


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda c: f"{c['schedule']}-{c.get('total_steps', c.get('epochs'))}")
def test_schedules_equal_the_reference(case) -> None:
    aqn = Aqn(
        schedule=case["schedule"], sigma_start=case["sigma_start"], sigma_end=case["sigma_end"],
        num_stages=case.get("num_stages"), stages_per_epoch=case.get("stages_per_epoch"),
    )  # fmt: skip
    total = case.get("total_steps") or case["epochs"] * case["steps_per_epoch"]
    per_epoch = case.get("steps_per_epoch", total)
    for step, expected in list(enumerate(case["sigma"]))[1:]:
        assert sigma_at(aqn, step, total, per_epoch) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("wrong", SPEC_ERRORS, ids=str)
def test_schedules_that_mean_nothing_are_spec_errors(wrong, write_spec) -> None:
    steps = wrong.get("total_steps", 24)
    schedule = {"schedule": "kstage", "sigma_start": 0.01, "sigma_end": 0.0001} | wrong
    schedule |= {"num_stages": 10} if schedule["schedule"] == "kstage" and "num_stages" not in wrong else {}
    aqn = json.dumps({key: value for key, value in schedule.items() if key != "total_steps"})
    sweep = load_sweep(
        write_spec(f"sweep: s\nbase: bases/tiny-cpu.yaml\nset: {{steps_per_epoch: {steps}, aqn: {aqn}}}\n")
    )
    with pytest.raises(SpecError, match=r"sweep.yaml:3"):
        build_condition(sweep, {})


def test_outside_the_run_there_is_no_noise() -> None:
    aqn = Aqn(schedule="kstage", sigma_start=0.01, sigma_end=0.0001, num_stages=10)
    assert sigma_at(aqn, 0, 30, 30) == sigma_at(aqn, 31, 30, 30) == 0.0


def test_ties_round_to_even() -> None:
    row = torch.zeros(1, 32)
    row[0, : len(FP4["ties"]["x"])] = torch.tensor(FP4["ties"]["x"])
    row[0, -1] = 6.0  # amax 6: scale 1
    assert quantise(row, FLOOR)[0, : len(FP4["ties"]["to"])].tolist() == FP4["ties"]["to"]


@pytest.mark.parametrize("rule", ["floor", "even", "rceil"])
def test_scale_rules_differ_where_they_should(rule) -> None:
    row = torch.zeros(1, 32)
    row[0, 0] = 7.0
    assert quantise(row, Dtype(format="mxfp4", scale_rule=rule))[0, 0] == FP4["mxfp4_amax7_dequantised"][rule]


@pytest.mark.parametrize(("dtype", "key"), [(FLOOR, "mxfp4_floor"), (NVFP4, "nvfp4_two_level")], ids=["mxfp4", "nvfp4"])
def test_error_on_gaussian_weights(dtype, key) -> None:
    weight = torch.randn(1536, 1536, generator=torch.Generator().manual_seed(0)) * 0.02
    expected = FP4["gaussian_0_0.02_1536x1536"][key]
    error = quantisation_error([weight], dtype)
    assert error.mean_abs_ratio == pytest.approx(expected["mean_abs_ratio"], rel=0.02)
    assert error.sqnr_db == pytest.approx(-20 * torch.tensor(expected["l2"]).log10().item(), abs=0.15)


@pytest.mark.parametrize("dtype", [FLOOR, NVFP4, BF16], ids=lambda d: d.format)
def test_quantising_twice_changes_nothing_and_zeros_stay(dtype) -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) * 0.02
    weight[3], weight[:, 5] = 0.0, 0.0
    once = quantise(weight, dtype)
    assert torch.allclose(quantise(once, dtype), once, rtol=1e-5, atol=0.0)  # nvfp4's tensor scale: to the last digit
    assert not torch.any(once[3])
    assert not torch.any(quantise(torch.zeros(4, 32), dtype))


def test_a_block_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        quantise(torch.ones(4, 40), FLOOR)


class Block(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.input_layernorm = Qwen2RMSNorm(width)
        self.q_proj = nn.Linear(width, width)
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(width, 2 * width), "down_proj": nn.Linear(2 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.q_proj(self.input_layernorm(x))
        return x + self.mlp["down_proj"](torch.relu(self.mlp["up_proj"](x)))


class Qwen2RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(11, 32)
        self.model.layers = nn.ModuleList(Block() for _ in range(3))
        self.model.norm = Qwen2RMSNorm(32)
        self.lm_head = nn.Linear(32, 11, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.lm_head(self.model.norm(x))


def test_block_linears_are_quantised_and_nothing_else() -> None:
    toy = Toy()
    names = attach(toy, FLOOR)
    assert len(names) == 9
    assert not isinstance(toy.lm_head, QuantisedLinear)
    assert not is_block_linear("lm_head")
    assert not is_block_linear("model.embed_tokens")
    assert not is_block_linear("base_model.model.model.layers.0.mlp.up_proj.lora_A.default")
    assert attach(toy, FLOOR) == []  # twice attached is attached once


def gradients_of(toy: Toy, name: str, dtype: Dtype) -> Gradients:
    seen: list[Gradients] = []
    Probe(toy.get_submodule(name), lambda w: quantise(w, dtype), seen.append)
    ids = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(2))
    toy(ids).square().mean().backward()
    return seen[0]


@pytest.mark.parametrize(
    "name", ["model.layers.0.q_proj", "model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj"]
)
def test_the_probe_finds_straight_through_gradients_right(name) -> None:
    toy = Toy()
    attach(toy, FLOOR)
    found = gradients_of(toy, name, FLOOR)
    assert found.output_error < 1e-5
    assert found.input_error < 1e-5
    assert found.weight_error < 1e-5
    assert found.input_error_unquantised > 0.02


def test_the_probe_catches_a_weight_that_is_restored_before_backward() -> None:
    """Quantised in place before forward and put back after it, as was once done by hooks: dL/dx then uses W."""
    toy = Toy()
    for _, module in list(toy.named_modules()):
        if isinstance(module, nn.Linear) and module is not toy.lm_head:
            saved: dict[str, torch.Tensor] = {}

            def before(m, _, saved=saved):
                saved["w"] = m.weight.data.clone()
                m.weight.data.copy_(quantise(m.weight.data, FLOOR))

            def after(m, _, __, saved=saved):
                m.weight.data.copy_(saved["w"])

            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
    found = gradients_of(toy, "model.layers.1.mlp.up_proj", FLOOR)
    assert found.input_error > 0.02
    assert found.input_error_unquantised < 1e-5


def test_a_fingerprint_is_the_same_in_every_type_that_holds_the_values() -> None:
    weight = quantise(torch.randn(32, 32), FLOOR)
    assert fingerprint(weight) == fingerprint(weight.bfloat16()) == fingerprint(weight.double())
    assert fingerprint(weight) != fingerprint(weight + 1e-3)


def test_a_sample_keeps_both_ends() -> None:
    names = [str(i) for i in range(196)]
    assert len(sampled(names)) == 8
    assert (sampled(names)[0], sampled(names)[-1]) == ("0", "195")
    assert sampled(["a", "b"]) == ["a", "b"]


def test_noise_is_redrawn_from_clean_weights_and_never_accumulates() -> None:
    toy = Toy()
    noise = Noise(toy)
    assert len(noise.modules) == 4
    noise.remember()
    for step in range(200):
        noise.draw(0.05, seed=1, step=step)
    assert noise.measure().pooled.std == pytest.approx(0.05, rel=0.2)
    noise.lift()
    assert noise.measure().pooled.changed == 0
    assert noise.measure().pooled.largest == 0.0


def test_restoring_brings_back_the_same_noise() -> None:
    toy = Toy()
    noise = Noise(toy)
    noise.remember()
    noise.draw(0.05, seed=1, step=3)
    before = toy.model.norm.weight.clone()
    noise.lift()
    noise.restore()
    assert torch.equal(toy.model.norm.weight, before)


def test_noise_repeats_with_seed_and_step_and_differs_otherwise() -> None:
    toy = Toy()
    noise = Noise(toy)
    noise.remember()

    def drawn(seed: int, step: int) -> torch.Tensor:
        noise.draw(0.05, seed, step)
        return torch.cat([m.weight.detach().clone() for m in noise.modules.values()])

    first = drawn(1, 1)
    assert torch.equal(first, drawn(1, 1))
    assert not torch.equal(first, drawn(1, 2))
    assert not torch.equal(first, drawn(2, 1))


@pytest.mark.parametrize(("sigma", "inert"), [(1e-4, True), (5e-2, False)])
def test_bf16_rounds_small_noise_away_and_the_simulation_knows(sigma, inert) -> None:
    toy = Toy().bfloat16()
    noise = Noise(toy)
    noise.remember()
    noise.draw(sigma, seed=1, step=1)
    due, _ = noise.expect(sigma, seed=1, step=1)
    realised = noise.measure().pooled
    assert (due.std == 0.0) is inert
    assert abs(realised.std - due.std) <= 5 * due.error + 1e-12
    assert realised.changed >= due.due


@pytest.mark.parametrize("sigma", [3.2e-3, 1e-3, 5.6e-4, 3.2e-4])
def test_norms_in_which_bf16_hides_the_noise_are_not_demanded(sigma) -> None:
    """Norms of very different size: in the large ones a small sigma moves no element, or only now and then."""
    norms = nn.ModuleList(Qwen2RMSNorm(256) for _ in range(12))
    for index, norm in enumerate(norms):
        norm.weight.data.uniform_(0.3, 7.0 if index == 11 else 2.0, generator=torch.Generator().manual_seed(index))
    noise = Noise(norms.bfloat16())
    noise.remember()
    for seed in range(12):
        noise.draw(sigma, seed, step=1)
        (due, _), realised = noise.expect(sigma, seed, step=1), noise.measure().pooled
        assert realised.changed >= due.due
        assert abs(realised.std - due.std) <= 5 * due.error


def test_the_probe_sees_a_forward_that_forgot_the_quantisation() -> None:
    found = gradients_of(Toy(), "model.layers.1.mlp.up_proj", FLOOR)  # nothing attached
    assert found.output_error > 0.02
    assert found.input_error > 0.02


def test_the_probe_waits_for_a_gradient() -> None:
    toy = Toy()
    attach(toy, FLOOR)
    seen: list[Gradients] = []
    Probe(toy.get_submodule("model.layers.0.q_proj"), lambda w: quantise(w, FLOOR), seen.append)
    ids = torch.randint(0, 11, (4, 7), generator=torch.Generator().manual_seed(2))
    (toy(ids).square().mean() * 0).backward()
    assert seen == []
    toy(ids).square().mean().backward()
    assert seen[0].input_error < 1e-5
