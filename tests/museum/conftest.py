"""A small condition, and verl loaded for the CPU before any test of this layer patches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiment_specs.load import build_condition, load_sweep
from tests.one_process import OneProcess, prepare_process

SPEC = """\
sweep: museum
base: bases/tiny-cpu.yaml
set:
  data: {test_rows: 6, max_prompt_tokens: 8, max_response_tokens: 6}
  batch: {prompts: 2, mini_batch: 2}
  algorithm: {preset: dapo, samples_per_prompt: 4}
  steps_per_epoch: 4
  eval: {every: 2}
  dtype: mxfp4
  aqn: {preset: standard, num_stages: 4}
"""


@pytest.fixture(scope="session", autouse=True)
def _verl_on_the_cpu() -> None:
    prepare_process()


@pytest.fixture
def make_run(write_spec, tmp_path: Path) -> Callable[..., OneProcess]:
    """Start a run of SPEC with other fields: ``make_run({"dtype": "nvfp4"}, seed=2)``."""

    def make(fields: dict[str, Any] | None = None, **more: Any) -> OneProcess:
        condition = build_condition(load_sweep(write_spec(SPEC)), fields or {})
        return OneProcess(condition, tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}", **more)

    return make
