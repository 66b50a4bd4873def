"""SIGKILL at every named place of :mod:`experiment_specs.faults`, and what is lost or doubled by it.

``python -m tests.chaos [N]``: N repetitions, the places in turn. A repetition is a sweep of two runs of light workers
on a real Ray, with a registry, a scheduler process and, where it is its turn, MLflow, of its own. The process that comes
to the place dies there; the scheduler is started again until all is over; then everything is counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from db import reads, steering, wishes
from db.engine import open_registry
from db.schema import AttemptRow, EvalRow, EvidenceRow, RunRow, StepRow, TransitionRow
from db.states import RUN_MOVES, TERMINAL
from experiment_specs.faults import ONCE_VARIABLE, PLACES, VARIABLE
from experiment_specs.load import load_sweep
from orchestrator.plan import make_plan
from orchestrator.settings import Settings, load_settings
from orchestrator.submit import record
from tests.light_worker import command
from workers.events import read_events

SPEC = """\
sweep: chaos
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 4, eval: {every: 2}}
checkpoints: {every: 1}
axes: {dtype: [bf16, mxfp4]}
labels: {a: {dtype: bf16}, b: {dtype: mxfp4}}
"""
WORKERS = ("spool", "resume", "checkpoint")
"""Places that trainers pass, and not the scheduler."""
TRAINER_FAULT = "AQN_TRAINER_FAULT"
MOST_STARTS = 5
CURVE = [(0, 250), (2, 252), (4, 254)]
"""What an undisturbed run answers."""


# ------------------------------------------------------------------ the process that is killed


def scheduling(spec: Path, address: str, place: str) -> None:
    """As `aqn submit` does it, until all is over; prints what is left on the fleet."""
    from orchestrator.fleet.ray_fleet import RayFleet
    from orchestrator.mlflow_projector import Projector
    from orchestrator.scheduler.leadership import leadership
    from orchestrator.scheduler.loop import Scheduler

    settings = load_settings()
    engine = open_registry(settings.registry_url)
    ids = record(engine, make_plan(load_sweep(spec))).all
    fleet = RayFleet(address, _command)
    scheduler = Scheduler(settings, engine, fleet)
    projector = Projector(settings, engine)
    with leadership(settings, engine) as leads:
        if not leads:
            raise RuntimeError("somebody else schedules")
        while any(run.state not in TERMINAL for run in reads.runs(engine, ids=ids)):
            if place.startswith("scheduler.stop"):
                _pause_once(settings, engine)
            if place.startswith("mlflow"):
                projector.project_all()
            if not scheduler.tick():
                time.sleep(0.05)
        if place.startswith("mlflow"):
            projector.project_all()
    runs = reads.runs(engine, ids=ids)
    attempts = [attempt for run in runs for attempt in run.attempts]
    alive = [a for a in attempts if fleet.observe([a])[a.id].liveness != "dead"]
    print(json.dumps({"supervisors": len(alive), "groups": _groups(attempts), "mlflow": _mlflow(settings, place)}))


def _command(run_dir: Path) -> list[str]:
    """A light worker, which may be the one to die."""
    said = [f"{name}={os.environ[source]}" for name, source in ((VARIABLE, TRAINER_FAULT),) if os.environ.get(source)]
    return ["env", *said, f"{ONCE_VARIABLE}={os.environ['AQN_HOME']}/fault", *command(run_dir)]


def _pause_once(settings: Settings, engine: Engine) -> None:
    """Pause when something runs, go on when nothing does any more."""
    runs = reads.runs(engine, sweep="chaos")
    control = steering.sweep_controls(engine).get("chaos")
    if control is not None and control.paused:
        if not any(run.state == "running" for run in runs):
            wishes.unpause(engine, "chaos")
    elif not (settings.home / "paused").exists() and any(run.state == "running" and run.curve for run in runs):
        (settings.home / "paused").touch()
        wishes.pause(engine, "chaos", "to see what becomes of it", now=True)


def _groups(attempts: list) -> int:
    import ray

    names = {f"{a.run_id}/{a.number}" for a in attempts}
    table = ray.util.placement_group_table().values()
    return sum(group["name"] in names and group["state"] != "REMOVED" for group in table)


def _mlflow(settings: Settings, place: str) -> dict[str, int]:
    """Points of MLflow, by how often each (run, metric, step) is there."""
    if not place.startswith("mlflow"):
        return {}
    from mlflow import MlflowClient

    client = MlflowClient(settings.mlflow_url)
    found: Counter[tuple[str, str, int]] = Counter()
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    for run in runs:
        for name in run.data.metrics:
            found.update(
                (run.data.tags["aqn.run_id"], name, m.step) for m in client.get_metric_history(run.info.run_id, name)
            )
    scores = [n for (_, name, _), n in found.items() if name in ("eval/correct", "critic/score/mean")]
    return {"runs": len(runs), "points": len(scores), "doubled": sum(n > 1 for n in scores)}


# ------------------------------------------------------------------ counting


@dataclass
class Count:
    """Of one repetition."""

    place: str
    killed: bool
    starts: int
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def count(home: Path, place: str, *, killed: bool, starts: int, said: dict) -> Count:
    """Everything that the registry, the spools, the fleet and MLflow hold, against what there should be."""
    found = Count(place, killed, starts)
    engine = open_registry(f"sqlite:///{home / 'registry.db'}")
    runs = reads.runs(engine, sweep="chaos")
    if len(runs) != 2:
        (found.lost if len(runs) < 2 else found.doubled).append(f"{len(runs)} runs")
    for run in runs:
        _count_run(engine, run, found)
    with Session(engine) as session:
        moves = {(move.before, move.after) for move in RUN_MOVES}
        for run in session.scalars(select(RunRow)):
            states = session.execute(
                select(TransitionRow.before, TransitionRow.after)
                .where(TransitionRow.run_id == run.id)
                .order_by(TransitionRow.id)
            ).all()
            chain = [state for _, state in states]
            if [before for before, _ in states] != [None, *chain[:-1]] or not moves.issuperset(map(tuple, states)):
                found.lost.append(f"history of {run.id}: {states}")
        for attempt in session.scalars(select(AttemptRow)):
            _count_events(session, attempt, found)
    engine.dispose()
    found.doubled += [f"{said[key]} {key} left" for key in ("supervisors", "groups") if said.get(key)]
    if said.get("mlflow"):
        have = said["mlflow"]
        if have["doubled"] or have["runs"] > 2:
            found.doubled.append(f"MLflow: {have}")
        if have["points"] != 2 * (4 + 3):
            found.lost.append(f"MLflow: {have}")
    return found


def _count_run(engine: Engine, run, found: Count) -> None:
    if (run.state, run.verdict) != ("succeeded", "PROVEN"):
        found.lost.append(f"{run.label}: {run.state}, {run.verdict}: {run.reasons}")
        return
    steps = [step for _, step, _, _ in reads.steps(engine, run.attempts[-1].id)]
    curve = [(point.step, point.k) for point in run.curve]
    for name, have, want in (("steps", steps, [1, 2, 3, 4]), ("curve", curve, CURVE)):
        if sorted(set(have)) != want:
            found.lost.append(f"{run.label}: {name} {have}")
        if len(have) != len(set(have)):
            found.doubled.append(f"{run.label}: {name} {have}")
    if sum(attempt.state == "succeeded" for attempt in run.attempts) != 1:
        found.doubled.append(f"{run.label}: ended well {[a.state for a in run.attempts]}")
    if any(attempt.ended_at is None for attempt in run.attempts):
        found.lost.append(f"{run.label}: an attempt without an end")


def _count_events(session: Session, attempt: AttemptRow, found: Count) -> None:
    """Every line of a spool is a row, once."""
    events = read_events(attempt.run_dir)[0]
    tables = (EvalRow, StepRow, EvidenceRow)
    rows = sum(
        session.scalar(select(func.count()).select_from(table).where(table.attempt_id == attempt.id)) or 0
        for table in tables
    )
    if rows < len(events):
        found.lost.append(f"attempt {attempt.id}: {rows} rows of {len(events)} events")
    if rows > len(events) or len({event.seq for event in events}) != len(events):
        found.doubled.append(f"attempt {attempt.id}: {rows} rows of {len(events)} events")


# ------------------------------------------------------------------ repetitions


def repeat(place: str, nth: int, address: str, token: Path, scratch: Path) -> Count:
    """One repetition: kill at the ``nth`` passage of a place, start again until all is over, count."""
    home = scratch / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    spec = scratch / "chaos.yaml"
    spec.write_text(SPEC.replace("axes:", "resources: {silence_minutes: 0.05}\naxes:") if "stuck" in place else SPEC)
    behaviour: dict[str, object] = {}
    if place.startswith(("resume", "checkpoint")) or place in ("scheduler.judged", "scheduler.ended"):
        behaviour = {"fail_at": 3, "fail_attempts": 1, "with": "kill"}
    elif "stuck" in place or place.startswith("scheduler.stop"):  # it waits until it is ended, or asked to stop
        behaviour = {"wait_at": 2, "wait_attempts": 1, "until": str(home / "never")}
    if not place.startswith("submit"):
        _behave(home, spec, behaviour)
    environment = {
        **os.environ, "AQN_HOME": str(home), "AQN_REGISTRY_URL": f"sqlite:///{home / 'registry.db'}",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    wish = f"{place}:{nth}"
    armed = {TRAINER_FAULT: wish} if place.startswith(WORKERS) else {VARIABLE: wish, ONCE_VARIABLE: str(home / "fault")}
    asked = [sys.executable, "-m", "tests.chaos", "--schedule", str(spec), address, place]
    for start in range(1, MOST_STARTS + 1):
        done = subprocess.run(
            asked, env=environment | (armed if start == 1 or TRAINER_FAULT in armed else {}),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode != -9:
            break
    if done.returncode != 0:
        return Count(place, True, start, lost=[f"the scheduler ended with {done.returncode}: {done.stderr[-800:]}"])
    said = json.loads(done.stdout.splitlines()[-1])
    return count(home, place, killed=(home / "fault").exists(), starts=start, said=said)


def _behave(home: Path, spec: Path, behaviour: dict[str, object]) -> None:
    settings = Settings(home, f"sqlite:///{home / 'registry.db'}")
    engine = open_registry(settings.registry_url)
    first = record(engine, make_plan(load_sweep(spec))).all[0]
    engine.dispose()
    folder = settings.runs / first
    folder.mkdir(parents=True)
    (folder / "behaviour.json").write_text(json.dumps(behaviour))


@contextmanager
def fleet(scratch: Path) -> Iterator[tuple[str, Path]]:
    """A Ray head of one GPU for all repetitions; (address, token file)."""
    from orchestrator.fleet import head

    settings = Settings(scratch / "fleet", "")
    try:
        yield head.up(settings).address, settings.home / "ray-token"
    finally:
        head.down(settings)


def planned_kills(n: int, seed: int) -> list[tuple[str, int]]:
    """Places in turn, the passage at random: the first ones are where a process has done least."""
    random_ = random.Random(seed)
    places = itertools.cycle(PLACES)
    return [(place, random_.choice((1, 1, 2, 3))) for place in itertools.islice(places, n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", nargs="?", type=int, default=100, help="repetitions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    parser.add_argument("--schedule", nargs=3, metavar=("SPEC", "ADDRESS", "PLACE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.schedule:
        scheduling(Path(asked.schedule[0]), asked.schedule[1], asked.schedule[2])
        return
    counts = []
    with tempfile.TemporaryDirectory(prefix="aqn-chaos-") as folder, fleet(Path(folder)) as (address, token):
        for number, (place, nth) in enumerate(planned_kills(asked.n, asked.seed), 1):
            one = repeat(place, nth, address, token, Path(folder))
            if not one.killed:  # that process passes there less often
                one = repeat(place, 1, address, token, Path(folder))
            counts.append(one)
            outcome = "; ".join([*one.lost, *one.doubled]) or "nothing lost, nothing doubled"
            print(
                f"{number}/{asked.n} {place}:{nth} {'killed' if one.killed else 'not reached'}: {outcome}", flush=True
            )
    text = table(counts)
    print(text)
    if asked.out:
        asked.out.write_text(text)
    if any(one.lost or one.doubled or not one.killed for one in counts):
        sys.exit(1)


def table(counts: list[Count]) -> str:
    """By place, and in all."""
    rows = [
        f"SIGKILL at every named place in turn: `make chaos N={len(counts)}`, on {platform.machine()} with "
        f"{os.cpu_count()} cores. A repetition is two runs of light workers on a real Ray, from submission to verdict; lost: "
        "a step, an eval, an event, a run, a metric; doubled: the same twice, or a process or GPU still held.",
        "",
        "| place | what is half done there | repetitions | killed | lost | doubled |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for place, about in [*PLACES.items(), ("all", "")]:
        own = [one for one in counts if place in (one.place, "all")]
        if own:
            lost, doubled = sum(len(one.lost) for one in own), sum(len(one.doubled) for one in own)
            killed = sum(one.killed for one in own)
            rows.append(f"| {place} | {about} | {len(own)} | {killed} | {lost} | {doubled} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
