"""Random sequences of what clients, trainers, faults and the scheduler do, over the real store.

The fleet is one that only remembers what was asked of it; everything else is the production code: submitting,
claiming, reading spools, judging, bug marks, reruns, retries. After every step the invariants hold.
"""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import reads, submissions, wishes
from db.engine import open_registry
from db.records import Attempt, Run
from db.schema import AttemptRow, EvalRow, EvidenceRow, StepRow
from db.states import RUN_MOVES, TERMINAL
from experiment_specs.language import CONDITION_SCHEMA
from experiment_specs.load import load_sweep
from orchestrator.fleet.interface import Observation, Status
from orchestrator.plan import make_plan
from orchestrator.scheduler.decide import Node
from orchestrator.scheduler.loop import Scheduler
from orchestrator.settings import Settings
from orchestrator.submit import record
from tests import light_worker
from workers.events import read_events
from workers.launch import read_order

GPUS = 2
SWEEP = """\
sweep: {name}
base: bases/tiny-cpu.yaml
set: {{steps_per_epoch: 2, eval: {{every: 2}}}}
checkpoints: {{every: 1}}
resources: {{concurrency: {concurrency}}}
priority: {priority}
axes: {{dtype: [bf16, mxfp4]}}
seeds: [{seed}]
"""


class DiedError(Exception):
    """The scheduler died here."""


class RememberingFleet:
    """What was asked for by name; a trainer runs when the test lets it."""

    def __init__(self) -> None:
        self.running: dict[str, tuple[Attempt, int]] = {}
        self.ended: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.dies_after: int | None = None

    def _asked(self) -> None:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.dies_after = None
                raise DiedError

    def alive(self) -> bool:
        return True

    def close(self) -> None: ...

    def nodes(self) -> list[Node]:
        return [Node("n", GPUS)]

    def launch(self, attempt: Attempt, gpus: int) -> None:
        self._asked()
        self.running.setdefault(attempt.token, (attempt, gpus))
        assert sum(held for _, held in self.running.values()) <= GPUS, "GPUs were given out twice"
        self._asked()

    def observe(self, attempts: Sequence[Attempt]) -> Mapping[int, Observation]:
        return {attempt.id: self._one(attempt.token) for attempt in attempts}

    def _one(self, token: str) -> Observation:
        if token in self.unknown:
            return Observation("unknown")
        if token not in self.running:
            return Observation("dead")
        return Observation("alive", Status("host", 1, self.ended.get(token), node_id="n"))

    def capture(self, attempt: Attempt) -> None:
        self._asked()

    def release(self, attempt: Attempt) -> None:
        self._asked()
        self.running.pop(attempt.token, None)
        self.ended.pop(attempt.token, None)
        self._asked()


class Machine(RuleBasedStateMachine):
    """Several clients, one scheduler at a time, trainers that live and die."""

    sweeps = Bundle("sweeps")

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp(prefix="aqn-machine-"))
        self._settings = Settings(self._folder / "home", f"sqlite:///{self._folder / 'registry.db'}")
        self._engine = open_registry(self._settings.registry_url)
        self._fleet = RememberingFleet()
        self._terminal: dict[str, tuple[str, str | None]] = {}
        self._numbers = itertools.count()
        self._limits: dict[str, int] = {}
        self._tick_made: set[str] = set()

    def teardown(self) -> None:
        self._engine.dispose()
        shutil.rmtree(self._folder, ignore_errors=True)

    @initialize(target=sweeps, concurrency=st.integers(1, 2))
    def begin(self, concurrency: int) -> str:
        self.restart()
        return self.submit(concurrency, 0)

    @rule()
    def restart(self) -> None:
        """A scheduler that knows nothing but what is written down."""
        self._scheduler = Scheduler(self._settings, self._engine, self._fleet)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ clients

    @rule(target=sweeps, concurrency=st.integers(1, 2), priority=st.integers(0, 2))
    def submit_another(self, concurrency: int, priority: int) -> str:
        return self.submit(concurrency, priority)

    def submit(self, concurrency: int, priority: int) -> str:
        name = f"sweep-{next(self._numbers)}"
        self._write(name, concurrency, priority, seed=next(self._numbers))
        self._limits[name] = concurrency
        return name

    @rule(sweep=sweeps)
    def submit_again(self, sweep: str) -> None:
        """The same text: nothing is made that exists, but in the place of what failed, was cancelled or is about to be."""
        before = {run.id for run in self._runs()}
        own = reads.runs(self._engine, sweep=sweep)
        gone = sum(run.state in ("failed", "cancelled") or run.cancel is not None for run in own)
        record(self._engine, make_plan(load_sweep(self._folder / f"{sweep}.yaml")))
        assert len({run.id for run in self._runs()} - before) <= gone

    def _write(self, name: str, concurrency: int, priority: int, seed: int) -> None:
        spec = self._folder / f"{name}.yaml"
        spec.write_text(SWEEP.format(name=name, concurrency=concurrency, priority=priority, seed=seed))
        record(self._engine, make_plan(load_sweep(spec)))

    @rule(data=st.data(), at_once=st.booleans())
    def cancel(self, data: st.DataObject, at_once: bool) -> None:
        run = self._pick(data, ("queued", "running"))
        if run is not None:
            wishes.ask_to_cancel(self._engine, {run.id: "not wanted"}, at_once=at_once)

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        run = self._pick(data, TERMINAL)
        if run is not None:
            made = submissions.retry(self._engine, [run], run.code_version, CONDITION_SCHEMA)
            assert len(made) <= (run.state != "succeeded")
            assert submissions.retry(self._engine, [run], run.code_version, CONDITION_SCHEMA) == {}

    @rule(sweep=sweeps, now=st.booleans())
    def pause(self, sweep: str, now: bool) -> None:
        wishes.pause(self._engine, sweep, "wait", now=now)

    @rule(sweep=sweeps)
    def go_on(self, sweep: str) -> None:
        wishes.unpause(self._engine, sweep)

    @rule(now=st.booleans())
    def drain(self, now: bool) -> None:
        wishes.drain(self._engine, "wait", now=now)

    @rule()
    def undrain(self) -> None:
        wishes.undrain(self._engine)

    # ------------------------------------------------------------------ the scheduler

    @rule(dies_after=st.integers(0, 4))
    def tick_and_die(self, dies_after: int) -> None:
        self.tick(dies_after)

    def tick(self, dies_after: int | None) -> None:
        """One round; or it dies at a call of the fleet, before or after it did something, and another one comes."""
        self._fleet.dies_after = dies_after
        self._pass_waits()
        try:
            self._scheduler.tick()
        except DiedError:
            self.restart()
        self._fleet.dies_after = None

    def _pass_waits(self) -> None:
        """Time passes: what was to be tried again later is due."""
        with self._engine.begin() as connection:
            connection.exec_driver_sql("UPDATE runs SET not_before = NULL")

    @rule(data=st.data(), behaviour=st.sampled_from(["well", "well", "killed", "out of memory"]))
    def get_on(self, data: st.DataObject, behaviour: str) -> None:
        """What happens most of the time."""
        wishes.undrain(self._engine)
        self.tick(None)
        self.train(data, behaviour)
        self.tick(None)

    # ------------------------------------------------------------------ trainers

    @rule(data=st.data(), behaviour=st.sampled_from(["well", "killed", "fails", "out of memory", "garbage"]))
    def trainer_ends(self, data: st.DataObject, behaviour: str) -> None:
        self.train(data, behaviour)

    def train(self, data: st.DataObject, behaviour: str) -> None:
        """A trainer runs to an end, asked to stop or not."""
        token = self._token(data)
        if token is None:
            return
        run_dir = Path(self._fleet.running[token][0].run_dir)
        if (run_dir / "events.jsonl").exists():
            return
        said: dict[str, object] = {
            "well": {},
            "garbage": {"garbage": True},
            "fails": {"fail_at": 2},
            "killed": {"fail_at": 2, "with": "nothing"},
            "out of memory": {"fail_at": 1, "error": "OutOfMemoryError: CUDA out of memory. Tried to allocate"},
        }[behaviour]  # type: ignore[assignment]
        code = light_worker.train(run_dir, read_order(run_dir), said)
        if behaviour == "killed":
            self._unfinish(run_dir)
            code = -9
        self._fleet.ended[token] = code

    @staticmethod
    def _unfinish(run_dir: Path) -> None:
        """As killed before its last word."""
        spool = run_dir / "events.jsonl"
        lines = spool.read_text().splitlines(keepends=True)
        spool.write_text("".join(line for line in lines if json.loads(line)["kind"] != "finished"))

    @rule(data=st.data())
    def supervisor_dies(self, data: st.DataObject) -> None:
        token = self._token(data)
        if token is not None:
            self._fleet.running.pop(token)
            self._fleet.ended.pop(token, None)

    @rule(data=st.data())
    def cannot_be_asked(self, data: st.DataObject) -> None:
        token = self._token(data)
        if token is not None:
            self._fleet.unknown ^= {token}

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def what_is_over_stays_so(self) -> None:
        for run in self._runs():
            if run.id in self._terminal:
                assert (run.state, run.verdict) == self._terminal[run.id]
            elif run.state in TERMINAL:
                self._terminal[run.id] = (run.state, run.verdict)

    @invariant()
    def every_run_has_one_attempt_under_way_or_none(self) -> None:
        for run in self._runs():
            open_attempts = [attempt for attempt in run.attempts if attempt.ended_at is None]
            assert len(open_attempts) == (run.state == "running")
            assert [attempt.number for attempt in run.attempts] == list(range(1, len(run.attempts) + 1))
            assert sum(attempt.state == "succeeded" for attempt in run.attempts) == (run.state == "succeeded")

    @invariant()
    def history_is_a_chain_of_allowed_moves(self) -> None:
        moves = {(move.before, move.after) for move in RUN_MOVES}
        for run in self._runs():
            states = [(before, after) for _, before, after, _ in reads.transitions(self._engine, run.id)]
            assert moves.issuperset(states)
            assert [before for before, _ in states] == [None, *(after for _, after in states[:-1])]
            assert states[-1][1] == run.state

    @invariant()
    def nothing_that_was_read_is_there_twice_and_what_is_proven_is_whole(self) -> None:
        with Session(self._engine) as session:
            for attempt in session.scalars(select(AttemptRow)):
                events, _ = read_events(attempt.run_dir)
                rows = sum(
                    session.scalar(select(func.count()).select_from(t).where(t.attempt_id == attempt.id)) or 0
                    for t in (EvalRow, StepRow, EvidenceRow)
                )
                read_to_its_end = attempt.state in ("succeeded", "stopped")
                assert rows == len(events) if read_to_its_end else rows <= len(events)
        for run in self._runs():
            if run.verdict == "PROVEN":
                assert [step for _, step, _, _ in reads.steps(self._engine, run.attempts[-1].id)] == [1, 2]
                assert [(point.step, point.k) for point in run.curve] == [(0, 250), (2, 252)]

    @invariant()
    def no_more_runs_than_gpus_and_what_a_sweep_allows(self) -> None:
        running = [run for run in self._runs() if run.state == "running"]
        assert sum(run.gpus for run in running) <= GPUS
        for name, most in self._limits.items():
            assert sum(name in run.sweeps for run in running) <= most

    def _runs(self) -> list[Run]:
        return reads.runs(self._engine, limit=1000)

    def _pick(self, data: st.DataObject, states: Sequence[str]) -> Run | None:
        found = sorted((run for run in self._runs() if run.state in states), key=lambda run: run.created_at)
        return found[data.draw(st.integers(0, len(found) - 1))] if found else None

    def _token(self, data: st.DataObject) -> str | None:
        tokens = [
            token
            for token in self._fleet.running
            if (Path(self._fleet.running[token][0].run_dir) / "order.json").exists()
        ]
        return tokens[data.draw(st.integers(0, len(tokens) - 1))] if tokens else None


@pytest.mark.timeout(1800)
class TestScheduling(Machine.TestCase):
    settings = hypothesis_settings(
        deadline=None, stateful_step_count=40, max_examples=300 if hypothesis_settings().max_examples > 100 else 12
    )
