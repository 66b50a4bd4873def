"""The verdict on a re-evaluation: was it that checkpoint, in that numeric mode, and all the questions?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from experiment_specs.language import Condition
from orchestrator.verdict import course, noise, settings, weights
from orchestrator.verdict.case import (
    PROVEN,
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
from orchestrator.verdict.judge import judge_without, summed


@dataclass(frozen=True)
class Saved:
    """What the training run said of the weights that it saved, and of itself."""

    step: int
    merged: bool
    exported: Mapping[str, str]
    """Fingerprints of its export after that step."""
    fingerprints: Mapping[str, str | None] = field(default_factory=dict)
    """Of its model and test questions."""
    questions: str | None = None
    training: Verdict = field(default_factory=lambda: Verdict(PROVEN))
    """What its evidence says of everything but its evaluations."""


def judge_eval(condition: Condition, plan: PlannedSteps, saved: Saved | None, facts: Iterable[Measured]) -> Verdict:
    """``condition``: the evaluated one, whose dtype, noise and adapters say the mode."""
    step = saved.step if saved is not None else plan.total_steps
    case = Case(condition, replace(plan, total_steps=step), tuple(_at_step(fact, step) for fact in facts))
    checks = [
        course.identity, course.evals, weights.quantisation, weights.adapters, weights.eval_mode, _noised, _exact,
        settings.attention_of_eval,
    ]  # fmt: skip
    found = [check(case) for check in checks]
    return summed([_loaded(case, saved), _same_questions(case, saved), _merged(case), *found, _trained(saved)])


def judge_training(condition: Condition, plan: PlannedSteps, facts: Iterable[Measured]) -> Verdict:
    """What a training run's evidence says of its training, its evaluations apart."""
    return judge_without(condition, plan, facts, (weights.eval_mode, course.evals))


def _trained(saved: Saved | None) -> Findings:
    """A checkpoint of a training that went wrong has a score of something else."""
    if saved is None or saved.training.status == PROVEN:
        return Findings()
    return Findings(missing=tuple(f"the training behind it is not proven: {why}" for why in saved.training.reasons))


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
    against = [
        f"{len(s['missing']) + len(s['changed'])} files are not those that were saved"
        for s in sources
        if s["missing"] or s["changed"]
    ]
    held: Mapping[str, Any] = loaded[-1]["used" if saved.merged else "weights"]
    if odd := different(saved.exported, held):
        against.append(f"other weights were loaded than the run had after step {saved.step}: {short(odd)}")
    return Findings(tuple(against))


def _same_questions(case: Case, saved: Saved | None) -> Findings:
    """A score in another mode compares with the run's own only on the same questions."""
    if saved is None or not case.of("started"):
        return Findings()
    prints = case.of("started")[-1].get("fingerprints", {})
    against = [
        f"its {name} is not that of the training run"
        for name in ("model", "test")
        if prints.get(name) and saved.fingerprints.get(name) and prints[name] != saved.fingerprints[name]
    ]
    asked = {fact.get("questions") for fact in case.of("eval")}
    if saved.questions is not None and asked - {saved.questions}:
        against.append("it asked other questions than the training run")
    return Findings(tuple(against))


def _merged(case: Case) -> Findings:
    """Merged weights are Q(W) + BA, and keep the adapters' share."""
    exported = case.of("exported")
    return Findings(tuple(problem for fact in exported for problem in weights.bad_merges(case, fact)))


def _noised(case: Case) -> Findings:
    """The weights that answered have the noise of the mode, module by module and layer by layer, as training rollouts
    would; without noise in the mode, :func:`weights.eval_mode` wants none."""
    if case.condition.aqn is None:
        return Findings()
    as_rollouts = tuple(Measured("sync", fact.data) for fact in case.facts if fact.kind == "eval_mode")
    step = case.plan.total_steps
    plan = replace(case.plan, total_steps=step + 1, steps_per_epoch=step + 1)
    answering = Case(case.condition, plan, as_rollouts)
    of_all, by_layer = noise.noise(answering), noise.layers(answering)
    return Findings((*of_all.against, *by_layer.against), (*of_all.missing, *by_layer.missing))


def _exact(case: Case) -> Findings:
    """Products have the error of the hardware that the mode wants, or none."""
    against, missing = [], []
    modes = case.of("eval_mode")
    seen = [fact["output"] for fact in modes if fact.get("output") and fact["output"]["n_eff"] > 0]
    if complete(modes) and not seen:
        missing.append("no product was checked while the questions were answered")
    for output in seen:
        planned = noise_scale(case.condition.hw_noise, "eval", output["module"])
        rounding = noise.ROUNDING[case.condition.compute] * output["swell"]
        if off_plan(output["error"], planned, output["n_eff"], rounding):
            against.append(
                f"the results of {output['module']} are off by {100 * output['error']:.2g} %, planned are"
                f" {100 * planned:.2g} %"
            )
    return Findings(tuple(against), tuple(missing))
