"""How much of sigma each decoder layer gets: declared, or from the errors that a layer scan measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiment_specs.language import Aqn, Srdd


@dataclass(frozen=True)
class LayerMultipliers:
    """Multiplier of sigma by decoder layer (None: 1 everywhere), and of what is in no layer."""

    by_layer: tuple[float, ...] | None = None
    outside: float = 1.0

    def of(self, layer: int | None) -> float:
        """Raises ValueError for a layer beyond those that have a multiplier."""
        if layer is None:
            return self.outside
        if self.by_layer is None:
            return 1.0
        if layer >= len(self.by_layer):
            raise ValueError(f"the model has a decoder layer {layer}, and there are {len(self.by_layer)} multipliers")
        return self.by_layer[layer]


def layer_multipliers(aqn: Aqn, srdd: Srdd | None, errors: Sequence[float] | None) -> LayerMultipliers:
    """What a condition asks for. ``errors``: relative error by decoder layer, from the scan that ``srdd`` needs.

    Raises ValueError where ``srdd`` is given without a scan.
    """
    if srdd is None:
        return LayerMultipliers(aqn.multipliers)
    if not errors:
        raise ValueError("srdd needs the result of a layer scan")
    return LayerMultipliers(aimed(srdd, errors), srdd.outside)


def aimed(srdd: Srdd, errors: Sequence[float]) -> tuple[float, ...]:
    """Multipliers from relative errors, one a decoder layer. Layers are ranked: no fixed threshold fits every model.

    Raises ValueError where ``top_k`` is more than there are layers.
    """
    count = len(errors)
    falling = sorted(range(count), key=lambda layer: (-errors[layer], layer))
    rank = {layer: place for place, layer in enumerate(falling)}
    mean = sum(errors) / count
    if srdd.aim == "targeted":
        if srdd.top_k is None or srdd.top_k > count:
            raise ValueError(f"top_k is {srdd.top_k}, and the model has {count} decoder layers")
        found = [1.0 if rank[layer] < srdd.top_k else 0.0 for layer in range(count)]
    elif srdd.bands is not None:
        found = [srdd.bands[rank[layer] * len(srdd.bands) // count] for layer in range(count)]
    else:
        variable = [error / mean if mean else 1.0 for error in errors]
        found = variable if srdd.aim == "variable" else [max(0.0, 2.0 - m) for m in variable]
    largest = max(found)
    return tuple(m / largest for m in found) if srdd.ceiling and largest else tuple(found)
