"""What verl reads of its configuration: a table taken from whole runs, and what follows for a key that a spec sets.

verl composes about nine hundred keys and reads about a third of them in a run of one kind. The table of a verl version
(``verl_reads.json``, made by ``make verl-reads``) says in which kinds of tiny run each key was read
(:mod:`workers.verl.trace_reads`), and which of the others code that was loaded in them mentions: those may act in runs
that were not traced, and a run that sets one shows itself whether it was read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiment_specs.language import Condition

TABLE = Path(__file__).with_name("verl_reads.json")

TRACE_VARIABLE = "AQN_TRACE_CONFIG_READS"
"""Names a folder that every process of a run writes all of its reads to."""

ANYTHING_BELOW = ".*"
"""Ends the name of a mapping that was handed over whole."""


@dataclass(frozen=True)
class RunKind:
    """A kind of run that was traced. ``fields``: what its condition sets beside the embedded base. ``words``: which
    runs are of that kind, after "only in runs". ``covers``: is a condition of that kind?"""

    name: str
    words: str
    fields: Mapping[str, Any]
    covers: Callable[[Condition], bool]


BASES = (
    RunKind("transformers", "with rollouts by transformers", {}, lambda c: c.rollout == "transformers"),
    RunKind("vllm", "with rollouts by vLLM", {"rollout": "vllm"}, lambda c: c.rollout == "vllm"),
)
"""Every run is of one of these."""
EXTRAS = (
    RunKind(
        "kl", "with a KL loss", {"algorithm": {"preset": "grpo", "kl_loss": 0.001}}, lambda c: c.algorithm.kl_loss > 0
    ),
    RunKind("lora", "with LoRA", {"lora": {"rank": 8}}, lambda c: c.lora is not None),
    RunKind(
        "dynamic-sampling",
        "with dynamic sampling",
        {"algorithm": {"preset": "dapo", "overlong": {"buffer": 8, "penalty": 1.0}}},
        lambda c: c.algorithm.dynamic_sampling,
    ),
)
"""What they read beside their base."""


@dataclass(frozen=True)
class ReadTable:
    """``read``: key → kinds of run in which it was read. ``mentioned``: key → a place in code that was loaded and could
    read it. ``through``: key → keys that take its value."""

    verl: str
    read: Mapping[str, tuple[str, ...]]
    mentioned: Mapping[str, str]
    through: Mapping[str, tuple[str, ...]]


@cache
def table() -> ReadTable:
    """The table that is shipped."""
    found = json.loads(TABLE.read_text(encoding="utf-8"))
    return ReadTable(
        found["verl"],
        {key: tuple(kinds) for key, kinds in found["read"].items()},
        found["mentioned"],
        {key: tuple(names) for key, names in found["through"].items()},
    )


def why_unread(key: str, condition: Condition) -> str | None:
    """Why verl does not read a key in runs of this condition; None where it does, or may."""
    known = table()
    kinds = kinds_that_read(key, known)
    if any(kind.name in kinds and kind.covers(condition) for kind in (*BASES, *EXTRAS)):
        return None
    if kinds:
        return f"verl {known.verl} reads it only in runs {_in_words(kinds)}"
    return None if may_be_read(key, known) else f"verl {known.verl} never reads it"


def _in_words(kinds: set[str]) -> str:
    return " or ".join(kind.words for kind in (*BASES, *EXTRAS) if kind.name in kinds)


def reads_in_words(key: str) -> str:
    """Who reads a key, as a sentence; empty where every run does."""
    known = table()
    kinds = kinds_that_read(key, known)
    if all(base.name in kinds for base in BASES):
        return ""
    if kinds:
        return f"verl {known.verl} reads it only in runs {_in_words(kinds)}."
    if may_be_read(key, known):
        return f"No traced run of verl {known.verl} read it: a run that sets it and does not read it is not PROVEN."
    return f"verl {known.verl} never reads it: a spec that sets it is refused."


def never_read(key: str) -> bool:
    """Does verl read a key in no kind of run, as far as its code and all traced runs show?"""
    return not kinds_that_read(key, table()) and not may_be_read(key, table())


def not_seen_to_be_read(key: str) -> bool:
    """Was a key read in no traced run, though code that was loaded could read it?"""
    return not kinds_that_read(key, table()) and may_be_read(key, table())


def kinds_that_read(key: str, known: ReadTable) -> set[str]:
    """Names of the kinds of run in which a key, or a mapping with it, was read."""
    return {kind for name in _above(key) for kind in known.read.get(name, ())}


def may_be_read(key: str, known: ReadTable) -> bool:
    return any(name in known.mentioned for name in _above(key))


def _above(key: str) -> Iterator[str]:
    """A key and the mappings that it is in: what was read of an open mapping is read of what users put there."""
    parts = key.split(".")
    return (".".join(parts[:end]) for end in range(len(parts), 1, -1))


def names_that_read(key: str) -> Iterator[str]:
    """Names that a read of a key may have: its own, of mappings with it, and of keys that take its value."""
    for name in (key, *table().through.get(key, ())):
        parts = name.split(".")
        yield name
        yield from (".".join(parts[:end]) + ANYTHING_BELOW for end in range(1, len(parts) + 1))


_ACTOR = "actor_rollout_ref.actor"
PASSED_ON = {
    f"{_ACTOR}.ulysses_sequence_parallel_size": f"{_ACTOR}.fsdp_config.ulysses_sequence_parallel_size",
    f"{_ACTOR}.optim.warmup_style": f"{_ACTOR}.optim.lr_scheduler_type",
}
"""Keys whose value verl's dataclasses give to another, in ``__post_init__``."""

_INTERPOLATED = re.compile(r"\$\{(?:oc\.select:)?(\.*)([\w.]+)")


def taken_from(defaults: Mapping[str, Any]) -> dict[str, list[str]]:
    """Key → keys that take its value, directly or over others. ``defaults``: key → value as it is written."""
    direct: dict[str, set[str]] = {key: {name} for key, name in PASSED_ON.items()}
    for name, value in defaults.items():
        for source in _sources(name, value):
            direct.setdefault(source, set()).add(name)

    def users(key: str, seen: frozenset[str]) -> Iterable[str]:
        for name in direct.get(key, set()) - seen:
            yield name
            yield from users(name, seen | {name})

    return {key: sorted(set(users(key, frozenset({key})))) for key in sorted(direct)}


def _sources(name: str, value: Any) -> Iterator[str]:
    if not isinstance(value, str):
        return
    for dots, source in _INTERPOLATED.findall(value):
        parents = name.split(".")[: -len(dots)] if dots else []
        yield ".".join([*parents, source])
