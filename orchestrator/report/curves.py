"""Eval curves as a picture: accuracy over training steps, with Wilson intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from db.reads import Run
from orchestrator.runs_json import standing
from orchestrator.statistics.scores import wilson

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito: told apart by every common kind of colour vision."""
MARKERS = "osD^vPX*"
MOST_BANDS = 6
"""With more curves than these, bands hide each other: the interval stands at the last point alone."""


def draw_curves(runs: Sequence[Run], path: Path, title: str) -> Path:
    """Write a PNG and return its path. A run that is not valid is drawn thin, dotted and named as such."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    drawn = [run for run in runs if run.curve]
    crowded = len(drawn) > MOST_BANDS
    figure, axes = pyplot.subplots(figsize=(9.6 if crowded else 7.2, 4.4), dpi=150, layout="constrained")
    try:
        for index, run in enumerate(drawn):
            colour = PALETTE[index % len(PALETTE)]
            steps = [p.step for p in run.curve]
            percent = [p.percent for p in run.curve]
            bounds = [wilson(p.k, p.n * p.samples) for p in run.curve]
            proven = run.valid
            name = f"{run.label} (seed {run.seed})" + ("" if proven else f", {standing(run)}")
            again = "--" if index >= len(PALETTE) else "-"  # the second round of colours
            axes.plot(
                steps, percent, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=5, label=name,
                linewidth=1.8 if proven else 0.8, linestyle=again if proven else ":",
            )  # fmt: skip
            if not crowded:
                axes.fill_between(
                    steps, [100 * low for low, _ in bounds], [100 * high for _, high in bounds], color=colour,
                    alpha=0.12, linewidth=0,
                )  # fmt: skip
            else:
                (low, high), last = bounds[-1], percent[-1]
                axes.errorbar(
                    steps[-1], last, [[last - 100 * low], [100 * high - last]], color=colour, linewidth=0.8, capsize=2
                )
        axes.set_xlabel("training step")
        axes.set_ylabel("test questions answered right, %")
        greedy = all(run.condition["eval"]["temperature"] == 0 for run in runs)
        kind = "greedy accuracy" if greedy else "accuracy"
        where = " at the end" if crowded else ""
        axes.set_title(f"{title}: {kind}, with 95 % Wilson intervals{where}", fontsize=10, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if crowded else {}
        axes.legend(frameon=False, fontsize=9, **beside)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    finally:
        pyplot.close(figure)
    return path
