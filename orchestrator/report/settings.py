"""The settings of a study in a few words, so that two studies stand side by side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from experiment_specs.language import Condition
from orchestrator.steps import plan_steps

_OF: dict[str, Callable[[Condition], str]] = {
    "questions": lambda c: f"{c.data.train} ({c.data.train_rows:,})",
    "prompts a step": lambda c: str(c.batch.prompts),
    "training steps an epoch": lambda c: f"{plan_steps(c).per_epoch:,}",
    "epochs": lambda c: str(c.epochs),
    "training steps": lambda c: f"{plan_steps(c).total:,}",
    "number format": lambda c: c.dtype.format,
    "learning rate": lambda c: f"{c.optimiser.lr:g}",
    "noise": lambda c: f"{c.aqn.sigma_start:g}→{c.aqn.sigma_end:g}" if c.aqn else "none",
    "schedule": lambda c: c.aqn.schedule if c.aqn else "",
    "noised modules": lambda c: {"rmsnorm": "RMSNorms", "linear": "linears"}[c.aqn.layer_types] if c.aqn else "",
}
SETTINGS = tuple(_OF)
MOST_VALUES = 6


def settings_of(conditions: Sequence[Condition]) -> dict[str, str]:
    """Setting → its values over all conditions, in their order."""
    return {what: _listed(of(c) for c in conditions) for what, of in _OF.items()}


def _listed(values: Iterable[str]) -> str:
    distinct = [value for value in dict.fromkeys(values) if value]
    more = f", and {len(distinct) - MOST_VALUES} more" if len(distinct) > MOST_VALUES else ""
    return ", ".join(distinct[:MOST_VALUES]) + more or "–"
