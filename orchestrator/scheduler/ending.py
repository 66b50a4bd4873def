"""How an attempt that is over is entered: judged, tried again, put back, or given up. :func:`conclude` is pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from db import reads, writes
from db.bug_writes import MovedOnError
from db.records import Attempt, Run
from db.states import TERMINAL
from experiment_specs.language import Scan
from orchestrator.bugs.engine import TRIES, judged_at_the_end
from orchestrator.evaluation import planned, saved
from orchestrator.scheduler.retry import LONGEST_WAIT, Ended, RetryDecision, decide_retry
from orchestrator.verdict import UNPROVEN, Measured, Verdict, judge, judge_scan
from orchestrator.verdict.evaluation import judge_eval
from workers.launch import LOG_NAME, Order, read_order

LOG_BYTES = 1 << 19
"""Of the end of a log that is read for the cause."""


@dataclass(frozen=True)
class Over:
    """What is known of an attempt that is over.

    ``word``: its own last word; ``stopped_at``: the step of the checkpoint that it saved when it was asked to end;
    ``forced``: it was ended because it did not stop when it was asked to.
    """

    exit_code: int | None = None
    word: dict[str, Any] | None = None
    stopped_at: int | None = None
    verdict: Verdict | None = None
    log: Sequence[str] = ()
    stuck: float | None = None
    forced: bool = False
    divisible: bool = False
    never_started: bool = False
    """It was recorded, and nothing of it came up: the directory or the fleet could not be reached."""


def conclude(run: Run, over: Over, now: float) -> writes.Ending:
    """Its own last word counts more than an exit code that nobody saw."""
    attempt = run.attempts[-1]
    if over.verdict is not None:
        why = f"attempt {attempt.number} came to its end: {over.verdict.status}"
        return writes.Ending("succeeded", "succeeded", why, 0, None, over.verdict.status, over.verdict.reasons)
    saved_at = f", a checkpoint of step {over.stopped_at} saved" if over.stopped_at else ""
    if run.cancel is not None:
        state = "stopped" if over.stopped_at is not None else "lost"
        reason = f"cancelled: {run.cancel}"
        why = f"{run.cancel}{saved_at}"
        return writes.Ending(state, "cancelled", why, over.exit_code, verdict=UNPROVEN, reasons=(reason,))
    if over.stopped_at is not None or over.forced:
        how = saved_at if over.stopped_at is not None else ", ended because it did not stop in time"
        why = f"attempt {attempt.number} was asked to stop{how}; the run goes on later"
        return writes.Ending("stopped" if over.stopped_at is not None else "lost", "queued", why, over.exit_code)
    if over.never_started:
        before = sum(a.state == "lost" and a.trainer_pid is None and a.retry is None for a in run.attempts[:-1])
        why = f"attempt {attempt.number} could not be started; it costs no try"
        return writes.Ending("lost", "queued", why, not_before=now + min(LONGEST_WAIT, 10.0 * before))
    error = over.word["error"] if over.word is not None else None
    in_vain = attempt.resumed_step is not None and attempt.last_step <= attempt.resumed_step
    spent = _spent_tries(run.attempts)
    retry = decide_retry(Ended(over.exit_code, error, over.log, spent, over.divisible, over.stuck, in_vain))
    return _tried(attempt.number, retry, over.exit_code, now)


def _spent_tries(attempts: Sequence[Attempt]) -> list[str]:
    """Whose budgets a run was tried again from."""
    return [str(a.retry["budget"]) for a in attempts if a.retry and a.retry.get("again") and "budget" in a.retry]


def _tried(number: int, retry: RetryDecision, exit_code: int | None, now: float) -> writes.Ending:
    return writes.Ending(
        attempt_state="lost" if retry.from_outside else "failed",
        run_state="queued" if retry.again else "failed",
        why=f"attempt {number}: {retry.cause} ({retry.line})",
        exit_code=exit_code,
        retry=asdict(retry),
        verdict=None if retry.again else UNPROVEN,
        reasons=() if retry.again else (f"the run did not train to its end: {retry.cause}: {retry.line}",),
        not_before=now + retry.wait if retry.again else None,
    )


def log_tail(run_dir: str) -> list[str]:
    """The last lines of an attempt's log, the first of them perhaps torn."""
    try:
        with (Path(run_dir) / LOG_NAME).open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - LOG_BYTES))
            return handle.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def divisible(run: Run) -> bool:
    """Can its micro-batches be halved once more without changing the result? Errors of noisy products are drawn a call,
    so there they cannot."""
    from workers.overrides import MICRO_BATCHES, overrides, smaller

    if run.kind != "train" or run.condition.get("hw_noise") is not None or not run.attempts:
        return False
    try:
        order: Order = replace(read_order(run.attempts[-1].run_dir), halvings=0)
        table = overrides(order, Path(), {"model": "", "train": "", "test": ""}, cpu=False)
    except (OSError, ValueError, TypeError, KeyError):
        return False
    done = run.attempts[-1].halvings
    return any(smaller(int(table[key]), done + 1) < smaller(int(table[key]), done) for key in MICRO_BATCHES)


def end_judged(engine: Engine, run: Run, ending: writes.Ending, facts: list[Measured]) -> bool:
    """End an attempt; a run that is over with it is judged by the bug rules that stand, in the same transaction."""
    attempt = run.attempts[-1]
    for _ in range(TRIES):
        judged = ending
        if ending.run_state in TERMINAL and run.kind == "train":
            new, by_rule, rules = judged_at_the_end(engine, run, ending.run_state, ending.verdict, facts)
            judged = replace(ending, facts=new, judged=by_rule, rules=rules)
        try:
            return writes.end_attempt(engine, attempt.id, attempt.token, run.id, judged)
        except MovedOnError:
            continue
    raise RuntimeError("bug rules change faster than a run can be judged")  # pragma: no cover - twenty in a row


def verdict_of(engine: Engine, run: Run, facts: list[Measured]) -> Verdict:
    """Evidence that cannot be understood, of other code perhaps, leaves its own run unproven and stops no other."""
    try:
        return judge_run(engine, run, facts)
    except (OperationalError, OSError):
        raise  # a locked database, a full disk: those pass
    except Exception as error:  # noqa: BLE001
        return Verdict(UNPROVEN, (f"its evidence cannot be read: {type(error).__name__}: {error}",))


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
