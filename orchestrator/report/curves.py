"""Eval curves as a picture: accuracy over training steps, a colour a condition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from db.records import EvalPoint, Run
from orchestrator.numbers import score_interval
from orchestrator.report.canvas import MARKERS, PALETTE, figure, literal, tidy
from orchestrator.runs_json import standing
from orchestrator.statistics.treatments import difference_by_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BANDS = 6
"""With more curves than these, bands hide each other: the interval stands at the last point alone."""


def draw_curves(runs: Sequence[Run], title: str) -> Figure:
    """A colour a condition. One seed of it: its curve with Wilson intervals. Several: each thin, their mean bold, and
    at the last step the t interval over seeds; of several runs of a seed the newest. A run that is not valid is drawn
    thin, dotted and named as such."""
    from matplotlib.ticker import MaxNLocator

    drawn = sorted((run for run in runs if run.curve), key=lambda run: (run.created_at, run.seed))
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in drawn:
        groups.setdefault((run.condition_id, "" if run.valid else standing(run)), []).append(run)
    labels = {condition: {run.label for run in drawn if run.condition_id == condition} for condition, _ in groups}
    shared = Counter(min(names) for names in labels.values())
    crowded = len(groups) > MOST_BANDS
    several = any(len(_newest(group)) > 1 and not fault for (_, fault), group in groups.items())
    picture = figure(9.6 if crowded else 7.2)
    axes = picture.subplots()
    reach = max((p.step for run in drawn for p in run.curve), default=0)
    for index, ((condition, fault), group) in enumerate(groups.items()):
        look: dict[str, Any] = {
            "color": PALETTE[index % len(PALETTE)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": ":" if fault else "--" if index >= len(PALETTE) else "-",  # the second round of colours
        }
        counted = _newest(group)
        seeds = f"{len(counted)} seeds" if len(counted) > 1 else f"seed {counted[0].seed}"
        label = min(labels[condition]) + (f" {condition}" if shared[min(labels[condition])] > 1 else "")
        name = literal(f"{label} ({seeds})" + (f", {fault}" if fault else ""))
        aside = 0.012 * reach * (index - (len(groups) - 1) / 2)
        if fault or len(counted) == 1:
            for run in group if fault else counted:
                _one(
                    axes, run, look | {"linewidth": 0.8 if fault else 1.8}, name, aside, band=not crowded and not fault
                )
                name = "_nolegend_"
        else:
            _several(axes, counted, look, name, aside)
    axes.set_xlabel("training step")
    axes.set_ylabel("test questions answered right, %")
    greedy = all(run.condition["eval"]["temperature"] == 0 for run in runs)
    what = "thin: single seeds" if several else "with 95 % Wilson intervals" + (" at the end" if crowded else "")
    axes.set_title(f"{literal(title)}: {'greedy ' if greedy else ''}accuracy, {what}", fontsize=10, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if crowded else {}
    axes.legend(frameon=False, fontsize=9, **beside)
    return picture


def _newest(group: Sequence[Run]) -> list[Run]:
    """One run a seed; of several, the newest."""
    by_seed = {run.seed: run for run in sorted(group, key=lambda run: run.created_at)}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _one(axes: Any, run: Run, look: dict[str, Any], name: str, aside: float, *, band: bool) -> None:
    """``aside``: by how much a bar at the end is moved, so that bars of one step do not hide each other."""
    steps, percent = [p.step for p in run.curve], [p.percent for p in run.curve]
    bounds = [score_interval(p) for p in run.curve]
    axes.plot(steps, percent, markersize=5, label=name, **look)
    if band:
        low, high = [b for b, _ in bounds], [b for _, b in bounds]
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.12, linewidth=0)
    else:
        (low_end, high_end), last = bounds[-1], percent[-1]
        ends = [[max(0.0, last - low_end)], [max(0.0, high_end - last)]]
        axes.errorbar(steps[-1] + aside, last, ends, color=look["color"], linewidth=0.8, capsize=2)


def _several(axes: Any, group: Sequence[Run], look: dict[str, Any], name: str, aside: float) -> None:
    by_step: dict[int, list[EvalPoint]] = {}
    for run in group:
        axes.plot(
            [p.step for p in run.curve], [p.percent for p in run.curve], color=look["color"], linewidth=0.7, alpha=0.5
        )
        for point in run.curve:
            by_step.setdefault(point.step, []).append(point)
    steps = sorted(step for step, points in by_step.items() if len(points) == len(group))
    mean = [sum(p.percent for p in by_step[step]) / len(group) for step in steps]
    axes.plot(steps, mean, markersize=5, linewidth=1.8, label=name, **look)
    if steps:
        last = by_step[steps[-1]]
        step = 100 / (last[0].n * last[0].samples)
        found = difference_by_seed([p.percent for p in last], step=step)
        if len(last) > 2 and found.low is not None and found.high is not None:  # of two seeds it spans the picture
            ends = [[mean[-1] - max(0.0, found.low)], [min(100.0, found.high) - mean[-1]]]
            axes.errorbar(steps[-1] + aside, mean[-1], ends, color=look["color"], linewidth=1.2, capsize=3)
