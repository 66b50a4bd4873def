"""Errors on matrix products: their size, where they are, that they are on no other product, and that they repeat."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from experiment_specs.language import HwNoise
from tests.unit.test_rollout import tiny_model
from workers.launch import noisy_ops_contradiction, noisy_ops_environment
from workers.treatments.noisy_ops import NoisyOps, by_turns
from workers.treatments.probe import OutputCheck

IDS = torch.arange(1, 25).reshape(2, 12)


def noise(**fields: object) -> HwNoise:
    return HwNoise.model_validate({"scale": 0.05} | fields)


class Layered(nn.Module):
    """Decoder layers around one function of a hidden state."""

    def __init__(self, function, layers: int = 2) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(Layer(function) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


class Layer(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


OTHER = torch.randn(64, 64, generator=torch.Generator().manual_seed(3))
PRODUCTS = {
    "linear": lambda x: nn.functional.linear(x, OTHER),
    "matmul": lambda x: torch.matmul(x, OTHER),
    "operator": lambda x: x @ OTHER,
    "mm": lambda x: x.mm(OTHER),
    "bmm": lambda x: torch.bmm(x[None], OTHER[None])[0],
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_kind_of_product_has_an_error_of_the_planned_relative_size(name) -> None:
    model = Layered(PRODUCTS[name])
    noisy = NoisyOps(model, noise())
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(1))
    exact = model(x)
    with noisy.phase("rollout", seed=1):
        result = model(x)
    relative = ((result - exact) / exact.abs()).std().item()
    assert relative == pytest.approx(0.05, rel=0.05)
    ((op, seen),) = noisy.take().items()
    assert op == {"operator": "matmul", "mm": "matmul"}.get(name, name)
    assert seen["calls"] == 1
    assert seen["relative_std"] == pytest.approx(0.05, rel=0.05)
    assert noisy.take() == {}


def test_a_bias_has_no_error() -> None:
    bias = torch.full((64,), 1e6)
    model = Layered(lambda x: nn.functional.linear(x, OTHER, bias))
    noisy = NoisyOps(model, noise())
    x = torch.randn(8, 64)
    with noisy.phase("train", seed=1):
        assert (model(x) - model(x)).abs().max() < 100


def test_only_in_chosen_phases_ops_and_layers() -> None:
    model = tiny_model()
    exact = model(IDS).logits
    for fields, phase, changed in (
        ({"phases": ["train"]}, "eval", False),
        ({"phases": ["train"]}, "train", True),
        ({"ops": ["bmm"]}, "train", False),
        ({"layers": [1]}, "train", True),
    ):
        fresh = tiny_model()
        noisy = NoisyOps(fresh, noise(**fields))
        with torch.no_grad(), noisy.phase(phase, seed=1):
            assert torch.equal(fresh(IDS).logits, exact) is not changed
    fresh = tiny_model()
    noisy = NoisyOps(fresh, noise(layers=[1]))
    assert noisy.layers == ["model.layers.1"]
    inside = OutputCheck("in", fresh.model.layers[1].mlp.up_proj)
    outside = OutputCheck("out", fresh.model.layers[0].mlp.up_proj)
    head = OutputCheck("head", fresh.lm_head)
    with torch.no_grad(), noisy.phase("train", seed=1):
        fresh(IDS)
    assert inside.facts()["error"] == pytest.approx(0.05, rel=0.2)
    assert max(outside.facts()["error"], head.facts()["error"]) < 1e-5
    with pytest.raises(ValueError, match="does not have: \\[7\\]"):
        NoisyOps(tiny_model(), noise(layers=[1, 7]))


def test_positions_are_not_products_of_the_network() -> None:
    """Rotary angles come from a matrix product outside the layers: noise there would scramble positions."""
    model = tiny_model()
    before = model.model.rotary_emb(torch.zeros(1, 12, 32), torch.arange(12)[None])
    noisy = NoisyOps(model, noise())
    with noisy.phase("train", seed=1):
        after = model.model.rotary_emb(torch.zeros(1, 12, 32), torch.arange(12)[None])
    assert torch.equal(before[0], after[0])


def test_the_same_seed_repeats_and_the_generator_is_put_back() -> None:
    model = tiny_model()
    noisy = NoisyOps(model, noise())
    state = torch.get_rng_state()

    def logits(seed: int) -> torch.Tensor:
        with torch.no_grad(), noisy.phase("train", seed):
            return model(IDS).logits

    first = logits(1)
    assert torch.equal(first, logits(1))
    assert not torch.equal(first, logits(2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backward", [False, True])
def test_gradients_are_exact_unless_backward_has_errors_too(backward) -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weight = OTHER.clone().requires_grad_()
    model = Layered(lambda x: nn.functional.linear(x, weight))
    noisy = NoisyOps(model, noise(backward=backward))
    g = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    with noisy.phase("train", seed=1):
        model(x).backward(g)
    expected = 0.05 if backward else 0.0
    for found, exact in ((x.grad, g @ OTHER), (weight.grad, g.T @ x.detach())):
        assert ((found - exact).norm() / exact.norm()).item() == pytest.approx(expected, rel=0.1, abs=1e-6)


def test_a_recomputed_forward_has_the_same_errors() -> None:
    """Gradient checkpointing runs a layer twice: other errors the second time would be another function's gradient."""

    def gradients(recompute: bool) -> torch.Tensor:
        torch.manual_seed(0)
        weight = OTHER.clone().requires_grad_()
        model = Layered(lambda x: torch.relu(nn.functional.linear(x, weight)))
        noisy = NoisyOps(model, noise())
        x = torch.randn(64, 64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        with noisy.phase("train", seed=5):
            y = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
            y.square().sum().backward()
        return weight.grad

    assert torch.equal(gradients(True), gradients(False))


def test_an_error_in_a_layer_leaves_nothing_behind() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("as asked")

    model = Layered(broken)
    noisy = NoisyOps(model, noise())
    with pytest.raises(RuntimeError, match="as asked"), noisy.phase("train", seed=1):
        model(OTHER)
    with noisy.phase("train", seed=1):
        assert torch.equal(OTHER @ OTHER, OTHER @ OTHER)


@pytest.mark.parametrize(
    ("environment", "planned", "words"),
    [
        ({}, None, None),
        ({"VERL_NOISY_OPS_ENABLED": "0", "VERL_NOISY_OPS_SCALE": "0.3"}, None, None),
        ({"VERL_NOISY_OPS_ENABLED": "1"}, 0.05, None),
        ({"VERL_NOISY_OPS_ENABLED": "1", "VERL_NOISY_OPS_SCALE": "5e-2"}, 0.05, None),
        ({"VERL_NOISY_OPS_ENABLED": "1"}, None, "the condition's hw_noise is none"),
        ({"VERL_NOISY_OPS_ENABLED": "1", "VERL_NOISY_OPS_SCALE": "0.1"}, 0.05, "is a scale of 0.05"),
        ({"VERL_NOISY_OPS_ENABLED": "1", "VERL_NOISY_OPS_SCALE": "much"}, 0.05, "is not a number"),
        ({"VERL_NOISY_OPS_ENABLED": "1", "VERL_NOISY_OPS_TYPE": "uniform"}, 0.05, "relative_gaussian is"),
    ],
)
def test_the_environment_names_that_users_know_may_not_contradict_the_spec(environment, planned, words) -> None:
    problem = noisy_ops_contradiction(noise(scale=planned) if planned else None, environment)
    assert (problem is None) == (words is None)
    assert words is None or words in problem


def test_a_run_sets_them_for_its_processes() -> None:
    assert noisy_ops_environment(noise()) == {
        "VERL_NOISY_OPS_ENABLED": "1", "VERL_NOISY_OPS_SCALE": "0.05", "VERL_NOISY_OPS_TYPE": "relative_gaussian",
    }  # fmt: skip
    assert noisy_ops_environment(None) == {"VERL_NOISY_OPS_ENABLED": "0"}


@pytest.mark.parametrize("count", [1, 2, 7, 14, 196])
def test_every_linear_gets_its_turn(count) -> None:
    names = [f"model.layers.{i // 7}.m{i}" for i in range(count)]
    assert {by_turns(names, None, turn) for turn in range(count)} == set(names)


def test_where_layers_are_chosen_those_inside_and_those_outside_get_it_by_turns() -> None:
    names = [f"model.layers.{i // 7}.m{i}" for i in range(28)]
    looked = [by_turns(names, noise(layers=[2]), turn) for turn in range(42)]
    assert all(("layers.2." in name) == bool(turn % 2) for turn, name in enumerate(looked))
    assert set(looked) == set(names)
