"""What the registry promises, on SQLite and on a real PostgreSQL server alike."""

from __future__ import annotations

import base64
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, func, select, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from db import reads, submissions, wishes, writes
from db.engine import HEAD, NoRegistryError, open_registry
from db.records import Run
from db.schema import Base, RunRow
from experiment_specs.language import Condition, Scan
from experiment_specs.load import load_sweep
from orchestrator.plan import make_plan
from orchestrator.submit import submission
from tests.conftest import TINY
from tests.integration import old_registry
from tests.integration.conftest import SWEEP, NewDatabase
from tests.integration.migrating import open_in_processes

EVAL = {"seq": 1, "at": 1.0, "step": 0, "k": 3, "n": 8, "samples": 1, "questions": "q",
        "outcomes": base64.b64encode(b"\x07").decode()}  # fmt: skip
JSON = {
    "grüße 🦙 \u2028 \u0000 \ud800": ['"\\/\n\t', "%s %(name)s :name ?"],
    "floats": [0.1, 1 / 3, 1e300, 5e-324, -0.0, 1.7976931348623157e308, 123456789.12345679],
    "whole": [0, -1, 2**53 + 1, 2**80],
    "others": [None, True, False, {}, [], {"": {"deep": [[[]]]}}],
}


@pytest.fixture
def engine(either_engine: Engine) -> Engine:
    """Overrides that of SQLite alone."""
    return either_engine


@pytest.fixture
def begin(submit, engine: Engine, tmp_path: Path) -> Callable[[], writes.NewAttempt]:
    """The first attempt of the first run of a submitted sweep."""

    def begun() -> writes.NewAttempt:
        attempt = writes.begin_attempt(engine, submit().all[0], tmp_path)
        assert attempt is not None
        return attempt

    return begun


def _record(engine: Engine, attempt: writes.NewAttempt, since: int, offset: int, **events: Any) -> bool:
    new = writes.Ingested(since=since, offset=offset, seq=offset, last_event_at=1.0, last_step=0, **events)
    return writes.record_events(engine, attempt.id, attempt.token, attempt.run_id, new)


def _end(engine: Engine, attempt: writes.NewAttempt, ending: writes.Ending) -> bool:
    return writes.end_attempt(engine, attempt.id, attempt.token, attempt.run_id, ending)


def _found(engine: Engine, name: str) -> Run:
    run = reads.run(engine, name)
    assert run is not None
    return run


def _at_the_same_time(times: int, what: Callable[[], Any]) -> list[Any]:
    """What each of so many threads gets; what one of them raises is raised."""
    ready = threading.Barrier(times)
    got: list[Any] = []
    errors: list[BaseException] = []

    def one() -> None:
        ready.wait()
        try:
            got.append(what())
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return got


GOOD = writes.Ending("succeeded", "succeeded", "done", 0, None, "PROVEN")
BAD = writes.Ending("failed", "failed", "late", 1, None, "REFUTED", ["no"])
AGAIN = writes.Ending("lost", "queued", "lost", None, {"again": True, "rule": "lost from outside", "line": "«weg»"})


class TestContract:
    """Each promise is asked of both databases."""

    def test_the_migrations_make_exactly_the_schema(self, engine: Engine) -> None:
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        assert old_registry.revisions()[-1] == HEAD

    def test_a_missing_registry_is_not_made_by_reading(self, new_database: NewDatabase) -> None:
        url = new_database()
        for migrate in (True, False):
            with pytest.raises(NoRegistryError, match="there is no registry"):
                open_registry(url, create=False, migrate=migrate)
        made = open_registry(url)
        again = open_registry(url, create=False, migrate=False)
        assert reads.state_counts(again) == {}
        for engine in (made, again):
            engine.dispose()

    def test_of_processes_that_open_a_new_registry_at_the_same_time_one_makes_it(
        self, new_database: NewDatabase
    ) -> None:
        url = new_database()
        opened = open_in_processes([(url, 0)] * 3)
        assert [process.status for process in opened] == [0, 0, 0], opened[0].stderr
        made = sorted(process.changes for process in opened)
        assert made[:2] == [0, 0]
        assert made[2] > 0
        engine = open_registry(url, migrate=False)
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        engine.dispose()

    def test_submitting_twice_takes_over_what_is_under_way(self, submit, engine: Engine) -> None:
        first, second = submit(), submit()
        assert len(first.created) == 2
        assert second.created == ()
        assert second.all == first.all
        third = submit(again=True)
        assert len(third.created) == 2
        assert reads.state_counts(engine) == {"queued": 4}
        assert {run.sweeps for run in reads.runs(engine)} == {("light",)}

    def test_a_sweep_that_many_submit_at_the_same_time_is_there_once(self, engine: Engine, write_spec) -> None:
        sweep = submission(make_plan(load_sweep(write_spec(SWEEP))))
        got = _at_the_same_time(6, lambda: submissions.submit(engine, sweep))
        assert sum(len(submitted.created) for submitted in got) == 2
        assert len({submitted.all for submitted in got}) == 1
        assert reads.state_counts(engine) == {"queued": 2}

    def test_a_second_writer_waits_for_the_first_and_has_patience(
        self, submit, engine: Engine, write_spec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep = submission(make_plan(load_sweep(write_spec(SWEEP))))
        monkeypatch.setattr("db.engine.BUSY_MILLISECONDS", 50)
        hasty = open_registry(engine.url.render_as_string(hide_password=False))
        with engine.begin(), pytest.raises(OperationalError):
            submissions.submit(hasty, sweep)
        assert len(submissions.submit(hasty, sweep).created) == 2
        hasty.dispose()

    def test_only_one_of_many_threads_gets_to_begin_an_attempt(self, submit, engine: Engine, tmp_path: Path) -> None:
        run_id = submit().created[0]
        got = _at_the_same_time(8, lambda: writes.begin_attempt(engine, run_id, tmp_path))
        assert sum(attempt is not None for attempt in got) == 1
        assert [attempt.number for attempt in _found(engine, run_id).attempts] == [1]

    def test_a_ghost_changes_nothing(self, begin, engine: Engine) -> None:
        attempt = begin()
        ghost = replace(attempt, token="ghost")  # noqa: S106
        assert not writes.mark_started(engine, ghost.id, ghost.token, "node", 1)
        assert not _record(engine, ghost, 0, 10, evals=[EVAL])
        assert not _end(engine, ghost, GOOD)
        found = _found(engine, attempt.run_id)
        assert (found.state, found.verdict, found.curve) == ("running", None, ())
        assert found.attempt is not None
        assert (found.attempt.state, found.attempt.spool_offset) == ("launching", 0)

    def test_events_are_stored_once_and_an_ending_is_final(self, begin, engine: Engine) -> None:
        attempt = begin()
        assert _record(engine, attempt, 0, 10, evals=[EVAL])
        assert not _record(engine, attempt, 0, 10, evals=[EVAL])
        assert _end(engine, attempt, GOOD)
        assert not _end(engine, attempt, BAD)
        found = _found(engine, attempt.run_id)
        assert (found.state, found.verdict) == ("succeeded", "PROVEN")
        assert [(p.k, p.n) for p in found.curve] == [(3, 8)]
        assert reads.outcomes(engine, attempt.id, 0) == b"\x07"
        after = [after for _, _, after, _ in reads.transitions(engine, attempt.run_id)]
        assert after == ["queued", "running", "succeeded"]

    def test_events_that_cannot_be_stored_leave_the_cursor_where_it_was(self, begin, engine: Engine) -> None:
        attempt = begin()
        step = {"seq": 2, "step": 1, "at": 1.0, "metrics": {}}
        with pytest.raises(IntegrityError):
            _record(engine, attempt, 0, 10, evals=[EVAL], steps=[step, step])
        found = _found(engine, attempt.run_id)
        assert found.attempt is not None
        assert (found.attempt.spool_offset, found.curve) == (0, ())
        assert _record(engine, attempt, 0, 10, evals=[EVAL], steps=[step])

    def test_a_lost_attempt_is_followed_by_another(self, begin, engine: Engine, tmp_path: Path) -> None:
        first = begin()
        assert writes.mark_started(engine, first.id, first.token, "knoten-ü", 4321)
        assert _record(engine, first, 0, 10, evals=[EVAL])
        assert _end(engine, first, AGAIN)
        second = writes.begin_attempt(engine, first.run_id, tmp_path)
        assert second is not None
        found = _found(engine, first.run_id)
        assert [(a.number, a.state, a.node, a.retry) for a in found.attempts] == [
            (1, "lost", "knoten-ü", AGAIN.retry),
            (2, "launching", None, None),
        ]
        assert found.curve == ()  # the last attempt's

    def test_a_run_is_found_by_id_beginning_and_label(self, submit, engine: Engine) -> None:
        run_id = submit().created[0]
        for name in (run_id, run_id[:6], "a"):
            assert _found(engine, name).id == run_id
        assert reads.run(engine, "%") is None
        assert reads.run(engine, "_") is None
        assert reads.run(engine, "nobody") is None

    def test_evidence_steps_and_curves_are_read_back_as_they_were_given(self, begin, engine: Engine) -> None:
        attempt = begin()
        outcomes = bytes(range(256))
        evals = [
            EVAL | {"seq": 3 + step, "step": step, "k": 4 + step, "outcomes": base64.b64encode(outcomes).decode()}
            for step in (4, 0, 2)
        ]
        steps = [{"seq": 10 + s, "step": s, "at": 1e9 + s / 7, "metrics": {"loss": 1 / (s + 1)}} for s in (1, 2, 3)]
        evidence = [
            {"seq": 1, "kind": "started", "at": 0.1, "data": JSON},
            {"seq": 2, "kind": "scan", "at": 0.2, "data": {"errors": [0.1]}},
        ]
        assert _record(engine, attempt, 0, 30, evals=evals, steps=steps, evidence=evidence)

        assert [(p.step, p.k, p.seq) for p in _found(engine, attempt.run_id).curve] == [(0, 4, 3), (2, 6, 5), (4, 8, 7)]
        assert reads.outcomes(engine, attempt.id, 2) == outcomes
        assert reads.outcomes(engine, attempt.id, 3) is None
        told = [(s["seq"], s["step"], s["at"], s["metrics"]) for s in steps]
        assert reads.steps(engine, attempt.id) == told
        assert reads.steps(engine, attempt.id, after_seq=11) == told[1:]
        assert reads.first_steps(engine, [attempt.id]) == {attempt.id: steps[0]["at"]}
        assert reads.last_steps(engine, [attempt.id]) == {attempt.id: (3, {"loss": 0.25})}
        facts = reads.evidence(engine, attempt.id)
        assert [(fact.seq, fact.kind) for fact in facts] == [
            (1, "started"), (2, "scan"), (3, "eval"), (5, "eval"), (7, "eval"),
        ]  # fmt: skip
        assert [(fact.at, fact.data) for fact in facts[:2]] == [(e["at"], e["data"]) for e in evidence]
        assert [fact.seq for fact in reads.evidence(engine, attempt.id, ("scan",))] == [2]

    def test_json_comes_back_equal(self, begin, engine: Engine) -> None:
        attempt = begin()
        assert _record(engine, attempt, 0, 1, evidence=[{"seq": 1, "kind": "started", "at": 0.0, "data": JSON}])
        (fact,) = reads.evidence(engine, attempt.id)
        assert fact.data == JSON
        assert repr(fact.data) == repr(JSON)  # in order, the zero with its sign

    def test_a_metric_that_is_no_number_comes_back_as_such(self, begin, engine: Engine) -> None:
        """The gradient norm of a run that diverged."""
        attempt = begin()
        metrics = {"nan": math.nan, "up": math.inf, "down": [-math.inf, {"plain": 0.5}]}
        step = {"seq": 1, "step": 1, "at": 0.0, "metrics": metrics}
        assert _record(engine, attempt, 0, 1, steps=[step])
        ((*_, found),) = reads.steps(engine, attempt.id)
        assert math.isnan(found.pop("nan"))
        assert found == {"up": math.inf, "down": [-math.inf, {"plain": 0.5}]}

    def test_what_mlflow_does_not_have_yet_is_known(self, begin, engine: Engine) -> None:
        assert reads.needing_projection(engine) == []
        attempt = begin()

        def project() -> None:
            run = _found(engine, attempt.run_id)
            assert run.attempt is not None
            state = reads.projection_state(run)
            writes.record_projection(engine, run.id, "mlflow-1", run.attempt.spool_seq, state, len(run.attempts))

        # the other run of the sweep waits: there is nothing to tell of it
        for happens in (
            lambda: True,
            lambda: _record(engine, attempt, 0, 10, evals=[EVAL]),
            lambda: _end(engine, attempt, GOOD),
        ):
            assert happens()
            assert reads.needing_projection(engine) == [attempt.run_id]
            project()
            assert reads.needing_projection(engine) == []
        assert _found(engine, attempt.run_id).mlflow_run == "mlflow-1"

    def test_who_filled_mlflow_for_an_attempt_that_is_over_moves_no_cursor(self, begin, engine: Engine, tmp_path):
        attempt = begin()
        assert _end(engine, attempt, AGAIN)
        assert writes.begin_attempt(engine, attempt.run_id, tmp_path) is not None
        writes.record_projection(engine, attempt.run_id, "mlflow-old", 99, "state", 1)
        assert _found(engine, attempt.run_id).mlflow_run is None
        writes.record_projection(engine, attempt.run_id, "mlflow-new", 99, "state", 2)
        assert _found(engine, attempt.run_id).mlflow_run == "mlflow-new"

    def test_a_run_that_is_being_cancelled_is_not_taken_over(self, begin, submit, engine: Engine) -> None:
        attempt = begin()
        assert submit().all[0] == attempt.run_id
        wishes.ask_to_cancel(engine, {attempt.run_id: "by mistake"})
        again = submit()
        assert again.all[0] != attempt.run_id
        assert again.created == (again.all[0],)

    def test_a_plan_counts_what_a_submission_would_take_over(self, begin, submit, engine: Engine, write_spec) -> None:
        asked = submission(make_plan(load_sweep(write_spec(SWEEP))))
        assert submissions.recorded(engine, asked) == 0
        attempt = begin()
        assert submissions.recorded(engine, asked) == 2
        wishes.ask_to_cancel(engine, {attempt.run_id: "by mistake"})
        assert submissions.recorded(engine, asked) == 1
        assert submissions.recorded(engine, replace(asked, score_rule={"rule": "best", "mode": "native"})) == 0
        assert len(submit().existing) == 1

    def test_nobody_takes_back_that_a_run_is_to_end_at_once(self, begin, engine: Engine) -> None:
        run_id = begin().run_id
        wishes.ask_to_cancel(engine, {run_id: "first"})
        assert not _found(engine, run_id).cancel_at_once
        wishes.ask_to_cancel(engine, {run_id: "second"}, at_once=True)
        wishes.ask_to_cancel(engine, {run_id: "third"})
        run = _found(engine, run_id)
        assert (run.cancel, run.cancel_at_once) == ("first", True)

    def test_of_two_that_failed_alike_one_is_tried_again(self, begin, submit, engine: Engine, tmp_path: Path) -> None:
        first = begin()
        old = first.run_id
        _end(engine, first, BAD)
        (new, _) = submit().all
        attempt = writes.begin_attempt(engine, new, tmp_path)
        assert attempt is not None
        _end(engine, attempt, BAD)
        made = submissions.retry(engine, [_found(engine, old), _found(engine, new)], "later code", 1)
        assert list(made) == [new], "the newer one stands for its elder"
        assert _found(engine, made[new]).plan["continues"] == [attempt.run_dir]
        assert submit().all[0] == made[new]
        assert _found(engine, made[new]).plan["continues"] == [attempt.run_dir], "a submission keeps its past"

    def test_runs_are_counted_by_state(self, submit, engine: Engine, tmp_path: Path) -> None:
        first, second = submit().created
        assert reads.state_counts(engine) == {"queued": 2}
        writes.begin_attempt(engine, first, tmp_path)
        assert reads.state_counts(engine) == {"queued": 1, "running": 1}
        writes.give_up(engine, first, "it is not queued")
        writes.give_up(engine, second, "what it needs failed")
        assert reads.state_counts(engine) == {"failed": 1, "running": 1}
        assert [run.id for run in reads.runs(engine, states=["failed"])] == [second]

    def test_a_scan_is_a_run_of_its_own_kind(self, engine: Engine, tmp_path: Path) -> None:
        new = submissions.NewRun("scan of tiny", "0123456789ab", {"scan": 1}, 0, {"total_steps": 0}, 1, kind="scan")
        run_id = submissions.request(engine, new, "code", 2)
        assert submissions.request(engine, new, "code", 2) == run_id
        attempt = writes.begin_attempt(engine, run_id, tmp_path)
        assert attempt is not None
        assert _record(engine, attempt, 0, 1, evidence=[{"seq": 1, "kind": "scan", "at": 0.0, "data": JSON}])
        assert reads.scans(engine) == []
        assert reads.proven_scan(engine, new.condition_id) is None
        assert _end(engine, attempt, GOOD)
        assert reads.scans(engine) == [(run_id, "scan of tiny", JSON)]
        assert reads.proven_scan(engine, new.condition_id) == JSON
        assert reads.state_counts(engine) == {}
        assert reads.runs(engine) == []

    def test_a_reader_sees_one_moment_and_does_not_wait_for_a_writer(self, submit, engine: Engine) -> None:
        submit()
        count = select(func.count()).select_from(RunRow)
        reading = engine.execution_options(read_only=True)
        with Session(engine) as writer, Session(reading) as reader:
            assert reader.scalar(count) == 2
            writer.execute(update(RunRow).values(state="cancelled"))
            writer.flush()
            assert reads.state_counts(engine) == {"queued": 2}  # nothing of what is not committed
            writer.commit()
            assert set(reader.scalars(select(RunRow.state))) == {"queued"}  # as it was when it began to read
        assert reads.state_counts(engine) == {"cancelled": 2}

    @pytest.mark.parametrize("had_the_columns", [False, True])
    def test_a_registry_of_the_first_revision_keeps_its_runs(
        self, new_database: NewDatabase, write_spec, had_the_columns: bool
    ) -> None:
        url = new_database()
        bodies = old_registry.first_bodies(load_sweep(write_spec(TINY)))
        raw = create_engine(url)
        with raw.begin() as connection:
            old_registry.upgrade_to(connection, "0001")
            if had_the_columns:
                connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN kind VARCHAR(8) NOT NULL DEFAULT 'train'")
                connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN waits_for VARCHAR(32) REFERENCES runs (id)")
            old_registry.fill(connection, bodies)
        raw.dispose()

        engine = open_registry(url)
        runs = {run.label: run for run in reads.runs(engine)}
        engine.dispose()
        assert set(runs) == set(bodies)
        scan = runs.pop("scan")
        assert scan.condition_id == Scan.model_validate(scan.condition, strict=False).id
        for run in runs.values():
            condition = Condition.model_validate(run.condition)
            assert run.condition_id == condition.id
            assert run.condition == condition.model_dump(mode="json")
            assert (run.kind, run.waits_for) == ("train", None)
        assert runs["aimed"].condition["srdd"]["ceiling"] is True
        assert runs["aimed"].condition["srdd"]["aim"] == "variable"
