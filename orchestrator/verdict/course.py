"""Did the run do what the plan says, from the first step to the last eval?"""

from __future__ import annotations

from orchestrator.verdict.case import Case, Findings, by_step, different, short, some


def identity(case: Case) -> Findings:
    """Which code, model and data."""
    started = case.of("started")
    if not started:
        return Findings(missing=("the run never said which code, model and data it used",))
    prints, plugins = started[-1].get("fingerprints", {}), started[-1].get("plugins", [])
    missing = [
        f"no fingerprint of the {name}: it is a remote id, or was not found"
        for name in ("model", "train", "test")
        if not prints.get(name)
    ]
    if plugins:
        missing.append(f"plugins of the user's ran in every process: {short(plugins)}")
    ran, wanted = started[-1].get("code", {}).get("id"), case.plan.code_version
    if wanted is not None and ran != wanted:
        missing.append(f"it ran code version {ran} and was submitted for {wanted}")
    against = []
    for other in started[:-1]:
        odd = different(dict(other.get("fingerprints", {})), dict(prints))
        if odd:
            against.append(f"it went on with another {short(odd)} than it began with")
        if other.get("code", {}).get("id") != ran or other.get("plugins", []) != plugins:
            missing.append("it went on with other code than it began with")
    scanned = case.plan.scanned_model
    if scanned is not None and prints.get("model") and prints["model"] != scanned:
        against.append("the layer scan that aims its noise was made of another model")
    return Findings(tuple(against), tuple(missing))


def steps(case: Case) -> Findings:
    """As many training steps as planned, each with a record."""
    planned = case.plan.total_steps
    against = []
    for fact in case.of("planned"):
        if fact["total_steps"] != planned:
            against.append(f"the trainer set out for {fact['total_steps']} training steps, the plan says {planned}")
    done = sorted({fact["step"] for fact in case.of("step")})
    if not done:
        return Findings(tuple(against), ("no training step was recorded",))
    if done[-1] != planned:
        against.append(f"{done[-1]} of {planned} planned training steps were executed")
    elif len(done) != planned:
        absent = sorted(set(range(1, planned + 1)) - set(done))
        return Findings(tuple(against), (f"training steps without a record: {short(absent)}",))
    return Findings(tuple(against))


def resumption(case: Case) -> Findings:
    """A run that went on from a checkpoint went on with the weights that the checkpoint's step ended with."""
    exported = by_step(case.of("exported"), "export")
    against, missing = [], []
    for fact in case.of("resumed"):
        if fact["step"] >= case.plan.total_steps:
            continue  # all was trained and evaluated before; nothing was loaded
        seen = [export["weights"] for export in exported.get(fact["step"], [])]
        if len(seen) < 2:
            missing.append(f"the weights that it went on with from step {fact['step']} were not fingerprinted")
        elif odd := [name for weights in seen[1:] for name in different(seen[0], weights)]:
            against.append(
                f"it went on from step {fact['step']} with other weights than that step ended with: {short(odd)}"
            )
    return Findings(some(against), some(missing))


def counts(case: Case) -> Findings:
    """Prompts and trajectories of every step, and optimiser steps of all of them."""
    c = case.condition
    prompts, answers = c.batch.prompts, c.batch.prompts * c.algorithm.samples_per_prompt
    against, missing = [], []
    for fact in sorted(case.of("step"), key=lambda fact: fact["step"]):
        if fact.get("prompts") is None or fact.get("trajectories") is None:
            missing.append(f"what step {fact['step']} learnt from was not counted")
        elif (fact["prompts"], fact["trajectories"]) != (prompts, answers):
            against.append(
                f"step {fact['step']} learnt from {fact['trajectories']:g} answers to {fact['prompts']:g} prompts, "
                f"planned are {answers} to {prompts}"
            )
    moved = case.of("moved")
    if moved:
        last = max(moved, key=lambda fact: fact["export"])
        planned = last["export"] * (prompts // c.batch.mini_batch)
        if last["optimiser_steps"] != planned:
            against.append(
                f"the optimiser made {last['optimiser_steps']} steps in {last['export']} training steps, planned are "
                f"{planned}"
            )
    return Findings(some(against), some(missing))


def evals(case: Case) -> Findings:
    """Every planned eval, of the same questions."""
    facts = case.of("eval")
    have = {fact["step"] for fact in facts}
    absent = [step for step in case.plan.eval_steps if step not in have]
    against = []
    if case.plan.total_steps in absent:
        last = f"the last one is at step {max(have)}" if have else "there is none at all"
        against.append(f"the eval at the last step, {case.plan.total_steps}, is missing; {last}")
    missing = [f"planned evals are missing: step {short(absent)}"] if absent and not against else []
    for fact in facts:
        if fact["n"] != case.condition.data.test_rows:
            against.append(
                f"the eval at step {fact['step']} asked {fact['n']} questions of {case.condition.data.test_rows}"
            )
        if fact["samples"] != case.condition.eval.samples:
            against.append(
                f"the eval at step {fact['step']} took {fact['samples']} answers a question, "
                f"not {case.condition.eval.samples}"
            )
    if any(fact.get("questions") is None for fact in facts):
        missing.append("which questions were asked was not recorded")
    if len({fact.get("questions") for fact in facts}) > 1:
        against.append("the evals of this run did not all ask the same questions")
    return Findings(tuple(against), tuple(missing))
