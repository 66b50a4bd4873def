"""Hardware noise: matrix products come out as y + scale·|y|·N(0, 1), inside chosen layers, in a named phase.

A function mode, entered when a decoder layer's forward begins and left when it ends, so that nothing is patched
globally and a forward that is recomputed in backward (gradient checkpointing) is noised like the first. Random
numbers come from torch's global generator: checkpointing replays it, and the caller seeds it.

Source of the formula: relative Gaussian error on results, as the field's ``VERL_NOISY_OPS`` patches have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import gcd
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from experiment_specs.language import HwNoise
from experiment_specs.modules import as_layer, is_adapter, layer_of, plain
from workers.treatments.probe import MOST_ROWS

Phase = Literal["train", "rollout", "eval"]

_OPS: dict[Any, str] = {
    nn.functional.linear: "linear",
    torch.matmul: "matmul",
    Tensor.matmul: "matmul",
    Tensor.__matmul__: "matmul",
    torch.mm: "matmul",
    Tensor.mm: "matmul",
    torch.bmm: "bmm",
    Tensor.bmm: "bmm",
}
EVERY_SO_OFTEN = 23
"""Besides an op's calls number 1, 2, 4, 8 and so on, every so often one is compared with the exact result: in another
layer, and at another token, each time."""


class _Noisy(torch.autograd.Function):
    """y + scale·|y|·N(0, 1) forward; gradients pass unchanged: the error is the hardware's, no function of y."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, scale: float) -> Tensor:
        return y + torch.randn_like(y) * y.abs() * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _NoisyGradient(torch.autograd.Function):
    """The identity forward; what comes back through it, an operand's gradient, has the error."""

    @staticmethod
    def forward(ctx: Any, operand: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return operand.view_as(operand)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        g = gradients[0]
        return g + torch.randn_like(g) * g.abs() * ctx.scale, None


def by_turns(names: Sequence[str], noise: HwNoise | None, turn: int) -> str:
    """Which of these linears to look at this time: all of them in the course of time, far ones after each other.

    Where the noise has chosen layers, one inside and one outside of them by turns.
    """
    chosen = noise.layers if noise is not None else None
    if chosen is not None:
        inside = [name for name in names if layer_of(name) in chosen]
        outside = [name for name in names if layer_of(name) not in chosen]
        names, turn = ((inside or outside) if turn % 2 else (outside or inside)), turn // 2
    stride = max(1, round(0.38 * len(names)))
    while gcd(stride, len(names)) > 1:
        stride += 1
    return names[turn * stride % len(names)]


@dataclass
class Sampled:
    """Calls of one op in one phase, and the relative error of the sampled ones: sqrt(Σ(y' - y)² / Σy²)."""

    calls: int = 0
    due: int = 0
    """Calls that the noisy layers that were entered must make, if each of their linears is called once."""
    sampled: int = 0
    errors: float = 0.0
    squares: float = 0.0
    fourths: float = 0.0

    def wants(self) -> bool:
        return self.calls & (self.calls - 1) == 0 or self.calls % EVERY_SO_OFTEN == 0

    def add(self, exact: Tensor, noisy: Tensor) -> None:
        exact, noisy = (t.detach().flatten(0, -2)[:MOST_ROWS] if t.dim() > 1 else t.detach() for t in (exact, noisy))
        squared = exact.double().square()
        self.sampled += 1
        self.errors += float((noisy.double() - exact.double()).square().sum())
        self.squares += float(squared.sum())
        self.fourths += float(squared.square().sum())

    def as_facts(self) -> dict[str, float]:
        """``n_eff``: how many equal elements the weighted mean is worth, (Σy²)² / Σy⁴."""
        return {
            "calls": self.calls,
            "due": self.due,
            "sampled": self.sampled,
            "relative_std": (self.errors / self.squares) ** 0.5 if self.squares else 0.0,
            "n_eff": self.squares**2 / self.fourths if self.fourths else 0.0,
        }


@dataclass
class NoisyOps:
    """The noise on one module tree. Nothing happens outside :meth:`phase`."""

    model: nn.Module
    noise: HwNoise
    heads: tuple[str, ...] = ("lm_head",)
    """Names of what makes the output layer's product when it is called."""
    is_linear: Callable[[nn.Module], bool] = lambda module: isinstance(module, nn.Linear)
    now: Phase | None = None
    seen: dict[str, Sampled] = field(default_factory=dict)

    def __post_init__(self) -> None:
        modes: list[_Mode] = []

        def enter(module: nn.Module, _: Any) -> None:
            if self.now is not None and linears[module] and "linear" in self.noise.ops:
                self.seen.setdefault("linear", Sampled()).due += linears[module]
            modes.append(_Mode(self))
            modes[-1].__enter__()  # type: ignore[no-untyped-call]

        def leave(*_: Any) -> None:
            modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

        linears: dict[nn.Module, int] = {}
        self.layers = []
        for name, module in self.model.named_modules():
            layer = as_layer(name)
            chosen = self.noise.layers is None or layer in self.noise.layers
            head = plain(name) in self.heads
            if chosen and (layer is not None or head):
                inside = sum(self.is_linear(m) and not is_adapter(n) for n, m in module.named_modules())
                linears[module] = 1 if head else inside
                module.register_forward_pre_hook(enter, prepend=True)
                module.register_forward_hook(leave, always_call=True)
                self.layers.append(name)
        beyond = sorted(set(self.noise.layers or ()) - {as_layer(name) for name in self.layers})
        if beyond:
            raise ValueError(f"hw_noise names decoder layers that the model does not have: {beyond}")

    @contextmanager
    def phase(self, name: Phase, seed: int) -> Iterator[None]:
        """Noise is on within, if the condition has it in this phase; torch's generator is seeded and put back."""
        if name not in self.noise.phases:
            yield
            return
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            self.now = name
            try:
                yield
            finally:
                self.now = None

    def apply(self, op: str, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """One product with its error; the bias of a linear is added after it."""
        scale = self.noise.scale
        bias = None
        if op == "linear":
            args, bias = _without_bias(args, kwargs)
            kwargs = {}
        if self.noise.backward and torch.is_grad_enabled():
            args = tuple(_gradient_noise(a, scale) if isinstance(a, Tensor) else a for a in args)
        exact = function(*args, **kwargs)
        result: Tensor = _Noisy.apply(exact, scale)  # type: ignore[no-untyped-call]
        seen = self.seen.setdefault(op, Sampled())
        seen.calls += 1
        if seen.wants():
            seen.add(exact, result)
        return result if bias is None else result + bias

    def take(self) -> dict[str, dict[str, float]]:
        """What was seen of each op since the last call."""
        seen, self.seen = self.seen, {}
        return {op: sampled.as_facts() for op, sampled in sorted(seen.items())}


class _Mode(TorchFunctionMode):
    def __init__(self, owner: NoisyOps) -> None:
        super().__init__()
        self._owner = owner

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = _OPS.get(func)
        if op is None or self._owner.now is None or op not in self._owner.noise.ops:
            return func(*args, **(kwargs or {}))
        return self._owner.apply(op, func, tuple(args), dict(kwargs or {}))


def _without_bias(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Tensor | None]:
    named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return (named["input"], named["weight"]), named.get("bias")


def _gradient_noise(operand: Tensor, scale: float) -> Any:
    return _NoisyGradient.apply(operand, scale) if operand.requires_grad else operand  # type: ignore[no-untyped-call]
