"""vLLM's module tree under the names of the checkpoint. The tree here is ours, with vLLM's names and attributes; what
vLLM itself builds is looked at by the tests of its environment."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from experiment_specs.load import build_condition, load_sweep
from tests.conftest import TINY
from tests.unit.test_rollout import TOTAL, tiny_model
from workers.launch import Order
from workers.treatments import lora as adapters
from workers.treatments.held import Held
from workers.treatments.quantize import fingerprint
from workers.verl.rollout_copy import RolloutCopy
from workers.verl.vllm_held import VllmHeld

PADDED = 64
PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class Method:
    """vLLM's place of the product."""

    @staticmethod
    def apply(layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return nn.functional.linear(x, layer.weight, bias)


class ParallelLinear(nn.Module):
    def __init__(self, weights: list[Tensor], bias: list[Tensor]) -> None:
        super().__init__()
        self.output_sizes = [len(weight) for weight in weights]
        self.weight = nn.Parameter(torch.cat(weights).clone(), requires_grad=False)
        self.bias = nn.Parameter(torch.cat(bias).clone(), requires_grad=False) if bias else None
        self.quant_method = Method()

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.quant_method.apply(self, x, self.bias), None


class QKVParallelLinear(ParallelLinear): ...


class RowParallelLinear(ParallelLinear): ...


class WithLoRA(nn.Module):
    """A wrapper that calls its base's method and not its base, and adds its share in place."""

    def __init__(self, base: ParallelLinear, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        width = base.weight.shape[1]
        self.lora_a_stacked = tuple(torch.zeros(1, 1, 2 * rank, width) for _ in base.output_sizes)
        self.lora_b_stacked = tuple(torch.zeros(1, 1, size, 2 * rank) for size in base.output_sizes)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        y = self.base_layer.quant_method.apply(self.base_layer, x, self.base_layer.bias)
        shares = [x @ a[0, 0].T @ b[0, 0].T for a, b in zip(self.lora_a_stacked, self.lora_b_stacked, strict=True)]
        y += torch.cat(shares, -1)
        return y, None


class RMSNorm(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)


class VocabParallelEmbedding(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.org_vocab_size = len(weight)
        padding = torch.ones(PADDED - len(weight), weight.shape[1])
        self.weight = nn.Parameter(torch.cat([weight, padding]), requires_grad=False)
        self.quant_method = Method()


class LogitsProcessor(nn.Module):
    def forward(self, head: nn.Module, hidden: Tensor) -> Tensor:
        return head.quant_method.apply(head, hidden)


def fused(state: dict[str, Tensor], rank: int = 0) -> nn.Module:
    """The tree that vLLM builds of a Qwen2, with these weights."""

    def linear(kind: type[ParallelLinear], at: str, *names: str) -> nn.Module:
        weights = [state[f"{at}.{name}.weight"] for name in names]
        biases = [state[f"{at}.{name}.bias"] for name in names if f"{at}.{name}.bias" in state]
        built = kind(weights, biases)
        return WithLoRA(built, rank) if rank else built

    def modules(**named: nn.Module) -> nn.Module:
        return nn.ModuleDict(named)

    layers = nn.ModuleList()
    for index in range(2):
        at = f"model.layers.{index}"
        layers.append(
            modules(
                self_attn=modules(
                    qkv_proj=linear(QKVParallelLinear, f"{at}.self_attn", *PACKED["qkv_proj"]),
                    o_proj=linear(RowParallelLinear, f"{at}.self_attn", "o_proj"),
                ),
                mlp=modules(
                    gate_up_proj=linear(QKVParallelLinear, f"{at}.mlp", *PACKED["gate_up_proj"]),
                    down_proj=linear(RowParallelLinear, f"{at}.mlp", "down_proj"),
                ),
                input_layernorm=RMSNorm(state[f"{at}.input_layernorm.weight"]),
                post_attention_layernorm=RMSNorm(state[f"{at}.post_attention_layernorm.weight"]),
            )
        )
    tree = nn.Module()
    tree.model = modules(
        embed_tokens=VocabParallelEmbedding(state["model.embed_tokens.weight"]),
        layers=layers,
        norm=RMSNorm(state["model.norm.weight"]),
    )
    tree.lm_head = VocabParallelEmbedding(state["lm_head.weight"])
    tree.logits_processor = LogitsProcessor()
    tree.config = tiny_model().config
    tree.packed_modules_mapping = PACKED
    return tree


@pytest.fixture
def order(write_spec):
    def make(**fields: object) -> Order:
        condition = build_condition(load_sweep(write_spec(TINY)), {"dtype": "mxfp4", "aqn": "standard", **fields})
        return Order(
            "r", 1, "t", "l", condition.id, condition.model_dump(mode="json"), seed=1, total_steps=TOTAL,
            steps_per_epoch=TOTAL, eval_steps=[0, TOTAL], gpus=1, assets="",
        )  # fmt: skip

    return make


def prints(held: Held) -> dict[str, str]:
    return {part.name: fingerprint(part.tensor) for part in held.parts()}


def test_the_same_tensors_are_held_under_the_same_names() -> None:
    model = tiny_model(1)
    assert prints(VllmHeld(fused(model.state_dict()), None)) == prints(Held(model))
    assert set(VllmHeld(fused(model.state_dict()), None).linears()) == set(Held(model).linears())


def test_noise_is_drawn_and_lifted_on_fused_modules_and_the_clean_weights_are_told(order) -> None:
    model = tiny_model(1)
    copy = RolloutCopy(VllmHeld(fused(model.state_dict()), None), order())
    copy.begin_sync()
    copy.end_sync(4)
    facts = copy.measure()
    assert (facts["realised"]["modules"], facts["linears"]) == (5, 14)
    assert facts["weights"] == prints(Held(model)), "without the noise"
    copy.begin_eval()
    assert copy.measure()["realised"]["modules"] == 0


def test_noise_on_fused_linears_leaves_their_clean_parts_known(order) -> None:
    model = tiny_model(1)
    noisy = {"preset": "standard", "layer_types": "linear"}
    copy = RolloutCopy(VllmHeld(fused(model.state_dict()), None), order(aqn=noisy))
    copy.begin_sync()
    copy.end_sync(4)
    facts = copy.measure()
    assert facts["realised"]["modules"] == 8, "four fused linears a layer"
    assert facts["weights"] == prints(Held(model))


def test_adapters_are_found_in_the_stacks(order) -> None:
    condition = order(lora={"preset": "r32", "rank": 8}).typed_condition
    assert condition.lora is not None
    model = tiny_model(1)
    wrapped = adapters.wrap(model, condition.lora)
    state = {name: torch.randn_like(value) for name, value in wrapped.state_dict().items() if "lora_" in name}
    wrapped.load_state_dict(state, strict=False)
    tree = fused(tiny_model(1).state_dict(), rank=condition.lora.rank)
    for name, module in tree.named_modules():
        if isinstance(module, WithLoRA):
            parent, _, last = name.rpartition(".")
            for index, owner in enumerate(PACKED.get(last, [last])):
                stem = f"base_model.model.{parent}.{owner}"
                a, b = (state[f"{stem}.lora_{x}.default.weight"] for x in "AB")
                module.lora_a_stacked[index][0, 0, : len(a)] = a
                module.lora_b_stacked[index][0, 0, :, : b.shape[1]] = b
    held, want = VllmHeld(tree, condition.lora), Held(wrapped)
    copy, other = (
        RolloutCopy(held, order(lora={"preset": "r32", "rank": 8})),
        RolloutCopy(want, order(lora={"preset": "r32", "rank": 8})),
    )
    for each in (copy, other):
        each.begin_sync()
        each.end_sync(4)
    assert copy.measure()["weights"] == other.measure()["weights"]


@pytest.mark.parametrize("rank", [0, 4])
def test_products_are_checked_where_they_are_made(rank: int, write_spec, order) -> None:
    tree = fused(tiny_model(1).state_dict(), rank)
    held = VllmHeld(tree, order(lora={"preset": "r32", "rank": rank}).typed_condition.lora if rank else None)
    part = next(p for name, p in held.linears().items() if "k_proj" in name)
    linear = tree.model["layers"][0]["self_attn"]["qkv_proj"]
    check = held.check_output(part, 2)
    for _ in range(4):
        linear(torch.randn(3, 32))
    facts = check.facts()
    assert facts["n_eff"] > 0
    assert facts["error"] < 1e-6
    base = linear.base_layer if rank else linear
    assert isinstance(base.quant_method, Method), "nothing stays behind"


def test_hardware_noise_reaches_fused_linears_and_the_output_layer(order) -> None:
    tree = fused(tiny_model(1).state_dict())
    noise = order(hw_noise={"scale": 0.05, "ops": ["linear"], "phases": ["rollout"]}).typed_condition.hw_noise
    ops = VllmHeld(tree, None).noisy_ops(noise)
    assert set(ops.layers) == {"model.layers.0", "model.layers.1", "logits_processor"}
    with ops.phase("rollout", 1):
        tree.logits_processor(tree.lm_head, torch.randn(3, 32))
    (seen,) = ops.take().values()
    assert (seen["calls"], seen["due"]) == (1, 1)
    assert 0.03 < seen["relative_std"] < 0.07
