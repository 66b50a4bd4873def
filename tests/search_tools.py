"""A search and runs of it that end without having run, with scores that depend on their noise."""

from __future__ import annotations

import base64
import math
import random

from sqlalchemy import Engine

from db import reads, writes
from db.records import Run
from orchestrator.scheduler.ending import end_judged
from orchestrator.settings import Settings

SEARCH = """\
search: light-search
base: bases/tiny-cpu.yaml
set: {{dtype: mxfp4, steps_per_epoch: 4, eval: {{every: 2}}}}
space:
  aqn.schedule: {{choices: [kstage, linear]}}
  aqn.sigma_start: {{low: 1.0e-3, high: 1.0e-1, log: true}}
  aqn.sigma_end: {{low: 1.0e-5, high: 1.0e-2, log: true}}
  aqn.num_stages: {{low: 3, high: 6, when: {{aqn.schedule: kstage}}}}
require: [{{at_most: [aqn.sigma_end, aqn.sigma_start]}}]
replicates: {{first: 1, up_to: 3}}
confirm: {{fresh_seeds: 2, top: 2, beside: {{standard: {{aqn: standard}}}}}}
budget: {{runs: {runs}}}
sampler: {{name: {sampler}, startup: 3}}
{more}
"""


def truth(run: Run) -> float:
    """Percent: noise of sigma 0.03 is best, and chance adds what it adds."""
    aqn = run.condition["aqn"]
    gain = 6 - 8 * abs(math.log10(aqn["sigma_start"] / 0.03)) if aqn else 0.0
    return 70 + gain + random.Random(f"{run.condition_id}/{run.seed}").gauss(0, 1)


def finish(engine: Engine, settings: Settings, run: Run, verdict: str = "PROVEN", steps: int | None = None) -> None:
    """Let a queued run come to its end with the score that it would have."""
    attempt = writes.begin_attempt(engine, run.id, settings.runs)
    assert attempt is not None
    k = round(truth(run) * 5)
    right = sum(1 << question for question in range(k)).to_bytes(63, "little")
    evals = [
        {"seq": 2 + index, "at": 1.0 + index, "step": step, "k": k if step else 250, "n": 500, "samples": 1,
         "questions": run.condition["data"]["test"][-9:], "outcomes": base64.b64encode(right).decode()}
        for index, step in enumerate((0, run.total_steps))
        if steps is None or step <= steps
    ]  # fmt: skip
    told = writes.Ingested(since=0, offset=9, seq=9, last_event_at=1.0, last_step=run.total_steps, evals=evals)
    writes.record_events(engine, attempt.id, attempt.token, run.id, told)
    if steps is None:
        ending = writes.Ending(
            "succeeded", "succeeded", "done", 0, None, verdict, () if verdict == "PROVEN" else ("no",)
        )
        assert end_judged(engine, reads.runs(engine, ids=[run.id])[0], ending, [])
