"""`make gpu-check`: where it stops, with which remedy, and what its report holds and does not hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import NEEDS, hidden_here, lacks, without_secrets
from orchestrator.gpu_node import Needs

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hf_" + "abcdefgh" * 2
H200 = "NVIDIA H200, 143771, 4, 580.95.05, 9.0"


def check(folder: Path, *arguments: str, path: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **more}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def with_driver(folder: Path, line: str) -> str:
    """A PATH with an nvidia-smi that says this."""
    tool = folder / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho '{line}'\n")
    tool.chmod(0o755)
    return f"{tool.parent}:/usr/bin:/bin"


def without_driver(folder: Path) -> str:
    (folder / "bin").mkdir()
    return str(folder / "bin")


@pytest.mark.parametrize("arguments", [(), ("--machine",)])
def test_without_a_gpu_it_says_what_it_would_do_and_stops_with_a_remedy_and_a_report(tmp_path, arguments) -> None:
    done = check(tmp_path, *arguments, path=without_driver(tmp_path), HF_TOKEN=SECRET)
    assert done.returncode == 2, done.stderr
    assert "1. look at the driver" in done.stdout
    assert "untried" in done.stdout
    assert "stopped: no GPU" in done.stdout
    assert "remedy:  run this on a machine with an NVIDIA GPU" in done.stdout
    report = (tmp_path / ".aqn" / "gpu-check.md").read_text()
    assert "stopped: no GPU" in report
    assert f"Python {sys.version.split()[0]}" in report
    assert "aqn-lab 0.1.0" in report
    for secret in (SECRET, str(tmp_path), str(ROOT), str(Path.home())):
        assert secret not in report


def test_an_old_driver_stops_it_before_anything_is_installed(tmp_path) -> None:
    old = with_driver(tmp_path, H200.replace("580.95.05", "550.163.01"))
    done = check(tmp_path, "--machine", path=old, CUDA_VISIBLE_DEVICES="0")
    assert done.returncode == 2, done.stderr
    assert "stopped: driver 550.163.01 is too old for CUDA 13.0" in done.stdout
    assert "580 or newer" in done.stdout


def test_a_gpu_that_is_too_small_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_check.NEEDS", Needs(gpu_memory=60, disk=0, shared_memory=0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert list(lacks(H200, tmp_path)) == []
    assert NEEDS.gpu_memory == 60
    small = H200.replace("143771", "24564")
    assert [problem.what for problem in lacks(small, tmp_path)] == ["24 GiB of GPU memory are free: 60 are needed"]


def test_secrets_folders_names_and_addresses_are_taken_out_of_a_report() -> None:
    hidden = hidden_here({"WANDB_API_KEY": "0123456789", "USER": "somebody", "LANG": "C.UTF-8"})
    text = (
        "key 0123456789 of somebody; hf_abcdefghijkl; postgresql://aqn:pass@db/aqn; /home/ada/x; 10.4.3.2:6379 at "
        f"127.0.0.1; {'ab' * 32}; {ROOT}/workers/train.py; C.UTF-8"
    )
    assert without_secrets(text, hidden) == (
        "key SECRET of USER; SECRET; postgresql://SECRET@db/aqn; HOME/x; ADDRESS:6379 at 127.0.0.1; HEX; "
        "CLONE/workers/train.py; C.UTF-8"
    )
