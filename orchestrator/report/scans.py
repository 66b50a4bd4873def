"""A layer scan as a picture: relative error and SQNR by decoder layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.report.canvas import PALETTE, figure, literal, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_scan(data: dict[str, Any], title: str) -> Figure:
    """``data``: what a scan measured."""
    from matplotlib.ticker import MaxNLocator

    layers = data["layers"]
    picture = figure(7.2, 5.0)
    above, below = picture.subplots(2, 1, sharex=True)
    above.bar(layers["layer"], [100 * e for e in layers["relative_error"]], color=PALETTE[0], width=0.7)
    above.set_ylabel("relative error, %")
    above.set_title(
        f"{literal(title)}: output activations, mean of {data['prompts']} questions", fontsize=10, loc="left"
    )
    known = [(layer, s) for layer, s in zip(layers["layer"], layers["sqnr_db"], strict=True) if s is not None]
    below.plot([k for k, _ in known], [s for _, s in known], color=PALETTE[1], marker="o", markersize=5)
    below.set_ylabel("SQNR, dB")
    below.set_xlabel("decoder layer")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        tidy(axes)
    return picture
