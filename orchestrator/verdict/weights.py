"""Which weights trained, generated and answered: formats, adapters, fingerprints, movement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiment_specs.modules import is_block_linear, is_quantised
from orchestrator.verdict.case import Case, Findings, by_step, complete, different, short, some

MERGE_TOLERANCE = {"fp32": 1e-6, "bf16": 2.5e-3}
"""Relative error of a merged weight that the cast alone explains: half a unit in the last place, and a margin."""

LEAST_KEPT = 0.5
"""How much of the adapters' share of a merged weight the cast must keep."""

MOST_NOT_FINITE = 0.01
"""Share of optimiser steps that may be skipped because a gradient was not finite."""


def quantisation(case: Case) -> Findings:
    """Exactly the linears that the format means multiply with quantised weights."""
    facts = case.of("quantised")
    if not facts:
        return Findings(missing=("which modules were quantised was not measured",))
    against: list[str] = []
    missing = []
    dtype = case.condition.dtype
    roles = {fact.get("role", "policy") for fact in facts}
    if case.condition.algorithm.kl_loss > 0 and case.condition.lora is None and "reference" not in roles:
        missing.append("which modules of the reference policy were quantised was not measured")
    for fact in facts:
        linears, quantised = set(fact["linears"]), set(fact["quantised"])
        if quantised and fact["formats"] != [dtype.model_dump(mode="json")]:
            against.append(f"the weights were quantised to {short(fact['formats'])}, not to {dtype.format}")
        expected = {name for name in linears if is_quantised(dtype, name)}
        if not quantised:
            against.append(f"no module was quantised to {dtype.format}")
        elif quantised - expected:
            against.append(f"quantised, and must not be: {short(sorted(quantised - expected))}")
        elif expected - quantised:
            against.append(
                f"{len(expected - quantised)} of {len(expected)} block linears were not quantised: "
                f"{short(sorted(expected - quantised))}"
            )
    return Findings(tuple(against), tuple(missing))


def adapters(case: Case) -> Findings:
    """With LoRA every block linear has an adapter in high precision; without, none has."""
    against = []
    for fact in case.of("quantised"):
        adapted = set(fact.get("adapted", ()))
        wanted = {name for name in fact["linears"] if is_block_linear(name)} if case.condition.lora else set()
        if adapted - wanted:
            against.append(f"adapters where none are planned: {short(sorted(adapted - wanted))}")
        elif wanted - adapted:
            lacking = short(sorted(wanted - adapted))
            against.append(f"{len(wanted - adapted)} of {len(wanted)} block linears have no adapter: {lacking}")
        low = [kind for kind in fact.get("adapter_types", ()) if kind not in ("torch.float32", "torch.bfloat16")]
        if low:
            against.append(f"the adapters are held in {short(low)}")
    return Findings(tuple(against))


def same_weights(case: Case) -> Findings:
    """What the rollout copy holds, its noise apart, is what the policy's forward multiplied with, weight by weight."""
    forward = {fact["export"]: fact["weights"] for fact in case.of("forward_weights")}
    exported = {fact["export"]: fact for fact in case.of("exported")}
    against: list[str] = []
    compared: set[int] = set()
    syncs = by_step(case.of("sync"), "step")
    for fact in case.syncs():
        at = f"after the sync of step {fact['step']}"
        against += _off_grid(case, fact, f"{at}, {{off}} of {{watched}} watched linears of the rollout are not")
        policy, sent = forward.get(fact["step"]), exported.get(fact["step"])
        if policy is None or sent is None:
            continue
        if complete(syncs[fact["step"]]):
            compared.add(fact["step"])
        if odd := different(sent["weights"], fact["weights"]):
            against.append(f"{at} the rollout holds other weights than the policy exported: {short(odd)}")
        if odd := different(policy, sent["used"]):
            against.append(f"{at} the policy's forward used other weights than it exported: {short(odd)}")
        against += [f"{at} {problem}" for problem in bad_merges(case, sent)]
    missing = []
    if not syncs:
        missing.append("the rollout's weights were never measured in training")
    elif len(compared) < case.plan.total_steps:
        missing.append(f"rollout and policy weights were compared at {len(compared)} of {case.plan.total_steps} steps")
    return Findings(some(against), tuple(missing))


def bad_merges(case: Case, sent: Mapping[str, Any]) -> list[str]:
    """What is wrong with merged weights, where there are to be any."""
    merged = case.condition.lora is not None and case.condition.lora.sync == "merged"
    merges = sent.get("merges", {})
    if merged and not merges:
        return ["no merged weight was compared with Q(W) + BA"]
    tolerance = MERGE_TOLERANCE[case.condition.compute]
    wrong = [
        f"the merged weight of {name} is off Q(W) + BA by {100 * merge['error']:.2g} %"
        for name, merge in merges.items()
        if not merge["error"] <= tolerance
    ]
    lost = [name for name, merge in merges.items() if merge["delta"] > 0 and not merge["kept"] >= LEAST_KEPT]
    if lost and not wrong:
        kept = min(merges[name]["kept"] for name in lost)
        wrong.append(
            f"merging keeps {100 * kept:.2g} % of the adapters' share of {short(lost)}: the number format rounds the "
            "rest away, and the rollout is next to the base (sync: adapter keeps all)"
        )
    return wrong


def _off_grid(case: Case, fact: Mapping[str, Any], text: str) -> list[str]:
    """A merged weight, Q(W) + BA, is on no grid: its base was compared before the merge."""
    lora = case.condition.lora
    off = fact["watched"] - fact["on_grid"]
    if not off or (lora is not None and lora.sync == "merged"):
        return []
    return [f"{text.format(off=off, watched=fact['watched'])} {case.condition.dtype.format}"]


def eval_mode(case: Case) -> Findings:
    """Test answers come from the exported weights in the run's own format; noise is lifted unless declared to stay."""
    modes = by_step(case.of("eval_mode"), "step")
    exported = {fact["export"]: fact["weights"] for fact in case.of("exported")}
    stays = case.condition.aqn is not None and case.condition.aqn.during_eval
    against, missing = [], []
    for step in sorted({fact["step"] for fact in case.of("eval")}):
        if not complete(modes.get(step, [])):
            missing.append(f"the numeric mode of the eval at step {step} was not measured")
        if step not in exported:
            missing.append(f"the weights exported after step {step} were not fingerprinted")
    for mode in (mode for step in sorted(modes) for mode in modes[step]):
        realised, at = mode["realised"], f"the eval at step {mode['step']}"
        if mode["step"] in exported and (odd := different(exported[mode["step"]], mode["weights"])):
            against.append(f"{at} used other weights than the policy exported: {short(odd)}")
        if realised["modules"] and not stays:
            against.append(
                f"noise was on in {at}: {realised['modules']} modules differ from their clean weights, by up to "
                f"{realised['largest']:.2g}"
            )
        against += _off_grid(case, mode, f"{at}: {{off}} of {{watched}} watched linears are not")
    return Findings(some(against), tuple(missing))


def movement(case: Case) -> Findings:
    """What should learn moved, and what is frozen did not."""
    moved = case.of("moved")
    if not moved:
        return Findings(missing=("whether the weights moved was not measured",))
    last = max(moved, key=lambda fact: fact["export"])
    if last["export"] < case.plan.total_steps:
        return Findings(missing=(f"how far the weights moved was last measured after step {last['export']}",))
    return Findings(tuple(_stuck(last) or _misplaced(case, last)))


def _stuck(last: Mapping[str, Any]) -> list[str]:
    skipped = last.get("not_finite", 0)
    if skipped > MOST_NOT_FINITE * last["optimiser_steps"]:
        lost = f"{skipped} of {last['optimiser_steps']} optimiser steps had a gradient that is not finite"
        return [f"{lost}, and did nothing"]
    if not last["optimiser_updates"] > 0:
        return ["no optimiser update had a gradient: nothing was learnt"]
    return []


def _misplaced(case: Case, last: Mapping[str, Any]) -> list[str]:
    """The whole model learns, or the adapters and nothing else."""
    if case.condition.lora is None:
        still = not last["block_linears"] > 0
        return ["the block linears are where they started: nothing was learnt"] if still else []
    against = []
    if not last["adapters"] > 0:
        against.append("the adapters are where they started: nothing was learnt")
    if last["block_linears"] != 0 or last["other"] != 0:
        share = 100 * max(last["block_linears"], last["other"])
        against.append(f"the base should be frozen, and moved by {share:.2g} % of its norm")
    return against
