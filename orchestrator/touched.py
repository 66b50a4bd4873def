"""What the treatments of a condition would touch in its model, by name and shape, before anything is loaded. Pure.

A pattern that matches nothing, a block that does not divide, a layer that is not there: found here, not after the
weights are on eight GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from experiment_specs.architecture import Architecture, Linear
from experiment_specs.language import Condition, Dtype
from experiment_specs.modules import idle_patterns, is_block_linear, is_quantised, layer_of
from experiment_specs.yaml_source import KeyPath

BLOCK = {"mxfp4": 32, "nvfp4": 16}
"""Weights that share a scale, along the input."""

Problem = tuple[str, KeyPath]
"""What is wrong, and the place in the condition that says so."""


@dataclass(frozen=True)
class Touched:
    """Counts of modules; parameters of the policy, and how many of them are trained."""

    layers: int
    norms: int
    block_linears: int
    quantised: int
    noised: int
    adapted: int
    erring: int
    """Linears whose products have errors of the hardware."""
    parameters: int
    trained: int

    @property
    def checkpoint_bytes(self) -> int:
        """verl saves fp32 weights and AdamW's two moments of what is trained (a test checks it on a real run)."""
        return 4 * self.parameters + 8 * self.trained

    def bytes_per_gpu(self, condition: Condition, gpus: int) -> int:
        """Weights in fp32, gradients and moments shared out to the GPUs, the reference policy's weights too, and each
        GPU's own rollout copy in the compute type. Activations and the KV cache come on top."""
        reference = condition.algorithm.kl_loss > 0 and condition.lora is None  # else the base without its adapters
        copies = 4 * self.parameters * (2 if reference else 1)
        rollout = self.parameters * (4 if condition.compute == "fp32" else 2)
        return (copies + 12 * self.trained) // gpus + rollout


def touched(condition: Condition, model: Architecture) -> Touched:
    """Counts for one condition; see :func:`problems` for what cannot be."""
    blocks = _blocks(model)
    adapted = blocks if condition.lora is not None else ()
    rank = condition.lora.rank if condition.lora is not None else 0
    adapters = sum(rank * (linear.out + linear.into) for linear in adapted)
    hw = condition.hw_noise
    return Touched(
        layers=model.layers,
        norms=len(model.norms),
        block_linears=len(blocks),
        quantised=len(_quantised(condition.dtype, model)),
        noised=len(_noised(condition, model, blocks)),
        adapted=len(adapted),
        erring=sum(_errs(condition, linear) for linear in model.linears) if hw and "linear" in hw.ops else 0,
        parameters=model.parameters + adapters,
        trained=adapters if condition.lora is not None else model.parameters,
    )


@lru_cache
def _blocks(model: Architecture) -> tuple[Linear, ...]:
    return tuple(linear for linear in model.linears if is_block_linear(linear.name))


@lru_cache
def _quantised(dtype: Dtype, model: Architecture) -> tuple[Linear, ...]:
    return tuple(linear for linear in _blocks(model) if is_quantised(dtype, linear.name))


def _noised(condition: Condition, model: Architecture, blocks: Sequence[Linear]) -> list[str]:
    aqn = condition.aqn
    if aqn is None:
        return []
    names = list(model.norms) if aqn.layer_types == "rmsnorm" else [linear.name for linear in blocks]
    srdd = condition.srdd
    if srdd is not None and srdd.top_k is not None:
        chosen = [name for name in names if (layer := layer_of(name)) is not None and layer < srdd.top_k]
        return chosen + [name for name in names if layer_of(name) is None and srdd.outside > 0]
    if aqn.multipliers is None:
        return names
    by_layer = dict(enumerate(aqn.multipliers))
    return [name for name in names if (layer := layer_of(name)) is None or by_layer.get(layer, 0.0) > 0]


def _errs(condition: Condition, linear: Linear) -> bool:
    chosen = condition.hw_noise.layers if condition.hw_noise is not None else None
    layer = layer_of(linear.name)
    return (layer is not None or linear.name == "lm_head") if chosen is None else layer in chosen


def problems(condition: Condition, model: Architecture) -> list[Problem]:
    """Why a condition cannot be carried out on this model: every reason is an error."""
    counts = touched(condition, model)
    return [
        *_format_problems(condition.dtype, model),
        *_noise_problems(condition, model, counts),
        *_other_problems(condition, model, counts),
    ]


def _format_problems(dtype: Dtype, model: Architecture) -> Iterator[Problem]:
    names = [linear.name for linear in model.linears]
    for field in ("include", "exclude"):
        if not getattr(dtype, field):
            continue
        patterns = dtype.model_copy(update={"include": getattr(dtype, field), "exclude": ()})
        for pattern in idle_patterns(patterns, names):
            yield f"{pattern!r} matches no block linear of the model", ("dtype", field)
    blocks, size = _quantised(dtype, model), BLOCK.get(dtype.format)
    if size is None:
        return
    if not blocks:
        yield "no linear is left to be quantised", ("dtype",)
    odd = next((linear for linear in blocks if linear.into % size), None)
    if odd is not None:
        yield f"blocks of {size} do not divide the {odd.into} inputs of {odd.name}", ("dtype",)


def _noise_problems(condition: Condition, model: Architecture, counts: Touched) -> Iterator[Problem]:
    aqn, srdd = condition.aqn, condition.srdd
    if aqn is None:
        return
    if aqn.multipliers is not None and len(aqn.multipliers) != model.layers:
        text = f"{len(aqn.multipliers)} multipliers, and the model has {model.layers} decoder layers"
        yield text, ("aqn", "multipliers")
    elif aqn.multipliers is not None and not any(aqn.multipliers):
        yield "every layer's multiplier is 0: no layer has noise", ("aqn", "multipliers")
    elif not counts.noised:
        yield f"the model has no {'RMSNorm' if aqn.layer_types == 'rmsnorm' else 'block linear'} to noise", ("aqn",)
    if srdd is not None and srdd.top_k is not None and srdd.top_k > model.layers:
        yield f"{srdd.top_k}, and the model has {model.layers} decoder layers", ("srdd", "top_k")
    if srdd is not None and srdd.bands is not None and not any(srdd.bands):
        yield "every band is 0: no layer has noise", ("srdd", "bands")


def _other_problems(condition: Condition, model: Architecture, counts: Touched) -> Iterator[Problem]:
    hw = condition.hw_noise
    if condition.lora is not None and not counts.adapted:
        yield "the model has no block linear for an adapter", ("lora",)
    if hw is not None and (beyond := [layer for layer in hw.layers or () if layer >= model.layers]):
        yield (
            f"layers {', '.join(map(str, beyond))}, and the model's last is {model.layers - 1}",
            ("hw_noise", "layers"),
        )
    elif hw is not None and hw.ops == ("linear",) and not counts.erring:
        yield "no linear of the model would err", ("hw_noise",)


def in_words(condition: Condition, found: Touched) -> str:
    """One line: ``196 of 196 block linears in mxfp4, noise on 57 RMSNorms, adapters on 196``."""

    def count(number: int, what: str) -> str:
        return f"{number} {what}{'s' * (number != 1)}"

    parts = []
    if condition.dtype.format == "bf16":
        parts.append(f"{count(found.quantised, 'block linear')} rounded to bf16")
    else:
        parts.append(f"{found.quantised} of {count(found.block_linears, 'block linear')} in {condition.dtype.format}")
    if condition.aqn is not None:
        what = "RMSNorm" if condition.aqn.layer_types == "rmsnorm" else "linear"
        aimed = " as a layer scan aims it" if condition.srdd is not None else ""
        parts.append(f"noise on {count(found.noised, what)}{aimed}")
    if condition.lora is not None:
        parts.append(f"adapters on {found.adapted} ({100 * found.trained / found.parameters:.1f} % of all parameters)")
    if (hw := condition.hw_noise) is not None:
        where = [count(found.erring, "linear")] if found.erring else []
        where += ["attention's products"] if {"matmul", "bmm"} & set(hw.ops) else []
        parts.append(f"errors in {' and '.join(where)}")
    return ", ".join(parts)
