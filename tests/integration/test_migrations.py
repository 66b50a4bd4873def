"""From every earlier revision to the newest, on both databases, with data, and after a kill in the middle."""

from __future__ import annotations

import json
import signal

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, inspect, text

from db import reads
from db.engine import HEAD, OldRegistryError, open_registry
from db.schema import Base
from experiment_specs.language import Condition, Scan
from experiment_specs.load import load_sweep
from tests.conftest import TINY
from tests.integration import old_registry
from tests.integration.conftest import NewDatabase
from tests.integration.migrating import counted_changes, open_in_processes

EMPTY = "empty"
EARLIER = old_registry.revisions()[:-1]
KILLED_AFTER = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where in a migration the process is killed: after its first statement that changes something (0), after its last one
and before the commit (1), and between them. Of T such statements that is after n = 1 + round(share · (T - 1)), all of
them where there are fewer than five."""

Contents = dict[str, list[old_registry.Row]]


@pytest.fixture
def bodies(write_spec) -> dict[str, old_registry.Row]:
    return old_registry.first_bodies(load_sweep(write_spec(TINY)))


@pytest.fixture
def old_database(new_database: NewDatabase, bodies):
    """A registry of a revision with data in it, and what is in it."""

    def make(revision: str) -> tuple[str, Contents]:
        url = new_database()
        engine = create_engine(url)
        if revision != EMPTY:
            old_registry.make(engine, revision, bodies)
        found = _contents(engine)
        engine.dispose()
        assert all(found.values()), "a table without a row"
        return url, found

    return make


def _contents(engine: Engine) -> Contents:
    with engine.connect() as connection:
        return old_registry.contents(connection)


def _revision(engine: Engine) -> str:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return EMPTY
        (found,) = connection.execute(text("SELECT version_num FROM alembic_version")).scalars()
        return str(found)


def _check(engine: Engine, before: Contents) -> None:
    """The newest schema, and all that was there before, in rows and as it is read."""
    assert _revision(engine) == HEAD
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    _check_rows(before, _contents(engine))
    if before:
        _check_reads(engine, before)


def _check_rows(before: Contents, after: Contents) -> None:
    """Every value is as it was, but for conditions that were written in the words of another schema."""

    def schemas(contents: Contents) -> set[int]:
        return {row["schema_version"] for row in contents.get("conditions", ())}

    rewritten = schemas(before) != schemas(after)
    for table, rows in before.items():
        assert len(after[table]) == len(rows), table
        if table == "conditions" and rewritten:
            continue
        for old, new in zip(rows, after[table], strict=True):
            kept = {name for name in old if not (name == "condition_id" and rewritten)}
            assert {name: new[name] for name in kept} == {name: old[name] for name in kept}, table


def _check_reads(engine: Engine, before: Contents) -> None:
    runs = {run.id: run for run in reads.runs(engine, kinds=("train", "scan"))}
    assert set(runs) == {row["id"] for row in before["runs"]}
    for run in runs.values():
        if run.id == old_registry.SCAN:
            assert run.condition_id == Scan.model_validate(run.condition, strict=False).id
        else:
            assert run.condition_id == Condition.model_validate(run.condition).id
        assert (run.verdict, run.reasons) == ("PROVEN", tuple(old_registry.RUN["reasons"]))
    assert runs["adapters"].condition["lora"]["rank"] == 8
    (row,) = before["attempts"]
    run = runs[row["run_id"]]
    assert run.attempt is not None
    assert (run.attempt.token, run.attempt.retry) == (row["token"], row["retry"])
    assert [point.k for point in run.curve] == [row["k"] for row in before["evals"]]
    assert reads.outcomes(engine, row["id"], run.curve[0].step) == bytes(range(256))
    assert [fact.data for fact in reads.evidence(engine, row["id"]) if fact.kind != "eval"] == [
        row["data"] for row in before["evidence"]
    ]
    assert [metrics for *_, metrics in reads.steps(engine, row["id"])] == [row["metrics"] for row in before["steps"]]
    assert [why for *_, why in reads.transitions(engine, run.id)] == [row["why"] for row in before["transitions"]]
    assert reads.sweep_names(engine) == [row["name"] for row in before["sweeps"]]


@pytest.mark.parametrize("revision", EARLIER)
def test_all_data_of_an_earlier_revision_comes_along(old_database, revision: str) -> None:
    url, before = old_database(revision)
    engine = open_registry(url)
    _check(engine, before)
    engine.dispose()


def test_conditions_of_schema_2_name_their_attention_and_contrasts_follow_them(new_database, bodies) -> None:
    url = new_database()
    engine = create_engine(url)
    old_registry.make(engine, "0005", bodies)
    with engine.begin() as connection:
        ids = dict(connection.execute(text("SELECT label, condition_id FROM runs")).all())
        details = {"contrasts": {"x": {"vary": "lora", "pairs": [[ids["plain"], ids["adapters"]]]}}, "budget": {}}
        connection.execute(text("UPDATE sweeps SET details = :d"), {"d": json.dumps(details)})
        connection.execute(text("UPDATE search_arms SET condition_id = :c"), {"c": ids["plain"]})
        told = json.dumps({"condition": bodies["adapters"] | {"hw_noise": {"ops": ["bmm"]}}, "seed": 1})
        connection.execute(text("UPDATE facts SET body = :b"), {"b": told})
    engine.dispose()
    engine = open_registry(url)
    runs = {run.id: run for run in reads.runs(engine, kinds=("train",))}
    assert (runs["plain"].condition["attention"], runs["adapters"].condition["attention"]) == ("sdpa", "eager")
    (name,) = reads.sweep_names(engine)
    found = reads.sweep_details(engine, name)
    assert found["contrasts"]["x"]["pairs"] == [[runs["plain"].condition_id, runs["adapters"].condition_id]]
    with engine.connect() as connection:
        (arm,) = connection.execute(text("SELECT condition_id FROM search_arms")).scalars()
        (facts,) = connection.execute(text("SELECT body FROM facts")).scalars()
    assert arm == runs["plain"].condition_id != ids["plain"]
    facts = facts if isinstance(facts, dict) else json.loads(facts)
    assert (facts["condition"]["attention"], facts["seed"]) == ("eager", 1)
    engine.dispose()


@pytest.mark.parametrize("revision", EARLIER)
def test_an_older_registry_is_not_migrated_by_who_does_not_write(old_database, revision: str) -> None:
    url, before = old_database(revision)
    with pytest.raises(OldRegistryError, match="another revision"):
        open_registry(url, migrate=False)
    engine = create_engine(url)
    assert _revision(engine) == revision
    assert _contents(engine) == before
    engine.dispose()


@pytest.mark.parametrize("revision", [EMPTY, *EARLIER])
def test_a_migration_that_was_killed_leaves_all_or_nothing(
    old_database, new_database: NewDatabase, revision: str
) -> None:
    url, before = old_database(revision)
    with counted_changes() as statements:
        open_registry(new_database(url)).dispose()
    last = len(statements)
    after = sorted({1 + round(share * (last - 1)) for share in KILLED_AFTER})
    assert len(after) == min(last, len(KILLED_AFTER))
    copies = {new_database(url): n for n in after}
    opened = open_in_processes(list(copies.items()))
    assert [process.status for process in opened] == [-signal.SIGKILL] * len(after), opened[0].stderr

    for copy, n in copies.items():
        raw = create_engine(copy)
        assert _revision(raw) == revision
        assert _contents(raw) == before  # no table, no column, no row of the half that was done
        raw.dispose()
        engine = open_registry(copy)
        assert _revision(engine) == HEAD
        _check_rows(before, _contents(engine))
        if n == last:  # the copies are equal by now, and to ask all is slow
            _check(engine, before)
        engine.dispose()
