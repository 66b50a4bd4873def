"""Is a GPU free? Asked of its driver before a run gets it, whatever Ray believes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True)
class Holder:
    """A process on a GPU."""

    gpu: str
    pid: int
    memory: int
    """Bytes, 0 where the driver does not say."""

    def __str__(self) -> str:
        held = f" with {self.memory / MIB:.0f} MiB" if self.memory else ""
        return f"GPU {self.gpu} is held by process {self.pid}{held}"


def holders(gpus: Sequence[str], nvml: Any = None) -> list[Holder]:
    """Processes that compute on these GPUs (indices or UUIDs). Nothing where there is no NVIDIA driver to ask: logical
    GPUs of a machine without any.

    ``nvml``: a module with the interface of ``pynvml``; that module where None.
    """
    nvml = nvml or import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    try:
        found = []
        for gpu in gpus:
            handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID(gpu)
            found += [
                Holder(gpu, process.pid, process.usedGpuMemory or 0)
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            ]
        return found
    finally:
        nvml.nvmlShutdown()
