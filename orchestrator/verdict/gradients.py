"""Do real updates follow the straight-through rule?"""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot
from typing import Any

from experiment_specs.language import HwNoise
from experiment_specs.modules import is_adapter, layer_of
from orchestrator.verdict.case import Case, Findings, off_plan, some

GRADIENT_TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""Relative error that rounding alone explains; forgetting Q(W) costs about a tenth with 4-bit weights."""


def gradients(case: Case) -> Findings:
    """dL/dx multiplies with Q(W), dL/dW passes unchanged; adapters multiply with what they hold."""
    facts = case.of("gradient_probe")
    if not facts:
        return Findings(missing=("no gradient of a real update was probed",))
    against = []
    for fact in facts:
        against += _wrong(case, fact)
    bases = {fact["export"] for fact in facts if not is_adapter(fact["module"])}
    missing = []
    if 2 * len(bases) < case.plan.total_steps:
        missing.append(f"gradients were probed at {len(bases)} of {case.plan.total_steps} steps only")
    if case.condition.lora is not None and not any(is_adapter(fact["module"]) for fact in facts):
        missing.append("no gradient of an adapter was probed")
    return Findings(some(against), tuple(missing))


def _wrong(case: Case, fact: Mapping[str, Any]) -> list[str]:
    planned = noise_scale(case.condition.hw_noise, "train", fact["module"])
    planned_back = planned if case.condition.hw_noise is not None and case.condition.hw_noise.backward else 0.0
    rounding = GRADIENT_TOLERANCE[case.condition.compute]
    name, weight = fact["module"], "W" if is_adapter(fact["module"]) else "Q(W)"
    wrong = []
    if not fact["output_error"] <= hypot(rounding * fact["swell"], 1.5 * planned):  # the hardware check is strict
        wrong.append(f"{name}: its output is off x·{weight}ᵀ + b by {100 * fact['output_error']:.2g} %")
    if _off(fact["input_error"], planned_back, fact["input_n_eff"], rounding):
        hint = "; it used the unquantised W" if fact["input_error_unquantised"] <= rounding else ""
        wrong.append(f"{name}: dL/dx is off dL/dy·{weight} by {100 * fact['input_error']:.2g} %{hint}")
    frozen = case.condition.lora is not None and not is_adapter(name)
    if frozen and fact["weight_error"] is not None:
        wrong.append(f"{name}: it belongs to the frozen base, and got a gradient")
    elif not frozen and fact["weight_error"] is None:
        wrong.append(f"{name}: it should be trained, and got no gradient")
    elif not frozen and _off(fact["weight_error"], planned_back, fact["weight_n_eff"], rounding):
        wrong.append(f"{name}: dL/dW is off dL/dyᵀ·x by {100 * fact['weight_error']:.2g} %")
    return wrong


def _off(error: float, planned: float, n_eff: float, rounding: float) -> bool:
    """Where the exact gradient is 0 there is nothing to be off."""
    return off_plan(error, planned if n_eff > 0 else 0.0, n_eff, rounding)


def noise_scale(noise: HwNoise | None, phase: str, module: str) -> float:
    """Relative error that the condition plans for a linear's result in a phase."""
    if noise is None or phase not in noise.phases or "linear" not in noise.ops:
        return 0.0
    return noise.scale if noise.layers is None or layer_of(module) in noise.layers else 0.0
