"""Noise on weights (AQN) and on results (hardware): on where it is planned, at the planned size, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from experiment_specs.language import Aqn
from experiment_specs.layers import LayerMultipliers, layer_multipliers
from experiment_specs.schedules import sigma_at
from orchestrator.verdict.case import Case, Facts, Findings, Measured, off_plan, some
from orchestrator.verdict.gradients import noise_scale

STANDARD_ERRORS = 5.0
"""How far realised noise may lie from what a simulated cast of it gives."""

LAYER_STANDARD_ERRORS = 6.0
"""The same for a single layer, of which a long run has thousands of measurements."""

ROUNDING = {"fp32": 1e-4, "bf16": 4e-3}
"""Relative error of a matrix product that the arithmetic alone explains."""

MOST_CALLS = 0.85
"""Share of a noisy layer's linears that must be called with the error each time that the layer is entered: gradient
checkpointing repeats a layer up to the last product whose result backward needs."""

MOST_ALIKE = 0.8
"""Correlation of one sync's noise with the one's before, from which on it is the same draw."""

SAME_TYPE = {"fp32": 1e-6, "bf16": 2.5e-3}
"""Relative error of a result that was computed once, and rounded once more with its error."""

LEAST_REALISED = 0.7
"""How much of a layer's sigma must be realised where it is well above the spacing of the number format."""


def noise(case: Case) -> Findings:
    """AQN was on at the planned sigma in every rollout, on every module; or, where none is planned, nowhere."""
    syncs = case.of("sync")
    if not syncs:
        return Findings()  # already said with the weights
    aqn = case.condition.aqn
    if aqn is None:
        return _unplanned(syncs)
    if any(fact["realised"]["watched"] == 0 for fact in syncs):
        return Findings(("AQN found no module to act on",))
    planned = [fact for fact in syncs if _scheduled(case, aqn, fact) > 0]
    if not planned:
        return Findings(missing=("no rollout was sampled in which the schedule has noise",))
    if not any(fact["realised"]["modules"] for fact in planned):
        rounded = all(fact["sigma_expected"] == 0 < fact["sigma_planned"] for fact in planned)
        why = ": the number format rounds all of it away" if rounded else ""
        return Findings((f"sigma stayed 0 in all {len(planned)} rollouts in which the schedule has noise{why}",))
    against: list[str] = []
    for fact in syncs:
        against += _noise_at(fact, _scheduled(case, aqn, fact), f"in the rollouts of step {fact['step'] + 1}")
    if aqn.during_eval:
        for fact in case.of("eval_mode"):
            against += _noise_at(fact, _scheduled(case, aqn, fact), f"in the eval at step {fact['step']}")
    return Findings(some(against))


def _unplanned(syncs: Facts) -> Findings:
    for fact in syncs:
        if count := fact["realised"]["modules"]:
            what = f"at step {fact['step'] + 1} {count} norms differ from their clean weights"
            return Findings((f"no noise is planned, and {what}",))
    return Findings()


def _scheduled(case: Case, aqn: Aqn, fact: Mapping[str, Any]) -> float:
    """The sigma that the condition's schedule has for the step that a sync serves: the worker's word is not taken."""
    return sigma_at(aqn, fact["step"] + 1, case.plan.total_steps, case.plan.steps_per_epoch)


def _noise_at(fact: Mapping[str, Any], scheduled: float, at: str) -> list[str]:
    realised, expected, error = fact["realised"], fact["sigma_expected"], fact["sigma_error"]
    if not abs(fact["sigma_planned"] - scheduled) <= 1e-9 * scheduled:
        return [f"{at} the worker aimed at sigma {fact['sigma_planned']:.3g}, the schedule has {scheduled:.3g}"]
    if not abs(realised["std"] - expected) <= STANDARD_ERRORS * error + 1e-12:
        return [f"{at} the noise had sigma {realised['std']:.3g}, {expected:.3g} was to be expected"]
    if realised["modules"] < fact["modules_due"]:
        return [f"{at} {realised['modules']} of {realised['watched']} modules were noised"]
    return []


def layers(case: Case) -> Findings:
    """Every decoder layer got its own share of the noise: the multipliers are the plan's, and were realised."""
    aqn, against, missing = case.condition.aqn, [], []
    if aqn is None:
        return Findings()
    if case.condition.srdd is not None and not case.plan.scan_errors:
        return Findings(missing=("the layer scan that aims its noise is not known",))
    try:
        planned = layer_multipliers(aqn, case.condition.srdd, case.plan.scan_errors)
        for fact in case.syncs():
            if "layers" in fact:
                against += _layers_at(fact, planned, _scheduled(case, aqn, fact))
            else:
                missing.append(f"the noise at step {fact['step'] + 1} was not measured by layer")
    except ValueError as error:
        against.append(str(error))
    return Findings(some(against), some(missing))


def _layers_at(fact: Mapping[str, Any], planned: LayerMultipliers, scheduled: float) -> list[str]:
    at, table = f"in the rollouts of step {fact['step'] + 1}", fact["layers"]
    wrong = []
    if planned.by_layer is not None:
        seen = {layer for layer in table["layer"] if layer is not None}
        if absent := sorted(set(range(len(planned.by_layer))) - seen):
            wrong.append(f"{at} no noise was measured in layers {absent}")
    if abs(fact["correlation"] or 0.0) > MOST_ALIKE:
        wrong.append(f"{at} the noise is that of the rollouts before: it was not drawn anew")
    columns = ("layer", "multiplier", "std", "expected", "error", "changed", "rounding")
    for layer, multiplier, std, expected, error, changed, rounding in zip(*(table[c] for c in columns), strict=True):
        name = "what is in no layer" if layer is None else f"layer {layer}"
        want = planned.of(layer)
        if not abs(multiplier - want) <= 1e-6 * max(1.0, want):
            wrong.append(f"{at} {name} had multiplier {multiplier:.4g}, the plan has {want:.4g}")
        elif want == 0 and changed:
            wrong.append(f"{at} {name} was noised, and has multiplier 0")
        elif not abs(std - expected) <= LAYER_STANDARD_ERRORS * error + 1e-12:
            wrong.append(f"{at} the noise of {name} had sigma {std:.3g}, {expected:.3g} was to be expected")
        elif not _plausible(expected, want * scheduled, error, rounding):
            wrong.append(f"{at} {name} was simulated with sigma {expected:.3g}, the plan has {want * scheduled:.3g}")
    return wrong


def _plausible(expected: float, sigma: float, error: float, rounding: float) -> bool:
    """Can the worker's simulation of a draw be right? Rounding adds up to a spacing, and takes away what is small."""
    chance = LAYER_STANDARD_ERRORS * error
    if not expected <= sigma + rounding + chance:
        return False
    return sigma < 4 * rounding or expected >= LEAST_REALISED * sigma - chance


def hardware(case: Case) -> Findings:
    """Matrix products carry the planned error in the planned phases and layers, and none elsewhere.

    Seen from outside: sampled linears' results against exact products, in real updates, rollouts and evals. And from
    inside: the error of every kind of product, which the noise itself reports.
    """
    checked = [
        ("train", f["module"], f["output_error"], f["n_eff"], f["swell"])
        for f in case.of("gradient_probe")
        if f["n_eff"] > 0  # an adapter's B is 0 at first, and so is its product
    ]
    for kind, phase in (("sync", "rollout"), ("eval_mode", "eval")):
        seen = [f["output"] for f in case.of(kind) if f.get("output")]
        checked += [(phase, o["module"], o["error"], o["n_eff"], o["swell"]) for o in seen if o["n_eff"] > 0]
    noise = case.condition.hw_noise
    wanted = {phase for phase in ("train", "rollout", "eval") if phase != "eval" or case.of("eval")}
    missing = [
        f"no product was checked in phase {phase}" for phase in sorted(wanted - {phase for phase, *_ in checked})
    ]
    against = []
    for phase, module, error, n_eff, swell in checked:
        planned = noise_scale(noise, phase, module)
        if off_plan(error, planned, n_eff, ROUNDING[case.condition.compute] * swell):
            against.append(_words(phase, f"the results of {module}", error, planned))
    if noise is not None:
        for phase in noise.phases:
            if "linear" in noise.ops and not any(noise_scale(noise, p, m) for p, m, *_ in checked if p == phase):
                missing.append(f"in phase {phase} no product of a noisy layer was checked")
        against += _inside(case)
        missing += _silent(case)
    return Findings(some(against), some(missing))


def _words(phase: str, what: str, error: float, planned: float) -> str:
    if not planned:
        return f"in phase {phase} {what} are off by {100 * error:.2g} %, and no error is planned"
    return f"in phase {phase} {what} had a relative error of {100 * error:.2g} %, planned are {100 * planned:.2g} %"


def _inside(case: Case) -> list[str]:
    """What the noise itself saw: the size of the error, and that all linears of the noisy layers had it."""
    noise = case.condition.hw_noise
    assert noise is not None  # noqa: S101 - the caller asked
    wrong = []
    for fact in case.of("noisy_ops"):
        for op, seen in fact["ops"].items():
            planned = noise.scale if op in noise.ops and fact["phase"] in noise.phases else 0.0
            if seen["n_eff"] > 0 and off_plan(
                seen["relative_std"], planned, seen["n_eff"], SAME_TYPE[case.condition.compute]
            ):
                wrong.append(_words(fact["phase"], op, seen["relative_std"], planned))
            if seen["calls"] < MOST_CALLS * seen["due"]:
                share = f"{seen['calls']} of at least {seen['due']} products of kind {op}"
                wrong.append(f"in phase {fact['phase']} {share} had the error")
    return wrong


def _silent(case: Case) -> list[str]:
    """Planned kinds of product that never came: matmul and bmm are one family, which a model calls by either name."""
    noise = case.condition.hw_noise
    assert noise is not None  # noqa: S101 - the caller asked
    called: set[tuple[str, str]] = set()
    for fact in case.of("noisy_ops"):
        called |= {(fact["phase"], op) for op, seen in fact["ops"].items() if seen["calls"] and seen["sampled"]}
    lacking = []
    for phase in noise.phases:
        if phase == "eval" and not case.of("eval"):
            continue
        for family in (("linear",), ("matmul", "bmm")):
            wanted = [op for op in family if op in noise.ops]
            if wanted and not any((phase, op) in called for op in family):
                lacking.append(f"in phase {phase} no product of kind {'/'.join(wanted)} was made, so none had an error")
    return lacking


def inert_stages(facts: Iterable[Measured]) -> list[int]:
    """Steps whose planned noise the number format rounds away completely: a finding, not a fault."""
    return [
        fact.data["serves"]
        for fact in facts
        if fact.kind == "sync" and fact.data["sigma_planned"] > 0 and fact.data["sigma_expected"] == 0
    ]
