"""A report as values: sections of paragraphs, tables and figures, which are written as Markdown and as HTML. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """``struck``: a score that does not count. ``note``: why, in small letters below. ``href``: where there is more,
    in the dashboard: a report is one file, and has no other page to go to."""

    text: str
    struck: bool = False
    strong: bool = False
    note: str = ""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """``right``: columns of numbers, by index."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[int] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Paragraph:
    text: str
    warning: bool = False


@dataclass(frozen=True)
class Items:
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """``svg``: the picture itself. ``name``: of its file beside the Markdown."""

    name: str
    svg: str
    caption: str


Block = Paragraph | Table | Items | Figure
Row = tuple[Cell | str, ...]
"""Of a table that is to be made."""


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]
    level: int = 2

    @property
    def anchor(self) -> str:
        return slug(self.title)


@dataclass(frozen=True)
class Document:
    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...] = field(default=())

    @property
    def figures(self) -> list[Figure]:
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]


def slug(text: str) -> str:
    """``Best of each category`` → ``best-of-each-category``."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")


def without_empty(block: Table) -> Table:
    """Without the columns in which nothing stands."""
    kept = [i for i in range(len(block.columns)) if any(row[i].text not in ("", "–") for row in block.rows)]
    return Table(
        tuple(block.columns[i] for i in kept),
        tuple(tuple(row[i] for i in kept) for row in block.rows),
        frozenset(new for new, old in enumerate(kept) if old in block.right),
        block.caption,
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Cell | str]], right: Iterable[str] = (), caption: str = ""
) -> Table:
    """``right``: names of columns of numbers."""
    cells = tuple(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows)
    numbers = set(right)
    return Table(tuple(columns), cells, frozenset(i for i, name in enumerate(columns) if name in numbers), caption)
