"""What runs of a sweep with a budget are expected to take, remembered for a while."""

from __future__ import annotations

import time

from sqlalchemy import Engine

from db import reads
from db.steering import OpenRun
from orchestrator.history import history, pasts
from orchestrator.price import Past, price
from orchestrator.steps import plan_steps
from orchestrator.words import readable

SECONDS = 300.0


class Prices:
    """GPU-hours of a run, by runs like it that the registry holds; 0 where there are none."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[tuple[str, int], float] = {}
        self._pasts: list[Past] = []
        self._read_at = float("-inf")

    def of(self, run: OpenRun) -> float:
        if run.kind != "train":
            return 0.0
        if time.monotonic() - self._read_at > SECONDS:
            self._pasts = pasts(self._engine, history(self._engine))
            self._known.clear()
            self._read_at = time.monotonic()
        key = (run.condition_id, run.gpus)
        if key not in self._known:
            condition = readable(reads.conditions(self._engine, [run.condition_id])[run.condition_id])
            found = price(condition, plan_steps(condition), 1, run.gpus, self._pasts) if condition else None
            self._known[key] = found.hours if found is not None else 0.0
        return self._known[key]
