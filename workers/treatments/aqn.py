"""AQN: Gaussian noise on the weights of the rollout copy, drawn from clean copies at every weight sync.

The clean copy is what makes it sound: modules that a sync does not reload would otherwise walk at random, and an
eval could not lift the noise. What is reported is measured on the weights that generate, never on what was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from workers.treatments.quantize import is_block_linear

Target = Literal["rmsnorm", "linear"]


def targets(model: nn.Module, kind: Target) -> Iterator[tuple[str, nn.Module]]:
    """Modules that the noise acts on. RMSNorms are known by name, because every library brings its own class."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if kind == "rmsnorm" and "rmsnorm" in type(module).__name__.lower() and weight.dim() == 1:
            yield name, module
        if kind == "linear" and isinstance(module, nn.Linear) and is_block_linear(name):
            yield name, module


@dataclass(frozen=True)
class Realised:
    """The difference between a module tree's weights and their clean copies, pooled over all its modules."""

    modules: int
    """How many modules differ from their clean copy at all."""
    watched: int
    std: float
    largest: float
    elements: int


SURELY_VISIBLE = 20
"""A module in which a simulated draw changes this many elements is changed by every real one."""


@dataclass(frozen=True)
class Simulated:
    """What a draw should look like on these clean weights: sigma, its standard error, how many modules must show it."""

    std: float
    error: float
    modules: int


class Noise:
    """Noise on one module tree. ``remember`` after every load, then ``draw``; ``lift`` and ``restore`` around evals."""

    def __init__(self, model: nn.Module, kind: Target = "rmsnorm") -> None:
        self.modules: dict[str, Any] = dict(targets(model, kind))
        self._clean: dict[str, Tensor] = {}
        self._drawn: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(self) -> None:
        """Take the present weights as clean. Call right after weights were loaded over all modules."""
        self._clean = {name: _weight(module).detach().clone() for name, module in self.modules.items()}
        self._drawn = {}

    @torch.no_grad()
    def draw(self, sigma: float, seed: int, step: int) -> None:
        """Set every module to clean + N(0, sigma²), drawn in fp32 and cast; the same for the same seed and step."""
        self._drawn = {}
        for index, (name, module) in enumerate(self.modules.items()):
            clean = self._clean[name]
            if sigma > 0:
                noisy = clean.float() + sigma * _normal(clean.shape, seed, step, index).to(clean.device)
                self._drawn[name] = noisy.to(clean.dtype)
            _weight(module).copy_(self._drawn.get(name, clean))

    @torch.no_grad()
    def lift(self) -> None:
        """Put the clean weights back, for an eval."""
        for name, module in self.modules.items():
            _weight(module).copy_(self._clean[name])

    @torch.no_grad()
    def restore(self) -> None:
        """Put the noise of the last draw back, after an eval."""
        for name, module in self.modules.items():
            _weight(module).copy_(self._drawn.get(name, self._clean[name]))

    @torch.no_grad()
    def measure(self) -> Realised:
        """What the modules hold now, against their clean copies."""
        differences = [
            _weight(module).detach().double() - self._clean[name].double() for name, module in self.modules.items()
        ]
        if not differences:
            return Realised(0, 0, 0.0, 0.0, 0)
        pooled = torch.cat([d.flatten() for d in differences])
        return Realised(
            modules=sum(bool(torch.any(d)) for d in differences),
            watched=len(differences),
            std=float(pooled.square().mean().sqrt()),  # the noise has mean 0
            largest=float(pooled.abs().max()),
            elements=pooled.numel(),
        )

    @torch.no_grad()
    def simulate(self, sigma: float, seed: int, step: int) -> Simulated:
        """What ``measure()`` should find after a draw at ``sigma``.

        An independent draw on the same clean weights with the same cast, so that noise which the number format rounds
        away is expected to be away. Error of a standard deviation s of n values with fourth moment m4:
        sqrt((m4 - s⁴) / (4·s²·n)), here for the difference of two draws; never below what an element contributes that
        is rounded to the next value of the number format in one draw and not in the other.
        """
        differences, largest_step = [], 0.0
        for index, clean in enumerate(self._clean.values()):
            largest_step = max(largest_step, float(clean.abs().max()) * torch.finfo(clean.dtype).eps)
            noisy = (clean.float() + sigma * _normal(clean.shape, seed + 7919, step, index).to(clean.device)).to(
                clean.dtype
            )
            differences.append((noisy.double() - clean.double()).flatten())
        if not differences:
            return Simulated(0.0, 0.0, 0)
        pooled = torch.cat(differences)
        std = float(pooled.square().mean().sqrt())
        error = largest_step / math.sqrt(pooled.numel())
        if std > 0.0:
            spread = max(0.0, float(pooled.pow(4).mean()) - std**4) / (4 * std**2 * pooled.numel())
            error = max(error, math.sqrt(2.0 * spread))
        return Simulated(std, error, sum(int(d.count_nonzero()) >= SURELY_VISIBLE for d in differences))


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)  # noqa: S101 - `targets` admits nothing else
    return weight


def _normal(shape: torch.Size, seed: int, step: int, index: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) * 100_003 + index)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
