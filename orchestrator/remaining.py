"""How long a sweep still takes, by the pace of its own runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from db.records import Attempt, Run


def seconds_left(runs: Sequence[Run], now: float) -> float | None:
    """Of those that are not over, with as many at once as run now; None where none is open or nothing is known.

    A run that is under way goes on as it has gone since its attempt began, start-up included; one that waits takes
    what those that succeeded took on average, or before there is one, what those under way will have taken.
    """
    under_way = [(run, attempt) for run in runs if run.state == "running" and (attempt := run.attempt) is not None]
    waiting = sum(run.state == "queued" for run in runs)
    if not under_way and not waiting:
        return None
    took = [_seconds(run) for run in runs if run.state == "succeeded" and run.attempts]
    known = [whole for run, attempt in under_way if (whole := _whole(run, attempt)) is not None]
    each = fmean(took) if took else fmean(known) if known else None
    if each is None:
        return None
    left = sum(max(0.0, (_whole(run, attempt) or each) - (now - attempt.created_at)) for run, attempt in under_way)
    return (left + waiting * each) / max(1, len(under_way))


def _seconds(run: Run) -> float:
    return sum(attempt.ended_at - attempt.created_at for attempt in run.attempts if attempt.ended_at is not None)


def _whole(run: Run, attempt: Attempt) -> float | None:
    """What an attempt will have taken; None before its first step. One that went on from a checkpoint took only the
    steps since."""
    done = attempt.last_step - (attempt.resumed_step or 0)
    if done < 1 or attempt.last_event_at is None:
        return None
    pace = (attempt.last_event_at - attempt.created_at) / done
    return pace * (run.total_steps - (attempt.resumed_step or 0))
