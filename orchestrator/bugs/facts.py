"""What bug rules may ask of a run or a claim, from evidence to one small record. Pure.

``FACTS`` of :mod:`experiment_specs.bug_rules` names and explains every fact. A section that is None, or a name that is
not there, was never recorded.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from db.records import EvalPoint, NewFacts, Run
from experiment_specs.claims import ClaimedRun, Group
from experiment_specs.language import Condition
from experiment_specs.modules import is_adapter, is_block_linear
from orchestrator.claimed_counts import claimed_count, claimed_counts
from orchestrator.steps import plan_steps
from orchestrator.verdict import Measured
from orchestrator.verdict.gradients import GRADIENT_TOLERANCE

FACTS_VERSION = 1
"""Raised when a fact is added or means something else: older records are made anew from evidence."""


def facts_of_run(run: Run, facts: Iterable[Measured], outcomes: Mapping[int, bytes]) -> NewFacts:
    """Of a run that has ended. ``outcomes``: step → packed answers, of the first eval and the score's."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for fact in facts:
        by_kind.setdefault(fact.kind, []).append(fact.data)
    condition = _typed(run)
    score = run.score
    answers = hashed(outcomes.get(score.step)) if score is not None else None
    checkpoint = _checkpoint(by_kind.get("checkpoint", ()))
    started = (by_kind.get("started") or [{}])[0]
    body = {
        "condition": run.condition,
        "seed": run.seed,
        "code": code_of_run(run, started),
        "derived": _derived(condition) if condition is not None else None,
        "evidence": _evidence(condition, by_kind, run),
        "artefact": {"checkpoint": checkpoint, "answers": answers},
        "score": _score_of_run(run, score, outcomes),
        "record": {
            "kind": "run", "state": run.state, "verdict": run.verdict, "label": run.label,
            "attempts": len(run.attempts),
        },
    }  # fmt: skip
    telling = score is not None and 0 < score.k < score.n * score.samples
    return NewFacts(run.id, FACTS_VERSION, body, answers if telling else None, checkpoint)


def unreadable(run: Run) -> NewFacts:
    """Of a run whose evidence cannot be understood: that it was, and nothing else."""
    record = {"kind": "run", "state": run.state, "verdict": run.verdict, "label": run.label}
    return NewFacts(run.id, FACTS_VERSION, {"record": record, "seed": run.seed}, None, None)


def _typed(run: Run) -> Condition | None:
    try:
        return Condition.model_validate(run.condition, strict=False)
    except ValidationError:  # written by a version whose rules were looser
        return None


def hashed(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()[:16]


def code_of_run(run: Run, started: Mapping[str, Any]) -> dict[str, Any]:
    code = started.get("code") or {}
    return {"id": run.code_version, "commit": code.get("commit"), "date": _day(run.created_at)}


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def _derived(condition: Condition) -> dict[str, Any]:
    steps = plan_steps(condition)
    return {
        "steps_per_epoch": steps.per_epoch,
        "total_steps": steps.total,
        "optimiser_updates": steps.optimiser_updates,
        "total_steps_modulo_eval_every": steps.total % condition.eval.every,
        "last_eval_step": max(steps.evals, default=0),
        "answers_a_step": condition.batch.prompts * condition.algorithm.samples_per_prompt,
    }


def _evidence(condition: Condition | None, by_kind: Mapping[str, list[Mapping[str, Any]]], run: Run) -> dict[str, Any]:
    """Facts of kinds that were recorded at all: what is absent was never recorded."""
    found: dict[str, Any] = {"eval.count": len(run.curve)}
    if run.curve:
        found["eval.last_step"] = run.curve[-1].step
        found["eval.at_last_step"] = run.curve[-1].step >= run.total_steps
    if condition is not None:
        found |= _gradients(condition, by_kind.get("gradient_probe", ()))
    found |= _noise(condition, by_kind)
    found |= _quantised(by_kind.get("quantised", ()))
    found |= _course(condition, by_kind, run.total_steps)
    return found


def _gradients(condition: Condition, probes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    base = [probe for probe in probes if not is_adapter(probe["module"])]
    if not base:
        return {}
    rounding = GRADIENT_TOLERANCE[condition.compute]
    return {
        "gradient_probe.count": len(base),
        "gradient_probe.relative_error": max(probe["input_error"] for probe in base),
        "gradient_probe.used_unquantised": sum(
            probe["input_error_unquantised"] <= rounding < probe["input_error"] for probe in base
        ),
    }


def _noise(condition: Condition | None, by_kind: Mapping[str, list[Mapping[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    syncs, evals = by_kind.get("sync", ()), by_kind.get("eval_mode", ())
    if syncs:
        layers = [sync["layers"]["multiplier"] for sync in syncs if sync.get("layers")]
        found |= {
            "aqn.largest_sigma_planned": max(sync["sigma_planned"] for sync in syncs),
            "aqn.largest_sigma_realised": max(sync["realised"]["std"] for sync in syncs),
            "aqn.modules_noised": max(sync["realised"]["modules"] for sync in syncs),
        }
        if layers:
            found["aqn.multipliers"] = len({round(m, 9) for each in layers for m in each})
    if evals:
        found["eval.noise_left_on"] = max(fact["realised"]["std"] for fact in evals)
        merged = condition is not None and condition.lora is not None and condition.lora.sync == "merged"
        if not merged:  # Q(W) + BA is on no grid
            found["eval.off_grid"] = max(fact["watched"] - fact["on_grid"] for fact in evals)
    return found | _hardware(condition, by_kind.get("noisy_ops", ()))


def _hardware(condition: Condition | None, facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    largest: dict[tuple[str, str], float] = {}
    for fact in facts:
        for op, seen in fact["ops"].items():
            key = (fact["phase"], op)
            largest[key] = max(largest.get(key, 0.0), seen["relative_std"])
    if not largest:
        return {}
    found = {"hw_noise.largest_relative_error": max(largest.values())}
    if condition is not None and condition.hw_noise is not None:
        found["hw_noise.least_of_planned"] = min(largest.values()) / condition.hw_noise.scale
    return found


def _quantised(facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    policy = [fact for fact in facts if fact.get("role") != "reference"]
    if not policy:
        return {}
    names = {name for fact in policy for name in fact["quantised"]}
    adapters = {name for name in names if is_adapter(name)}
    return {
        "quantised.modules": len(names),
        "quantised.adapters": len(adapters),
        "quantised.outside_blocks": sum(not is_block_linear(name) for name in names - adapters),
    }


def _course(
    condition: Condition | None, by_kind: Mapping[str, list[Mapping[str, Any]]], promised: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    steps = by_kind.get("step", ())
    if planned := by_kind.get("planned"):
        done = max((fact["step"] for fact in steps), default=0)
        found |= {"steps.planned": int(planned[-1]["total_steps"]), "steps.executed": done}
        if promised:
            found["steps.executed_share"] = done / promised
    learnt = [fact["trajectories"] for fact in steps if fact.get("trajectories") is not None]
    if learnt:
        found |= {"answers_a_step.least": min(learnt), "answers_a_step.most": max(learnt)}
        if condition is not None:
            planned_answers = condition.batch.prompts * condition.algorithm.samples_per_prompt
            found["answers_a_step.most_of_planned"] = max(learnt) / planned_answers
    if moved := by_kind.get("moved"):
        found["moved.all"] = max(moved[-1][group] for group in ("block_linears", "adapters", "other"))
    if started := by_kind.get("started"):
        found["plugins"] = ", ".join(started[0].get("plugins") or []) or None
    return found


def _checkpoint(facts: Sequence[Mapping[str, Any]]) -> str | None:
    """Hash of the hashes of the last checkpoint's weight files."""
    files = facts[-1]["files"] if facts else {}
    weights = {name: digest for name, digest in files.items() if name.endswith((".pt", ".safetensors", ".bin"))}
    weights = {name: digest for name, digest in weights.items() if "model" in name.rpartition("/")[2]} or weights
    return hashed(json.dumps(weights, sort_keys=True).encode()) if weights else None


def _score_of_run(run: Run, score: EvalPoint | None, outcomes: Mapping[int, bytes]) -> dict[str, Any] | None:
    if score is None:
        return None
    first = run.curve[0]
    same = None
    telling = 0 < score.k < score.n * score.samples  # all wrong twice is no surprise
    if first.step == 0 < score.step and telling and {0, score.step} <= outcomes.keys():
        same = outcomes[0] == outcomes[score.step]
    found = {
        "percent": score.percent, "right": score.k, "integral": True, "step": score.step,
        "rule": run.score_rule.get("rule", "final"), "at_last_step": score.step == run.total_steps,
    }  # fmt: skip
    return found | ({"same_as_at_start": same} if same is not None else {})


# ---------------------------------------------------------------------------------------------------------- claims


def facts_of_claim(  # noqa: PLR0917 - what a history says of one run
    subject: str, claim: ClaimedRun, condition: Condition | None, group: Group | None, recorded: str,
    questions: int | None,
) -> NewFacts:  # fmt: skip
    """Of a claim nothing was measured: what people wrote of its steps and score is all there is."""
    planned = claim.first("planned_steps") or (group.planned_steps if group else None)
    done = claim.first("executed_steps") or (max(group.executed_steps) if group and group.executed_steps else None)
    evidence: dict[str, Any] = {}
    if isinstance(planned, int):
        evidence["steps.planned"] = planned
    if isinstance(done, int):
        evidence["steps.executed"] = done
    if isinstance(planned, int) and isinstance(done, int) and planned:
        evidence["steps.executed_share"] = done / planned
    if group is not None and group.eval_steps:
        evidence["eval.last_step"] = max(group.eval_steps)
        if isinstance(planned, int):
            evidence["eval.at_last_step"] = max(group.eval_steps) >= planned
    score = None
    if (percent := claimed_percent(claim)) is not None:
        score = {"percent": percent, "rule": "claimed"}
        if questions:
            possible = bool(claimed_counts(claim, percent, questions))
            score |= {"right": claimed_count(claim, percent, questions), "integral": possible}
        step = claim.first("score_step")
        score |= {"step": step} if step is not None else {}
        if isinstance(step, int) and isinstance(planned, int):
            score["at_last_step"] = step >= planned
    body = {
        "condition": condition.model_dump(mode="json") if condition is not None else None,
        "seed": None,
        "code": {"id": None, "commit": None, "date": recorded},
        "derived": _derived(condition) if condition is not None else None,
        "evidence": evidence,
        "artefact": {},
        "score": score,
        "record": {"kind": "claim", "state": "imported", "verdict": "UNPROVEN", "label": claim.label},
    }
    return NewFacts(subject, FACTS_VERSION, body, None, None)


def claimed_percent(claim: ClaimedRun) -> float | None:
    """The score as the first place has it; of a curve, its last point."""
    said = claim.first("score")
    if isinstance(said, float | int):
        return float(said)
    return claim.curve[-1].percent if claim.curve else None
