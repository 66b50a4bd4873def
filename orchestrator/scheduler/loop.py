"""The loop that carries decisions out. Crash-only: starting *is* recovering, because every tick begins by looking.

An attempt's row and token stand before the fleet is asked for anything; everything asked of the fleet is by name and
can be asked twice. The process may die between any two lines.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError

from db import reads, steering, writes
from db.records import Attempt, Run
from db.steering import OpenRun
from experiment_specs.faults import fault_point
from orchestrator.evaluation import scan_for
from orchestrator.fleet.interface import Fleet, Observation
from orchestrator.ingest import finished_event, pull, stopped_at
from orchestrator.measured import measured
from orchestrator.scheduler.decide import (
    Action,
    AskToStop,
    Cancel,
    Conclude,
    EndStopped,
    EndStuck,
    GiveUp,
    Launch,
    LetRun,
    Snapshot,
    decide,
)
from orchestrator.scheduler.ending import Over, conclude, divisible, end_judged, log_tail, verdict_of
from orchestrator.scheduler.prices import Prices
from orchestrator.scheduler.snapshot import Eyes, take_snapshot
from orchestrator.settings import Settings
from workers.events import SPOOL_NAME
from workers.launch import LOG_NAME, STOP_NAME, Order, plugins, write_order

SPOOL_ERRORS = (KeyError, TypeError, ValueError, IntegrityError, DataError)
"""What reading a malformed event can raise. A locked database or a full disk is not among them: those pass."""


class Scheduler:
    """Moves queued runs through the fleet to their verdicts."""

    def __init__(self, settings: Settings, engine: Engine, fleet: Fleet) -> None:
        self._settings, self._engine, self._fleet = settings, engine, fleet
        self._eyes, self._prices = Eyes(), Prices(engine)
        self.snapshot: Snapshot | None = None
        """What the last tick was decided on."""
        self.notes: dict[str, str] = {}
        """Run → what its supervisor waits for."""
        self.news = False
        """Did the last tick read anything new in a spool?"""

    def tick(self) -> list[Action]:
        """One round: look, read the spools, decide, act. Returns what was done."""
        runs = steering.open_runs(self._engine)
        attempts = [run.attempt for run in runs if run.attempt is not None]
        seen = self._fleet.observe(attempts)
        for attempt in attempts:
            self._note_start(attempt, seen[attempt.id])
        self.notes = {a.run_id: s.note for a in attempts if (s := seen[a.id].status) is not None and s.note}
        news = [self._pull(attempt) for attempt in attempts]  # all of them, whoever has news
        self.news = any(news)
        if self.news:
            runs = [run for run in steering.open_runs(self._engine) if run.attempt is None or run.attempt.id in seen]
        fault_point("scheduler.observed")
        snapshot = take_snapshot(self._engine, runs, seen, self._fleet.nodes(), self._eyes, self._prices)
        self.snapshot = snapshot
        actions = decide(snapshot)
        fault_point("scheduler.decided")
        problems = []
        for action in actions:
            try:
                self._act(action, runs)
            except OSError as error:  # of one run's directory: the others' turn comes first
                problems.append(error)
            fault_point("scheduler.acted")
        if problems:
            raise problems[0]
        return actions

    def _act(self, action: Action, runs: Sequence[OpenRun]) -> None:
        if isinstance(action, Launch):
            self._launch(action)
        elif isinstance(action, GiveUp):
            self._give_up(action.run_id)
        elif isinstance(action, Cancel):
            self._cancel(next(run for run in runs if run.id == action.run_id))
        else:
            own = (run for run in runs if run.attempt is not None and run.attempt.id == action.attempt_id)
            self._of_attempt(next(own), action)

    def _of_attempt(self, run: OpenRun, action: Conclude | AskToStop | LetRun | EndStopped | EndStuck) -> None:
        attempt = run.attempt
        assert attempt is not None  # noqa: S101 - decided on this attempt
        if isinstance(action, AskToStop):
            self._ask_to_stop(attempt)
        elif isinstance(action, LetRun):
            (Path(attempt.run_dir) / STOP_NAME).unlink(missing_ok=True)
            writes.note_stop(self._engine, attempt.id, attempt.token, asked=False)
        elif isinstance(action, EndStopped):
            self._conclude(attempt, Over(forced=True))
        elif isinstance(action, EndStuck):
            since = attempt.stuck_since or time.time() - action.silence
            writes.note_stuck(self._engine, attempt.id, attempt.token, since)
            fault_point("scheduler.stuck-noted")
            self._fleet.capture(attempt)
            self._conclude(attempt, Over(stuck=time.time() - since))
        else:
            stuck = None if attempt.stuck_since is None else time.time() - attempt.stuck_since
            self._conclude(attempt, Over(exit_code=action.exit_code, stuck=stuck))

    def _ask_to_stop(self, attempt: Attempt) -> None:
        with suppress(FileNotFoundError):  # launching, and nothing is there yet that could be asked
            (Path(attempt.run_dir) / STOP_NAME).touch()
        fault_point("scheduler.stop-asked")
        writes.note_stop(self._engine, attempt.id, attempt.token)
        fault_point("scheduler.stop-noted")

    def _give_up(self, run_id: str) -> None:
        run = reads.runs(self._engine, ids=[run_id])[0]
        first = reads.runs(self._engine, ids=[str(run.waits_for)])[0]
        why = "; ".join(first.reasons) or first.state
        writes.give_up(self._engine, run_id, f"it needs {first.label} (run {first.id}), which failed: {why}")

    def _cancel(self, run: OpenRun) -> None:
        if run.attempt is None:
            writes.cancel_queued(self._engine, run.id, str(run.cancel))
        else:
            self._conclude(run.attempt, Over())

    def _pull(self, attempt: Attempt) -> bool:
        """Read on in a spool: was there anything? One that cannot be understood ends its own run and no other."""
        try:
            if (Path(attempt.run_dir) / SPOOL_NAME).stat().st_size == attempt.spool_offset:
                return False
            return bool(pull(self._engine, attempt))
        except FileNotFoundError:  # it has not begun to speak
            return False
        except SPOOL_ERRORS:
            self._conclude(attempt, Over())
            return True
        except OSError as error:  # its directory alone: the others are read on
            self.notes[attempt.run_id] = f"its directory cannot be read: {error.strerror or error}"
            self._eyes.look_away(attempt)
            return False

    def _launch(self, action: Launch) -> None:
        """Row and token, then the order, then the fleet. An attempt that dies in between is concluded as lost."""
        begun = writes.begin_attempt(self._engine, action.run_id, self._settings.runs, action.node)
        fault_point("scheduler.attempt-begun")
        if begun is None:
            return
        run = reads.runs(self._engine, ids=[action.run_id])[0]
        attempt = run.attempts[-1]
        write_order(Path(attempt.run_dir), _order(run, attempt, self._settings, scan_for(self._engine, run)))
        fault_point("scheduler.order-written")
        self._fleet.launch(attempt, run.gpus)
        fault_point("scheduler.launched")

    def _note_start(self, attempt: Attempt, seen: Observation) -> None:
        """launching → running, once the fleet has been seen to run it."""
        status = seen.status
        if attempt.state == "launching" and status is not None and status.pid:
            writes.mark_started(self._engine, attempt.id, attempt.token, status.node, status.pid, status.node_id)
            fault_point("scheduler.start-noted")

    def _conclude(self, attempt: Attempt, over: Over) -> None:
        word = finished_event(attempt.run_dir)  # before we end anything: what is said under SIGTERM is not its own
        fault_point("scheduler.before-release")
        self._fleet.release(attempt)  # nothing writes to the spool from here on
        fault_point("scheduler.released")
        run = reads.runs(self._engine, ids=[attempt.run_id])[0]
        if not run.attempts or run.attempts[-1].id != attempt.id:
            return  # somebody else ended it, and the run goes on
        saved_at = stopped_at(attempt.run_dir)
        try:
            pull(self._engine, run.attempts[-1])
        except SPOOL_ERRORS as error:
            word = {"ok": False, "error": f"its spool cannot be read: {type(error).__name__}: {error}"}
            saved_at = None  # nobody goes on from what cannot be understood
        fault_point("scheduler.last-events-stored")
        run = reads.runs(self._engine, ids=[attempt.run_id])[0]  # its last steps are known only now
        facts = measured(self._engine, attempt.id)
        over = replace(
            over,
            word=word,
            stopped_at=saved_at,
            verdict=verdict_of(self._engine, run, facts) if word is not None and word["ok"] else None,
            log=log_tail(attempt.run_dir),
            divisible=divisible(run),
            never_started=attempt.state == "launching" and not (Path(attempt.run_dir) / LOG_NAME).exists(),
        )
        fault_point("scheduler.judged")
        end_judged(self._engine, run, conclude(run, over, time.time()), facts)
        fault_point("scheduler.ended")


def _order(run: Run, attempt: Attempt, settings: Settings, scan: dict[str, Any] | None) -> Order:
    # an evaluation answers as the next step's rollout would: after the last step of a run no noise is planned
    total_steps = run.total_steps + (run.kind == "eval")
    return Order(
        kind=run.kind, scan=scan, code=run.code_version, source=run.plan.get("source"),
        run_id=run.id, attempt=attempt.number, token=attempt.token, label=run.label, condition_id=run.condition_id,
        condition=run.condition, seed=run.seed, total_steps=total_steps,
        steps_per_epoch=int(run.plan["steps_per_epoch"]), eval_steps=list(run.plan["eval_steps"]), gpus=run.gpus,
        assets=str(settings.assets), overrides=run.overrides, keep=run.plan.get("keep", "last"),
        save_every=int(run.plan.get("save_every", 0)), halvings=attempt.halvings,
        earlier=[*run.plan.get("continues", ()), *_run_dirs(run.attempts[:-1])], spoiled=_spoiled(run.attempts),
        plugins=list(plugins()),
        workdir=str(Path.cwd()),
    )  # fmt: skip


def _spoiled(attempts: Sequence[Attempt]) -> list[int]:
    return [a.resumed_step for a in attempts if a.resumed_step is not None and a.retry and a.retry.get("spoils")]


def _run_dirs(attempts: Sequence[Attempt]) -> list[str]:
    return [attempt.run_dir for attempt in attempts]
