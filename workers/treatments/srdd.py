"""SRDD, static relative dead-zone detection: how much a number format disturbs what each decoder layer puts out.

Source of the measures: the field's SRDD scans. Layers are to be ranked by them; fixed thresholds flag all or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from experiment_specs.language import Dtype
from experiment_specs.modules import as_layer
from workers.treatments.quantize import quantise

MEASURES = ("relative_error", "sqnr_db", "deadzone", "saturation")


@torch.no_grad()
def scan_layers(model: nn.Module, prompts: Sequence[Tensor], dtype: Dtype) -> dict[str, list[Any]]:
    """Measures by decoder layer as columns, averaged over ``prompts`` (token ids, each 1 × length).

    Raises RuntimeError for a model without decoder layers, or whose layers are not all called.
    """
    found: dict[int, list[dict[str, float | None]]] = {}
    handles = []
    for name, module in model.named_modules():
        if (layer := as_layer(name)) is not None:
            found[layer] = []
            handles.append(module.register_forward_hook(_recorder(found[layer], dtype)))
    try:
        for ids in prompts:
            model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    if not found or any(len(measured) != len(prompts) for measured in found.values()):
        raise RuntimeError("the model has no decoder layers, or does not call each of them once")
    layers = sorted(found)
    table: dict[str, list[Any]] = {"layer": list(layers)}
    for measure in MEASURES:
        table[measure] = [_mean([m[measure] for m in found[layer]]) for layer in layers]
    return table


def _recorder(measured: list[dict[str, float | None]], dtype: Dtype) -> Any:
    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        measured.append(disturbance(hidden.flatten(0, -2), dtype))

    return record


def disturbance(x: Tensor, dtype: Dtype) -> dict[str, float | None]:
    """What quantising an activation (tokens × hidden) does to it.

    relative_error: mean(|e| / (|x| + 1e-10)). sqnr_db: 10·log10(Σx² / Σe²), None without any error. deadzone: share of
    the non-zero x that become 0. saturation: share of x within 1 % of the largest |x|.
    """
    exact = x.detach().double()
    quantised = quantise(x, dtype).double()
    error, size = (quantised - exact).abs(), exact.abs()
    noise = float(error.square().sum())
    alive = size > 0
    died = (quantised == 0) & alive
    return {
        "relative_error": float((error / (size + 1e-10)).mean()),
        "sqnr_db": 10 * float(torch.log10(exact.square().sum() / noise)) if noise else None,
        "deadzone": float(died.sum() / alive.sum().clamp_min(1)),
        "saturation": float((size >= 0.99 * size.max()).double().mean()),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
