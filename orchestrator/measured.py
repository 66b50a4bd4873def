"""Registry → what verdicts and bug rules read of one attempt."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from db import reads
from orchestrator.verdict import Measured


def measured(engine: Engine, attempt_id: int) -> list[Measured]:
    """Everything recorded of an attempt, as the verdict reads it."""
    facts = [Measured(fact.kind, fact.data) for fact in reads.evidence(engine, attempt_id)]
    return facts + [Measured("step", step_facts(step, m)) for _, step, _, m in reads.steps(engine, attempt_id)]


def step_facts(step: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """A training step as the verdict reads it: what it learnt from."""
    return {"step": step, "prompts": metrics.get("aqn/prompts"), "trajectories": metrics.get("aqn/trajectories")}
