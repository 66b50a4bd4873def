"""Layer scans as runs that others wait for: made once, shared, and refused where they cannot be true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from db import reads, submissions
from db.schema import RunRow
from experiment_specs.language import CONDITION_SCHEMA, Scan, scan_of
from experiment_specs.load import load_sweep
from orchestrator.plan import make_plan
from orchestrator.scheduler.loop import Scheduler
from orchestrator.submit import scan_run
from tests.integration.test_scheduler import behave, one, over, tick_until
from tests.light_worker import command
from workers.launch import CodeVersion, code_version, read_order

AIMED = """\
sweep: {name}
base: bases/tiny-cpu.yaml
set: {{steps_per_epoch: 4, eval: {{every: 2}}, dtype: mxfp4, aqn: {{preset: standard, num_stages: 4}}}}
axes: {{srdd: [{aims}]}}
"""


@pytest.fixture
def scheduler(settings, engine, ray_address: str) -> Iterator[Scheduler]:
    from orchestrator.fleet.ray_fleet import RayFleet

    fleet = RayFleet(ray_address, command)
    yield Scheduler(settings, engine, fleet)
    for run in reads.runs(engine, states=("running",), kinds=("train", "scan")):
        if run.attempt is not None:
            fleet.release(run.attempt)
    fleet.close()


def test_a_scan_is_made_once_and_shared_and_its_multipliers_are_proven(submit, scheduler, engine) -> None:
    first = submit(AIMED.format(name="one", aims="variable, inverse"))
    assert len(first.needed) == 1
    tick_until(scheduler, over(engine, *first.all))
    scan = one(engine, first.needed[0])
    assert (scan.kind, scan.verdict, len(scan.attempts)) == ("scan", "PROVEN", 1)
    for run_id in first.all:
        run = one(engine, run_id)
        assert (run.verdict, run.reasons) == ("PROVEN", ())
        assert run.attempts[0].created_at > scan.attempts[0].ended_at
        assert read_order(run.attempts[0].run_dir).scan == {"run": scan.id, "model": "m", "errors": [0.3, 0.1]}
    second = submit(AIMED.format(name="two", aims="{aim: targeted, top_k: 1}"))
    assert second.needed == first.needed
    tick_until(scheduler, over(engine, *second.all))
    assert one(engine, second.all[0]).verdict == "PROVEN"
    assert [run.kind for run in reads.runs(engine)] == ["train"] * 3
    assert reads.state_counts(engine) == {"succeeded": 3}
    assert reads.needing_projection(engine) == [run.id for run in reversed(reads.runs(engine))]


def test_runs_whose_scan_failed_fail_with_its_reason_and_take_no_gpu(submit, scheduler, settings, engine) -> None:
    submitted = submit(AIMED.format(name="one", aims="variable"))
    behave(settings, submitted.needed[0], errors=None)
    tick_until(scheduler, over(engine, *submitted.all))
    run = one(engine, submitted.all[0])
    assert (run.state, run.verdict, run.attempts) == ("failed", "UNPROVEN", ())
    assert "which failed" in run.reasons[0]
    assert "the model could not be loaded" in run.reasons[0]
    again = submit(AIMED.format(name="one", aims="variable"))
    assert again.all != submitted.all
    assert again.needed != submitted.needed


def test_a_run_that_is_tried_again_gets_a_new_scan_where_the_old_one_failed(submit, scheduler, settings, engine):
    submitted = submit(AIMED.format(name="one", aims="variable"))
    behave(settings, submitted.needed[0], errors=None)
    tick_until(scheduler, over(engine, *submitted.all))
    (new,) = submissions.retry(engine, [one(engine, submitted.all[0])], code_version().id, CONDITION_SCHEMA).values()
    assert one(engine, new).waits_for not in (None, submitted.needed[0])
    tick_until(scheduler, over(engine, new))
    assert one(engine, new).verdict == "PROVEN"


def test_bit_identical_scans_of_two_models_are_refused(submit, scheduler, settings, engine) -> None:
    submitted = submit(AIMED.format(name="one", aims="variable"))
    tick_until(scheduler, over(engine, *submitted.all))
    other = submissions.request(engine, scan_run(scan(write(submitted, engine), "elsewhere")), "v", CONDITION_SCHEMA)
    behave(settings, other, model="another")
    tick_until(scheduler, over(engine, other))
    run = one(engine, other)
    assert run.verdict == "REFUTED"
    assert f"({submitted.needed[0]}), a scan of another model" in run.reasons[0]


def write(submitted: Any, engine: Any) -> dict[str, Any]:
    return one(engine, submitted.needed[0]).condition


def scan(condition: dict[str, Any], path: str) -> Scan:
    return Scan.model_validate({**condition, "model": {"path": path}}, strict=False)


def test_the_same_model_format_and_questions_are_the_same_scan(write_spec) -> None:
    conditions = make_plan(load_sweep(write_spec(AIMED.format(name="s", aims="variable, ceiling, inverse")))).conditions
    assert len({scan_of(c.condition).id for c in conditions}) == 1


def test_a_scan_of_other_code_or_one_that_failed_is_not_shared(submit, engine, monkeypatch) -> None:
    first = submit(AIMED.format(name="one", aims="variable"))
    assert submit(AIMED.format(name="two", aims="inverse")).needed == first.needed  # it waits still
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(state="succeeded", verdict="REFUTED"))
    assert submit(AIMED.format(name="three", aims="ceiling")).needed != first.needed
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(state="succeeded", verdict="PROVEN"))
    shared = submit(AIMED.format(name="four", aims="{aim: targeted, top_k: 1}")).needed
    assert one(engine, shared[0]).verdict == "PROVEN"
    monkeypatch.setattr("orchestrator.submit.code_version", lambda: CodeVersion("other", None, None, {}))
    assert one(engine, submit(AIMED.format(name="five", aims="{aim: targeted, top_k: 2}")).needed[0]).state == "queued"


def test_a_scan_that_others_wait_for_keeps_the_highest_priority(submit, engine) -> None:
    urgent = submit("priority: 9\n" + AIMED.format(name="one", aims="variable"))
    submissions.request(
        engine, scan_run(scan(write(urgent, engine), "tiny/qwen2")), code_version().id, CONDITION_SCHEMA
    )
    assert one(engine, urgent.needed[0]).priority == 9
