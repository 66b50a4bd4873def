"""AQN: Gaussian noise on the weights of the rollout copy, drawn from clean copies at every weight sync.

The clean copy is what makes it sound: modules that a sync does not reload would otherwise walk at random, and an
eval could not lift the noise. What is reported is measured on the weights that generate, never on what was drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiment_specs.layers import LayerMultipliers
from experiment_specs.modules import is_block_linear, layer_of

Target = Literal["rmsnorm", "linear"]


def targets(model: nn.Module, kind: Target) -> Iterator[tuple[str, nn.Module]]:
    """Modules that the noise acts on. RMSNorms are known by name, because every library brings its own class."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if kind == "rmsnorm" and "rmsnorm" in type(module).__name__.lower() and weight.dim() == 1:
            yield name, module
        if kind == "linear" and is_linear(module) and is_block_linear(name):
            yield name, module


def is_linear(module: nn.Module) -> bool:
    """Of any library: vLLM has a class for every way to split one. A wrapper shows its base's weight and is none."""
    weight = getattr(module, "weight", None)
    named = "linear" in type(module).__name__.lower()
    return named and isinstance(weight, Tensor) and weight.dim() == 2 and not hasattr(module, "base_layer")


EVERYWHERE = LayerMultipliers()

SURELY_VISIBLE = 20
"""A module in which a simulated draw changes this many elements is changed by every real one."""

_COMPARED = 1 << 16

CLOSELY_WATCHED = 1 << 20
"""Elements of a module that are simulated and measured, at most: its first ones."""


@dataclass
class Moments:
    """Running sums over differences from clean weights, of one layer or of all."""

    modules: int = 0
    changed: int = 0
    """How many modules differ from their clean copy at all."""
    due: int = 0
    """In a simulated draw: how many differ in so many elements that any draw must show."""
    elements: int = 0
    squares: float = 0.0
    fourths: float = 0.0
    largest: float = 0.0

    def add(self, difference: Tensor) -> None:
        if not difference.numel():
            return
        different = int(difference.count_nonzero())
        squared = difference.double().square()
        self.modules += 1
        self.changed += different > 0
        self.due += different >= SURELY_VISIBLE
        self.elements += difference.numel()
        self.squares += float(squared.sum())
        self.fourths += float(squared.square().sum())
        self.largest = max(self.largest, float(difference.abs().max()))

    @property
    def std(self) -> float:
        """The noise has mean 0."""
        return math.sqrt(self.squares / self.elements) if self.elements else 0.0


@dataclass
class Realised:
    """What the modules hold now against their clean copies: pooled, and by decoder layer (None: in no layer)."""

    pooled: Moments = field(default_factory=Moments)
    layers: dict[int | None, Moments] = field(default_factory=dict)

    def add(self, name: str, difference: Tensor) -> None:
        self.pooled.add(difference)
        self.layers.setdefault(layer_of(name), Moments()).add(difference)


@dataclass(frozen=True)
class Expected:
    """What a draw should look like on these clean weights: standard deviation, its standard error, modules to show."""

    std: float
    error: float
    due: int
    rounding: float = 0.0
    """Largest spacing of the number format at these weights."""


class Noise:
    """Noise on one module tree. ``remember`` after every load, then ``draw``; ``lift`` and ``restore`` around evals."""

    def __init__(self, model: nn.Module, kind: Target = "rmsnorm", multipliers: LayerMultipliers = EVERYWHERE) -> None:
        self.modules: dict[str, Any] = dict(targets(model, kind))
        self.multipliers = {name: multipliers.of(layer_of(name)) for name in self.modules}
        self._clean: dict[str, Tensor] = {}
        self._drawn: tuple[float, int, int] | None = None
        self._before: Tensor | None = None
        self.noisy = False
        """Do the modules hold a draw right now, and not their clean weights?"""

    @torch.no_grad()
    def remember(self) -> None:
        """Take the present weights as clean. Call when they are: right after a load, with the noise lifted before."""
        self._clean = {name: _weight(module).detach().clone() for name, module in self.modules.items()}
        self._drawn, self.noisy = None, False

    @torch.no_grad()
    def draw(self, sigma: float, seed: int, step: int) -> None:
        """Set every module to clean + N(0, (multiplier·sigma)²), drawn in fp32 and cast. Repeats."""
        self._drawn = (sigma, seed, step)
        self.noisy = sigma > 0
        for index, (name, module) in enumerate(self.modules.items()):
            _weight(module).copy_(self._noised(name, index, sigma, seed, step))

    def _noised(self, name: str, index: int, sigma: float, seed: int, step: int) -> Tensor:
        clean, scale = self._clean[name], sigma * self.multipliers[name]
        if scale <= 0:
            return clean
        return (clean.float() + scale * _normal(clean, seed, step, index)).to(clean.dtype)

    @torch.no_grad()
    def lift(self) -> None:
        """Put the clean weights back, for an eval, or before a load that may not bring all of them."""
        for name, clean in self._clean.items():
            _weight(self.modules[name]).copy_(clean)
        self.noisy = False

    def restore(self) -> None:
        """Put the noise of the last draw back, after an eval."""
        if self._drawn is not None:
            self.draw(*self._drawn)

    def clean(self, name: str) -> Tensor:
        """A module's weight as it would be without the noise that is on it now."""
        return self._clean[name] if self.noisy else _weight(self.modules[name])

    @torch.no_grad()
    def measure(self) -> Realised:
        """What the modules hold now, against their clean copies."""
        realised = Realised()
        for name, module in self.modules.items():
            realised.add(name, _watched(_weight(module).detach()).float() - _watched(self._clean[name]).float())
        return realised

    @torch.no_grad()
    def correlation(self) -> float | None:
        """Of the noise that is on now with that of the last call, over the first elements; None without two draws.

        Noise that is drawn anew at every sync has none, up to chance.
        """
        if not self.noisy or not any(self.multipliers.values()):
            return None
        parts = [
            (_weight(module).detach().float() - self._clean[name].float()).flatten()[:_COMPARED]
            for name, module in self.modules.items()
            if self.multipliers[name] > 0
        ]
        now, before = torch.cat(parts)[:_COMPARED], self._before
        self._before = now
        if before is None or not before.any() or not now.any():
            return None
        return float((now * before).sum() / (now.norm() * before.norm()))

    @torch.no_grad()
    def expect(self, sigma: float, seed: int, step: int) -> tuple[Expected, dict[int | None, Expected]]:
        """What ``measure()`` should find after a draw at ``sigma``: pooled, and by layer.

        An independent draw on the same clean weights with the same cast, so that noise which the number format rounds
        away is expected to be away. Error of a standard deviation s of n values with fourth moment m4:
        sqrt((m4 - s⁴) / (4·s²·n)), here for the difference of two draws; never below what one element contributes
        that is rounded to the next value u of the number format in one draw and not in the other: u² / (2·s·n).
        """
        simulated = Realised()
        steps: dict[int | None, float] = {}
        for index, name in enumerate(self.modules):
            clean = _watched(self._clean[name])
            scale = sigma * self.multipliers[name]
            noisy = clean
            if scale > 0:
                noisy = (clean.float() + scale * _normal(clean, seed + 7919, step, index)).to(clean.dtype)
            simulated.add(name, noisy.float() - clean.float())
            layer = layer_of(name)
            rounding = float(clean.abs().max()) * torch.finfo(clean.dtype).eps if scale > 0 else 0.0
            steps[layer] = max(steps.get(layer, 0.0), rounding)
        largest = max(steps.values(), default=0.0)
        return (
            _expected(simulated.pooled, largest),
            {layer: _expected(moments, steps[layer]) for layer, moments in simulated.layers.items()},
        )


def _expected(moments: Moments, rounding: float) -> Expected:
    if not moments.elements:
        return Expected(0.0, 0.0, 0)
    std, count = moments.std, moments.elements
    error = rounding / math.sqrt(count)
    if std > 0.0:
        error = min(error, rounding**2 / (2 * std * count))
        spread = max(0.0, moments.fourths / count - std**4)
        error = max(error, math.sqrt(2.0 * spread / (4 * std**2 * count)))
    return Expected(std, error, moments.due, rounding)


def by_layer(
    noise: Noise, realised: Realised, expected: Callable[[int | None], Expected]
) -> dict[str, list[float | int | None]]:
    """Per-layer evidence as columns, in the order of the layers; what is in no layer comes last, as layer None."""
    order: Iterable[int | None] = sorted(realised.layers, key=lambda layer: (layer is None, layer or 0))
    multipliers = {layer_of(name): value for name, value in noise.multipliers.items()}
    columns: dict[str, list[float | int | None]] = {
        key: []
        for key in (
            "layer",
            "multiplier",
            "modules",
            "elements",
            "changed",
            "due",
            "std",
            "expected",
            "error",
            "rounding",
        )
    }
    for layer in order:
        moments, due = realised.layers[layer], expected(layer)
        row = (
            layer, multipliers[layer], moments.modules, moments.elements, moments.changed, due.due, moments.std,
            due.std, due.error, due.rounding,
        )  # fmt: skip
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    return columns


def _watched(weight: Tensor) -> Tensor:
    return weight.flatten()[:CLOSELY_WATCHED]


def _weight(module: Any) -> Tensor:
    weight: Tensor = module.weight
    return weight


def _normal(like: Tensor, seed: int, step: int, index: int) -> Tensor:
    """Standard normals in fp32 of a tensor's shape, on its device."""
    digest = hashlib.sha256(f"{seed}/{step}/{index}".encode()).digest()
    generator = torch.Generator(device=like.device).manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(like.shape, generator=generator, dtype=torch.float32, device=like.device)
