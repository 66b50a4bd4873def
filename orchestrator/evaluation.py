"""Re-evaluating a checkpoint in a stated numeric mode: which checkpoint, as which condition, by which run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db import reads, writes
from db.reads import Run
from db.writes import NewRun
from experiment_specs.errors import SpecError
from experiment_specs.language import CONDITION_SCHEMA, Aqn, Condition
from experiment_specs.presets import presets
from experiment_specs.schedules import sigma_at
from orchestrator.verdict.evaluation import Saved
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


def evaluated(condition: Condition, mode: str, plan: dict[str, Any], step: int) -> Condition:
    """The condition in the stated mode. Raises :class:`SpecError` for a mode that does not fit it."""
    changes: dict[str, Any] = {"aqn": None, "srdd": None}
    for word in [part.strip() for part in mode.split(",")]:
        name, _, value = word.partition("=")
        if name not in MODES or (value and name != "noised"):
            raise _wrong("is no mode", word)
        if name in ("unquantised", "mxfp4", "nvfp4"):
            meaning = presets()["dtype"]["bf16" if name == "unquantised" else name]
            kept = {"include": condition.dtype.include, "exclude": condition.dtype.exclude}
            changes["dtype"] = type(condition.dtype).model_validate({**meaning, **kept})
        elif name == "noised":
            changes |= _noised(condition, value, plan, step)
        elif name in ("merged", "adapters"):
            if condition.lora is None:
                raise _wrong("needs a run with adapters, and this one has none", word)
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
        raise _wrong("is no sigma, as noised=0.01", f"noised={value}") from None
    if sigma is None:
        if own is None:
            raise _wrong("this run had no noise: say how much, as noised=0.01", "noised")
        sigma = sigma_at(own, step, int(plan["total_steps"]), int(plan["steps_per_epoch"]))
    if not 0 < sigma < 10:
        raise _wrong(f"sigma must be between 0 and 10, and is {sigma:g}", f"noised={value}" if value else "noised")
    noise = Aqn(
        schedule="linear", sigma_start=sigma, sigma_end=sigma, during_eval=True,
        layer_types=own.layer_types if own else "rmsnorm", multipliers=own.multipliers if own else None,
    )  # fmt: skip
    return {"aqn": noise, "srdd": condition.srdd}


def _wrong(problem: str, value: str) -> SpecError:
    return SpecError(problem, key="--mode", value=value, accepted=MODES)


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
    data = checkpoint(engine, run, step)
    own = Condition.model_validate(run.condition, strict=False)
    at = int(data["step"])
    condition = evaluated(own, mode, run.plan, at)
    source = {
        "run": run.id, "attempt": run.attempts[-1].id, "step": at, "checkpoint": data["path"], "files": data["files"],
        "dtype": run.condition["dtype"], "merged": own.lora is not None and own.lora.sync == "merged",
    }  # fmt: skip
    new = NewRun(
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
    rule = {"rule": "final", "mode": mode}
    return writes.evaluation(engine, new, run.id, run.waits_for, rule, code_version().id, CONDITION_SCHEMA, priority)


def saved(engine: Engine, run: Run) -> Saved | None:
    """What the training run said of the weights that an evaluation is to load."""
    source = run.plan["source"]
    exported = [
        fact.data
        for fact in reads.evidence(engine, source["attempt"], kinds=("exported",))
        if fact.data["export"] == source["step"]
    ]
    if not exported:
        return None
    return Saved(source["step"], source["merged"], exported[-1]["used" if source["merged"] else "weights"])


def of_run(engine: Engine, run_id: str) -> Sequence[Run]:
    """The evaluations of a run's checkpoints, oldest first."""
    run = reads.runs(engine, ids=[run_id])[0]
    ids = [link.source for link in run.links if link.kind == "re-evaluation-of" and link.target == run_id]
    return reads.runs(engine, ids=ids)
