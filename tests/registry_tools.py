"""Runs that end without having run: what tests of the registry need of a run's facts, and nothing else of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db import reads, writes
from orchestrator.measured import measured
from orchestrator.scheduler.ending import end_judged

QUESTIONS = 16


def probe(error: float, unquantised: float = 0.1) -> dict[str, Any]:
    """A gradient probe that is off by ``error`` from what Q(W) gives, and by ``unquantised`` from what W gives."""
    return {
        "export": 0, "module": "model.layers.0.mlp.up_proj", "input_error": error,
        "input_error_unquantised": unquantised,
    }  # fmt: skip


def sync(planned: float, realised: float) -> dict[str, Any]:
    return {
        "step": 0, "serves": 1, "sigma_planned": planned, "realised": {"std": realised, "modules": 5 if realised else 0},
        "layers": {"multiplier": [1.0, 1.0]},
    }  # fmt: skip


def packed(right: int) -> str:
    return base64.b64encode(((1 << right) - 1).to_bytes(2, "little")).decode()


def finish(
    engine: Engine, run_id: str, verdict: str = "PROVEN", facts: list[tuple[str, dict[str, Any]]] | None = None,
    right: int = 9, state: str = "succeeded", at_start: int = 4, last: int | None = None, questions: str = "q",
) -> None:  # fmt: skip
    """An attempt with an eval at the start and at the end, ended as a scheduler ends it, and judged by the rules."""
    attempt = writes.begin_attempt(engine, run_id, Path("runs"))
    assert attempt is not None
    last = reads.runs(engine, ids=[run_id])[0].total_steps if last is None else last
    common = {"n": QUESTIONS, "samples": 1, "questions": questions, "at": 1.0}
    evals = [
        {"seq": 1, "step": 0, "k": at_start, "outcomes": packed(at_start), **common},
        {"seq": 2, "step": last, "k": right, "outcomes": packed(right), **common},
    ]
    evidence = [{"seq": 10 + i, "at": 2.0, "kind": kind, "data": data} for i, (kind, data) in enumerate(facts or [])]
    new = writes.Ingested(
        since=0, offset=1, seq=10 + len(evidence), last_event_at=2.0, last_step=last, evals=evals, evidence=evidence
    )
    assert writes.record_events(engine, attempt.id, attempt.token, run_id, new)
    reasons = () if verdict == "PROVEN" else ("as the test wants",)
    ending = writes.Ending(state, state, "done", 0, None, verdict, reasons)
    run = reads.runs(engine, ids=[run_id])[0]
    assert end_judged(engine, run, ending, measured(engine, attempt.id))
