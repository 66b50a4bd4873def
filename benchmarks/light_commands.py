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


def best(command: list[str]) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir())
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    aqn = str(Path(sys.executable).with_name("aqn"))
    rows = [
        ("python -c pass", best([sys.executable, "-c", "pass"])),
        ("aqn --help", best([aqn, "--help"])),
        ("aqn plan demo.yaml", best([aqn, "plan", str(DEMO)])),
    ]
    print(f"best of {REPEATS} starts")
    for name, seconds in rows:
        print(f"  {name:<20} {1000 * seconds:6.0f} ms   {seconds / rows[0][1]:5.1f} x an empty Python")


if __name__ == "__main__":
    main()
