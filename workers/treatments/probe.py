"""What a linear really computes, from hooks alone, whatever implements the module.

:class:`Probe`: in a real update, do forward and backward follow the straight-through rule? For one call of one linear
it captures y, dL/dy, dL/dx and dL/dW as they come, and compares with x · Q(W)ᵀ + b, dL/dy · Q(W) and dL/dyᵀ · x.
:class:`OutputCheck`: while the rollout generates, how far is y from x · Wᵀ + b?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Gradients:
    """Relative L2 errors: of y - b against x · Q(W)ᵀ, of dL/dx against dL/dy · Q(W), of dL/dW against dL/dyᵀ · x."""

    output_error: float
    n_eff: float
    """How many equal elements ``output_error`` is worth, (Σy²)² / Σy⁴."""
    swell: float
    """Size of y relative to y - b: what rounding y, and then taking b away, makes of the rounding."""
    input_error: float
    input_n_eff: float
    weight_error: float | None
    """None where the weight is frozen and has no gradient."""
    weight_n_eff: float
    input_error_unquantised: float
    """The same as ``input_error``, had W itself been the truth: small where backward forgot the quantisation."""


class Probe:
    """Arms one linear for its next forward that needs gradients; calls back once with the result.

    ``means``: the weight that the module should multiply with, from the weight that it holds.
    """

    def __init__(self, module: nn.Linear, means: Callable[[Tensor], Tensor], done: Callable[[Gradients], None]) -> None:
        self._module, self._means, self._done = module, means, done
        self._seen: dict[str, Tensor] = {}
        self._armed = True
        self._trained = False
        self._handles: list[Any] = [
            module.register_forward_pre_hook(self._before, prepend=True),  # before a hook that changes the weight
            module.register_forward_hook(self._after),
        ]

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        x, weight = inputs[0], self._module.weight
        if not (self._armed and torch.is_grad_enabled() and x.requires_grad):
            return None
        branch = x.view_as(x)  # its gradient is this module's share of dL/dx alone
        branch.register_hook(lambda g: self._take("dx", g))
        self._seen["x"], self._seen["w"] = x.detach().clone(), weight.detach().clone()
        self._seen["b"] = _bias(self._module)
        self._trained = weight.requires_grad
        if self._trained:
            self._handles.append(weight.register_hook(lambda g: self._take("dw", g)))  # type: ignore[no-untyped-call]
        return (branch, *inputs[1:])

    def _after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self._armed and "x" in self._seen and output.requires_grad:
            self._armed = False
            self._seen["y"] = output.detach().clone()
            output.register_hook(lambda g: self._take("dy", g))  # type: ignore[no-untyped-call]

    def _take(self, name: str, gradient: Tensor) -> None:
        self._seen[name] = gradient.detach().clone()
        wanted = {"dx", "dy", "dw"} if self._trained else {"dx", "dy"}
        if wanted <= self._seen.keys():
            if not torch.any(self._seen["dy"]):  # a batch without advantages says nothing: wait for the next
                self._seen, self._armed = {}, True
                return
            self.remove()
            self._done(self._compare())

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _compare(self) -> Gradients:
        x, dy, w = self._seen["x"].flatten(0, -2), self._seen["dy"].flatten(0, -2), self._seen["w"]
        meant = self._means(w).double()
        rows = slice(0, MOST_ROWS)
        product = x[rows].double() @ meant.T
        y, b = self._seen["y"].flatten(0, -2)[rows].double(), self._seen["b"].double()
        dx, expected_dx = self._seen["dx"].flatten(0, -2)[rows], dy[rows].double() @ meant
        dw = _sum_of_outer(dy, x) if self._trained else None
        return Gradients(
            output_error=_relative(y - b, product),
            n_eff=_worth(product),
            swell=_swell(y, b),
            input_error=_relative(dx, expected_dx),
            input_n_eff=_worth(expected_dx),
            weight_error=_relative(self._seen["dw"], dw) if dw is not None else None,
            weight_n_eff=_worth(dw) if dw is not None else 0.0,
            input_error_unquantised=_relative(dx, dy[rows].double() @ w.double()),
        )


class OutputCheck:
    """Watches calls of one linear up to the ``until``-th: relative L2 error of y - b against x · Wᵀ, in the last seen.

    Not the first call alone: what generates a token is not what reads the prompt.
    """

    def __init__(self, name: str, module: nn.Linear, until: int = 1) -> None:
        self._name, self._left = name, until
        self._found = Compared()
        self._handle = module.register_forward_hook(self._look)

    def _look(self, module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._left -= 1
        if self._left <= 0:
            self._remove()
        self._found = Compared.of(inputs[0], output, module.weight, _bias(module))

    def _remove(self) -> None:
        self._handle.remove()

    def facts(self) -> dict[str, Any]:
        """What was seen; ``n_eff`` 0 where the module was not called."""
        self._remove()
        return {"module": self._name, **asdict(self._found)}


@dataclass(frozen=True)
class Compared:
    """A result y against x · Wᵀ + b: as in :class:`Gradients`. ``n_eff`` 0: nothing was compared."""

    error: float = 0.0
    n_eff: float = 0.0
    swell: float = 1.0

    @classmethod
    def of(cls, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Compared:
        """``x``: … × in; ``y``: … × out; ``weight``: out × in; ``bias``: out, or 1."""
        x, y = x.detach().flatten(0, -2)[:MOST_ROWS].double(), y.detach().flatten(0, -2)[:MOST_ROWS].double()
        with torch._C.DisableTorchFunction():  # the reference itself must not have what it looks for
            product = x @ weight.detach().double().T
        b = bias.detach().double()
        return cls(_relative(y - b, product), _worth(product), _swell(y, b))


MOST_ROWS = 2048
"""Tokens that are compared: activations of a real model are too large to be held in fp64."""


def _sum_of_outer(dy: Tensor, x: Tensor) -> Tensor:
    """dyᵀ · x in fp64, over all tokens, some at a time."""
    total = torch.zeros(dy.shape[1], x.shape[1], dtype=torch.float64, device=dy.device)
    for start in range(0, len(dy), MOST_ROWS):
        rows = slice(start, start + MOST_ROWS)
        total += dy[rows].double().T @ x[rows].double()
    return total


def _swell(y: Tensor, b: Tensor) -> float:
    without = float((y - b).norm())
    return max(1.0, float(y.norm()) / without) if without else 1.0


def _bias(module: nn.Linear) -> Tensor:
    return torch.zeros(1, device=module.weight.device) if module.bias is None else module.bias.detach().clone()


def _worth(product: Tensor) -> float:
    squared = product.double().square()
    fourths = float(squared.square().sum())
    return float(squared.sum()) ** 2 / fourths if fourths else 0.0


def _relative(measured: Tensor, expected: Tensor) -> float:
    size = float(expected.norm())
    return float((measured.double() - expected).norm()) / size if size else float(measured.double().norm())
