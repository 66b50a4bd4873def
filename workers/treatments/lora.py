"""Adapters on a quantised base: what is sent to the rollout, under which names, and what a merged weight must be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from experiment_specs.language import Lora


def wrap(model: nn.Module, lora: Lora) -> nn.Module:
    """The model with fresh adapters on every linear but the output layer: how the policy's trainer wraps its own."""
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", bias="none"
    )
    bare: Any = model
    wrapped: nn.Module = get_peft_model(bare, config, autocast_adapter_dtype=False)
    return wrapped


def scaling(lora: Lora) -> float:
    return lora.alpha / lora.rank


def adapters_of(base: str, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """A and B of the linear whose base weight is ``state[base]``; None for a linear without an adapter."""
    stem = base.removesuffix(".base_layer.weight")
    if stem == base:
        return None
    return state[f"{stem}.lora_A.default.weight"], state[f"{stem}.lora_B.default.weight"]


def merged(base: Tensor, a: Tensor, b: Tensor, lora: Lora, dtype: torch.dtype) -> Tensor:
    """Q(W) + (alpha/rank)·B·A, added in fp32 and cast. ``base``: Q(W), out×in; ``a``: rank×in; ``b``: out×rank."""
    return (base.float() + scaling(lora) * (b.float() @ a.float())).to(dtype)


def merge_error(weight: Tensor, base: Tensor, a: Tensor, b: Tensor, lora: Lora) -> dict[str, float]:
    """How a merged weight relates to Q(W) + (alpha/rank)·B·A in fp64.

    ``error``: relative L2 distance of the sum. ``delta``: size of the adapter's share, relative to Q(W). ``kept``: how
    much of that share the cast keeps, 1 for all of it.
    """
    exact, share = base.double(), scaling(lora) * (b.double() @ a.double())
    size, part = float(exact.norm()), float(share.norm())
    kept = float(((weight.double() - exact) * share).sum()) / part**2 if part else 1.0
    return {
        "error": float((weight.double() - exact - share).norm()) / size if size else 0.0,
        "delta": part / size if size else 0.0,
        "kept": kept,
    }
