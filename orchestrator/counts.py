"""What runs did, by their own count, from the registry."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine

from db import reads
from db.records import Run
from orchestrator.arms import Counts


def counts_of(engine: Engine, runs: Sequence[Run]) -> dict[str, Counts]:
    """Run id → counts of its last attempt, for runs that have a training step."""
    attempts = {run.attempts[-1].id: run.id for run in runs if run.attempts}
    found = {}
    for attempt_id, (step, metrics) in reads.last_steps(engine, list(attempts)).items():
        moved = reads.evidence(engine, attempt_id, kinds=("moved",))
        found[attempts[attempt_id]] = Counts(
            training_steps=step,
            optimiser_steps=moved[-1].data["optimiser_steps"] if moved else None,
            trajectories=metrics.get("aqn/trajectories"),
            prompts_generated=metrics.get("aqn/prompts_generated"),
            prompts_kept=metrics.get("aqn/prompts_kept"),
        )
    return found


def in_words(counts: Counts) -> str:
    """One sentence."""
    parts = [f"{counts.training_steps} training steps"]
    if counts.optimiser_steps is not None:
        parts.append(f"{counts.optimiser_steps} optimiser steps")
    if counts.trajectories is not None:
        parts.append(f"{counts.trajectories:g} answers a step")
    if counts.prompts_generated is not None and counts.prompts_kept is not None:
        parts.append(f"{counts.prompts_generated:g} prompts generated, {counts.prompts_kept:g} kept")
    return ", ".join(parts)
