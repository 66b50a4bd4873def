"""An explanation of a key on the terminal."""

from __future__ import annotations

import re

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from experiment_specs.explain import Explanation


def explanation(found: Explanation) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    table.add_row("key", found.key)
    table.add_row("accepts", found.accepts)
    if found.default:
        table.add_row("default", found.default)
    for name, meaning in found.presets.items():
        table.add_row(name, Text(", ".join(f"{k}: {v}" for k, v in meaning.items()), style="dim"))
    if found.parts:
        table.add_row("parts", ", ".join(found.parts))
    if found.verl_keys:
        table.add_row("in verl", ", ".join(found.verl_keys))
    table.add_row("", "")
    table.add_row("", Text(_unmarked(found.about)))
    return table


def _unmarked(text: str) -> str:
    """Docstrings without their markup, paragraphs in one line each."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in plain.split("\n\n"))
