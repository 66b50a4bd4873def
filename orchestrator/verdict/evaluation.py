"""The verdict on a re-evaluation: was it that checkpoint, in that numeric mode, and all the questions?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiment_specs.language import Condition
from orchestrator.verdict import course, weights
from orchestrator.verdict.case import (
    Case,
    Findings,
    Measured,
    PlannedSteps,
    Verdict,
    complete,
    different,
    off_plan,
    short,
)
from orchestrator.verdict.gradients import noise_scale
from orchestrator.verdict.judge import summed
from orchestrator.verdict.noise import ROUNDING


@dataclass(frozen=True)
class Saved:
    """What the training run said of the weights that it saved: fingerprints of its export after that step."""

    step: int
    merged: bool
    exported: Mapping[str, str]


def judge_eval(condition: Condition, plan: PlannedSteps, saved: Saved | None, facts: Iterable[Measured]) -> Verdict:
    """``condition``: the evaluated one, whose dtype, noise and adapters say the mode."""
    step = saved.step if saved is not None else plan.total_steps
    own = tuple(_at_step(fact, step) for fact in facts)
    case = Case(condition, replace(plan, total_steps=step), own)
    checks = [course.identity, course.evals, weights.quantisation, weights.adapters, weights.eval_mode, _noised, _exact]
    return summed([_loaded(case, saved), *(check(case) for check in checks)])


def _at_step(fact: Measured, step: int) -> Measured:
    """The only export of an evaluation is that of the checkpoint's step."""
    return Measured(fact.kind, {**fact.data, "export": step}) if fact.kind == "exported" else fact


def _loaded(case: Case, saved: Saved | None) -> Findings:
    """The files are those that were saved, and the weights in memory those that the training run exported."""
    sources, loaded = case.of("source"), case.of("loaded")
    if not sources:
        return Findings(missing=("the checkpoint's files were not compared with those that were saved",))
    if saved is None:
        return Findings(missing=("the training run kept no fingerprint of the weights that it saved",))
    if not loaded:
        return Findings(missing=("the weights that were loaded were not fingerprinted",))
    against = [f"{len(s['missing']) + len(s['changed'])} files are not those that were saved" for s in sources
               if s["missing"] or s["changed"]]  # fmt: skip
    held: Mapping[str, Any] = loaded[-1]["used" if saved.merged else "weights"]
    if odd := different(saved.exported, held):
        against.append(f"other weights were loaded than the run had after step {saved.step}: {short(odd)}")
    return Findings(tuple(against))


def _noised(case: Case) -> Findings:
    """The noise that the mode wants is on the weights that answer; without, :func:`weights.eval_mode` wants none."""
    if case.condition.aqn is None:
        return Findings()
    against = []
    for fact in case.of("eval_mode"):
        realised, wanted, error = fact["realised"], fact["sigma_expected"], fact["sigma_error"]
        if not abs(realised["std"] - wanted) <= 5 * error or realised["modules"] < fact["modules_due"]:
            against.append(
                f"noise of {realised['std']:.3g} in {realised['modules']} modules answered; sigma"
                f" {fact['sigma_planned']:g} should give {wanted:.3g} in {fact['modules_due']}"
            )
    return Findings(tuple(against))


def _exact(case: Case) -> Findings:
    """Products have the error of the hardware that the mode wants, or none."""
    against, missing = [], []
    modes = case.of("eval_mode")
    seen = [fact["output"] for fact in modes if fact.get("output") and fact["output"]["n_eff"] > 0]
    if complete(modes) and not seen:
        missing.append("no product was checked while the questions were answered")
    for output in seen:
        planned = noise_scale(case.condition.hw_noise, "eval", output["module"])
        rounding = ROUNDING[case.condition.compute] * output["swell"]
        if off_plan(output["error"], planned, output["n_eff"], rounding):
            against.append(
                f"the results of {output['module']} are off by {100 * output['error']:.2g} %, planned are"
                f" {100 * planned:.2g} %"
            )
    return Findings(tuple(against), tuple(missing))
