"""Latency of the commands that must feel instant: best of several starts, side by side with an empty Python."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO = REPOSITORY / "experiment_specs" / "sweeps" / "demo.yaml"
REPEATS = 7
THOUSAND = """\
sweep: thousand
base: bases/qwen2.5-1.5b-gsm8k-dapo.yaml
axes:
  dtype: [bf16, mxfp4, nvfp4, {preset: mxfp4, scale_rule: even}, {preset: mxfp4, exclude: ["*.layers.0.*"]}]
  aqn: [none, standard, high, lower, {preset: standard, layer_types: linear}]
  lora: [none, r32]
  epochs: [1, 2]
  optimiser.lr: [1e-6, 3e-6, 1e-5, 3e-5, 1e-4]
  algorithm.samples_per_prompt: [8, 16]
"""


def best(command: list[str], repeats: int = REPEATS) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir())
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    aqn = str(Path(sys.executable).with_name("aqn"))
    thousand = Path(tempfile.mkdtemp()) / "thousand.yaml"
    thousand.write_text(THOUSAND, encoding="utf-8")
    rows = [
        ("python -c pass", best([sys.executable, "-c", "pass"])),
        ("aqn --help", best([aqn, "--help"])),
        ("aqn plan demo.yaml", best([aqn, "plan", str(DEMO)])),
        ("aqn plan, 1 000 conditions", best([aqn, "plan", str(thousand)], 2)),
    ]
    print(f"best of {REPEATS} starts")
    for name, seconds in rows:
        print(f"  {name:<26} {1000 * seconds:6.0f} ms   {seconds / rows[0][1]:5.1f} x an empty Python")


if __name__ == "__main__":
    main()
