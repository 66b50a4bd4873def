"""PROVEN, REFUTED or UNPROVEN: a pure function of what was asked, what was planned, and what was measured.

It knows no database, no clock and no file. Every check answers with reasons; one reason against is enough to refute,
one fact missing is enough to leave a run unproven. An exit code of 0 and a splendid score count for nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiment_specs.language import Condition
from experiment_specs.schedules import sigma_at

PROVEN, REFUTED, UNPROVEN = "PROVEN", "REFUTED", "UNPROVEN"

STANDARD_ERRORS = 5.0
"""How far realised noise may lie from what a simulated cast of it gives."""

GRADIENT_TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}
"""Relative error that rounding alone explains; forgetting Q(W) costs about a tenth with 4-bit weights."""

NEVER_QUANTISED = re.compile(r"(^|\.)(lm_head|embed_tokens)(\.|$)|lora_[AB]")
BLOCK_LINEAR = re.compile(r"(^|\.)layers\.\d+\.")


@dataclass(frozen=True)
class Measured:
    """One recorded fact: the kind of event and its data."""

    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class PlannedSteps:
    """What the plan promised."""

    total_steps: int
    eval_steps: tuple[int, ...]
    steps_per_epoch: int
    code_version: str | None = None
    """The code that the run was submitted for; None leaves it unchecked (a run by hand)."""


@dataclass(frozen=True)
class Verdict:
    """The judgement and, for anything but PROVEN, its reasons in words that a user understands."""

    status: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Findings:
    against: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """What a check looks at."""

    condition: Condition
    plan: PlannedSteps
    facts: Sequence[Measured]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [fact.data for fact in self.facts if fact.kind == kind]


def judge(condition: Condition, plan: PlannedSteps, facts: Iterable[Measured]) -> Verdict:
    """The verdict on one finished attempt."""
    case = Case(condition, plan, tuple(facts))
    findings = [check(case) for check in CHECKS]
    against = tuple(reason for f in findings for reason in f.against)
    missing = tuple(reason for f in findings for reason in f.missing)
    if against:
        return Verdict(REFUTED, against)
    if missing:
        return Verdict(UNPROVEN, missing)
    return Verdict(PROVEN)


def _identity(case: Case) -> _Findings:
    started = case.of("started")
    if not started:
        return _Findings(missing=("the run never said which code, model and data it used",))
    prints, plugins = started[-1].get("fingerprints", {}), started[-1].get("plugins", [])
    missing = [
        f"no fingerprint of the {name}: it is a remote id, or was not found"
        for name in ("model", "train", "test")
        if not prints.get(name)
    ]
    if plugins:
        missing.append(f"plugins of the user's ran in every process: {_short(plugins)}")
    ran, wanted = started[-1].get("code", {}).get("id"), case.plan.code_version
    if wanted is not None and ran != wanted:
        missing.append(f"it ran code version {ran} and was submitted for {wanted}")
    return _Findings(missing=tuple(missing))


def _steps(case: Case) -> _Findings:
    planned = case.plan.total_steps
    against = []
    for fact in case.of("planned"):
        if fact["total_steps"] != planned:
            against.append(f"the trainer set out for {fact['total_steps']} training steps, the plan says {planned}")
    done = sorted({fact["step"] for fact in case.of("step")})
    if not done:
        return _Findings(tuple(against), ("no training step was recorded",))
    if done[-1] != planned:
        against.append(f"{done[-1]} of {planned} planned training steps were executed")
    elif len(done) != planned:
        absent = sorted(set(range(1, planned + 1)) - set(done))
        return _Findings(tuple(against), (f"training steps without a record: {_short(absent)}",))
    return _Findings(tuple(against))


def _evals(case: Case) -> _Findings:
    evals = case.of("eval")
    have = {fact["step"] for fact in evals}
    absent = [step for step in case.plan.eval_steps if step not in have]
    against = []
    if case.plan.total_steps in absent:
        last = f"the last one is at step {max(have)}" if have else "there is none at all"
        against.append(f"the eval at the last step, {case.plan.total_steps}, is missing; {last}")
    missing = [f"planned evals are missing: step {_short(absent)}"] if absent and not against else []
    for fact in evals:
        if fact["n"] != case.condition.data.test_rows:
            against.append(
                f"the eval at step {fact['step']} asked {fact['n']} questions of {case.condition.data.test_rows}"
            )
        if fact["samples"] != case.condition.eval.samples:
            against.append(
                f"the eval at step {fact['step']} took {fact['samples']} answers a question, "
                f"not {case.condition.eval.samples}"
            )
    if any(fact.get("questions") is None for fact in evals):
        missing.append("which questions were asked was not recorded")
    if len({fact.get("questions") for fact in evals}) > 1:
        against.append("the evals of this run did not all ask the same questions")
    return _Findings(tuple(against), tuple(missing))


def _eval_mode(case: Case) -> _Findings:
    """Test answers come from clean weights in the run's own number format."""
    modes = _by_step(case.of("eval_mode"), "step")
    exported = {fact["export"]: fact["weights"] for fact in case.of("exported")}
    against, missing = [], []
    for step in sorted({fact["step"] for fact in case.of("eval")}):
        if not _complete(modes.get(step, [])):
            missing.append(f"the numeric mode of the eval at step {step} was not measured")
        if step not in exported:
            missing.append(f"the weights exported after step {step} were not fingerprinted")
    for mode in (mode for step in sorted(modes) for mode in modes[step]):
        realised = mode["realised"]
        different = _different(exported.get(mode["step"], {}), {**mode["weights"], **mode["norms"]})
        if different:
            against.append(
                f"the eval at step {mode['step']} used other weights than the policy exported: {_short(different)}"
            )
        if realised["modules"]:
            against.append(
                f"noise was on in the eval at step {mode['step']}: {realised['modules']} norms differ from their "
                f"clean weights, by up to {realised['largest']:.2g}"
            )
        if mode["on_grid"] != mode["watched"]:
            against.append(
                f"the eval at step {mode['step']} did not use {case.condition.dtype.format} weights: "
                f"{mode['watched'] - mode['on_grid']} of {mode['watched']} watched linears are off the grid"
            )
    return _Findings(tuple(against), tuple(missing))


def _quantisation(case: Case) -> _Findings:
    """Exactly the block linears multiply with quantised weights."""
    facts = case.of("quantised")
    if not facts:
        return _Findings(missing=("which modules were quantised was not measured",))
    against = []
    name = case.condition.dtype.format
    for fact in facts:
        linears, quantised = set(fact["linears"]), set(fact["quantised"])
        if quantised and fact["formats"] != [case.condition.dtype.model_dump(mode="json")]:
            against.append(f"the weights were quantised to {_short(fact['formats'])}, not to {name}")
        expected = {n for n in linears if BLOCK_LINEAR.search(n) and not NEVER_QUANTISED.search(n)}
        if not quantised:
            against.append(f"no module was quantised to {name}")
        elif quantised - expected:
            against.append(f"quantised, and must not be: {_short(sorted(quantised - expected))}")
        elif expected - quantised:
            against.append(
                f"{len(expected - quantised)} of {len(expected)} block linears were not quantised: "
                f"{_short(sorted(expected - quantised))}"
            )
    return _Findings(tuple(against))


def _same_weights(case: Case) -> _Findings:
    """What the rollout copy holds is what the policy's forward multiplied with: Q(W), weight by weight."""
    forward = {fact["export"]: fact["weights"] for fact in case.of("forward_weights")}
    name = case.condition.dtype.format
    against: list[str] = []
    compared: set[int] = set()
    syncs = _by_step(case.of("sync"), "step")
    for fact in (fact for step in sorted(syncs) for fact in syncs[step]):
        if fact["on_grid"] != fact["watched"]:
            against.append(
                f"after the sync of step {fact['step']}, {fact['watched'] - fact['on_grid']} of {fact['watched']} "
                f"watched linears of the rollout are not {name}"
            )
        policy = forward.get(fact["step"])
        if policy is None:
            continue
        if _complete(syncs[fact["step"]]):
            compared.add(fact["step"])
        different = _different(policy, fact["weights"])
        if different:
            against.append(
                f"after the sync of step {fact['step']} the rollout holds other weights than the policy's forward "
                f"used: {_short(different)}"
            )
    missing = []
    if not syncs:
        missing.append("the rollout's weights were never measured in training")
    elif len(compared) < case.plan.total_steps:
        missing.append(f"rollout and policy weights were compared at {len(compared)} of {case.plan.total_steps} steps")
    return _Findings(tuple(_some(against)), tuple(missing))


def _gradients(case: Case) -> _Findings:
    """dL/dx multiplies with Q(W), dL/dW passes unchanged."""
    facts = case.of("gradient_probe")
    if not facts:
        return _Findings(missing=("no gradient of a real update was probed",))
    tolerance = GRADIENT_TOLERANCE[case.condition.compute]
    against = []
    for fact in facts:
        if not fact["output_error"] <= tolerance:
            against.append(f"{fact['module']}: its output is off x·Q(W)ᵀ + b by {100 * fact['output_error']:.2g} %")
        if not fact["input_error"] <= tolerance:
            hint = "; it used the unquantised W" if fact["input_error_unquantised"] <= tolerance else ""
            against.append(f"{fact['module']}: dL/dx is off dL/dy·Q(W) by {100 * fact['input_error']:.2g} %{hint}")
        if not fact["weight_error"] <= tolerance:
            against.append(f"{fact['module']}: dL/dW is off dL/dyᵀ·x by {100 * fact['weight_error']:.2g} %")
    probed = len({fact["export"] for fact in facts})
    enough = 2 * probed >= case.plan.total_steps
    missing = () if enough else (f"gradients were probed at {probed} of {case.plan.total_steps} steps only",)
    return _Findings(tuple(_some(against)), missing)


def _noise(case: Case) -> _Findings:
    """AQN was on at the planned sigma in every rollout, on every norm; or, where none is planned, nowhere."""
    syncs = case.of("sync")
    if not syncs:
        return _Findings()  # already said by _same_weights
    aqn = case.condition.aqn
    against = []
    if aqn is None:
        noisy = [fact for fact in syncs if fact["realised"]["modules"]]
        if noisy:
            against.append(
                f"no noise is planned, and at step {noisy[0]['serves']} {noisy[0]['realised']['modules']} norms "
                "differ from their clean weights"
            )
        return _Findings(tuple(against))
    if any(fact["realised"]["watched"] == 0 for fact in syncs):
        return _Findings(("AQN found no module to act on",))
    total, per_epoch = case.plan.total_steps, case.plan.steps_per_epoch
    planned = [fact for fact in syncs if sigma_at(aqn, fact["serves"], total, per_epoch) > 0]
    if not planned:
        return _Findings(missing=("no rollout was sampled in which the schedule has noise",))
    if not any(fact["realised"]["modules"] for fact in planned):
        return _Findings((f"sigma stayed 0 in all {len(planned)} rollouts in which the schedule has noise",))
    for fact in syncs:
        against += _noise_at(fact, sigma_at(aqn, fact["serves"], total, per_epoch))
    return _Findings(tuple(_some(against)))


def _noise_at(fact: Mapping[str, Any], scheduled: float) -> list[str]:
    """``scheduled``: the sigma that the condition's schedule has for this step, computed here and not by the worker."""
    realised, expected, error = fact["realised"], fact["sigma_expected"], fact["sigma_error"]
    at = f"in the rollouts of step {fact['serves']}"
    if not abs(fact["sigma_planned"] - scheduled) <= 1e-9 * scheduled:
        return [f"{at} the worker aimed at sigma {fact['sigma_planned']:.3g}, the schedule has {scheduled:.3g}"]
    if not abs(realised["std"] - expected) <= STANDARD_ERRORS * error + 1e-12:
        return [f"{at} the noise had sigma {realised['std']:.3g}, planned {scheduled:.3g}"]
    if realised["modules"] < fact["modules_due"]:
        return [f"{at} {realised['modules']} of {realised['watched']} norms were noised"]
    return []


def _movement(case: Case) -> _Findings:
    moved = case.of("moved")
    if not moved:
        return _Findings(missing=("whether the weights moved was not measured",))
    last = max(moved, key=lambda fact: fact["export"])
    if last["export"] < case.plan.total_steps:
        return _Findings(missing=(f"how far the weights moved was last measured after step {last['export']}",))
    if not last["optimiser_updates"] > 0:
        return _Findings(("no optimiser update had a gradient: nothing was learnt",))
    if not last["block_linears"] > 0:
        return _Findings(("the block linears are where they started: nothing was learnt",))
    return _Findings()


def _by_step(facts: Sequence[Mapping[str, Any]], key: str) -> dict[int, list[Mapping[str, Any]]]:
    """Facts of every replica by step."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for fact in facts:
        found.setdefault(fact[key], []).append(fact)
    return found


def _complete(facts: Sequence[Mapping[str, Any]]) -> bool:
    """Has every replica of the rollout spoken?"""
    return bool(facts) and len({fact["replica"] for fact in facts}) == facts[0]["replicas"]


def _different(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Names whose fingerprints are in both and differ, or in the first only."""
    return [name for name, value in one.items() if other.get(name) != value]


def inert_stages(facts: Iterable[Measured]) -> list[int]:
    """Steps whose planned noise the number format rounds away completely: a finding, not a fault."""
    return [
        fact.data["serves"]
        for fact in facts
        if fact.kind == "sync" and fact.data["sigma_planned"] > 0 and fact.data["sigma_expected"] == 0
    ]


CHECKS: tuple[Callable[[Case], _Findings], ...] = (
    _identity, _steps, _evals, _eval_mode, _quantisation, _same_weights, _gradients, _noise, _movement,
)  # fmt: skip


def _short(items: Sequence[Any], most: int = 4) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def _some(reasons: list[str], most: int = 3) -> list[str]:
    """The same complaint at every step says no more than at the first few."""
    return reasons if len(reasons) <= most else [*reasons[:most], f"and {len(reasons) - most} more of the kind"]
