"""A layer scan as a picture: relative error and SQNR by decoder layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.report.curves import PALETTE


def draw_scan(data: dict[str, Any], path: Path, title: str) -> Path:
    """Write a PNG and return its path. ``data``: what a scan measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    layers = data["layers"]
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7.2, 5.0), dpi=150, layout="constrained", sharex=True)
    try:
        above.bar(layers["layer"], [100 * e for e in layers["relative_error"]], color=PALETTE[0], width=0.7)
        above.set_ylabel("relative error, %")
        above.set_title(f"{title}: output activations, mean of {data['prompts']} questions", fontsize=10, loc="left")
        known = [(layer, s) for layer, s in zip(layers["layer"], layers["sqnr_db"], strict=True) if s is not None]
        below.plot([k for k, _ in known], [s for _, s in known], color=PALETTE[1], marker="o", markersize=5)
        below.set_ylabel("SQNR, dB")
        below.set_xlabel("decoder layer")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in (above, below):
            axes.grid(alpha=0.3, linewidth=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    finally:
        pyplot.close(figure)
    return path
