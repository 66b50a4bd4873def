"""One embedded run, from submit to its end: start-up by part, seconds a step, seconds an eval, peak memory.

``--vllm``: with rollouts by vLLM, by the Python of `.venv-vllm` and with PYTHONPATH=. .

Memory is the proportional set size (shared pages counted once) of all processes of the attempt, sampled twice a second.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import psutil

from workers.events import Event, read_events
from workers.launch import TOKEN_VARIABLE, read_order

REPOSITORY = Path(__file__).resolve().parents[1]
SPEC = """\
sweep: first-run
base: bases/tiny-cpu.yaml
set: {{steps_per_epoch: 12, eval: {{every: 6}}, dtype: mxfp4, aqn: standard, rollout: {rollout}}}
"""


class Peak:
    """Samples the memory of an attempt until it is told to stop."""

    def __init__(self, home: Path) -> None:
        self._home, self.bytes, self.processes = home, 0, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            for order in self._home.glob("runs/*/1/order.json"):
                self._sample(read_order(order.parent).token)

    def _sample(self, token: str) -> None:
        total = count = 0
        for process in psutil.process_iter():
            try:
                if process.environ().get(TOKEN_VARIABLE) == token:
                    total += process.memory_full_info().pss
                    count += 1
            except psutil.Error:
                continue
        if total > self.bytes:
            self.bytes, self.processes = total, count

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="aqn-bench-") as folder:
        home = Path(folder) / "home"
        environment = os.environ | {"AQN_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
        spec = Path(folder) / "first-run.yaml"
        spec.write_text(SPEC.format(rollout="vllm" if "--vllm" in sys.argv else "transformers"))
        aqn = [sys.executable, "-m", "orchestrator.cli.main"]
        peak = Peak(home)
        start = time.time()
        subprocess.run([*aqn, "submit", str(spec)], env=environment, check=True)
        end = time.time()
        peak.stop()
        subprocess.run([*aqn, "fleet", "down"], env=environment, check=True, capture_output=True)
        events, _ = read_events(next(home.glob("runs/*/1")))
    report(events, start, end, peak)


def report(events: list[Event], start: float, end: float, peak: Peak) -> None:
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print("seconds from submit to the first training step, by part")
    before = start
    for event in events:
        if event.kind == "phase":
            print(f"  {event.at - before:6.1f}  {event.data['name']}")
            before = event.at
    steps = [event for event in events if event.kind == "step"]
    print(f"  {steps[0].at - start:6.1f}  in all")
    timing = [event.data["metrics"] for event in steps]
    for part in ("step", "gen", "old_log_prob", "update_actor", "update_weights"):
        print(f"median seconds, {part:<15} {median(m[f'timing_s/{part}'] for m in timing):5.2f}")
    evals = [m["timing_s/testing"] for m in timing if "timing_s/testing" in m]
    print(f"median seconds, {'eval':<15} {median(evals):5.2f}   (500 questions)")
    print(f"whole command            {end - start:6.1f} s")
    print(f"peak memory              {peak.bytes / 2**30:6.1f} GiB in {peak.processes} processes")


if __name__ == "__main__":
    main()
