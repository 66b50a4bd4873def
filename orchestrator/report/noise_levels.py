"""The noise of AQN as a picture: sigma as planned and as realised in the generating weights, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.report.canvas import MARKERS, PALETTE, figure, literal, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_sigma(syncs: Sequence[tuple[str, Sequence[dict[str, Any]]]], title: str) -> Figure:
    """``syncs``: (label, what a run measured after its weight syncs)."""
    from matplotlib.ticker import MaxNLocator

    picture = figure(9.0, 3.8)
    axes = picture.subplots()
    for index, (label, measured) in enumerate(syncs):
        colour = PALETTE[index % len(PALETTE)]
        steps = [s["serves"] for s in measured]
        axes.step(
            steps, [s["sigma_planned"] or float("nan") for s in measured], where="mid", color=colour, linewidth=1.2,
            linestyle=("-", "--", ":", "-.")[index % 4],
            label=literal(f"{label}: planned"),
        )  # fmt: skip
        axes.plot(
            steps, [s["realised"]["std"] or float("nan") for s in measured], color=colour, linestyle="",
            marker=MARKERS[index % len(MARKERS)], markersize=max(3, 8 - 2 * index), markerfacecolor="none",
            label=literal(f"{label}: realised"),
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("training step that generates with it")
    axes.set_ylabel("σ of the noise")
    axes.set_title(f"{title}: steps without noise are left out", fontsize=10, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return picture
