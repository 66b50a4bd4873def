"""Cost of 4-bit weights: a linear's forward and backward, and rounding alone against copying the same memory.

Everything of one table runs in turn, round after round, on one device (CUDA if there is one); figures are medians, and
ratios are medians of ratios within a round. A CPU works in fp32, a GPU in bf16 with the rounding in fp32.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torchao
from torch import Tensor, nn
from torchao.prototype.mx_formats.mx_tensor import MXTensor, ScaleCalculationMode
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.prototype.qat.mx import MXFakeQuantizeConfig, MXFakeQuantizedLinear
from torchao.prototype.qat.nvfp4 import NVFP4FakeQuantizeConfig, NVFP4FakeQuantizedLinear

from experiment_specs.language import Dtype
from experiment_specs.presets import presets
from workers.treatments.fp4 import mxfp4, nvfp4
from workers.treatments.quantize import attach

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
SHAPES = [(1536, 1536), (8960, 1536)]  # out × in: Qwen2.5-1.5B's q_proj and up_proj
TOKENS = 512
ROUNDS = 9

Values = Callable[[Tensor], Tensor]


def torchao_mxfp4(weight: Tensor) -> Tensor:
    packed: Any = MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32, ScaleCalculationMode.FLOOR)
    values: Tensor = packed.dequantize(torch.float32)
    return values


def torchao_nvfp4(weight: Tensor) -> Tensor:
    packed: Any = NVFP4Tensor.to_nvfp4(weight, 16, per_tensor_scale=per_tensor_amax_to_scale(weight.abs().max()))
    values: Tensor = packed.dequantize(torch.float32)
    return values


FORMATS: dict[str, tuple[Values, Values]] = {
    "mxfp4": (lambda weight: mxfp4(weight, "floor"), torchao_mxfp4),
    "nvfp4": (nvfp4, torchao_nvfp4),
}


def quantised(rows: int, columns: int, name: str) -> nn.Linear:
    """A linear as a run has it."""
    block = nn.Module()
    block.layers = nn.ModuleList([nn.ModuleDict({"linear": nn.Linear(columns, rows, bias=False)})])
    attach(block.to(DEVICE, DTYPE), Dtype.model_validate(presets()["dtype"][name]))
    linear: nn.Linear = block.layers[0]["linear"]
    return linear


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, values: Values) -> Tensor:
        return values(weight.detach().float()).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class FakeQuantised(nn.Linear):
    values: Values

    def forward(self, input: Tensor) -> Tensor:
        weight: Tensor = StraightThrough.apply(self.weight, self.values)  # type: ignore[no-untyped-call]
        return nn.functional.linear(input, weight)


def fake_quantised(rows: int, columns: int, values: Values) -> nn.Linear:
    linear = FakeQuantised(columns, rows, bias=False, device=DEVICE, dtype=DTYPE)
    linear.values = values
    return linear


def training_step(linear: nn.Module) -> Callable[[], None]:
    """Forward and backward on ``TOKENS`` rows, with gradients for the weight and the input."""
    weight: Any = linear.weight
    x = torch.randn(TOKENS, weight.shape[1], device=DEVICE, dtype=DTYPE, requires_grad=True)
    gradient = torch.randn(TOKENS, weight.shape[0], device=DEVICE, dtype=DTYPE)

    def step() -> None:
        x.grad = weight.grad = None
        linear(x).backward(gradient)

    return step


def seconds(action: Callable[[], object]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(actions: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each action in each round. Two rounds before them warm up and do not count."""
    rounds = [{name: seconds(action) for name, action in actions.items()} for _ in range(2 + ROUNDS)]
    return {name: [each[name] for each in rounds[2:]] for name in actions}


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def torchao_linears(rows: int, columns: int) -> dict[str, Callable[[], object]]:
    """torchao's own training linears that run here; what does not is said and left out."""
    mx, nv = MXFakeQuantizeConfig(scaling_mode=ScaleCalculationMode.FLOOR), NVFP4FakeQuantizeConfig()
    made: dict[str, Callable[[], object]] = {}
    for name, kind, activations, weights in [
        ("mxfp4  torchao QAT, weight only", MXFakeQuantizedLinear, None, mx),
        ("nvfp4  torchao QAT, weight only", NVFP4FakeQuantizedLinear, None, nv),
        ("mxfp4  torchao QAT, activations too", MXFakeQuantizedLinear, mx, mx),
        ("nvfp4  torchao QAT, activations too", NVFP4FakeQuantizedLinear, nv, nv),
    ]:
        try:
            step = training_step(kind(columns, rows, False, activations, weights, device=DEVICE, dtype=DTYPE))
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the table says it
            print(f"  {name:<36} does not run: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
        else:
            made[name] = step
    return made


def linear_table(rows: int, columns: int) -> None:
    print(f"\nlinear {rows} × {columns}, {TOKENS} tokens, forward and backward")
    actions = {"plain": training_step(nn.Linear(columns, rows, bias=False, device=DEVICE, dtype=DTYPE))}
    for name, (_, torchaos) in FORMATS.items():
        actions[f"{name}  ours"] = training_step(quantised(rows, columns, name))
        actions[f"{name}  torchao's values"] = training_step(fake_quantised(rows, columns, torchaos))
    times = in_turn(actions | torchao_linears(rows, columns))
    for name, each in times.items():
        against = f"   {ratio(times, name, f'{name[:5]}  ours'):6.2f} × ours" if "torchao" in name else ""
        print(
            f"  {name:<36}{1e3 * statistics.median(each):9.2f} ms {ratio(times, name, 'plain'):7.2f} × plain{against}"
        )


def rounding_table(rows: int, columns: int) -> None:
    weight = 0.02 * torch.randn(rows, columns, device=DEVICE)
    there = torch.empty_like(weight)
    print(f"\nrounding alone, fp32 {rows} × {columns} = {weight.nbytes / 1e6:.0f} MB; GB/s of one read and one write")
    actions: dict[str, Callable[[], object]] = {
        "copy into memory that is there": lambda: there.copy_(weight),
        "copy into new memory": weight.clone,
    }
    for name, pair in FORMATS.items():
        for whose, values in zip(("ours", "torchao"), pair, strict=True):
            actions[f"{name}  {whose}"] = lambda values=values: values(weight)  # type: ignore[misc]
    times = in_turn(actions)
    for name, each in times.items():
        rate = 2 * weight.nbytes / statistics.median(each) / 1e9
        copies = ratio(times, name, "copy into new memory")
        against = f"   {ratio(times, name, f'{name[:5]}  ours'):6.2f} × ours" if "torchao" in name else ""
        print(f"  {name:<36}{1e3 * statistics.median(each):9.2f} ms {rate:7.2f} GB/s {copies:7.2f} × a copy{against}")


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # two threads on two cores wait for each other whenever a third process works
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{platform.machine()} CPU"
    print(
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"torchao {torchao.__version__}, {DTYPE}, median of {ROUNDS} interleaved rounds"
    )
    for shape in SHAPES:
        rounding_table(*shape)
    for shape in SHAPES:
        linear_table(*shape)


if __name__ == "__main__":
    main()
