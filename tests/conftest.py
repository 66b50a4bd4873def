"""What all layers share: a home of their own for every test, and specs written to a temporary folder."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from orchestrator.gpu_node import vllm_build

collect_ignore = ["with_gpu_env"] if vllm_build() != "cuda" else []
"""Tests of a GPU node's environment run in it: `make test-gpu-env`; those of vLLM in its own: `make test-vllm`."""
if not find_spec("vllm"):
    collect_ignore.append("with_vllm")

# Ray reads where its token is when it is imported, whoever imports it first: it is the same for all tests.
RAY_TOKEN = Path(tempfile.mkdtemp(prefix="aqn-tests-")) / "ray-token"
RAY_TOKEN.write_text(secrets.token_hex(32))
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(RAY_TOKEN)}

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("searching", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

TINY = """\
sweep: tiny
base: bases/tiny-cpu.yaml
axes:
  dtype: [bf16, mxfp4]
  aqn: [none, standard]
"""


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AQN_REGISTRY_URL", raising=False)


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[[str], Path]:
    """Write a sweep and return its path."""

    def write(text: str, name: str = "sweep.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
