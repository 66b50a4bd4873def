"""Searches on a real registry: what is recorded, what is withheld, and that nothing is lost or run twice."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from db import reads, submissions, writes
from db.records import Run
from db.schema import AttemptRow
from experiment_specs.bug_rules import rule_from_text
from experiment_specs.errors import SpecError
from experiment_specs.search import load_search
from orchestrator.bugs import engine as bugs
from orchestrator.comparison import recorded_answers
from orchestrator.plan import _shipped
from orchestrator.report.gather import gather
from orchestrator.search.answer import answer, as_json_object
from orchestrator.search.decide import Finish, Wait
from orchestrator.search.owner import Owner, SearchError, ownership
from orchestrator.search.state import FRESH_FROM, SearchState
from orchestrator.settings import Settings
from tests.integration.conftest import NewDatabase
from tests.search_tools import SEARCH, finish

MARKED = """\
bug: disk-was-full
version: 1
title: Written while the disk was full
found: 2026-01-12
status: confirmed
disposition: rerun
affects: {{score: rule, is: best}}
include: [{{run: {run}, because: it was on that machine}}]
"""


@pytest.fixture
def write_search(write_spec) -> Callable[..., Path]:
    def write(runs: int = 20, sampler: str = "tpe", more: str = "") -> Path:
        return write_spec(SEARCH.format(runs=runs, sampler=sampler, more=more), "search.yaml")

    return write


@pytest.fixture
def begin(engine: Engine, write_search) -> Callable[..., Owner]:
    def begun(**options: object) -> Owner:
        owner = Owner(engine, load_search(write_search(**options)), _shipped)
        owner.begin()
        return owner

    return begun


def to_the_end(
    owner: Owner, engine: Engine, settings: Settings, verdict_of: Callable[[Run], str] = lambda _: "PROVEN"
) -> SearchState:
    for _ in range(200):
        state, order = owner.step()
        if isinstance(order, Finish):
            return state
        waiting = [run for run in state.runs if run.state == "queued"]
        assert waiting, "it waits for nothing"
        finish(engine, settings, waiting[-1], verdict_of(waiting[-1]))
    pytest.fail("the search does not end")


def test_a_search_spends_its_budget_and_confirms_on_other_questions_with_fresh_seeds(begin, engine, settings) -> None:
    state = to_the_end(begin(), engine, settings)
    assert len(state.runs) == 20
    assert [len(state.of_role(role)) for role in ("baseline", "plain", "beside", "confirmed")] == [1, 1, 1, 2]
    confirmation = {arm.condition_id for arm in state.of_role("plain", "confirmed", "beside")}
    for run in state.runs:
        asked, fresh = run.condition["data"]["test"], run.seed >= FRESH_FROM
        assert (asked == "tiny/addition") == fresh == (run.condition_id in confirmation)
    for trial in state.trials:  # every value is a difference to the baseline of the same seed
        assert trial.values
        assert set(trial.values) <= {run.seed for run in state.runs_of(state.baseline)}
    found = answer(state, recorded_answers(engine))
    assert found is not None
    assert {c.label for c in found.candidates} >= {"no noise", "standard"}
    assert found.simplest in found.tied
    told = as_json_object(state, found)
    assert json.loads(json.dumps(told))["best"] == list(found.tied)


def test_a_better_region_is_found(begin, engine, settings) -> None:
    state = to_the_end(begin(runs=34), engine, settings)
    best = max(state.trials, key=lambda trial: state.surface.smoothed.get(trial.number, -99))
    assert 0.008 < best.point["aqn.sigma_start"] <= 0.1
    assert max(len(trial.values) for trial in state.trials) > 1


def test_asking_again_records_nothing_twice(begin, engine, settings, write_search) -> None:
    """Another process that begins at any moment decides the same: nothing."""
    owner = begin(more="parallel: 2")
    for _ in range(6):
        state, order = owner.step()
        assert isinstance(order, Wait)
        again, _ = Owner(engine, load_search(write_search()), _shipped).step()
        assert (again.arms, [run.id for run in again.runs]) == (state.arms, [run.id for run in state.runs])
        finish(engine, settings, [run for run in state.runs if run.state == "queued"][-1])


def test_a_refuted_run_never_becomes_a_value(begin, engine, settings) -> None:
    def verdict(run: Run) -> str:
        refuted = run.condition["aqn"] is not None and run.condition["aqn"]["schedule"] == "linear"
        return "REFUTED" if refuted else "PROVEN"

    state = to_the_end(begin(runs=24), engine, settings, verdict)
    linear = [trial for trial in state.trials if trial.point["aqn.schedule"] == "linear"]
    assert linear, "no trial that the test is about"
    for trial in linear:
        assert not trial.values
        assert trial.void
        assert "REFUTED" in state.why_void(trial)["1"]
        assert state.told(trial).values is None
    assert all(arm.point["aqn.schedule"] == "kstage" for arm in state.of_role("confirmed"))


def test_a_run_invalidated_later_is_withheld_and_the_study_made_anew(begin, engine, settings, mark) -> None:
    owner = begin()
    while len(owner.step()[0].trials) < 3:
        state = owner.state()
        finish(engine, settings, [run for run in state.runs if run.state == "queued"][-1])
    state = owner.state()
    victim = next(run for run in state.runs if run.condition["aqn"] is not None and run.valid)
    before = next(t for t in state.trials if t.values and victim in state.runs_of(_arm(state, t.number)))
    mark(victim.id)
    after = next(trial for trial in owner.state().trials if trial.number == before.number)
    assert before.values
    assert not after.values
    assert after.void == {1}
    assert owner.state().told(after).values is None


def test_a_baseline_that_falls_takes_every_difference_with_it(begin, engine, settings, mark) -> None:
    owner = begin()
    for _ in range(3):
        state, _ = owner.step()
        finish(engine, settings, [run for run in state.runs if run.state == "queued"][-1])
    state, _ = owner.step()
    assert any(trial.values for trial in state.trials)
    mark(next(run.id for run in state.runs if run.condition["aqn"] is None))
    fallen = owner.state()
    assert not any(trial.values for trial in fallen.trials)
    assert "the baseline's run" in fallen.why_void(fallen.trials[0])["1"]
    state = to_the_end(owner, engine, settings)  # goes on with seeds that the baseline has
    assert any(trial.values for trial in state.trials)
    assert all(1 not in trial.values for trial in state.trials)
    assert state.of_role("confirmed")


def test_a_baseline_that_is_always_refuted_ends_the_search_instead_of_its_budget(begin, engine, settings) -> None:
    state = to_the_end(begin(runs=40), engine, settings, lambda run: "PROVEN" if run.condition["aqn"] else "REFUTED")
    assert len(state.runs) < 16
    assert not state.confirming
    assert answer(state, recorded_answers(engine)) is None


def _arm(state: SearchState, number: int):
    return next(arm for arm in state.arms if arm.number == number)


@pytest.fixture
def mark(engine: Engine, tmp_path: Path) -> Callable[[str], None]:
    def marked(run_id: str) -> None:
        text = MARKED.format(run=run_id)
        assert bugs.apply(engine, rule_from_text(text, tmp_path / "rule.yaml"), "found")[0]

    return marked


def test_what_is_reported_was_not_selected_on(begin, engine, settings) -> None:
    state = to_the_end(begin(), engine, settings)
    material = gather(engine)
    selected = {arm.condition_id for arm in state.of_role("trial", "baseline")}
    shown = [arm for best in material.best for arm in (best.leader, *(one.second for one in best.comparisons))]
    shown += [arm for one in (*material.noise, *material.lengths) for arm in (one.first, one.second)]
    assert shown
    assert not selected & {arm.condition_id for arm in shown}
    assert [one.state.name for one in material.searches] == ["light-search"]
    assert not material.sweeps


def test_another_space_under_the_same_name_is_refused_and_another_budget_goes_on(begin, engine, write_search) -> None:
    begin().step()
    Owner(engine, load_search(write_search(runs=30)), _shipped).begin()
    other = write_search()
    other.write_text(other.read_text().replace("low: 1.0e-3", "low: 2.0e-3"))
    with pytest.raises(SpecError, match="began with another space"):
        Owner(engine, load_search(other), _shipped).begin()
    other.write_text(other.read_text().replace("low: 2.0e-3", "low: 1.0e-3").replace("mxfp4", "nvfp4"))
    with pytest.raises(SpecError, match=r"search.yaml:1: search: light-search began with another conditions"):
        Owner(engine, load_search(other), _shipped).begin()


def test_a_sweep_cannot_be_written_over_a_search_nor_a_search_over_a_sweep(begin, engine, submit, write_search) -> None:
    begin()
    with pytest.raises(submissions.NameTakenError):
        submit("sweep: light-search\nbase: bases/tiny-cpu.yaml\n")
    submit("sweep: mine\nbase: bases/tiny-cpu.yaml\n")
    spec = write_search()
    spec.write_text(spec.read_text().replace("search: light-search", "search: mine"))
    with pytest.raises(SpecError, match="mine is a sweep, not a search"):
        Owner(engine, load_search(spec), _shipped).begin()


def test_a_score_without_baseline_may_have_no_noise_in_its_space(engine, settings, write_spec) -> None:
    """The trial that is the baseline, and those that are presets, are one candidate each."""
    text = SEARCH.format(runs=24, sampler="grid", more="objective: {maximise: score}")
    begin, end = text.index("space:"), text.index("replicates:")
    small = f"{text[:begin]}space: {{aqn: {{choices: [none, standard, high]}}}}\n{text[end:]}".replace(
        "top: 2", "top: 3"
    )
    owner = Owner(engine, load_search(write_spec(small)), _shipped)
    owner.begin()
    state = to_the_end(owner, engine, settings)
    assert not state.of_role("baseline")
    found = answer(state, recorded_answers(engine))
    assert found is not None
    assert [(c.label, c.arm.trial is not None) for c in found.candidates][:2] == [
        ("no noise", True),
        ("standard", True),
    ]
    assert len(found.candidates) == 3


def test_while_the_confirmation_is_under_way_nothing_is_said_and_what_failed_is_named(begin, engine, settings) -> None:
    owner = begin()
    while not owner.step()[0].confirming:
        state = owner.state()
        finish(engine, settings, [run for run in state.runs if run.state == "queued"][-1])
    state = owner.state()
    queued = [run for run in state.runs if run.state == "queued"]
    finish(engine, settings, queued[-1])
    early = answer(owner.state(), recorded_answers(engine))
    assert early is not None
    assert "under way" in early.sentence
    bad = next(arm for arm in state.of_role("confirmed"))
    for run in queued[:-1]:
        finish(engine, settings, run, "REFUTED" if run.condition_id == bad.condition_id else "PROVEN")
    found = answer(owner.state(), recorded_answers(engine))
    assert found is not None
    assert len(found.without) == 1
    assert found.without[0] not in found.tied
    assert f"{found.without[0]}: no score that counts" in found.sentence


def test_a_later_search_confirms_with_seeds_that_these_conditions_never_had(
    begin, engine, settings, write_search
) -> None:
    first = to_the_end(begin(), engine, settings)
    spec = write_search()
    spec.write_text(spec.read_text().replace("search: light-search", "search: second\nseed: 5"))
    owner = Owner(engine, load_search(spec), _shipped)
    owner.begin()
    second = to_the_end(owner, engine, settings)
    fresh = [{run.seed for run in state.runs if run.seed >= FRESH_FROM} for state in (first, second)]
    assert fresh[0] == {1001, 1002}
    assert not fresh[0] & fresh[1]


@pytest.mark.parametrize("also", ["gpu_hours", "response_length"])
def test_a_second_objective_is_told_and_shown(also: str, begin, engine, settings) -> None:
    state = to_the_end(begin(more=f"objective: {{also: {also}}}"), engine, settings)
    told = [state.told(trial) for trial in state.trials if trial.values]
    assert all(one.values is not None and len(one.values) == 2 for one in told)
    assert any(trial.cost is not None for trial in state.trials) == (also == "gpu_hours")


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_small_space_is_exhausted_and_what_is_suggested_again_gets_a_seed(
    sampler, engine, settings, write_spec
) -> None:
    """Three points with three seeds each and the baseline's: twelve runs, however large the budget is."""
    text = SEARCH.format(runs=100, sampler=sampler, more="")
    begin, end = text.index("space:"), text.index("replicates:")
    small = f"{text[:begin]}space: {{aqn: {{choices: [standard, high, lower]}}}}\n{text[end:]}"
    owner = Owner(engine, load_search(write_spec(small)), _shipped)
    owner.begin()
    state = to_the_end(owner, engine, settings)
    assert sorted(arm.point["aqn"] for arm in state.of_role("trial")) == ["high", "lower", "standard"]
    selection = [run for run in state.runs if run.seed < FRESH_FROM]
    assert {len(trial.values) for trial in state.trials} <= {1, 2, 3}
    assert max(len(trial.values) for trial in state.trials) == 3
    assert len(selection) <= 12


@pytest.mark.parametrize(("hours", "first", "least"), [(16, 1, 14), (16, 2, 14), (9, 1, 8), (5, 1, 2)])
def test_gpu_hours_are_not_overspent(hours, first, least, engine, settings, write_search) -> None:
    """Runs here take no time: what they cost, an hour each, is written into their attempts."""
    spec = write_search()
    spec.write_text(spec.read_text().replace("budget: {runs: 20}", f"budget: {{gpu_hours: {hours}}}"))
    spec.write_text(spec.read_text().replace("first: 1", f"first: {first}"))
    owner = Owner(engine, load_search(spec), _shipped)
    owner.begin()
    for _ in range(100):
        state, order = owner.step()
        if isinstance(order, Finish):
            break
        run = [run for run in state.runs if run.state == "queued"][-1]
        finish(engine, settings, run)
        with Session(engine) as session, session.begin():
            mine = update(AttemptRow).where(AttemptRow.run_id == run.id)
            session.execute(mine.values(ended_at=AttemptRow.created_at + 3600))
    assert isinstance(order, Finish)
    assert least <= len(state.runs) <= hours
    assert state.confirming == (hours > 5)


def test_a_run_that_is_behind_at_equal_steps_is_asked_to_end(begin, engine, settings) -> None:
    owner = begin(more="pruner: {from_step: 2}\nparallel: 2")
    for _ in range(30):
        state, _ = owner.step()
        if state.surface.leader is not None and any(
            run.state == "queued" for run in state.runs if run.condition["aqn"]
        ):
            break
        finish(engine, settings, [run for run in state.runs if run.state == "queued"][-1])
    run = next(run for run in state.runs if run.state == "queued" and run.condition["aqn"])
    attempt = writes.begin_attempt(engine, run.id, settings.runs)
    right = base64.b64encode(bytes(63)).decode()
    evals = [{"seq": 2, "at": 1.0, "step": run.total_steps, "k": 100, "n": 500, "samples": 1, "questions": "election",
              "outcomes": right}]  # fmt: skip
    told = writes.Ingested(since=0, offset=9, seq=9, last_event_at=1.0, last_step=run.total_steps, evals=evals)
    writes.record_events(engine, attempt.id, attempt.token, run.id, told)
    owner.step()
    assert "behind at equal steps" in (reads.runs(engine, ids=[run.id])[0].cancel or "")


def test_one_process_owns_a_search(settings: Settings) -> None:
    with (
        ownership(settings, "one"),
        pytest.raises(SearchError, match=f"process {os.getpid()} goes on"),
        ownership(settings, "one"),
    ):
        pass
    with ownership(settings, "one"):
        pass


def test_two_owners_that_decide_at_once_cannot_both_record(new_database: NewDatabase, write_search, settings) -> None:
    from db.engine import open_registry

    engine = open_registry(new_database())
    first, second = (Owner(engine, load_search(write_search()), _shipped) for _ in range(2))
    first.begin()
    state = second.state()
    first.step()
    with pytest.raises(submissions.AnotherOwnerError):
        second._record(second._trial(state, second.view(state), {"aqn.schedule": "linear", "aqn.sigma_start": 0.01,
                                                                "aqn.sigma_end": 0.001}, (1,)))  # fmt: skip
    assert len(reads.search_arms(engine, "light-search")) == 2
    engine.dispose()


@pytest.fixture
def process(write_search, ray_address: str) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(runs: int) -> subprocess.Popen[str]:
        spec = write_search(runs=runs)
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.search_process", str(spec), ray_address],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kills", "runs"), [(2, 11), pytest.param(8, 16, marks=pytest.mark.slow)])
def test_killed_again_and_again_no_trial_is_lost_and_none_runs_twice(kills, runs, process, engine, settings) -> None:
    """``kills``: how often the process that goes on with the search is killed, a random while after it began."""
    chance = random.Random(7)
    for _ in range(kills):
        running = process(runs)
        seen = len(reads.runs(engine, sweep="light-search"))
        until = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < until:  # killed after it has begun to work, not before
            if len(reads.runs(engine, sweep="light-search")) > seen or chance.random() < 0.002:
                break
            signal.sigtimedwait([], 0.02)
        signal.sigtimedwait([], chance.random() * 0.5)
        running.send_signal(signal.SIGKILL)
        running.wait()
    last = process(runs)
    output, _ = last.communicate(timeout=400)
    assert last.returncode == 0, output
    found = reads.runs(engine, sweep="light-search")
    pairs = Counter((run.condition_id, run.seed) for run in found)
    assert set(pairs.values()) == {1}, "a condition and seed was run twice"
    assert len(found) == runs
    assert {run.state for run in found} == {"succeeded"}
    assert all(len([a for a in run.attempts if a.state == "succeeded"]) == 1 for run in found)
    arms = reads.search_arms(engine, "light-search")
    assert [arm.number for arm in arms] == list(range(len(arms)))
    assert {run.condition_id for run in found} == {arm.condition_id for arm in arms}
