"""A run as `aqn runs --json` and `aqn show --json` print it. Keys are added, never renamed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from db.records import EvalPoint, Link, Mark, Run


def run_as_json(run: Run, *, curves: bool = False) -> dict[str, Any]:
    result = {
        "run_id": run.id,
        "kind": run.kind,
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
        "validity": run.validity,
        "score": _score(run, run.score),
        "peak": _score(run, run.peak, "best"),
        "bugs": marks_as_json(run.marks),
        "supersedes": run.supersedes,
        "superseded_by": run.superseded_by,
        "epochs": run.condition["epochs"],
        "code_version": run.code_version,
        "run_dir": run.attempt.run_dir if run.attempt else None,
    }
    if run.kind == "eval":  # its condition is the evaluated one: the run that trained the checkpoint has its own
        source = run.plan["source"]
        result |= {"re_evaluates": source["run"], "checkpoint_step": source["step"], "mode": run.plan["mode"]}
    if curves:
        result["curve"] = [{"step": p.step, "percent": p.percent, "k": p.k, "n": p.n} for p in run.curve]
    return result


def standing(run: Run) -> str:
    """In a word what keeps a score from being used: the verdict where it is not PROVEN, else what bugs make of it."""
    if run.verdict != "PROVEN" or run.validity == "valid":
        return run.verdict or run.state
    bugs = ", ".join(mark.bug for mark in run.marks if mark.open and mark.effect != "none")
    return f"{run.validity}: {bugs}" if bugs else run.validity


def marks_as_json(marks: Iterable[Mark]) -> list[dict[str, Any]]:
    """What bugs are to a run; withdrawn ones are history alone (`aqn show`)."""
    return [
        {
            "bug": mark.bug, "state": mark.state, "effect": "none" if mark.state == "waived" else mark.effect,
            "disposition": mark.disposition,
            "version": mark.rule_version,
            "facts": list(mark.facts), "by": mark.by, "at": mark.at, "why": mark.why, "replacement": mark.replacement,
        }
        for mark in marks
        if mark.state != "withdrawn"
    ]  # fmt: skip


def links_as_json(own: str, links: Iterable[Link]) -> list[dict[str, Any]]:
    return [
        {"kind": li.kind, "from": li.source, "to": li.target, "why": li.why, "outward": li.source == own}
        for li in links
    ]


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
