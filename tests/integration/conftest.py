"""A registry with a submitted sweep, new databases, and one real Ray head and PostgreSQL server for all tests here."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from db.engine import open_registry
from db.submissions import Submitted
from experiment_specs.load import load_sweep
from orchestrator.fleet import head
from orchestrator.plan import make_plan
from orchestrator.settings import Settings, load_settings
from orchestrator.submit import record
from tests.conftest import RAY_TOKEN
from tests.postgresql import Server, server

SWEEP = """\
sweep: light
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 4, eval: {every: 2}}
axes: {dtype: [bf16, mxfp4]}
labels: {a: {dtype: bf16}, b: {dtype: mxfp4}}
"""


@pytest.fixture
def settings() -> Settings:
    return load_settings()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_registry(settings.registry_url)
    yield engine
    engine.dispose()


@pytest.fixture
def submit(engine: Engine, write_spec) -> Callable[..., Submitted]:
    def submitted(text: str = SWEEP, *, again: bool = False) -> Submitted:
        return record(engine, make_plan(load_sweep(write_spec(text))), again=again)

    return submitted


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's schema, made once: on a slow disk its migrations take half a minute."""
    from mlflow import MlflowClient

    path: Path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


NewDatabase = Callable[..., str]
"""Makes a new, empty database and returns its URL; given a URL, a copy of that one, to which nobody is connected."""


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewDatabase]:
    """A test that asks for it is run on both kinds of database."""
    if request.param == "sqlite":
        numbers = itertools.count(1)

        def new_file(copy_of: str | None = None) -> str:
            file = tmp_path / f"registry-{next(numbers)}.db"
            if copy_of is not None:
                source = sqlite3.connect(copy_of.removeprefix("sqlite:///"))
                with closing(source), closing(sqlite3.connect(file)) as target:
                    source.backup(target)
            return f"sqlite:///{file}"

        yield new_file
        return
    running: Server = request.getfixturevalue("postgresql")
    made: list[str] = []

    def new(copy_of: str | None = None) -> str:
        made.append(running.new_database(copy_of))
        return made[-1]

    yield new
    for url in made:
        running.drop(url)


@pytest.fixture(scope="session")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head as `aqn submit` starts it, ended by pid at the end."""
    home = tmp_path_factory.mktemp("fleet")
    shutil.copy(RAY_TOKEN, home / "ray-token")
    settings = Settings(Path(home), "")
    before = dict(os.environ)
    try:
        yield head.address(settings)
    finally:
        head.down(settings)
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def either_engine(new_database: NewDatabase) -> Iterator[Engine]:
    """A new registry, on SQLite and on PostgreSQL in turn."""
    engine = open_registry(new_database())
    yield engine
    engine.dispose()
