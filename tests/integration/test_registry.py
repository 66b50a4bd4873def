"""The registry on real SQLite: one transaction each, tokens as fences, the schema from its first revision."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, text

from db import reads, writes
from db.engine import HEAD, RegistryError, open_registry
from db.schema import Base
from experiment_specs.language import Condition, Scan
from experiment_specs.load import Sweep, build_condition, load_sweep
from tests.conftest import TINY

MIGRATIONS = Path(__file__).resolve().parents[2] / "db" / "migrations"
EVAL = {"seq": 1, "at": 1.0, "step": 0, "k": 3, "n": 8, "samples": 1, "questions": "q",
        "outcomes": base64.b64encode(b"\x07").decode()}  # fmt: skip


def test_sqlite_is_in_wal_mode_and_writes_begin_immediate(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL


def test_the_migrations_make_exactly_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_missing_registry_and_a_bad_url_are_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is no registry"):
        open_registry(f"sqlite:///{tmp_path}/none.db", create=False)
    with pytest.raises(RegistryError, match="not a database URL"):
        open_registry("nonsense")
    assert not list(tmp_path.iterdir())


def test_submitting_twice_takes_over_what_is_under_way(submit, engine: Engine) -> None:
    first, second = submit(), submit()
    assert len(first.created) == 2
    assert second.created == ()
    assert second.all == first.all
    third = submit(again=True)
    assert len(third.created) == 2
    assert reads.state_counts(engine) == {"queued": 4}
    assert {run.sweeps for run in reads.runs(engine)} == {("light",)}


def test_only_one_of_many_threads_gets_to_begin_an_attempt(submit, engine: Engine, tmp_path: Path) -> None:
    run_id = submit().created[0]
    got: list[object] = []
    threads = [
        threading.Thread(target=lambda: got.append(writes.begin_attempt(engine, run_id, tmp_path))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(attempt is not None for attempt in got) == 1


def test_a_ghost_changes_nothing(submit, engine: Engine, tmp_path: Path) -> None:
    run_id = submit().created[0]
    attempt = writes.begin_attempt(engine, run_id, tmp_path)
    assert attempt is not None
    new = writes.Ingested(since=0, offset=10, seq=1, last_event_at=1.0, last_step=0, evals=[EVAL])
    ending = writes.Ending("succeeded", "succeeded", "done", 0, None, "PROVEN")
    assert not writes.mark_started(engine, attempt.id, "ghost", "node", 1)
    assert not writes.record_events(engine, attempt.id, "ghost", run_id, new)
    assert not writes.end_attempt(engine, attempt.id, "ghost", run_id, ending)
    found = reads.run(engine, run_id)
    assert found is not None
    assert (found.state, found.verdict, found.curve) == ("running", None, ())


def test_events_are_stored_once_and_an_ending_is_final(submit, engine: Engine, tmp_path: Path) -> None:
    run_id = submit().created[0]
    attempt = writes.begin_attempt(engine, run_id, tmp_path)
    assert attempt is not None
    new = writes.Ingested(since=0, offset=10, seq=1, last_event_at=1.0, last_step=0, evals=[EVAL])
    assert writes.record_events(engine, attempt.id, attempt.token, run_id, new)
    assert not writes.record_events(engine, attempt.id, attempt.token, run_id, new)
    good = writes.Ending("succeeded", "succeeded", "done", 0, None, "PROVEN")
    assert writes.end_attempt(engine, attempt.id, attempt.token, run_id, good)
    bad = writes.Ending("failed", "failed", "late", 1, None, "REFUTED", ["no"])
    assert not writes.end_attempt(engine, attempt.id, attempt.token, run_id, bad)
    found = reads.run(engine, run_id)
    assert found is not None
    assert (found.state, found.verdict) == ("succeeded", "PROVEN")
    assert [(p.k, p.n) for p in found.curve] == [(3, 8)]
    assert reads.outcomes(engine, attempt.id, 0) == b"\x07"
    assert [after for _, _, after, _ in reads.transitions(engine, run_id)] == ["queued", "running", "succeeded"]


def test_a_run_is_found_by_id_beginning_and_label(submit, engine: Engine) -> None:
    run_id = submit().created[0]
    for name in (run_id, run_id[:6], "a"):
        found = reads.run(engine, name)
        assert found is not None
        assert found.id == run_id
    assert reads.run(engine, "%") is None
    assert reads.run(engine, "nobody") is None


def _first_bodies(sweep: Sweep) -> dict[str, dict[str, Any]]:
    """Conditions as schema 1 wrote them: today's words without those that schema 2 added."""
    plain = build_condition(sweep, {}).model_dump(mode="json")
    del plain["dtype"]["include"], plain["dtype"]["exclude"]
    aqn = {"schedule": "kstage", "sigma_start": 0.05, "sigma_end": 0.0005, "num_stages": 10}
    aimed = Condition.model_validate(plain | {"aqn": aqn}).model_dump(mode="json")["aqn"]
    del aimed["multipliers"]
    lora = Condition.model_validate(plain | {"lora": {"rank": 8}}).model_dump(mode="json")["lora"]
    del lora["sync"]
    return {
        "plain": plain,
        "aimed": plain
        | {
            "dtype": {"format": "mxfp4", "scale_rule": "floor"},
            "aqn": aimed,
            "srdd": {"aim": "ceiling", "top_k": None},
        },
        "scan": {
            "model": plain["model"],
            "questions": "tiny/addition",
            "prompts": 8,
            "max_prompt_tokens": 16,
            "compute": "fp32",
            "dtype": {"format": "mxfp4", "scale_rule": "floor"},
        },
        "adapters": plain
        | {"lora": lora, "hw_noise": {"scale": 0.05, "phases": ["train", "rollout", "eval"], "backward": False}},
    }


@pytest.mark.parametrize("had_the_columns", [False, True])
def test_a_registry_of_the_first_revision_keeps_its_runs(tmp_path: Path, write_spec, had_the_columns: bool) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    raw = create_engine(url)
    bodies = _first_bodies(load_sweep(write_spec(TINY)))
    with raw.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        if had_the_columns:
            connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN kind VARCHAR(8) NOT NULL DEFAULT 'train'")
            connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN waits_for VARCHAR(32) REFERENCES runs (id)")
        for name, body in bodies.items():
            connection.execute(
                text("INSERT INTO conditions VALUES (:id, 1, :body)"), {"id": name, "body": json.dumps(body)}
            )
            connection.execute(
                text(
                    "INSERT INTO runs (id, condition_id, seed, code_version, label, state, created_at, priority, gpus, plan,"
                    " overrides, score_rule, reasons, projected_seq)"
                    " VALUES (:id, :id, 1, 'c', :id, 'succeeded', 0, 0, 1, '{}', '{}', '{}', '[]', 0)"
                ),
                {"id": name},
            )
    raw.dispose()

    engine = open_registry(url)
    runs = {run.label: run for run in reads.runs(engine)}
    assert set(runs) == set(bodies)
    scan = Scan.model_validate(runs.pop("scan").condition, strict=False)
    (found,) = [run.condition_id for run in reads.runs(engine) if run.label == "scan"]
    assert found == scan.id
    for run in runs.values():
        condition = Condition.model_validate(run.condition)
        assert run.condition_id == condition.id
        assert run.condition == condition.model_dump(mode="json")
        assert (run.kind, run.waits_for) == ("train", None)
    assert runs["aimed"].condition["srdd"]["ceiling"] is True
    assert runs["aimed"].condition["srdd"]["aim"] == "variable"
