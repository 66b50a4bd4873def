"""A forest plot: differences with their intervals, one below the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.report.canvas import PALETTE, figure, literal, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Line:
    """``low``, ``high``: the interval of 95 %; ``widest``: that which holds together with all others of its family.
    ``counts``: does the difference count; one that does not is drawn hollow and grey."""

    name: str
    difference: float | None
    low: float | None
    high: float | None
    widest: tuple[float, float] | None = None
    margin: float | None = None
    note: str = ""
    counts: bool = True
    single: tuple[float, ...] = ()
    """Per-seed differences, drawn as ticks."""


def draw_forest(lines: Sequence[Line], xlabel: str, explained: str) -> Figure:
    picture = figure(8.4, 1.1 + 0.3 * len(lines))
    axes = picture.subplots()
    positions = range(len(lines), 0, -1)
    margins = {line.margin for line in lines if line.margin is not None}
    if len(margins) == 1:
        margin = margins.pop()
        axes.axvspan(-margin, margin, color="#000000", alpha=0.07, linewidth=0)
    axes.axvline(0, color="#000000", linewidth=0.8)
    for position, line in zip(positions, lines, strict=True):
        colour = PALETTE[0] if line.counts else "#8c959f"
        if line.widest is not None:
            axes.plot(line.widest, (position, position), color=colour, linewidth=0.8)
        if line.low is not None and line.high is not None:
            axes.plot((line.low, line.high), (position, position), color=colour, linewidth=2.6, solid_capstyle="butt")
        if line.single:
            axes.plot(line.single, [position] * len(line.single), "|", color="#000000", markersize=9)
        if line.difference is not None:
            face = colour if line.low is not None and line.counts else "white"
            axes.plot(line.difference, position, "o", color=colour, markerfacecolor=face, markersize=6)
    axes.set_yticks(list(positions), [literal(line.name) for line in lines], fontsize=9)
    axes.set_ylim(0.4, len(lines) + 0.6)
    axes.set_xlabel(xlabel)
    axes.set_title(literal(explained), fontsize=9, loc="left")
    right = axes.secondary_yaxis("right")
    right.set_yticks(list(positions), [line.note for line in lines], fontsize=9)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    tidy(axes, grid="x")
    return picture
