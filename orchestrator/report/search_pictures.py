"""A search in pictures: its history, slices through its space, two fields as a map with uncertainty, importance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.report.canvas import PALETTE, figure, literal, tidy, to_png
from orchestrator.search.decide import Trial
from orchestrator.search.estimate import Plane, plane
from orchestrator.search.space import column, headings, place
from orchestrator.search.state import SearchState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from orchestrator.search.importance import Importance

SIZE = 25
"""Cells of a map along each side."""
GREY = "#8c959f"


def pictures(state: SearchState, important: Sequence[Importance]) -> dict[str, tuple[Figure, str]]:
    """Name → picture and what it shows; only those for which there are trials enough."""
    if not state.surface.order:
        return {}
    found = {
        "history": (draw_history(state), "Every trial in order, with its standard error; filled by its seeds."),
        "slice": (draw_slices(state), "Values over each field of the space; darker: later trials."),
    }
    if (mapped := map_of(state)) is not None:
        fields, seen = mapped
        found["map"] = (
            draw_map(state, fields, seen),
            "What all trials together say over two fields (Gaussian process, the others averaged), and its error.",
        )
    if important:
        found["importance"] = (
            draw_importance(state, important),
            "Share of the variance that a field explains (fANOVA); bars: the middle 80 % under other noise.",
        )
    return found


def draw_search(state: SearchState, important: Sequence[Importance], folder: Path) -> list[Path]:
    """As PNG files."""
    drawn = pictures(state, important)
    return [to_png(picture, folder / f"{state.name}-{name}.png") for name, (picture, _) in drawn.items()]


def axis_title(state: SearchState) -> str:
    goal = state.settings.objective
    return "points against the baseline" if goal.maximise == "difference" else "questions answered right, %"


def with_value(state: SearchState) -> list[Trial]:
    return [trial for trial in state.trials if trial.values]


def draw_history(state: SearchState) -> Figure:
    from matplotlib.ticker import MaxNLocator

    picture = figure(7.2, 3.8)
    axes = picture.subplots()
    seen, trials = state.surface, with_value(state)
    most = max(len(trial.values) for trial in trials)
    for trial in trials:
        several = len(trial.values) > 1
        axes.errorbar(
            trial.number, seen.mean[trial.number], seen.error[trial.number], fmt="o", color=PALETTE[0], capsize=2,
            markersize=4 + 3 * len(trial.values) / most, markerfacecolor=PALETTE[0] if several else "white",
            linewidth=0.9,
        )  # fmt: skip
    order = [trial.number for trial in trials]
    axes.plot(order, [seen.smoothed[n] for n in order], "_", color=PALETTE[1], markersize=11, markeredgewidth=2,
              label="smoothed over the space")  # fmt: skip
    axes.plot([], [], "o", color=PALETTE[0], markerfacecolor="white", label="one seed")
    axes.plot([], [], "o", color=PALETTE[0], label="several seeds")
    without = [trial.number for trial in state.trials if not trial.values and not trial.waiting]
    if without:
        low = axes.get_ylim()[0]
        axes.plot(without, [low] * len(without), "x", color=GREY, label="withheld or ended early")
    if state.settings.objective.maximise == "difference":
        axes.axhline(0, color="#000000", linewidth=0.8)
    axes.set_xlabel("trial")
    axes.set_ylabel(axis_title(state))
    axes.set_title(f"{literal(state.name)}: trials, ± one standard error", fontsize=10, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return picture


def draw_slices(state: SearchState) -> Figure:
    from matplotlib.ticker import MaxNLocator

    fields = headings(state.settings)
    picture = figure(2.5 * len(fields) + 0.6, 3.0)
    panels: Any = picture.subplots(1, len(fields), sharey=True, squeeze=False)[0]
    seen, trials = state.surface, with_value(state)
    latest = max(trial.number for trial in trials)
    for axes, (key, head) in zip(panels, fields.items(), strict=True):
        parameter = state.settings.space[key]
        names = list(map(str, parameter.choices)) if parameter.choices is not None else []
        for trial in trials:
            if key not in trial.point:
                continue
            share = trial.number / latest
            at = names.index(str(trial.point[key])) + 0.4 * (share - 0.5) if names else trial.point[key]
            shade = 0.25 + 0.75 * share
            axes.errorbar(
                at, seen.mean[trial.number], seen.error[trial.number], fmt="o", color=PALETTE[0], alpha=shade,
                markersize=5, linewidth=0.8,
            )  # fmt: skip
        if names:
            axes.set_xticks(range(len(names)), names, fontsize=8)
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif parameter.log:
            axes.set_xscale("log")
        elif parameter.whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if state.settings.objective.maximise == "difference":
            axes.axhline(0, color="#000000", linewidth=0.8)
        axes.set_xlabel(literal(head), fontsize=9)
        tidy(axes)
    panels[0].set_ylabel(axis_title(state), fontsize=9)
    return picture


def map_of(state: SearchState, size: int = SIZE) -> tuple[tuple[str, str], Plane] | None:
    """Over the first two ranges that every point has; None where there are none, or too few trials."""
    ranges = [key for key, p in state.settings.space.items() if p.choices is None and not p.when]
    if len(ranges) < 2:
        return None
    first, second = ranges[:2]
    where = {trial.number: place(state.settings, trial.point) for trial in with_value(state)}
    columns = (column(state.settings, first), column(state.settings, second))

    def allowed(across: float, up: float) -> bool:
        return state.settings.allows({first: value_at(state, first, across), second: value_at(state, second, up)})

    found = plane(state.surface, where, columns, allowed, size)
    return ((first, second), found) if found is not None else None


def value_at(state: SearchState, key: str, share: float) -> float:
    """Of a range."""
    parameter = state.settings.space[key]
    low, high = float(parameter.low or 0), float(parameter.high or 0)
    return math.exp(math.log(low) + share * math.log(high / low)) if parameter.log else low + share * (high - low)


def draw_map(state: SearchState, fields: tuple[str, str], seen: Plane) -> Figure:
    picture = figure(8.6, 3.8)
    panels: Any = picture.subplots(1, 2, sharey=True)
    heads = headings(state.settings)
    across, up = ([value_at(state, key, share) for share in seen.shares] for key in fields)
    for axes, values, title, colours in (
        (panels[0], seen.mean, axis_title(state), "viridis"),
        (panels[1], seen.error, "standard error of it, points", "Greys"),
    ):
        filled = axes.contourf(across, up, values, levels=10, cmap=colours)
        for trial in with_value(state):
            axes.plot(
                trial.point[fields[0]], trial.point[fields[1]], "o", color="white", markeredgecolor="black",
                markersize=3 + 2 * len(trial.values),
            )  # fmt: skip
        for key, scale in zip(fields, (axes.set_xscale, axes.set_yscale), strict=True):
            if state.settings.space[key].log:
                scale("log")
        axes.set_xlabel(literal(heads[fields[0]]))
        axes.set_title(title, fontsize=9, loc="left")
        picture.colorbar(filled, ax=axes)
    panels[0].set_ylabel(literal(heads[fields[1]]))
    return picture


def draw_importance(state: SearchState, important: Sequence[Importance]) -> Figure:
    picture = figure(6.4, 0.9 + 0.4 * len(important))
    axes = picture.subplots()
    heads = headings(state.settings)
    for position, one in enumerate(reversed(important)):
        axes.barh(position, one.share, color=PALETTE[0], alpha=0.75, height=0.6)
        axes.plot((one.low, one.high), (position, position), color="#000000", linewidth=1.2)
    axes.set_yticks(range(len(important)), [literal(heads[one.field]) for one in reversed(important)])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance explained")
    tidy(axes, grid="x")
    return picture
