"""Both rollout engines on the tiny task with the same seeds: scores, probabilities beside the policy's, seconds a step.

In an environment that has vLLM: ``PYTHONPATH=. .venv-vllm/bin/python benchmarks/rollout_engines.py``.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from sqlalchemy import Engine

from db import reads
from db.engine import open_registry
from db.records import Run
from orchestrator.numbers import percent_with_interval

REPOSITORY = Path(__file__).resolve().parents[1]
SPEC = """\
sweep: engines
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 12, eval: {every: 6}, dtype: mxfp4}
axes: {rollout: [transformers, vllm]}
labels: {transformers: {rollout: transformers}, vllm: {rollout: vllm}}
seeds: [1, 2, 3]
contrasts: {same-scores: {vary: rollout, from: transformers, to: vllm, equal_within: 5}}
"""
DIFFERENCES = {
    "mean difference": "training/rollout_probs_diff_mean",
    "largest": "training/rollout_probs_diff_max",
    "correlation": "training/rollout_actor_probs_pearson_corr",
    "KL, nats a token": "rollout_corr/kl",
}


def main() -> None:
    out = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv else None
    with tempfile.TemporaryDirectory(prefix="aqn-bench-") as folder:
        home = Path(folder) / "home"
        environment = os.environ | {"AQN_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
        spec = Path(folder) / "engines.yaml"
        spec.write_text(SPEC, encoding="utf-8")
        aqn = [sys.executable, "-m", "orchestrator.cli.main"]
        try:
            subprocess.run([*aqn, "submit", str(spec)], env=environment, check=False)
        finally:
            subprocess.run([*aqn, "fleet", "down"], env=environment, check=False, capture_output=True)
        compared = subprocess.run(
            [*aqn, "compare", "--sweep", "engines", "--json"],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        engine = open_registry(f"sqlite:///{home / 'registry.db'}", create=False)
        text = report(engine, json.loads(compared.stdout))
        engine.dispose()
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


def report(engine: Engine, compared: Sequence[dict[str, object]]) -> str:
    runs = sorted(reads.runs(engine, sweep="engines"), key=lambda run: (run.label, run.seed))
    lines = [
        "# Both rollout engines on the tiny task",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()};"
        " `PYTHONPATH=. .venv-vllm/bin/python benchmarks/rollout_engines.py`. Twelve steps, mxfp4 weights.",
        "",
        "| | seed | verdict | score [95 %] | seconds a step | " + " | ".join(DIFFERENCES) + " |",
        "|---|---:|---|---:|---:|" + "---:|" * len(DIFFERENCES),
    ]
    for run in runs:
        score = percent_with_interval(run.score) if run.score else "–"
        means = [mean(engine, run, name) for name in ("timing_s/step", *DIFFERENCES.values())]
        lines.append(
            f"| {run.label} | {run.seed} | {run.verdict} | {score} | "
            + " | ".join("–" if m is None else f"{m:.3g}" for m in means)
            + " |"
        )
    lines += [
        "",
        "Means over training steps. The differences are of p and p', the probabilities of the sampled tokens by the"
        " rollout engine and by the policy's own forward of the same weights: they differ by the engine's kernels and"
        " rounding.",
        "",
    ]
    for one in compared:
        interval = one["interval"]
        assert isinstance(interval, list)
        lines.append(
            f"* {one['a']} → {one['b']}: {one['difference']:+.1f} points [{interval[0]:+.1f}, {interval[1]:+.1f}]"
            f" over seeds {one['seeds']}: {one['verdict']}."
        )
    return "\n".join(lines) + "\n"


def mean(engine: Engine, run: Run, name: str) -> float | None:
    if run.attempt is None:
        return None
    found = [metrics[name] for _, _, _, metrics in reads.steps(engine, run.attempt.id) if name in metrics]
    return fmean(found) if found else None


if __name__ == "__main__":
    main()
