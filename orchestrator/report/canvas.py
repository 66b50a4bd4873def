"""What all pictures share: a figure, colours that everybody can tell apart, and files that are equal byte by byte."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito: told apart by every common kind of colour vision."""
MARKERS = "osD^vPX*"
DPI = 150
_NEEDED_ID = re.compile(r' id="(?!DejaVu|[pm][0-9a-f]{10})[^"]*"')


def figure(width: float = 7.2, height: float = 4.4) -> Figure:
    """Inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def literal(text: str) -> str:
    """A name as matplotlib shows it: no formula between dollars, and not hidden from a legend by a leading _."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def tidy(axes: Any, *, grid: str = "both") -> None:
    axes.grid(alpha=0.3, linewidth=0.5, axis=grid)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def to_png(drawn: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path)
    return path


def to_svg(drawn: Figure, label: str) -> str:
    """An ``<svg>`` element; the same figure gives the same text. ``label``: for those who do not see it."""
    from html import escape

    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "aqn", "svg.fonttype": "path"}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _NEEDED_ID.sub("", text)  # several pictures stand in one page
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(label, quote=True)}" ', 1).rstrip()
