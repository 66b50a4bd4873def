"""All checks together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any

from experiment_specs.language import Condition, Scan
from orchestrator.verdict import course, gradients, noise, settings, weights
from orchestrator.verdict.case import PROVEN, REFUTED, UNPROVEN, Case, Findings, Measured, PlannedSteps, Verdict, short

CHECKS: tuple[Callable[[Case], Findings], ...] = (
    course.identity, course.steps, course.resumption, course.counts, course.evals,
    weights.quantisation, weights.adapters, weights.same_weights, weights.eval_mode, weights.movement,
    gradients.gradients, noise.noise, noise.layers, noise.hardware, settings.attention, settings.verl_keys,
)  # fmt: skip


def judge(condition: Condition, plan: PlannedSteps, facts: Iterable[Measured]) -> Verdict:
    """The verdict on one finished attempt."""
    return judge_without(condition, plan, facts, ())


def judge_without(
    condition: Condition, plan: PlannedSteps, facts: Iterable[Measured], left_out: Sequence[Callable[[Case], Findings]]
) -> Verdict:
    """The verdict of all checks but some."""
    case = Case(condition, plan, tuple(facts))
    return summed([check(case) for check in CHECKS if check not in left_out])


def judge_scan(scan: Scan, facts: Iterable[Measured], twins: Sequence[str]) -> Verdict:
    """The verdict on a layer scan. ``twins``: scans of other weights whose tables are the same to the last bit."""
    found = [fact.data for fact in facts if fact.kind == "scan"]
    if not found:
        return Verdict(UNPROVEN, ("no layer was measured",))
    data, against, missing = found[-1], [], []
    table: dict[str, list[Any]] = data["layers"]
    if twins:
        against.append(
            f"its table is bit for bit that of {short(twins)}, a scan of another model: one of the two was not loaded"
        )
    if data["dtype"] != scan.dtype.model_dump(mode="json"):
        against.append(f"it quantised to {data['dtype']}, not to {scan.dtype.format}")
    if data["prompts"] != scan.prompts:
        against.append(f"it asked {data['prompts']} of {scan.prompts} questions")
    if table["layer"] != list(range(data["decoder_layers"])):
        against.append(f"layers {short(table['layer'])} were measured, and the model has {data['decoder_layers']}")
    if not all(isfinite(value) and value >= 0 for value in table["relative_error"]):
        against.append("a layer's error is not a number")
    elif not any(table["relative_error"]):
        against.append("no layer has any error: nothing was quantised")
    if not data.get("model"):
        missing.append("no fingerprint of the model: it is a remote id, or was not found")
    return summed([Findings(tuple(against), tuple(missing))])


def summed(findings: Sequence[Findings]) -> Verdict:
    """REFUTED by any reason against, UNPROVEN by any fact that is missing, else PROVEN."""
    against = tuple(reason for f in findings for reason in f.against)
    missing = tuple(reason for f in findings for reason in f.missing)
    if against:
        return Verdict(REFUTED, against)
    if missing:
        return Verdict(UNPROVEN, missing)
    return Verdict(PROVEN)
