"""Condition and evidence as tables of the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from db.records import Fact, Run
from orchestrator.arms import Counts
from orchestrator.counts import in_words
from orchestrator.evidence_words import condition_lines, measured_lines


def condition_table(run: Run) -> Table:
    """The whole condition, one field a line, presets by name."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    for key, text in condition_lines(run):
        table.add_row(f"  {key}", escape(text))
    return table


def evidence_table(run: Run, facts: Sequence[Fact], counts: Counts | None) -> Table:
    """What was measured, one row a kind."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in measured_lines(run, facts):
        table.add_row(f"  {name}", escape(text))
    if counts is not None:
        table.add_row("  counted", escape(in_words(counts)))
    return table
