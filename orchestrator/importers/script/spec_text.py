"""A ported script → YAML, with a comment where the script says nothing, and one where a value is to be filled in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from orchestrator.importers.script.fields import INVERSE
from orchestrator.importers.script.port import Port

COMMENTS = {
    "set.dtype": "weights as the script has them; mxfp4 and nvfp4 are the 4-bit formats",
    "seeds": "the script sets none",
    "set.steps_per_epoch": "none: rows ÷ prompts",
    "set.hw_noise": "",
    "set.attention": "verl's default is flash_attention_2: auto takes it where it is installed",
    "set.data.train_rows": "",
    "set.data.test_rows": "",
}
"""Beside fields that the script says nothing of; verl's default otherwise."""


def spec_text(port: Port, name: str, about: str) -> str:
    """The whole spec. A field that is to be filled in is empty, and its comment says what is missing."""
    fields = {**port.fields, **dict.fromkeys(port.asked)}
    lines = [f"sweep: {_plain(name)}", f"about: {_plain(about)}", *_mapping(port, fields, "set.", "set")]
    lines += _value(port, fields, "seeds", "seeds", "")
    for part in ("resources", "checkpoints"):
        lines += _mapping(port, fields, f"{part}.", part)
    lines.append(_with_comment("  keep: last", "the default: of verl's own settings none says it"))
    if port.trainer:
        lines.append("trainer:                             # keys of verl's that no field decides")
        lines += [f"  {key}: {_plain(value)}" for key, value in port.trainer.items()]
    return "\n".join(lines) + "\n"


def _mapping(port: Port, fields: dict[str, Any], start: str, head: str) -> Iterator[str]:
    yield f"{head}:"
    opened = ""
    for inverse in INVERSE:
        if not inverse.field.startswith(start) or inverse.field not in fields:
            continue
        group, _, leaf = inverse.field.removeprefix(start).rpartition(".")
        if group and group != opened:
            yield f"  {group}:"
        opened = group
        yield from _value(port, fields, inverse.field, leaf, "    " if group else "  ")


def _value(port: Port, fields: dict[str, Any], field: str, leaf: str, indent: str) -> Iterator[str]:
    value = fields.get(field)
    if field in port.asked:
        yield _with_comment(f"{indent}{leaf}:", f"TO FILL IN: {port.asked[field]}")
        return
    comment = _default(port, field) if field in port.defaults else ""
    yield _with_comment(f"{indent}{leaf}: {'none' if value is None else _plain(value)}", comment)


def _default(port: Port, field: str) -> str:
    """The comment beside a field that the script says nothing of."""
    unless = []
    settable = any(inverse.keys for inverse in INVERSE if inverse.field == field)
    if port.unread and settable:
        words = "1 word that was" if port.unread == 1 else f"{port.unread} words that were"
        unless.append(f"{words} not read set it")
    if port.configuration:
        unless.append(f"{port.configuration} says otherwise")
    text = COMMENTS.get(field, "verl's default")
    if field in COMMENTS and not (port.unread and settable):
        return text
    return ", unless ".join(part for part in (text or "verl's default", " or ".join(unless)) if part)


def _with_comment(text: str, comment: str) -> str:
    comment = re.sub(r"\s+", " ", comment)
    return f"{text:<36} # {comment}" if comment else text


def _plain(value: Any) -> str:
    """One line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9).strip()
    return text.removesuffix("...").strip()
