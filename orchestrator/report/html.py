"""Document → one HTML file that needs nothing else: style and pictures are in it, and no script. Pure."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from orchestrator.report.document import Cell, Document, Table


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files(__package__)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=FunctionLoader(lambda file: (folder / file).read_text(encoding="utf-8")),
    )  # fmt: skip
    environment.filters["merged"] = merged
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template(name)


def as_html(document: Document) -> str:
    return str(_template("report.html.j2").render(document=document))


def table_as_html(block: Table) -> str:
    """The ``<table>`` alone, for another page's body and style."""
    return str(_template("table.html.j2").module.table(block))


def merged(block: Table) -> list[list[tuple[int, Cell, int]]]:
    """Rows of (column, cell, rows that it spans). A row whose first cell is empty goes on with the one above: where
    the cells of a column below are empty too, the one above spans them."""
    rows: list[list[tuple[int, Cell, int]]] = []
    starts = [i for i, row in enumerate(block.rows) if i == 0 or row[0].text]
    for start, end in zip(starts, [*starts[1:], len(block.rows)], strict=False):
        group = block.rows[start:end]
        spanning = {c for c in range(len(block.columns)) if all(not row[c].text for row in group[1:])}
        for nth, row in enumerate(group):
            rows.append(
                [
                    (c, cell, len(group) if c in spanning else 1)
                    for c, cell in enumerate(row)
                    if nth == 0 or c not in spanning
                ]
            )
    return rows
