"""The gradient probe: in a real update, does a linear's backward follow the straight-through rule?

For one call of one linear it captures y, dL/dy, dL/dx and dL/dW as they come, and compares with x · Q(W)ᵀ + b,
dL/dy · Q(W) and dL/dyᵀ · x. It hangs on hooks alone, so it judges whatever implements the module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiment_specs.language import Dtype
from workers.treatments.quantize import quantise


@dataclass(frozen=True)
class Gradients:
    """Relative L2 errors: of y against x · Q(W)ᵀ + b, of dL/dx against dL/dy · Q(W), of dL/dW against dL/dyᵀ · x."""

    output_error: float
    input_error: float
    weight_error: float
    input_error_unquantised: float
    """The same as ``input_error``, had W itself been the truth: small where backward forgot the quantisation."""


class Probe:
    """Arms one linear for its next forward that needs gradients; calls back once with the result."""

    def __init__(self, module: nn.Linear, dtype: Dtype, done: Callable[[Gradients], None]) -> None:
        self._module, self._dtype, self._done = module, dtype, done
        self._seen: dict[str, Tensor] = {}
        self._armed = True
        self._handles: list[Any] = [
            module.register_forward_pre_hook(self._before, prepend=True),  # before a hook that changes the weight
            module.register_forward_hook(self._after),
        ]

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        x = inputs[0]
        if not (self._armed and torch.is_grad_enabled() and x.requires_grad and self._module.weight.requires_grad):
            return None
        branch = x.view_as(x)  # its gradient is this module's share of dL/dx alone
        branch.register_hook(lambda g: self._take("dx", g))
        weight = self._module.weight
        self._seen["x"], self._seen["w"] = x.detach().clone(), weight.detach().clone()
        bias = self._module.bias
        self._seen["b"] = torch.zeros(1, device=x.device) if bias is None else bias.detach().clone()
        self._handles.append(weight.register_hook(lambda g: self._take("dw", g)))  # type: ignore[no-untyped-call]
        return (branch, *inputs[1:])

    def _after(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if self._armed and "x" in self._seen and output.requires_grad:
            self._armed = False
            self._seen["y"] = output.detach().clone()
            output.register_hook(lambda g: self._take("dy", g))  # type: ignore[no-untyped-call]

    def _take(self, name: str, gradient: Tensor) -> None:
        self._seen[name] = gradient.detach().clone()
        if {"dx", "dw", "dy"} <= self._seen.keys():
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
        quantised = quantise(w, self._dtype).double()
        return Gradients(
            output_error=_relative(self._seen["y"], x @ quantised.T + self._seen["b"].double()),
            input_error=_relative(self._seen["dx"], dy @ quantised),
            weight_error=_relative(self._seen["dw"], flat_dy.T @ flat_x),
            input_error_unquantised=_relative(self._seen["dx"], dy @ w.double()),
        )


def _relative(measured: Tensor, expected: Tensor) -> float:
    size = float(expected.norm())
    return float((measured.double() - expected).norm()) / size if size else float(measured.double().norm())
