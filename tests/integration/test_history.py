"""Finished runs price the ones to come: durations and scatter from a real registry."""

from __future__ import annotations

from dataclasses import replace

from experiment_specs.load import load_sweep
from orchestrator.forecast import forecast
from orchestrator.history import history, pasts, scatter
from orchestrator.plan import make_plan
from tests.integration.conftest import SWEEP
from tests.integration.test_scans import scheduler  # noqa: F401 - a fixture
from tests.integration.test_scheduler import over, tick_until


def test_what_finished_is_what_the_next_plan_is_priced_by(submit, scheduler, engine, write_spec) -> None:  # noqa: F811
    text = SWEEP + "seeds: [1, 2, 3]\n"
    plan = make_plan(load_sweep(write_spec(text)))
    before = history(engine)
    assert forecast(plan, pasts(engine, before), before).price is None
    ids = submit(text).all
    tick_until(scheduler, over(engine, *ids))
    runs = history(engine)
    past = pasts(engine, runs)
    assert len(past) == 6
    assert all(p.startup >= 0 and p.seconds >= 0 for p in past)
    assert {p.answers for p in past} == {4 * 16 * 8 + 2 * 500}  # the first eval ends the start-up
    found = forecast(plan, past, runs)
    assert found.price is not None
    assert found.price.runs == 6
    spread = scatter(runs, "tiny/qwen2", "tiny/addition")
    assert spread.runs == 6
    assert spread.sd < 1e-9  # light workers answer alike
    again = [replace(run, id=f"again-{run.id}") for run in runs]
    assert scatter([*again, *runs], "tiny/qwen2", "tiny/addition").runs == 6  # a seed counts once
    assert scatter(runs, "tiny/qwen2", "other questions").runs == 0
