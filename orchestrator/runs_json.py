"""A run as `aqn runs --json` and `aqn show --json` print it. Keys are added, never renamed."""

from __future__ import annotations

from typing import Any

from db.reads import EvalPoint, Run


def run_as_json(run: Run, *, curves: bool = False) -> dict[str, Any]:
    result = {
        "run_id": run.id,
        "label": run.label,
        "aliases": [],
        "category": category(run.condition),
        "sweeps": list(run.sweeps),
        "seed": run.seed,
        "condition": run.condition,
        "condition_id": run.condition_id,
        "status": run.state,
        "verdict": run.verdict,
        "reasons": list(run.reasons),
        "validity": "valid" if run.verdict == "PROVEN" else "unverified",
        "score": _score(run, run.score),
        "peak": _score(run, run.peak, "best"),
        "bugs": [],
        "supersedes": None,
        "superseded_by": None,
        "epochs": run.condition["epochs"],
        "code_version": run.code_version,
        "run_dir": run.attempt.run_dir if run.attempt else None,
    }
    if curves:
        result["curve"] = [{"step": p.step, "percent": p.percent, "k": p.k, "n": p.n} for p in run.curve]
    return result


def _score(run: Run, point: EvalPoint | None, rule: str | None = None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "k": point.k,
        "n": point.n,
        "samples": point.samples,
        "percent": point.percent,
        "step": point.step,
        "rule": rule or run.score_rule.get("rule"),
        "mode": run.score_rule.get("mode"),
    }


def category(condition: dict[str, Any]) -> str:
    """The group in which a run is compared: hardware noise, adapters, or full fine-tuning on quantised weights."""
    if condition["hw_noise"] is not None:
        return "HW"
    return "LoRA" if condition["lora"] is not None else "Quant"
