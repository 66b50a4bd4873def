"""The loop that carries decisions out. Crash-only: starting *is* recovering, because every tick begins by looking.

An attempt's row and token stand before the fleet is asked for anything; everything asked of the fleet is by name and
can be asked twice. The process may die between any two lines.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, IntegrityError, OperationalError

from db import reads, writes
from db.bug_writes import MovedOnError
from db.records import Attempt, Run
from experiment_specs.language import Scan
from orchestrator.bugs.engine import TRIES, judged_at_the_end
from orchestrator.evaluation import planned, saved, scan_for
from orchestrator.fleet.interface import Fleet, Observation
from orchestrator.ingest import finished_event, pull
from orchestrator.measured import measured
from orchestrator.scheduler.decide import (
    Action,
    Active,
    Cancel,
    Conclude,
    GiveUp,
    Launch,
    Needs,
    Snapshot,
    Waiting,
    decide,
)
from orchestrator.scheduler.retry import Ended, decide_retry
from orchestrator.settings import Settings
from orchestrator.verdict import PROVEN, UNPROVEN, Measured, Verdict, judge, judge_scan
from orchestrator.verdict.evaluation import judge_eval
from workers.launch import Order, plugins, write_order

KINDS = ("train", "scan", "eval")
SPOOL_ERRORS = (KeyError, TypeError, ValueError, IntegrityError, DataError)
"""What reading a malformed event can raise. A locked database or a full disk is not among them: those pass."""


@contextmanager
def leadership(settings: Settings) -> Iterator[bool]:
    """True for the one process that schedules for this home; the lock goes with the process, however it ends."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with settings.leader_lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


class Scheduler:
    """Moves queued runs through the fleet to their verdicts."""

    def __init__(self, settings: Settings, engine: Engine, fleet: Fleet) -> None:
        self._settings, self._engine, self._fleet = settings, engine, fleet

    def tick(self) -> list[Action]:
        """One round: look, decide, act, read the spools. Returns what was done."""
        runs = reads.runs(self._engine, states=("queued", "running"), kinds=KINDS)
        running = [run for run in runs if run.state == "running" and run.attempt is not None]
        observations = {run.id: self._fleet.observe(run.attempt) for run in running if run.attempt}
        snapshot = Snapshot(
            waiting=[
                Waiting(r.id, r.gpus, r.priority, r.created_at, self._needs(r), r.cancel is not None)
                for r in runs
                if r.state == "queued"
            ],
            active=[_active(run, run.attempt, observations[run.id]) for run in running if run.attempt],
            total_gpus=self._fleet.total_gpus(),
        )
        for run in running:
            self._note_start(run, observations[run.id])
            if run.attempt:
                self._pull(run, run.attempt)
        actions = decide(snapshot)
        by_attempt = {run.attempt.id: run for run in running if run.attempt}
        for action in actions:
            if isinstance(action, Launch):
                self._launch(action.run_id)
            elif isinstance(action, GiveUp):
                self._give_up(action.run_id)
            elif isinstance(action, Cancel):
                self._cancel(next(run for run in runs if run.id == action.run_id))
            else:
                self._conclude(by_attempt[action.attempt_id], action)
        return actions

    def _needs(self, run: Run) -> Needs:
        if run.waits_for is None:
            return "nothing"
        first = reads.runs(self._engine, ids=[run.waits_for])[0]
        if first.state in ("queued", "running"):
            return "a run under way"
        return "nothing" if first.verdict == PROVEN else "a run that failed"

    def _give_up(self, run_id: str) -> None:
        run = reads.runs(self._engine, ids=[run_id])[0]
        first = reads.runs(self._engine, ids=[str(run.waits_for)])[0]
        why = "; ".join(first.reasons) or first.state
        writes.give_up(self._engine, run_id, f"it needs {first.label} (run {first.id}), which failed: {why}")

    def _cancel(self, run: Run) -> None:
        why = str(run.cancel)
        if run.state == "queued" or run.attempt is None:
            writes.cancel_queued(self._engine, run.id, why)
            return
        self._fleet.release(run.attempt)
        attempt = reads.runs(self._engine, ids=[run.id])[0].attempt or run.attempt
        with suppress(*SPOOL_ERRORS):
            pull(self._engine, attempt)
        ending = writes.Ending(
            attempt_state="lost", run_state="cancelled", why=why, verdict="UNPROVEN", reasons=(f"cancelled: {why}",)
        )
        facts = measured(self._engine, attempt.id)
        end_judged(self._engine, reads.runs(self._engine, ids=[run.id])[0], ending, facts)

    def _pull(self, run: Run, attempt: Attempt) -> None:
        """Read on in a spool; one that cannot be understood ends its own run and no other."""
        try:
            pull(self._engine, attempt)
        except SPOOL_ERRORS:
            self._conclude(run, Conclude(attempt.id, None))

    def _launch(self, run_id: str) -> None:
        """Row and token, then the order, then the fleet. An attempt that dies in between is concluded as lost."""
        if writes.begin_attempt(self._engine, run_id, self._settings.runs) is None:
            return
        run = reads.runs(self._engine, ids=[run_id])[0]
        attempt = run.attempts[-1]
        write_order(Path(attempt.run_dir), _order(run, attempt, self._settings, scan_for(self._engine, run)))
        self._fleet.launch(attempt, run.gpus)

    def _note_start(self, run: Run, seen: Observation) -> None:
        """launching → running, once the fleet has been seen to run it."""
        if run.attempt and run.attempt.state == "launching" and seen.status is not None:
            writes.mark_started(self._engine, run.attempt.id, run.attempt.token, seen.status.node, seen.status.pid)

    def _conclude(self, run: Run, action: Conclude) -> None:
        attempt = run.attempt
        assert attempt is not None  # noqa: S101 - decided on this attempt
        last_word = finished_event(attempt.run_dir)  # before we end anything: what is said under SIGTERM is not its own
        self._fleet.release(attempt)  # nothing writes to the spool from here on
        attempt = reads.runs(self._engine, ids=[run.id])[0].attempt or attempt
        try:
            pull(self._engine, attempt)
        except SPOOL_ERRORS as error:
            last_word = {"ok": False, "error": f"its spool cannot be read: {type(error).__name__}: {error}"}
        facts = measured(self._engine, attempt.id)
        verdict = self._judge(run, facts) if last_word is not None and last_word["ok"] else None
        ending = conclude(run, verdict, last_word, action.exit_code)
        end_judged(self._engine, reads.runs(self._engine, ids=[run.id])[0], ending, facts)

    def _judge(self, run: Run, facts: list[Measured]) -> Verdict:
        """Evidence that cannot be understood, of other code perhaps, leaves its own run unproven and stops no other."""
        try:
            return judge_run(self._engine, run, facts)
        except (OperationalError, OSError):
            raise  # a locked database, a full disk: those pass
        except Exception as error:  # noqa: BLE001
            return Verdict(UNPROVEN, (f"its evidence cannot be read: {type(error).__name__}: {error}",))


def end_judged(engine: Engine, run: Run, ending: writes.Ending, facts: list[Measured]) -> bool:
    """End an attempt; a run that is over with it is judged by the bug rules that stand, in the same transaction."""
    attempt = run.attempts[-1]
    for _ in range(TRIES):
        judged = ending
        if ending.run_state in ("succeeded", "failed", "cancelled") and run.kind == "train":
            new, by_rule, rules = judged_at_the_end(engine, run, ending.run_state, ending.verdict, facts)
            judged = replace(ending, facts=new, judged=by_rule, rules=rules)
        try:
            return writes.end_attempt(engine, attempt.id, attempt.token, run.id, judged)
        except MovedOnError:
            continue
    raise RuntimeError("bug rules change faster than a run can be judged")  # pragma: no cover - twenty in a row


def conclude(
    run: Run, verdict: Verdict | None, finished: dict[str, Any] | None, exit_code: int | None
) -> writes.Ending:
    """How an attempt that is over is entered. Its own last word counts more than an exit code nobody saw.

    ``verdict``: what the evidence says of an attempt that came to its end.
    """
    attempt = run.attempts[-1]
    if verdict is not None:
        why = f"attempt {attempt.number} came to its end: {verdict.status}"
        return writes.Ending("succeeded", "succeeded", why, 0, None, verdict.status, verdict.reasons)
    losses = sum(a.state == "lost" for a in run.attempts)
    error = finished["error"] if finished is not None else None
    ended = Ended(exit_code, error, losses)
    retry = decide_retry(ended)
    return writes.Ending(
        attempt_state="lost" if ended.from_outside else "failed",
        run_state="queued" if retry.again else "failed",
        why=f"attempt {attempt.number}: {retry.rule} ({retry.line})",
        exit_code=exit_code,
        retry=asdict(retry),
        verdict=None if retry.again else "UNPROVEN",
        reasons=() if retry.again else (f"the run did not train to its end: {retry.line}",),
    )


def judge_run(engine: Engine, run: Run, facts: list[Measured]) -> Verdict:
    if run.kind == "scan":
        return judge_scan(Scan.model_validate(run.condition, strict=False), facts, _twins(engine, run, facts))
    condition, plan = planned(engine, run)
    return (
        judge_eval(condition, plan, saved(engine, run), facts) if run.kind == "eval" else judge(condition, plan, facts)
    )


def _twins(engine: Engine, run: Run, facts: list[Measured]) -> list[str]:
    """Scans of other models that found the same to the last bit."""
    own = next((fact.data for fact in reversed(facts) if fact.kind == "scan"), None)
    if own is None:
        return []
    return [
        f"{label} ({run_id})"
        for run_id, label, data in reads.scans(engine)
        if run_id != run.id and data["layers"] == own["layers"] and data["weights"] != own["weights"]
    ]


def _active(run: Run, attempt: Attempt, seen: Observation) -> Active:
    code = seen.status.exit_code if seen.status is not None else None
    return Active(
        attempt_id=attempt.id, run_id=run.id, gpus=run.gpus,
        liveness=seen.liveness, exit_code=code, ended=code is not None, unwanted=run.cancel is not None,
    )  # fmt: skip


def _order(run: Run, attempt: Attempt, settings: Settings, scan: dict[str, Any] | None) -> Order:
    # an evaluation answers as the next step's rollout would: after the last step of a run no noise is planned
    total_steps = run.total_steps + (run.kind == "eval")
    return Order(
        kind=run.kind, scan=scan, code=run.code_version, source=run.plan.get("source"),
        run_id=run.id, attempt=attempt.number, token=attempt.token, label=run.label, condition_id=run.condition_id,
        condition=run.condition, seed=run.seed, total_steps=total_steps,
        steps_per_epoch=int(run.plan["steps_per_epoch"]), eval_steps=list(run.plan["eval_steps"]), gpus=run.gpus,
        assets=str(settings.assets), overrides=run.overrides, keep=run.plan.get("keep", "last"),
        plugins=list(plugins()),
        workdir=str(Path.cwd()),
    )  # fmt: skip
