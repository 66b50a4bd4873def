"""Document → Markdown. Pure."""

from __future__ import annotations

import re

from orchestrator.report.document import Block, Cell, Document, Figure, Items, Paragraph, Section, Table

FIGURES = "figures"
"""The folder of pictures beside the Markdown file."""

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#])")


def as_markdown(document: Document) -> str:
    parts = [f"# {plain(document.title)}", *map(plain, document.lead)]
    for section in document.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _section(section: Section) -> list[str]:
    return [f"{'#' * section.level} {plain(section.title)}", *(_block(block) for block in section.blocks)]


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return ("> " if block.warning else "") + plain(block.text)
        case Items():
            return "\n".join(f"* {plain(entry)}" for entry in block.entries)
        case Figure():
            return f"![{plain(block.caption)}]({FIGURES}/{block.name}.svg)"
        case Table():
            return _table(block)


def _table(block: Table) -> str:
    rule = ["---:" if i in block.right else "---" for i in range(len(block.columns))]
    lines = [list(map(plain, block.columns)), rule, *([_cell(cell) for cell in row] for row in block.rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n*{plain(block.caption)}*" if block.caption else text


def _cell(cell: Cell) -> str:
    text = plain(cell.text)
    if text and cell.struck:
        text = f"~~{text}~~"
    if text and cell.strong:
        text = f"**{text}**"
    return f"{text} ({plain(cell.note)})" if cell.note else text
