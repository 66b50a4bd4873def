"""Which modules of a causal language model a treatment means, decided by name: the same for workers and verdict."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache

from experiment_specs.language import Dtype

MANY = 1 << 16
"""Names of modules: the same few hundred are asked about for every condition of a sweep."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_PEFT = re.compile(r"^base_model\.model\.|\.base_layer(?=\.|$)")


@lru_cache(MANY)
def plain(name: str) -> str:
    """A module's or parameter's name without what wrapping it in adapters adds."""
    return _PEFT.sub("", name)


@lru_cache(MANY)
def layer_of(name: str) -> int | None:
    """Index of the decoder layer that holds a module; None for what is in no layer."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def as_layer(name: str) -> int | None:
    """Index of the decoder layer that a module *is*; None for any other."""
    found = _LAYER.search(f"{name}.")
    return int(found.group(1)) if found and found.end() == len(name) + 1 else None


def is_adapter(name: str) -> bool:
    return "lora_" in name


def is_block_linear(name: str) -> bool:
    """Given the name of a linear: is it inside a decoder layer, and not part of an adapter?"""
    return layer_of(name) is not None and not is_adapter(name)


def is_quantised(dtype: Dtype, name: str) -> bool:
    """Does ``dtype`` mean this linear? Never ``lm_head``, embeddings or adapters, whatever the patterns say."""
    if not is_block_linear(name):
        return False
    bare = plain(name)
    included = not dtype.include or any(fnmatchcase(bare, pattern) for pattern in dtype.include)
    return included and not any(fnmatchcase(bare, pattern) for pattern in dtype.exclude)


def idle_patterns(dtype: Dtype, names: list[str]) -> list[str]:
    """Patterns of ``dtype`` that match no block linear among ``names``."""
    bare = [plain(name) for name in names if is_block_linear(name)]
    return [p for p in (*dtype.include, *dtype.exclude) if not any(fnmatchcase(name, p) for name in bare)]
