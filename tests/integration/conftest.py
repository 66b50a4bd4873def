"""A registry with a submitted sweep, and one real Ray head for all tests of this layer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from db.engine import open_registry
from db.writes import Submitted
from experiment_specs.load import load_sweep
from orchestrator.fleet import head
from orchestrator.plan import make_plan
from orchestrator.settings import Settings, load_settings
from orchestrator.submit import record
from tests.conftest import RAY_TOKEN

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
