"""A search in pictures: its history, slices through its space, two fields as a map with its uncertainty, importance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from dashboards.figures import GREY, grid, plain
from orchestrator.report.canvas import PALETTE
from orchestrator.report.search_pictures import axis_title, map_of, value_at, with_value
from orchestrator.search.importance import Importance
from orchestrator.search.space import headings, spelled
from orchestrator.search.state import SearchState


def history(state: SearchState) -> go.Figure:
    """Every trial in order with its standard error: filled where it has several seeds."""
    seen, trials = state.surface, with_value(state)
    several = [len(trial.values) > 1 for trial in trials]
    figure = go.Figure(layout=plain(400))
    figure.add_trace(
        go.Scatter(
            x=[t.number for t in trials],
            y=[seen.mean[t.number] for t in trials],
            mode="markers",
            name="measured",
            error_y={"type": "data", "array": [seen.error[t.number] for t in trials], "width": 4},
            marker={
                "color": PALETTE[0],
                "size": [8 + 3 * len(t.values) for t in trials],
                "symbol": ["circle" if many else "circle-open" for many in several],
            },
            text=[
                f"<b>trial {t.number}</b>, {len(t.values)} seed{'s' * (len(t.values) > 1)}<br>"
                + "<br>".join(f"{head}: {spelled(t.point.get(key))}" for key, head in headings(state.settings).items())
                + f"<br>{seen.mean[t.number]:+.2f} ± {seen.error[t.number]:.2f}"
                for t in trials
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[t.number for t in trials],
            y=[seen.smoothed[t.number] for t in trials],
            mode="markers",
            name="smoothed over the space",
            marker={"symbol": "line-ew-open", "size": 14, "color": PALETTE[1], "line": {"width": 2.5}},
            hovertemplate="smoothed %{y:+.2f}<extra></extra>",
        )
    )
    without = [t.number for t in state.trials if not t.values and not t.waiting]
    if without and trials:
        floor = min(seen.mean[t.number] - seen.error[t.number] for t in trials)
        figure.add_trace(
            go.Scatter(
                x=without,
                y=[floor] * len(without),
                mode="markers",
                name="withheld or ended early",
                marker={"symbol": "x", "color": GREY, "size": 9},
            )
        )
    if state.compares:
        figure.add_hline(y=0, line={"color": "#000000", "width": 1})
    figure.update_xaxes(title="trial", dtick=1 if len(state.trials) <= 30 else None)
    figure.update_yaxes(title=axis_title(state))
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    return grid(figure)


def slices(state: SearchState) -> go.Figure:
    """Values over each field; darker: later trials."""
    fields, seen, trials = headings(state.settings), state.surface, with_value(state)
    latest = max((t.number for t in trials), default=1) or 1
    figure = make_subplots(rows=1, cols=len(fields), shared_yaxes=True, horizontal_spacing=0.03)
    for column, (key, head) in enumerate(fields.items(), start=1):
        own = [t for t in trials if key in t.point]
        parameter = state.settings.space[key]
        figure.add_trace(
            go.Scatter(
                x=[str(t.point[key]) if parameter.choices is not None else t.point[key] for t in own],
                y=[seen.mean[t.number] for t in own],
                mode="markers",
                error_y={
                    "type": "data",
                    "array": [seen.error[t.number] for t in own],
                    "width": 3,
                    "thickness": 1,
                    "color": GREY,
                },
                marker={
                    "size": 9,
                    "color": [t.number / latest for t in own],
                    "colorscale": "Blues",
                    "cmin": -0.4,
                    "cmax": 1,
                    "line": {"width": 1, "color": "#1b1f24"},
                },
                text=[f"trial {t.number}" for t in own],
                hovertemplate="%{text}: %{y:+.2f}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title=head, type="log" if parameter.log else None, row=1, col=column)
    figure.update_layout(**plain(360, showlegend=False))
    figure.update_yaxes(title=axis_title(state), row=1, col=1)
    return grid(figure)


def plane(state: SearchState) -> go.Figure | None:
    """What all trials say over two fields, and the standard error of that; None where they are too few."""
    if (mapped := map_of(state)) is None:
        return None
    fields, seen = mapped
    heads, trials = headings(state.settings), with_value(state)
    across, up = ([value_at(state, key, share) for share in seen.shares] for key in fields)
    titles = (axis_title(state), "standard error of it, points")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.14)
    for column, (values, colours) in enumerate(((seen.mean, "Viridis"), (seen.error, "Greys")), start=1):
        figure.add_trace(
            go.Contour(
                x=across,
                y=up,
                z=np.asarray(values),
                colorscale=colours,
                ncontours=12,
                connectgaps=False,
                colorbar={"x": 0.43 if column == 1 else 1.0, "thickness": 12, "len": 0.95},
                hovertemplate="%{x:.3g}, %{y:.3g}: %{z:.2f}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.add_trace(
            go.Scatter(
                x=[t.point[fields[0]] for t in trials],
                y=[t.point[fields[1]] for t in trials],
                mode="markers",
                marker={
                    "color": "#ffffff",
                    "line": {"color": "#000000", "width": 1.5},
                    "size": [7 + 2 * len(t.values) for t in trials],
                },
                text=[f"trial {t.number}" for t in trials],
                hovertemplate="%{text}<extra></extra>",
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(
            title=heads[fields[0]], type="log" if state.settings.space[fields[0]].log else None, row=1, col=column
        )
        figure.update_yaxes(type="log" if state.settings.space[fields[1]].log else None, row=1, col=column)
    figure.update_yaxes(title=heads[fields[1]], row=1, col=1)
    figure.update_layout(**plain(440, showlegend=False))
    figure.update_xaxes(exponentformat="power")
    figure.update_yaxes(exponentformat="power")
    return figure


def importance(state: SearchState, important: Sequence[Importance]) -> go.Figure:
    """Share of the values' variance; bars: the middle 80 % of what it is under other noise."""
    heads = headings(state.settings)
    figure = go.Figure(layout=plain(110 + 40 * len(important), showlegend=False))
    figure.add_trace(
        go.Bar(
            x=[one.share for one in important],
            y=[heads[one.field] for one in important],
            orientation="h",
            width=0.6,
            marker={"color": PALETTE[5]},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [one.high - one.share for one in important],
                "arrayminus": [one.share - one.low for one in important],
                "width": 4,
            },
            hovertemplate="%{y}: %{x:.2f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="share of the variance explained", range=[0, 1])
    figure.update_yaxes(autorange="reversed", automargin=True)
    return grid(figure)
