"""Re-evaluating a checkpoint in a stated numeric mode: which checkpoint, as which condition, by which run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db import reads, submissions
from db.records import Run
from db.submissions import NewRun
from experiment_specs.errors import SpecError
from experiment_specs.language import CONDITION_SCHEMA, Aqn, Condition
from experiment_specs.presets import presets
from experiment_specs.schedules import sigma_at
from orchestrator.measured import measured
from orchestrator.verdict import PROVEN, Measured, PlannedSteps, Verdict
from orchestrator.verdict.evaluation import Saved, judge_training
from workers.launch import code_version

MODES: dict[str, str] = {
    "native": "as it was trained, noise lifted: the mode of a run's own scores",
    "unquantised": "weights in 16 bit instead of the run's number format",
    "mxfp4": "weights in MXFP4",
    "nvfp4": "weights in NVFP4",
    "noised": "with the noise of the run's last training step; noised=0.01 for another sigma",
    "merged": "adapters merged into the base",
    "adapters": "adapters beside the base",
    "exact": "without the run's imitated hardware errors",
}
"""Words of ``--mode``; several are joined by commas."""


_SETS = {
    "native": "everything", "unquantised": "the number format", "mxfp4": "the number format",
    "nvfp4": "the number format", "noised": "noise", "merged": "adapters", "adapters": "adapters",
    "exact": "hardware errors",
}  # fmt: skip


def evaluated(condition: Condition, mode: str, plan: dict[str, Any], step: int) -> Condition:
    """The condition in the stated mode. Raises :class:`SpecError` for a mode that does not fit it."""
    changes: dict[str, Any] = {"aqn": None, "srdd": None}
    words = [part.strip() for part in mode.split(",")]
    seen: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in MODES or (value and name != "noised"):
            raise SpecError("is no mode", key="--mode", value=word, accepted=MODES)
        other = seen.setdefault(_SETS[name], name)
        if other != name or words.count(word) > 1 or ("everything" in seen and len(words) > 1):
            raise _unfit(f"{mode}: says twice what {_SETS[name]} should be")
        if name in ("unquantised", "mxfp4", "nvfp4"):
            meaning = presets()["dtype"]["bf16" if name == "unquantised" else name]
            kept = {"include": condition.dtype.include, "exclude": condition.dtype.exclude}
            changes["dtype"] = type(condition.dtype).model_validate({**meaning, **kept})
        elif name == "noised":
            changes |= _noised(condition, value, plan, step)
        elif name in ("merged", "adapters"):
            if condition.lora is None:
                raise _unfit(f"{name} needs a run with adapters, and this one has none")
            sync = "merged" if name == "merged" else "adapter"
            changes["lora"] = condition.lora.model_copy(update={"sync": sync})
        elif name == "exact":
            changes["hw_noise"] = None
    return Condition.model_validate(condition.model_copy(update=changes).model_dump(mode="json"), strict=False)


def _noised(condition: Condition, value: str, plan: dict[str, Any], step: int) -> dict[str, Any]:
    own = condition.aqn
    try:
        sigma = float(value) if value else None
    except ValueError:
        raise _unfit(f"noised={value}: is no sigma, as noised=0.01") from None
    if sigma is None:
        if own is None:
            raise _unfit("this run had no noise: say how much, as noised=0.01")
        sigma = sigma_at(own, step, int(plan["total_steps"]), int(plan["steps_per_epoch"]))
    if not 0 < sigma < 10:
        raise _unfit(f"sigma must be between 0 and 10, and is {sigma:g}")
    noise = Aqn(
        schedule="linear", sigma_start=sigma, sigma_end=sigma, during_eval=True,
        layer_types=own.layer_types if own else "rmsnorm", multipliers=own.multipliers if own else None,
    )  # fmt: skip
    return {"aqn": noise, "srdd": condition.srdd}


def _unfit(problem: str) -> SpecError:
    return SpecError(problem, key="--mode")


def checkpoint(engine: Engine, run: Run, step: int | None) -> dict[str, Any]:
    """The run's last checkpoint that is kept, or that of ``step``. Raises :class:`SpecError` where there is none."""
    facts = reads.evidence(engine, run.attempt.id, kinds=("checkpoint", "checkpoint_removed")) if run.attempt else []
    removed = {fact.data["step"] for fact in facts if fact.kind == "checkpoint_removed"}
    kept = {f.data["step"]: f.data for f in facts if f.kind == "checkpoint" and f.data["step"] not in removed}
    there = {s: data for s, data in kept.items() if Path(data["path"]).is_dir()}
    wanted = step if step is not None else max(there, default=None)
    if wanted is None or wanted not in there:
        have = f"it has those of step {', '.join(map(str, there))}" if there else "it has none"
        raise SpecError(
            f"no checkpoint of {run.label}{f' at step {step}' if step is not None else ''}: {have}",
            key="RUN", value=run.id,
        )  # fmt: skip
    return there[wanted]


def request(engine: Engine, run: Run, mode: str, step: int | None, priority: int = 0) -> str:
    """Queue the evaluation; returns its run's id. Raises :class:`SpecError` for what cannot be evaluated."""
    new = order(engine, run, mode, step)
    return submissions.evaluation(engine, new, run.id, run.waits_for, code_version().id, CONDITION_SCHEMA, priority)


def score_rule(mode: str) -> dict[str, Any]:
    return {"rule": "final", "mode": mode}


def order(engine: Engine, run: Run, mode: str, step: int | None) -> NewRun:
    """The run that evaluates a checkpoint. Raises :class:`SpecError` for what cannot be evaluated."""
    if run.state in ("queued", "running"):
        raise SpecError(f"{run.label} is {run.state}: its checkpoints are not final", key="RUN", value=run.id)
    data = checkpoint(engine, run, step)
    own = Condition.model_validate(run.condition, strict=False)
    at = int(data["step"])
    condition = evaluated(own, mode, run.plan, at)
    source = {
        "run": run.id, "attempt": run.attempts[-1].id, "step": at, "checkpoint": data["path"], "files": data["files"],
        "dtype": run.condition["dtype"], "merged": own.lora is not None and own.lora.sync == "merged",
    }  # fmt: skip
    return NewRun(
        kind="eval",
        label=f"{run.label}, {mode}"[:200],
        condition_id=condition.id,
        condition=condition.model_dump(mode="json"),
        seed=run.seed,
        plan={"total_steps": at, "steps_per_epoch": at, "eval_steps": [at], "keep": "none", "mode": mode,
              "source": source},
        gpus=run.gpus,
        overrides=run.overrides,
    )  # fmt: skip


def saved(engine: Engine, run: Run) -> Saved | None:
    """What the training run said of the weights that an evaluation is to load, and of itself."""
    source = run.plan["source"]
    facts = measured(engine, source["attempt"])
    exported = [f.data for f in facts if f.kind == "exported" and f.data["export"] == source["step"]]
    started = next((f.data for f in facts if f.kind == "started"), {})
    asked = next((f.data.get("questions") for f in facts if f.kind == "eval"), None)
    if not exported:
        return None
    trained = reads.runs(engine, ids=[source["run"]])[0]
    return Saved(
        source["step"], source["merged"], exported[-1]["used" if source["merged"] else "weights"],
        started.get("fingerprints", {}), asked, _of_training(engine, trained, facts),
    )  # fmt: skip


def _of_training(engine: Engine, trained: Run, facts: Sequence[Measured]) -> Verdict:
    """What was proven when the run ended stays so: later versions ask for facts that it did not record."""
    if trained.verdict == PROVEN:
        return Verdict(PROVEN)
    return judge_training(*planned(engine, trained), facts)


def planned(engine: Engine, run: Run) -> tuple[Condition, PlannedSteps]:
    """What a training run was to be."""
    scan = scan_for(engine, run)
    plan = PlannedSteps(
        run.total_steps, tuple(run.plan["eval_steps"]), int(run.plan["steps_per_epoch"]), run.code_version,
        scan_errors=tuple(scan["errors"]) if scan else None,
        scanned_model=scan["model"] if scan else None,
    )  # fmt: skip
    return Condition.model_validate(run.condition, strict=False), plan


def scan_for(engine: Engine, run: Run) -> dict[str, Any] | None:
    """The layer scan that a run waited for: which run made it, of which model, and the errors by layer."""
    if run.waits_for is None:
        return None
    first = reads.runs(engine, ids=[run.waits_for])[0]
    facts = reads.evidence(engine, first.attempts[-1].id, kinds=("scan",)) if first.attempts else []
    if not facts:
        return None
    data = facts[-1].data
    return {"run": first.id, "model": data["model"], "errors": data["layers"]["relative_error"]}
