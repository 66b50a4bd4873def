"""The list of names as it is checked in, and how what is installed differs from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.contract.uses import Use

NAMES = Path(__file__).with_name("names.yaml")
ENVIRONMENTS = ("cpu", "vllm", "gpu")
HEAD = """\
# What the project relies on in other packages, as they were when it was last adapted to them: cpu is the environment of
# `make test-fast`, vllm that of `make test-vllm`, gpu that of `make test-gpu-env`. A name without one of them is not to
# be had there. Written by `python -m tests.contract.regenerate`, in each environment for its own.
"""


@dataclass(frozen=True)
class Listed:
    """One name: who uses it, and environment → what it is there."""

    used: str
    columns: Mapping[str, str]


def read(path: Path = NAMES) -> dict[str, Listed]:
    """The list; empty where there is none."""
    if not path.exists():
        return {}
    found = {}
    for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        columns = {one: text for key, text in entry.items() if key != "used" for one in key.split(", ")}
        found[name] = Listed(entry["used"], columns)
    return found


def write(names: Mapping[str, Listed], path: Path = NAMES) -> None:
    entries = {}
    for name, one in sorted(names.items()):
        texts = dict.fromkeys(one.columns.values())
        same = {text: ", ".join(e for e in ENVIRONMENTS if one.columns.get(e) == text) for text in texts}
        entries[name] = {"used": one.used} | {key: text for text, key in same.items()}
    path.write_text(HEAD + yaml.safe_dump(entries, sort_keys=False, width=10_000, allow_unicode=True), encoding="utf-8")


def said(uses: Iterable[Use]) -> dict[str, str]:
    """Name → who uses it, and how."""
    found: dict[str, list[str]] = {}
    for use in sorted(uses, key=lambda use: (use.name, use.where, use.how)):
        found.setdefault(use.name, []).append(use.said)
    return {name: "; ".join(who) for name, who in found.items()}


def renewed(
    listed: Mapping[str, Listed], uses: Iterable[Use], live: Mapping[str, str | None], here: str
) -> dict[str, Listed]:
    """The list with this environment's column as it is. What is new goes to the others that have it too: they have the
    same versions, and their own tests correct it."""
    others = ENVIRONMENTS if here == "cpu" else ("vllm", "gpu")
    found = {}
    for name, used in said(uses).items():
        text = live.get(name)
        columns = dict(listed[name].columns) if name in listed else dict.fromkeys(others, text)
        columns[here] = text
        if kept := {e: t for e, t in columns.items() if t is not None}:
            found[name] = Listed(used, kept)
    return found


def moved(listed: Mapping[str, Listed], live: Mapping[str, str | None], here: str) -> list[str]:
    """One line for each name that is not what it was. ``live``: name → what it is, None where its package lost it."""
    lines = []
    for name, one in sorted(listed.items()):
        was, is_ = one.columns.get(here), live.get(name)
        if was == is_:
            continue
        now = "is gone" if name in live else "cannot be imported"
        lines.append(f"{name} moved: was {was or 'not there'}, {f'is {is_}' if is_ is not None else now}")
    return lines


def unlisted(listed: Mapping[str, Listed], uses: Iterable[Use], live: Mapping[str, str | None]) -> list[str]:
    """One line for each use that the list lacks. What ours has and theirs has not is no use."""
    uses = list(uses)
    surely = {use.name for use in uses if use.kind != "maybe"} | {
        name for name, text in live.items() if text is not None
    }
    return [f"{name} is not listed: {who}" for name, who in said(uses).items() if name in surely and name not in listed]
