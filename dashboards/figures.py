"""The dashboard's pictures, from values to plotly. Pure.

The same colours, shapes and conventions as the report's (:mod:`orchestrator.report.canvas`): what does not count is
dotted and named as such; intervals are of 95 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from db.browse import Span
from db.records import EvalPoint, Run
from orchestrator.comparison import Comparison
from orchestrator.numbers import percent_with_interval, score_interval
from orchestrator.report.canvas import PALETTE
from orchestrator.runs_json import standing

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star")
MOST_TICKS = 12
"""Steps or layers that each have a tick of their own: between whole numbers there are none."""
MOST_BANDS = 3
"""With more curves than these, bands hide each other: the interval stands at the last point alone."""
GREY = "#8c959f"
OUTCOMES = {
    "running": ("#56B4E9", ""),
    "PROVEN": ("#0072B2", ""),
    "UNPROVEN": ("#E69F00", "/"),
    "REFUTED": ("#D55E00", "x"),
    "stopped": ("#8c959f", "\\"),
    "failed": ("#CC79A7", "-"),
    "lost": ("#000000", "."),
}
"""What became of an attempt → colour and pattern: either of them tells."""


def plain(height: int, **layout: Any) -> dict[str, Any]:
    return {
        "template": "simple_white",
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "font": {"size": 13, "color": "#1b1f24"},
        "hoverlabel": {"align": "left"},
        "legend": {"itemsizing": "constant"},
    } | layout


def grid(figure: go.Figure) -> go.Figure:
    figure.update_xaxes(showgrid=True, gridcolor="#e6eaee", zeroline=False, exponentformat="power")
    figure.update_yaxes(showgrid=True, gridcolor="#e6eaee", zeroline=False, exponentformat="power")
    return figure


def shown(text: str) -> str:
    """A user's text in a picture: plotly reads some HTML, and ``%{…}`` in what hovers."""
    return escape(text).replace("%{", "% {")


def _faded(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def curves(runs: Sequence[Run]) -> go.Figure:
    """Accuracy over training steps: a colour a condition, a line a run. What does not count is thin and dotted."""
    drawn = sorted((run for run in runs if run.curve), key=lambda run: (run.created_at, run.seed))
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in drawn:
        groups.setdefault((run.condition_id, "" if run.valid or _going(run) else standing(run)), []).append(run)
    shared = Counter(label for label, _ in {(run.label, run.condition_id) for run in drawn})
    figure = go.Figure(layout=plain(460))
    for index, ((condition, fault), group) in enumerate(groups.items()):
        colour, symbol = PALETTE[index % len(PALETTE)], SYMBOLS[index % len(SYMBOLS)]
        label = group[0].label + (f" {condition}" if shared[group[0].label] > 1 else "")
        seeds = f"{len(group)} seeds" if len(group) > 1 else f"seed {group[0].seed}"
        name = shown(f"{label} ({seeds})" + (f", {fault}" if fault else ""))
        alone = len(group) == 1
        dash = "dot" if fault else "dash" if index >= len(PALETTE) else "solid"
        for nth, run in enumerate(group):
            counts = alone and not fault
            if counts and len(groups) <= MOST_BANDS:
                figure.add_trace(_band(run, colour, name))
            figure.add_trace(
                go.Scatter(
                    x=[p.step for p in run.curve],
                    y=[p.percent for p in run.curve],
                    mode="lines+markers",
                    name=name,
                    legendgroup=name,
                    showlegend=alone or (bool(fault) and nth == 0),
                    line={"color": colour, "width": 2 if counts else 1, "dash": dash},
                    marker={"symbol": symbol, "size": 7 if alone else 4},
                    opacity=1 if counts else 0.5,
                    error_y=_at_the_end(run) if counts and len(groups) > MOST_BANDS else None,
                    text=[_said(p, run) for p in run.curve],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
        if not alone and not fault:
            figure.add_trace(_mean(group, colour, symbol, dash, name))
    reach = max((point.step for run in drawn for point in run.curve), default=0)
    figure.update_xaxes(title="training step", dtick=1 if reach <= MOST_TICKS else None)
    figure.update_yaxes(title="test questions answered right, %")
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "yanchor": "top"})
    return grid(figure)


def _going(run: Run) -> bool:
    return run.state in ("queued", "running")


def _said(point: EvalPoint, run: Run) -> str:
    return (
        f"<b>{shown(run.label)}</b>, seed {run.seed}<br>step {point.step}: {point.k}/{point.n * point.samples}"
        f" = {percent_with_interval(point)}"
    )


def _band(run: Run, colour: str, name: str) -> go.Scatter:
    """Wilson's intervals."""
    bounds = [score_interval(point) for point in run.curve]
    steps = [point.step for point in run.curve]
    return go.Scatter(
        x=[*steps, *reversed(steps)],
        y=[*(high for _, high in bounds), *reversed([low for low, _ in bounds])],
        fill="toself",
        fillcolor=_faded(colour, 0.12),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        mode="lines",
    )


def _at_the_end(run: Run) -> dict[str, Any]:
    """Wilson's interval as a bar, at the last point."""
    none, (low, high) = [0.0] * (len(run.curve) - 1), score_interval(run.curve[-1])
    last = run.curve[-1].percent
    return {
        "type": "data",
        "symmetric": False,
        "array": [*none, high - last],
        "arrayminus": [*none, last - low],
        "thickness": 1,
        "width": 4,
    }


def _mean(group: Sequence[Run], colour: str, symbol: str, dash: str, name: str) -> go.Scatter:
    """Over those that have reached a step, where all have."""
    by_step: dict[int, list[float]] = {}
    for run in group:
        for point in run.curve:
            by_step.setdefault(point.step, []).append(point.percent)
    steps = sorted(step for step, values in by_step.items() if len(values) == len(group))
    return go.Scatter(
        x=steps,
        y=[sum(by_step[step]) / len(group) for step in steps],
        mode="lines+markers",
        name=name,
        legendgroup=name,
        line={"color": colour, "width": 2.5, "dash": dash},
        marker={"symbol": symbol, "size": 8},
        hovertemplate=f"<b>{name}</b><br>step %{{x}}: mean %{{y:.1f}} %<extra></extra>",
    )


def sigma(syncs: Sequence[Mapping[str, Any]]) -> go.Figure:
    """σ of the noise, planned and measured in the generating weights, at every sync; steps without are left out."""
    noisy = [sync for sync in syncs if sync["sigma_planned"] > 0]
    inert = [sync for sync in noisy if not sync["realised"]["std"]]
    figure = go.Figure(layout=plain(360))
    figure.add_trace(
        go.Scatter(
            x=[s["serves"] for s in noisy],
            y=[s["sigma_planned"] for s in noisy],
            name="planned",
            mode="lines",
            line={"color": PALETTE[0], "shape": "hvh"},
            hovertemplate="step %{x}: planned %{y:.3g}<extra></extra>",
        )
    )
    seen = [sync for sync in noisy if sync["realised"]["std"]]
    figure.add_trace(
        go.Scatter(
            x=[s["serves"] for s in seen],
            y=[s["realised"]["std"] for s in seen],
            name="realised",
            mode="markers",
            marker={"color": PALETTE[1], "symbol": "circle-open", "size": 9, "line": {"width": 2}},
            customdata=[s["realised"]["modules"] for s in seen],
            hovertemplate="step %{x}: realised %{y:.3g} in %{customdata} modules<extra></extra>",
        )
    )
    if inert:
        figure.add_trace(
            go.Scatter(
                x=[s["serves"] for s in inert],
                y=[s["sigma_planned"] for s in inert],
                mode="markers",
                name="rounded away by the number format",
                marker={"color": "#000000", "symbol": "x", "size": 9},
            )
        )
    reach = max((sync["serves"] for sync in noisy), default=0)
    figure.update_xaxes(title="training step that generates with it", dtick=1 if reach <= MOST_TICKS else None)
    figure.update_yaxes(title="σ", type="log", exponentformat="e")
    return grid(figure)


def scan(layers: Mapping[str, Sequence[Any]]) -> go.Figure:
    """Error and signal-to-noise ratio of each decoder layer's output activations."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    figure.add_trace(
        go.Bar(
            x=layers["layer"],
            y=[100 * error for error in layers["relative_error"]],
            marker={"color": PALETTE[0]},
            hovertemplate="layer %{x}: %{y:.2f} %<extra></extra>",
        ),
        row=1,
        col=1,
    )
    known = [
        (layer, value) for layer, value in zip(layers["layer"], layers["sqnr_db"], strict=True) if value is not None
    ]
    figure.add_trace(
        go.Scatter(
            x=[layer for layer, _ in known],
            y=[value for _, value in known],
            mode="lines+markers",
            line={"color": PALETTE[1]},
            marker={"size": 8},
            hovertemplate="layer %{x}: %{y:.2f} dB<extra></extra>",
        ),
        row=2,
        col=1,
    )
    figure.update_layout(**plain(520, showlegend=False))
    figure.update_yaxes(title="relative error, %", row=1, col=1)
    figure.update_yaxes(title="SQNR, dB", row=2, col=1)
    figure.update_xaxes(dtick=1 if len(layers["layer"]) <= MOST_TICKS else None)
    figure.update_xaxes(title="decoder layer", row=2, col=1)
    return grid(figure)


def multipliers(layers: Sequence[int], aims: Mapping[str, Sequence[float]]) -> go.Figure:
    """What each preset of srdd makes of a scan: σ's multiplier by layer."""
    figure = go.Figure(layout=plain(360))
    for index, (name, values) in enumerate(aims.items()):
        figure.add_trace(
            go.Scatter(
                x=list(layers),
                y=list(values),
                name=name,
                mode="lines+markers",
                line={"color": PALETTE[index % len(PALETTE)], "dash": "dot", "width": 1.5},
                marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7},
                hovertemplate=f"{name}, layer %{{x}}: %{{y:.3g}}<extra></extra>",
            )
        )
    figure.update_xaxes(title="decoder layer", dtick=1 if len(layers) <= MOST_TICKS else None)
    figure.update_yaxes(title="multiplier of σ", rangemode="tozero")
    return grid(figure)


def forest(compared: Sequence[tuple[str, Comparison]]) -> go.Figure:
    """Differences in points with their intervals of 95 %; ticks are single seeds."""
    drawn = [
        (shown(name), one.treatment, one.verdict) for name, one in compared if one.treatment.difference is not None
    ]
    figure = go.Figure(layout=plain(130 + 44 * len(drawn), showlegend=False))
    for name, treatment, verdict in drawn:
        surely = verdict in ("higher", "lower", "equivalent")
        colour = PALETTE[0] if surely else GREY
        bars = None
        if treatment.low is not None and treatment.high is not None:
            middle = treatment.difference or 0.0
            bars = {
                "type": "data",
                "symmetric": False,
                "array": [treatment.high - middle],
                "arrayminus": [middle - treatment.low],
                "thickness": 2,
                "width": 5,
            }
        figure.add_trace(
            go.Scatter(
                x=list(treatment.differences),
                y=[name] * len(treatment.differences),
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 10, "color": colour},
                hoverinfo="skip",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[treatment.difference],
                y=[name],
                mode="markers",
                error_x=bars,
                marker={"color": colour, "size": 11, "symbol": "circle" if surely else "circle-open"},
                hovertemplate=f"%{{x:+.1f}} points: {verdict}<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"color": "#000000", "width": 1})
    margins = {treatment.margin for _, treatment, _ in drawn}
    if len(margins) == 1:
        (margin,) = margins
        figure.add_vrect(x0=-margin, x1=margin, fillcolor="#000000", opacity=0.07, line_width=0)
    figure.update_xaxes(title="points, second minus first")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return grid(figure)


def outcome(span: Span) -> str:
    """What became of an attempt, as :data:`OUTCOMES` has it."""
    if span.end is None:
        return "running"
    return span.verdict or "UNPROVEN" if span.state == "succeeded" else span.state


def timeline(spans: Sequence[Span], now: float) -> go.Figure:
    """Attempts as bars, a line a run: the newest at the top."""
    rows = list(dict.fromkeys((span.run_id, span.label) for span in spans))
    names = {run_id: shown(f"{label} · {run_id[:6]}") for run_id, label in rows}
    figure = go.Figure(layout=plain(140 + 24 * len(rows), barmode="overlay"))
    for word, (colour, pattern) in OUTCOMES.items():
        own = [span for span in spans if outcome(span) == word]
        if not own:
            continue
        figure.add_trace(
            go.Bar(
                base=[_when(span.begin) for span in own],
                x=[1000 * max(1.0, (span.end or now) - span.begin) for span in own],
                y=[names[span.run_id] for span in own],
                orientation="h",
                name=word,
                width=0.7,
                marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "#ffffff", "size": 5}},
                text=[
                    f"<b>{shown(span.label)}</b>, attempt {span.number}<br>{shown(span.node)},"
                    f" {span.gpus} GPU{'s' * (span.gpus > 1)}"
                    f"<br>{_clock(span.begin)} to {_clock(span.end) if span.end else 'now'}: {span.state}"
                    for span in own
                ],
                textposition="none",
                hovertemplate="%{text}<extra></extra>",
            )
        )
    figure.update_xaxes(type="date", title="UTC")
    figure.update_yaxes(
        categoryorder="array", categoryarray=[names[run_id] for run_id, _ in rows], automargin=True, title=None
    )
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    return grid(figure)


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")
