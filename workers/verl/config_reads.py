"""Which keys of verl's configuration a process really reads, and where.

verl lists keys that nothing reads, and accepts values for them: a setting that silently does nothing. A key counts as
read when code takes its value from the composed configuration: from OmegaConf's nodes, or from the dataclasses that
verl makes of them. Copying, converting, printing and validating a configuration is not reading it. A mapping that is
handed over whole, as a plain one, counts as read with everything below it: what happens to it later is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

KEY = "_read_as"
"""The attribute of one of verl's dataclasses that says which key of the configuration it was made of."""

ANYTHING_BELOW = ".*"
"""Ends the name of a mapping that was handed over whole."""

_CARRIERS = ("/omegaconf/", "/verl/base_config.py", "/dataclasses.py", "/_collections_abc.py", f"/{Path(__file__).name}")
"""Code that carries a value from the configuration to whoever reads it."""
_COPIERS = ("/hydra/", "/pprint.py", "/copy.py", "/pickle.py", "/cloudpickle/", "/verl/utils/tracking.py")
"""Code that takes all of a configuration and acts on none of it."""

Wants = Callable[[str], bool]
Report = Callable[[str, str], None]


def install(wants: Wants, report: Report) -> None:
    """Tell of every read from now on; cannot be undone.

    ``wants``: is a dotted key of interest? Asked at every read, so it is to be quick. ``report`` takes the key and the
    place of its reader, as ``verl/trainer/ppo/core_algos.py:120``.
    """
    from hydra._internal.instantiate import _instantiate2 as instantiation
    from omegaconf import DictConfig, OmegaConf
    from verl.base_config import BaseConfig

    under_construction: list[tuple[Any, str]] = []

    def read(key: str, value: Any) -> None:
        name = f"{key}{ANYTHING_BELOW}" if isinstance(value, dict) else key
        if wants(name) and (place := _reader(sys._getframe(2))) is not None:
            report(name, place)

    take, take_attribute = DictConfig._get_impl, BaseConfig.__getattribute__
    make, convert, merge = instantiation._call_target, OmegaConf.to_container, OmegaConf.merge

    @wraps(take)
    def take_and_tell(self: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        value = take(self, key, *args, **kwargs)
        content = self.__dict__["_content"]
        if isinstance(key, str) and isinstance(content, dict) and key in content:
            read(str(self._get_full_key(key)), value)
        return value

    def take_attribute_and_tell(self: Any, name: str) -> Any:
        value = take_attribute(self, name)
        own = take_attribute(self, "__dict__")
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
            take_attribute(made, "__dict__").setdefault(KEY, full_key)
        return made

    def hand_over(configs: Iterable[Any]) -> None:
        for config in configs:
            if isinstance(config, DictConfig) and (key := str(config._get_full_key(None))):
                read(key, {})

    @wraps(convert)
    def convert_and_tell(*args: Any, **kwargs: Any) -> Any:
        hand_over((*args[:1], kwargs.get("cfg")))
        return convert(*args, **kwargs)

    @wraps(merge)
    def merge_and_tell(*configs: Any) -> Any:
        hand_over(configs)
        return merge(*configs)

    DictConfig._get_impl = take_and_tell
    BaseConfig.__getattribute__ = take_attribute_and_tell
    instantiation._call_target = make_and_mark
    OmegaConf.to_container = staticmethod(convert_and_tell)
    OmegaConf.merge = staticmethod(merge_and_tell)


def _reader(frame: FrameType | None) -> str | None:
    """Who took the value; None where that was no reading."""
    while frame is not None and any(part in frame.f_code.co_filename for part in _CARRIERS):
        if frame.f_code.co_name in ("resolve", "__repr__", "__str__"):
            return None
        frame = frame.f_back
    if frame is None:
        return None
    file, function = frame.f_code.co_filename, frame.f_code.co_name
    if any(part in file for part in _COPIERS) or function.lstrip("_").startswith("validate") or file == "<string>":
        return None
    return f"{_short(file)}:{frame.f_lineno}"


def _short(file: str) -> str:
    """A path from the package on."""
    return file.rpartition("site-packages/")[2] if "site-packages/" in file else "/".join(Path(file).parts[-3:])


def is_read(key: str, reads: Iterable[str]) -> bool:
    """Was a key among those read, by name or within a mapping that was handed over?"""
    above = key.split(".")
    wholes = {".".join(above[:end]) + ANYTHING_BELOW for end in range(1, len(above) + 1)}
    return any(name == key or name in wholes for name in reads)
