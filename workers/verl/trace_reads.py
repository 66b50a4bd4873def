"""Which keys of verl's configuration a process really reads, and where.

verl lists keys that nothing reads, and accepts values for them: a setting that silently does nothing. A key counts as
read when code takes its value from the composed configuration: from OmegaConf's nodes, or from the dataclasses that
verl makes of them. Printing, pickling and checking a configuration is not reading it. A mapping that is handed over
whole, as a plain one or as a copy, counts as read with everything below it: what happens to it later is not seen.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import pprint
import sys
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from types import FrameType
from typing import Any

from workers.events import Spool
from workers.launch import ORDER_NAME, RUN_DIR_VARIABLE, read_order
from workers.verl_reads import ANYTHING_BELOW, TRACE_VARIABLE, names_that_read

KEY = "_read_as"
"""The attribute of one of verl's dataclasses that says which key of the configuration it was made of."""

_CARRIERS = ("omegaconf/", "verl/base_config.py", "workers/verl/trace_reads.py")
_STANDARD_CARRIERS = (dataclasses.__file__, "<frozen _collections_abc>", "<string>")
"""Code that carries a value from the configuration to whoever reads it; ``<string>``: methods that dataclasses make."""
_COPIERS = ("hydra/", "cloudpickle/", "ray/cloudpickle/", "verl/utils/tracking.py")
_STANDARD_COPIERS = (pprint.__file__, copy.__file__, pickle.__file__)
"""Code that takes all of a configuration and acts on none of it."""
_CHECKERS = ("verl/utils/config.py", "verl/utils/profiler/config.py", "verl/trainer/config/", "verl/workers/config/")
_ACTS_AT_ONCE = "verl/workers/config/model.py"
"""Where verl's dataclasses check values, in ``__post_init__`` and ``validate``; the model's loads its files there."""

Wants = Callable[[str], bool]
Report = Callable[[str, str], None]
Read = Callable[[str, Any], None]


def start() -> None:
    """In a process of a run: tell the spool who reads the verl keys that its condition sets. Does nothing where it sets
    none, and writes every read to a folder where one is named (``make verl-reads``)."""
    if folder := os.environ.get(TRACE_VARIABLE):
        _write_all_reads(Path(folder))
        return
    run_dir = os.environ.get(RUN_DIR_VARIABLE)
    if run_dir is None or not (Path(run_dir) / ORDER_NAME).is_file():  # verl, and no run
        return
    if not (asked := read_order(run_dir).typed_condition.trainer):
        return
    spool = Spool(run_dir)
    open_keys: dict[str, set[str]] = {}
    for key in asked:
        for name in names_that_read(key):
            open_keys.setdefault(name, set()).add(key)

    def report(name: str, place: str) -> None:
        for key in sorted(open_keys[name]):
            spool.append("setting_read", {"key": key, "place": place})
            for keys in open_keys.values():
                keys.discard(key)

    install(lambda name: bool(open_keys.get(name)), report)


def _write_all_reads(folder: Path) -> None:
    """Lines ``[name, place]``, and ``[null, [modules]]`` for code that was loaded by then."""
    out = (folder / f"{os.getpid()}.jsonl").open("a", buffering=1, encoding="utf-8")
    told: set[str] = set()
    loaded: set[str] = set()

    def report(name: str, place: str) -> None:
        told.add(name)
        out.write(json.dumps([name, place]) + "\n")
        fresh = {module for module in list(sys.modules) if module.split(".")[0] in ("verl", "transfer_queue")} - loaded
        loaded.update(fresh)
        if fresh:
            out.write(json.dumps([None, sorted(fresh)]) + "\n")

    install(lambda name: name not in told, report)


def install(wants: Wants, report: Report) -> None:
    """Tell of every read from now on; cannot be undone.

    ``wants``: is a dotted key of interest? Asked at every read, so it is to be quick. ``report`` takes the key and the
    place of its reader, as ``verl/trainer/ppo/core_algos.py:120``.
    """

    def read(key: str, value: Any) -> None:
        name = f"{key}{ANYTHING_BELOW}" if isinstance(value, dict) else key
        if wants(name) and (place := _reader(sys._getframe(2))) is not None:
            report(name, place)

    _trace_nodes(read)
    _trace_dataclasses(read)
    _trace_conversions(read)


def _trace_nodes(read: Read) -> None:
    """Values taken from OmegaConf's mappings, by attribute, item, ``get``, ``pop`` or ``select``."""
    from omegaconf import DictConfig, OmegaConf

    take, remove, select = DictConfig._get_impl, DictConfig.pop, OmegaConf.select

    @wraps(take)
    def take_and_tell(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        value = take(self, key, *args, **kwargs)
        content = self.__dict__["_content"]
        if isinstance(key, str) and isinstance(content, dict) and key in content:
            read(str(self._get_full_key(key)), value)
        return value

    @wraps(remove)
    def remove_and_tell(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        content = self.__dict__["_content"]
        name = str(self._get_full_key(key)) if isinstance(content, dict) and key in content else None
        value = remove(self, key, *args, **kwargs)
        if name is not None:
            read(name, value)
        return value

    @wraps(select)
    def select_and_tell(config: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        value = select(config, key, *args, **kwargs)
        if isinstance(config, DictConfig):
            read(".".join(part for part in (str(config._get_full_key(None)), key) if part), value)
        return value

    DictConfig._get_impl = take_and_tell  # type: ignore[method-assign]
    DictConfig.pop = remove_and_tell  # type: ignore[method-assign]
    OmegaConf.select = staticmethod(select_and_tell)  # type: ignore[method-assign,assignment]


def _trace_dataclasses(read: Read) -> None:
    """Values taken from the dataclasses that Hydra makes of the configuration for verl."""
    from hydra._internal.instantiate import _instantiate2 as instantiation
    from verl.base_config import BaseConfig

    take, make = BaseConfig.__getattribute__, instantiation._call_target
    under_construction: list[tuple[Any, str]] = []

    def take_and_tell(self: Any, name: str) -> Any:
        value = take(self, name)
        own = take(self, "__dict__")
        if name.startswith("_") or name not in own:
            return value
        if (key := own.get(KEY)) is None and under_construction and type(self) is under_construction[-1][0]:
            key = own[KEY] = under_construction[-1][1]  # __post_init__ reads before the maker can mark it
        if key is not None:
            read(f"{key}.{name}" if key else name, value)
        return value

    @wraps(make)
    def make_and_mark(target: Any, partial: bool, args: Any, kwargs: Any, full_key: str) -> Any:
        under_construction.append((target, full_key))
        try:
            made = make(target, partial, args, kwargs, full_key)
        finally:
            under_construction.pop()
        if isinstance(made, BaseConfig):
            take(made, "__dict__").setdefault(KEY, full_key)
        return made

    BaseConfig.__getattribute__ = take_and_tell
    instantiation._call_target = make_and_mark


def _trace_conversions(read: Read) -> None:
    """Mappings that become plain ones, parts of others, or dataclasses that have lost their place."""
    from omegaconf import DictConfig, OmegaConf
    from verl.utils import config as conversion

    convert, merge, create = OmegaConf.to_container, OmegaConf.merge, OmegaConf.create
    to_dataclass = conversion.omega_conf_to_dataclass

    def hand_over(*configs: Any) -> None:
        for config in configs:
            if isinstance(config, DictConfig) and (key := str(config._get_full_key(None))):
                read(key, {})

    @wraps(convert)
    def convert_and_tell(*args: Any, **kwargs: Any) -> Any:
        hand_over(*args[:1], kwargs.get("cfg"))
        return convert(*args, **kwargs)

    @wraps(merge)
    def merge_and_tell(*configs: Any) -> Any:
        hand_over(*configs)
        return merge(*configs)

    @wraps(create)
    def create_and_tell(*args: Any, **kwargs: Any) -> Any:
        hand_over(*args[:1])
        return create(*args, **kwargs)

    @wraps(to_dataclass)
    def to_dataclass_and_tell(config: Any, dataclass_type: Any = None) -> Any:
        if dataclass_type is not None:  # else Hydra makes it, and knows its place
            hand_over(config)
        return to_dataclass(config, dataclass_type)

    OmegaConf.to_container = staticmethod(convert_and_tell)  # type: ignore[method-assign]
    OmegaConf.merge = staticmethod(merge_and_tell)  # type: ignore[method-assign]
    OmegaConf.create = staticmethod(create_and_tell)  # type: ignore[method-assign]
    conversion.omega_conf_to_dataclass = to_dataclass_and_tell


def _reader(frame: FrameType | None) -> str | None:
    """Who took the value; None where that was no reading."""
    while frame is not None and _is_of(frame, _CARRIERS, _STANDARD_CARRIERS):
        if frame.f_code.co_name in ("resolve", "__repr__", "__str__", "__eq__"):
            return None
        frame = frame.f_back
    if frame is None or _is_of(frame, _COPIERS, _STANDARD_COPIERS):
        return None
    place, function = _short(frame.f_code.co_filename), frame.f_code.co_name
    checks = function == "__post_init__" or function.lstrip("_").startswith("validate")
    if checks and place.startswith(_CHECKERS) and place != _ACTS_AT_ONCE:
        return None
    return f"{place}:{frame.f_lineno}"


def _is_of(frame: FrameType, places: tuple[str, ...], files: tuple[str, ...]) -> bool:
    file = frame.f_code.co_filename
    return file in files or _short(file).startswith(places)


@cache
def _short(file: str) -> str:
    """A path from the package on."""
    for folder in ("/site-packages/", f"{Path(__file__).parents[2]}/"):
        if folder in file:
            return file.rpartition(folder)[2]
    return file
