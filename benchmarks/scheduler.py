"""The scheduler, measured: beside Ray Tune on the same machine in one run, and on its own at size.

python -m benchmarks.scheduler [--trials 100] [--without-tune]   → benchmarks/results/scheduler.md

Beside Ray Tune: trials that do nothing, each a process of its own on both sides, as many at once on both sides. What is
"overhead" is everything but the processes' own work, which is none. Then the driver is killed with SIGKILL in the
middle, started again, and what runs a second time is counted.

At size: a fleet that only remembers what it was asked (the scheduler's own work is what is measured), real SQLite, real
spools, real MLflow.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db import reads, submissions
from db.engine import open_registry
from db.records import Attempt
from db.states import TERMINAL
from experiment_specs.load import load_sweep
from orchestrator.fleet import head
from orchestrator.fleet.interface import Observation, Status
from orchestrator.plan import make_plan
from orchestrator.scheduler.decide import Node
from orchestrator.scheduler.loop import Scheduler
from orchestrator.settings import Settings
from orchestrator.submit import record, submission
from workers.events import Spool
from workers.launch import ray_on_loopback

SPEC = """\
sweep: many
base: bases/tiny-cpu.yaml
axes: {{dtype: [bf16, mxfp4]}}
seeds: [{seeds}]
"""
AT_ONCE = 2
NOOP = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); time.sleep(float(sys.argv[2]))"
"""A trial: a process that notes that it ran."""
KILL_AFTER = 0.4
"""Share of the trials that have run when the driver is killed."""


def sweep(folder: Path, runs: int) -> Any:
    spec = folder / "many.yaml"
    spec.write_text(SPEC.format(seeds=", ".join(str(seed) for seed in range(runs // 2))), encoding="utf-8")
    return make_plan(load_sweep(spec))


# ------------------------------------------------------------------ beside Ray Tune


def noop_worker(run_dir: Path) -> list[str]:
    """A worker that notes that it ran, and ends well by the event protocol."""
    return [sys.executable, "-m", "benchmarks.scheduler", "--worker", str(run_dir)]


def work(run_dir: Path) -> None:
    noted = Path(os.environ["AQN_NOTED"])
    with noted.open("a") as handle:
        handle.write(f"{os.getpid()}\n")
    spool = Spool(run_dir)
    time.sleep(float(os.environ.get("AQN_NOOP_SECONDS", "0")))
    spool.append("finished", {"ok": False, "error": "ValueError: it does nothing"}, durable=True)


def drive_ours(folder: Path, address: str, trials: int) -> None:
    """All runs to their end; a run that does nothing is not proven, and is not tried again."""
    from orchestrator.fleet.ray_fleet import RayFleet

    settings = Settings(folder / "home", f"sqlite:///{folder / 'registry.db'}")
    engine = open_registry(settings.registry_url)
    ids = [run.id for run in reads.runs(engine, sweep="many")] or record(engine, sweep(folder, trials)).all
    scheduler = Scheduler(settings, engine, RayFleet(address, noop_worker))
    while any(run.state not in TERMINAL for run in reads.runs(engine, ids=ids)):
        if not scheduler.tick():
            time.sleep(0.05)


def drive_tune(folder: Path, address: str, trials: int) -> None:
    import ray
    from ray import tune

    ray_on_loopback()  # the head listens there alone
    ray.init(address=address, log_to_driver=False)

    def trial(config: dict[str, Any]) -> None:
        command = [sys.executable, "-c", NOOP, os.environ["AQN_NOTED"], os.environ.get("AQN_NOOP_SECONDS", "0")]
        subprocess.run(command, check=True)
        tune.report({"score": float(config["seed"])})

    trainable = tune.with_resources(trial, {"CPU": 1, "GPU": 1})
    storage = str(folder / "tune")
    if tune.Tuner.can_restore(f"{storage}/many"):
        tuner = tune.Tuner.restore(f"{storage}/many", trainable, restart_errored=True, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"seed": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(max_concurrent_trials=AT_ONCE, reuse_actors=False),
            run_config=tune.RunConfig(name="many", storage_path=storage, verbose=0),
        )
    tuner.fit()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head with as many logical GPUs as runs at once, and what a driver needs in its environment."""
    settings = Settings(folder / "fleet", "")
    offered = head.logical_gpus
    head.logical_gpus = lambda: AT_ONCE
    try:
        started = head.up(settings)
        yield started.address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(settings.home / "ray-token")}
    finally:
        head.logical_gpus = offered
        head.down(settings)


def driven(which: str, trials: int, *, kill: bool, seconds: str) -> dict[str, float]:
    """One side: wall time, how many processes ran, and, where it is killed, how long until it went on."""
    folder = Path(tempfile.mkdtemp(prefix="aqn-bench-"))
    noted = folder / "noted"
    noted.touch()
    root = str(Path(__file__).resolve().parents[1])
    own = {"AQN_NOTED": str(noted), "AQN_NOOP_SECONDS": seconds, "PYTHONPATH": root}
    before = dict(os.environ)
    os.environ |= own  # the fleet's processes inherit them
    try:
        with cluster(folder) as (address, token):
            command = [
                sys.executable,
                "-m",
                "benchmarks.scheduler",
                "--drive",
                which,
                str(folder),
                address,
                str(trials),
            ]
            begin = time.monotonic()
            driver = subprocess.Popen(command, env=os.environ | token, stdout=subprocess.DEVNULL)
            if kill:
                while driver.poll() is None and len(noted.read_text().splitlines()) < KILL_AFTER * trials:
                    signal.sigtimedwait([], 0.05)
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                driver = subprocess.Popen(command, env=os.environ | token, stdout=subprocess.DEVNULL)
            if driver.wait() != 0:
                raise RuntimeError(f"{which} ended with {driver.returncode}")
            took = time.monotonic() - begin
        return {"seconds": took, "processes": len(noted.read_text().splitlines())}
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def beside_tune(trials: int) -> list[str]:
    lines = [
        "| | Ray Tune | this scheduler | ratio |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    tune = driven("tune", trials, kill=False, seconds="0")
    ours = driven("ours", trials, kill=False, seconds="0")
    lines.append(_row(f"{trials} trials that do nothing, {AT_ONCE} at once, s", tune["seconds"], ours["seconds"]))
    lines.append(_row("seconds a trial", tune["seconds"] / trials, ours["seconds"] / trials))
    few = max(10, trials // 4) // 2 * 2  # a sweep has two conditions
    killed_tune = driven("tune", few, kill=True, seconds="2")
    killed_ours = driven("ours", few, kill=True, seconds="2")
    extra = [side["processes"] - few for side in (killed_tune, killed_ours)]
    lines.append(f"| trials run a second time after SIGKILL of the driver, of {few} | {extra[0]:g} | {extra[1]:g} | |")
    return lines


def _row(what: str, one: float, other: float) -> str:
    return f"| {what} | {one:.2f} | {other:.2f} | {other / one:.2f} |"


# ------------------------------------------------------------------ at size


class RememberingFleet:
    """Every attempt that it was asked for runs, for ever."""

    def alive(self) -> bool:
        return True

    def close(self) -> None: ...

    def nodes(self) -> list[Node]:
        return [Node("n", 10_000)]

    def launch(self, attempt: Attempt, gpus: int) -> None: ...

    def observe(self, attempts: Sequence[Attempt]) -> Mapping[int, Observation]:
        return {a.id: Observation("alive", Status("host", 1, None, node_id="n")) for a in attempts}

    def capture(self, attempt: Attempt) -> None: ...
    def release(self, attempt: Attempt) -> None: ...


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = what()
    return time.perf_counter() - begin, found


def at_size() -> list[str]:
    lines = ["| | | asked for |", "|---|---:|---:|"]
    with tempfile.TemporaryDirectory(prefix="aqn-bench-") as folder:
        settings, engine = _registry(Path(folder) / "a")
        plan = sweep(Path(folder), 1000)
        made = submission(plan)
        seconds, _ = timed(lambda: submissions.submit(engine, made))
        lines.append(f"| recording a sweep of 1 000 runs | {seconds:.2f} s | ≤ 1 s |")
        lines.append(_ingest(Path(folder)))
        lines.append(_adopt(Path(folder), 500))
        lines.append(_quiet(Path(folder), 64))
        del settings
        engine.dispose()
    return lines


def _registry(home: Path) -> tuple[Settings, Engine]:
    home.mkdir(parents=True)
    settings = Settings(home, f"sqlite:///{home / 'registry.db'}")
    return settings, open_registry(settings.registry_url)


def _running(folder: Path, name: str, runs: int) -> tuple[Settings, Engine, list[Attempt]]:
    """A registry with runs under way, each with an order and a spool of a few steps."""
    settings, engine = _registry(folder / name)
    record(engine, sweep(folder, runs))
    scheduler = Scheduler(settings, engine, RememberingFleet())
    while any(run.state == "queued" for run in reads.runs(engine, limit=runs)):
        scheduler.tick()
    attempts = [run.attempts[-1] for run in reads.runs(engine, limit=runs)]
    for attempt in attempts:
        spool = Spool(attempt.run_dir)
        for step in range(1, 6):
            spool.append("step", {"step": step, "metrics": {"critic/score/mean": 0.5}})
    return settings, engine, attempts


def _adopt(folder: Path, runs: int) -> str:
    settings, engine, _ = _running(folder, "adopt", runs)
    scheduler = Scheduler(settings, engine, RememberingFleet())
    seconds, _ = timed(scheduler.tick)
    engine.dispose()
    return f"| a new scheduler's first look at {runs} live runs with news in every spool | {seconds:.2f} s | ≤ 10 s |"


def _quiet(folder: Path, runs: int) -> str:
    from orchestrator.scheduler.lead import QUIET_TICK_SECONDS

    settings, engine, _ = _running(folder, "quiet", runs)
    scheduler = Scheduler(settings, engine, RememberingFleet())
    scheduler.tick()
    ticks = 40
    begin = time.process_time()
    for _ in range(ticks):
        scheduler.tick()
    share = (time.process_time() - begin) / ticks / QUIET_TICK_SECONDS
    engine.dispose()
    return f"| {runs} runs of which nothing is new: share of a core | {100 * share:.2f} % | < 1 % |"


METRICS, STEPS = 50, 400


def _ingest(folder: Path) -> str:
    """From a spool on disk to rows in the registry and points in MLflow."""
    from orchestrator.ingest import pull
    from orchestrator.mlflow_projector import Projector

    settings, engine, attempts = _running(folder, "ingest", 2)
    attempt = attempts[0]
    spool = Spool(attempt.run_dir)
    metrics = {f"actor/metric-{number}": number / 7 for number in range(METRICS)}
    for step in range(6, 6 + STEPS):
        spool.append("step", {"step": step, "metrics": metrics})
    projector = Projector(settings, engine)
    projector.project(reads.runs(engine, ids=[attempt.run_id])[0])  # MLflow's tables are made now

    def through() -> None:
        pull(engine, attempt)
        projector.project(reads.runs(engine, ids=[attempt.run_id])[0])

    seconds, _ = timed(through)
    engine.dispose()
    return f"| metric points a second, from spool to registry and MLflow | {METRICS * STEPS / seconds:,.0f} | ≥ 5 000 |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--without-tune", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.worker)
        return
    if asked.drive:
        which, folder, address, trials = asked.drive
        (drive_tune if which == "tune" else drive_ours)(Path(folder), address, int(trials))
        return
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    text = ["# The scheduler, measured", "", f"{machine}. `python -m benchmarks.scheduler`", "", "## At size", ""]
    text += at_size()
    if not asked.without_tune:
        text += ["", "## Beside Ray Tune", "", *beside_tune(asked.trials)]
    print("\n".join(text))
    (Path(__file__).parent / "results" / "scheduler.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
