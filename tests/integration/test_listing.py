"""Lists of an SQLite registry come without SQLAlchemy, and say what they say with it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from db import bug_reads, listing, reads
from db.engine import open_registry
from db.listing import HEAD
from experiment_specs.load import load_sweep
from orchestrator.settings import load_settings
from tests.conftest import TINY
from tests.integration import old_registry

PROBE = """
import sys
from orchestrator.cli.main import command_line
command_line()(sys.argv[1:], standalone_mode=False)
print("sqlalchemy" in sys.modules, file=sys.stderr)
"""


def _aqn(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROBE, *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def full(tmp_path: Path, write_spec) -> str:
    """A registry with rows in every table."""
    url = f"sqlite:///{tmp_path / 'full.db'}"
    engine = create_engine(url)
    old_registry.make(engine, HEAD, old_registry.first_bodies(load_sweep(write_spec(TINY))))
    engine.dispose()
    return url


def test_both_ways_to_the_rows_give_the_same(full: str) -> None:
    engine = open_registry(full)
    with listing.sqlite_rows(full) as rows:
        assert rows is not None
        for kinds in (("train",), ("train", "scan", "eval")):
            found = reads.runs(engine, kinds=kinds)
            assert found
            assert listing.runs(rows, kinds=kinds) == found
        assert listing.claims(rows) == bug_reads.claims(engine) != []
        assert listing.sweep_names(rows) == reads.sweep_names(engine) != []
    engine.dispose()


def test_a_list_in_the_terminal_does_not_wait_for_sqlalchemy(submit) -> None:
    submit()
    listed = _aqn("runs", "--json")
    assert sorted(run["label"] for run in json.loads(listed.stdout)) == ["a", "b"]
    assert listed.stderr == "False\n"
    assert _aqn("runs", "--sweep", "light").stderr == "False\n"


def test_a_list_is_of_one_moment_and_waits_for_no_writer(engine: Engine, submit) -> None:
    submit()
    with engine.begin() as writer, listing.sqlite_rows(load_settings().registry_url) as rows:
        writer.exec_driver_sql("UPDATE runs SET label = 'later'")
        assert rows is not None
        assert sorted(run.label for run in listing.runs(rows)) == ["a", "b"]


@pytest.mark.parametrize("what", ["a server", "options", "nothing", "no registry", "an old one"])
def test_what_it_cannot_read_is_left_to_sqlalchemy(what: str, full: str, tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    url = {"a server": "postgresql+psycopg://host/registry", "options": f"{full}?timeout=5"}.get(
        what, f"sqlite:///{file}"
    )
    if what == "no registry":
        file.write_text("no database at all, but long enough to have a header" * 3)
    if what == "an old one":
        with closing(sqlite3.connect(file)) as other:
            other.execute("CREATE TABLE alembic_version (version_num TEXT)")
            other.execute("INSERT INTO alembic_version VALUES ('0001')")
            other.commit()
    with listing.sqlite_rows(url) as rows:
        assert rows is None
