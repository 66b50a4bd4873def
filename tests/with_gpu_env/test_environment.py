"""A GPU node's environment, CUDA builds included, on a machine without a GPU: versions, imports, and one whole run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from orchestrator.gpu_node import has_flash_attention, torch_cuda, vllm_build

pytestmark = pytest.mark.timeout(1800)
REPOSITORY = Path(__file__).resolve().parents[2]
NO_GPU = pytest.mark.skipif(
    shutil.which("nvidia-smi") is not None, reason="this machine has a GPU: see `make gpu-check`"
)
SPEC = """\
sweep: gpu-env
base: bases/tiny-cpu.yaml
set:
  steps_per_epoch: 4
  eval: {every: 4}
  dtype: mxfp4
  aqn: {preset: standard, num_stages: 4}
labels: {gpu-env: {dtype: mxfp4}}
"""
MODULES = (
    "workers.verl.plugin", "workers.verl.register", "workers.verl.trainer", "workers.verl.waves", "workers.verl.run",
    "workers.verl.rollout", "workers.verl.server", "workers.verl.vllm_rollout", "workers.verl.vllm_worker",
)  # fmt: skip


def python(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)} | more
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )


def aqn(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # one thread: where others compute too, two wait for each other many times longer than one works
    home = {"AQN_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    return python("-m", "orchestrator.cli.main", *arguments, cwd=folder, **home)


def test_it_is_what_the_constraints_say() -> None:
    lines = (REPOSITORY / "constraints-gpu.txt").read_text().splitlines()
    pinned = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    wrong = {
        one.name: metadata.version(one.name) for one in pinned if not one.specifier.contains(metadata.version(one.name))
    }
    assert wrong == {}


def test_the_builds_are_for_one_cuda() -> None:
    """torchvision's and torchaudio's compiled parts must fit torch's; vLLM's metadata pins both."""
    cuda = f"cu{(torch_cuda() or '').replace('.', '')}"
    done = python(
        "-c",
        "import torch, torchvision, torchaudio as a; print(torch.__version__, torchvision.__version__, a.__version__)",
        cwd=REPOSITORY,
    )
    assert re.findall(r"\+(\w+)", done.stdout) == [cuda] * 3, done.stderr
    assert vllm_build() == "cuda"


def test_vllm_and_all_that_the_workers_subclass_are_imported_without_a_driver(tmp_path) -> None:
    imports = "; ".join(f"import {name}" for name in MODULES)
    done = python("-c", f"{imports}; from vllm import LLM; print('imported')", cwd=tmp_path, AQN_RUN_DIR=str(tmp_path))
    assert done.stdout.splitlines()[-1:] == ["imported"], done.stderr[-3000:]


def test_flash_attention_is_told_without_importing_it() -> None:
    done = python("-c", "import flash_attn", cwd=REPOSITORY)
    assert has_flash_attention() == (done.returncode == 0)


@NO_GPU
def test_a_whole_run_is_proven_on_the_cpu_and_one_by_vllm_is_refused_at_once(tmp_path) -> None:
    (tmp_path / "one.yaml").write_text(SPEC)
    by_vllm = SPEC.replace("gpu-env", "by-vllm").replace("\nset:\n", "\nset:\n  rollout: vllm\n")
    (tmp_path / "two.yaml").write_text(by_vllm)
    try:
        done = aqn(tmp_path, "submit", "one.yaml")
        refused = aqn(tmp_path, "submit", "two.yaml")
    finally:
        aqn(tmp_path, "fleet", "down")
    shown = json.loads(aqn(tmp_path, "show", "gpu-env", "--json").stdout)
    assert (done.returncode, shown["verdict"], shown["reasons"]) == (0, "PROVEN", []), done.stdout + done.stderr
    assert refused.returncode == 1
    said = aqn(tmp_path, "show", "by-vllm").stdout + aqn(tmp_path, "logs", "by-vllm").stdout
    assert "vLLM that is installed is a CUDA build" in said.replace("\n", " "), said
