"""How long a sweep still takes, by the pace of its own runs."""

from __future__ import annotations

from typing import Any

import pytest

from db.records import Attempt, Run
from orchestrator.remaining import seconds_left


def run(state: str, *attempts: Attempt, total: int = 10) -> Run:
    return Run(
        id="r", kind="train", waits_for=None, label="l", condition_id="c", condition={}, seed=1, code_version="v",
        state=state, verdict=None, reasons=(), priority=0, gpus=1, plan={"total_steps": total}, overrides={},
        score_rule={}, created_at=0.0, mlflow_run=None, projected_seq=-1, projected_state=None, attempts=attempts,
    )  # fmt: skip


def attempt(begin: float, end: float | None = None, **more: Any) -> Attempt:
    return Attempt(
        **{
            "id": 1, "run_id": "r", "number": 1, "token": "t", "state": "running", "run_dir": "/r", "node": None,
            "trainer_pid": None, "created_at": begin, "ended_at": end, "exit_code": None, "retry": None,
            "spool_offset": 0, "spool_seq": 0, "last_event_at": None, "last_step": 0,
        }
        | more
    )  # fmt: skip


def under_way(begin: float, step: int, at: float, resumed: int | None = None) -> Run:
    return run("running", attempt(begin, last_step=step, last_event_at=at, resumed_step=resumed))


def test_nothing_is_said_of_what_is_over_or_has_no_pace_yet() -> None:
    assert seconds_left([], 100) is None
    assert seconds_left([run("succeeded", attempt(0, 50))], 100) is None
    assert seconds_left([run("queued"), run("queued")], 100) is None
    assert seconds_left([under_way(0, 0, 90)], 100) is None, "it has no step yet"


def test_a_run_goes_on_as_it_went() -> None:
    assert seconds_left([under_way(begin=0, step=5, at=50)], 60) == pytest.approx(40)
    assert seconds_left([under_way(begin=0, step=5, at=50)], 500) == 0.0, "it is later than thought, and not over"


def test_what_waits_takes_what_others_took_as_many_at_once_as_run_now() -> None:
    done = [run("succeeded", attempt(0, 80)), run("succeeded", attempt(0, 70), attempt(100, 150))]
    queued = [run("queued")] * 4
    assert seconds_left([*done, *queued], 200) == pytest.approx(4 * 100)
    two = [under_way(150, 5, 200), under_way(150, 5, 200)]
    assert seconds_left([*done, *two, *queued], 200) == pytest.approx((50 + 50 + 400) / 2)


def test_before_anything_ended_what_runs_says_how_long_the_others_take() -> None:
    assert seconds_left([under_way(0, 5, 50), run("queued")], 50) == pytest.approx(50 + 100)


def test_the_steps_of_an_earlier_attempt_say_nothing_of_this_ones_pace() -> None:
    resumed = under_way(begin=1000, step=8, at=1020, resumed=6)
    assert seconds_left([resumed], 1020) == pytest.approx(20), "ten seconds a step, two to come"
