"""What a linear really computes, from hooks alone, whatever implements the module.

:class:`Probe`: in a real update, do forward and backward follow the straight-through rule? For one call of one linear
it captures y, dL/dy, dL/dx and dL/dW as they come, and compares with x · Q(W)ᵀ + b, dL/dy · Q(W) and dL/dyᵀ · x.
:class:`OutputCheck`: while the rollout generates, how far is y from x · Wᵀ + b?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Gradients:
    """Relative L2 errors: of y - b against x · Q(W)ᵀ, of dL/dx against dL/dy · Q(W), of dL/dW against dL/dyᵀ · x."""

    output_error: float
    n_eff: float
    """How many equal elements ``output_error`` is worth, (Σy²)² / Σy⁴."""
    input_error: float
    weight_error: float | None
    """None where the weight is frozen and has no gradient."""
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
        x, w = self._seen["x"].double(), self._seen["w"]
        dy = self._seen["dy"].double()
        flat_dy, flat_x = dy.flatten(0, -2), x.flatten(0, -2)
        meant = self._means(w).double()
        product = x @ meant.T
        return Gradients(
            output_error=_relative(self._seen["y"].double() - self._seen["b"].double(), product),
            n_eff=_worth(product),
            input_error=_relative(self._seen["dx"], dy @ meant),
            weight_error=_relative(self._seen["dw"], flat_dy.T @ flat_x) if self._trained else None,
            input_error_unquantised=_relative(self._seen["dx"], dy @ w.double()),
        )


class OutputCheck:
    """Watches the next call of one linear: relative L2 error of y - b against x · Wᵀ with the weight that it holds."""

    def __init__(self, name: str, module: nn.Linear) -> None:
        self._name, self._found = name, (0.0, 0.0)
        self._handle = module.register_forward_hook(self._look)

    def _look(self, module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._handle.remove()
        with torch._C.DisableTorchFunction():  # the reference itself must not have what it looks for
            product = inputs[0].double() @ module.weight.detach().double().T
        self._found = (_relative(output.double() - _bias(module).double(), product), _worth(product))

    def facts(self) -> dict[str, Any]:
        """What was seen; ``n_eff`` 0 where the module was not called."""
        self._handle.remove()
        return {"module": self._name, "error": self._found[0], "n_eff": self._found[1]}


def _bias(module: nn.Linear) -> Tensor:
    return torch.zeros(1, device=module.weight.device) if module.bias is None else module.bias.detach().clone()


def _worth(product: Tensor) -> float:
    squared = product.double().square()
    fourths = float(squared.square().sum())
    return float(squared.sum()) ** 2 / fourths if fourths else 0.0


def _relative(measured: Tensor, expected: Tensor) -> float:
    size = float(expected.norm())
    return float((measured.double() - expected).norm()) / size if size else float(measured.double().norm())
