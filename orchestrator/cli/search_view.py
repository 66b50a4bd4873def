"""A search in the terminal, 80 columns wide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from experiment_specs.search_language import Parameter, SearchSettings
from orchestrator.cli.compare_view import VERDICT_STYLES
from orchestrator.numbers import bare_p, points
from orchestrator.report.search_pictures import draw_search, map_of, value_at
from orchestrator.search.answer import Answer
from orchestrator.search.decide import Trial
from orchestrator.search.estimate import Plane
from orchestrator.search.space import headings, spelled
from orchestrator.search.state import SearchState

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.search.importance import Importance
    from orchestrator.settings import Settings

BARS = "▁▂▃▄▅▆▇█"


def space_table(settings: SearchSettings) -> Table:
    """What each field may be."""
    table = _plain_table()
    for name in ("field", "values", "where"):
        table.add_column(name)
    for key, parameter in settings.space.items():
        where = " and ".join(f"{other} is {_or(wanted)}" for other, wanted in parameter.when.items())
        table.add_row(escape(key), escape(_range(parameter)), escape(where))
    return table


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _or(wanted: object) -> str:
    return " or ".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)


def _range(parameter: Parameter) -> str:
    if parameter.choices is not None:
        return ", ".join(map(str, parameter.choices))
    step = f", in steps of {parameter.step:g}" if parameter.step else ""
    kind = ", whole numbers" if parameter.whole else ""
    return f"{parameter.low:g} to {parameter.high:g}{', by its logarithm' if parameter.log else ''}{kind}{step}"


def print_search(screen: Console, state: SearchState, found: Answer | None, settings: Settings) -> None:
    """Trials, what was confirmed, the answer, and where the pictures are."""
    from orchestrator.search.importance import importances

    screen.print(trials_table(state))
    for line in remarks(state):
        screen.print(Text(line, style="dim"))
    important = importances(state)
    for part in seen_as_text(state, important):
        screen.print(part)
    if found is not None:
        screen.print(confirmed_table(found))
        screen.print(Text(found.sentence, style="bold"))
        screen.print(Text(said_of(state, found), style="dim"))
    for picture in draw_search(state, important, settings.reports):
        screen.print(Text(f"picture: {picture}"), soft_wrap=True)
    screen.print(
        "look further:  aqn report   trials, pictures and differences on one page\n"
        "               aqn ui       all of it in a browser, Optuna's pages beside it"
    )


CELLS = 5
"""Of the map in the terminal, along each side."""


def seen_as_text(state: SearchState, important: Sequence[Importance]) -> list[RenderableType]:
    """History, map and importance, without a picture."""
    seen, found = state.surface, list[RenderableType]()
    means = [seen.mean[number] for number in seen.order]
    if len(means) > 1 and max(means) > min(means):
        bars = "".join(BARS[round(7 * (mean - min(means)) / (max(means) - min(means)))] for mean in means)
        found.append(Text(f"in order of trials: {bars}  ({_number(min(means), True)} to {_number(max(means), True)})"))
    if (mapped := map_of(state, CELLS)) is not None:
        fields, there = mapped
        found.append(_map_table(state, fields, there))
    if important:
        heads = headings(state.settings)
        parts = ", ".join(f"{heads[one.field]} {one.share:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in important)
        found.append(Text(f"importance (fANOVA, middle 80 % under other noise): {parts}"))
    return found


def _map_table(state: SearchState, fields: tuple[str, str], there: Plane) -> Table:
    heads = headings(state.settings)
    table = _plain_table()
    table.add_column(f"{heads[fields[1]]} ↓  {heads[fields[0]]} →", no_wrap=True)
    for share in there.shares:
        table.add_column(f"{value_at(state, fields[0], share):.2g}", justify="right", no_wrap=True)
    for row in reversed(range(CELLS)):
        both = zip(there.mean[row], there.error[row], strict=True)
        cells = ("" if math.isnan(mean) else f"{_number(mean, True)}±{error:.1f}" for mean, error in both)
        table.add_row(f"{value_at(state, fields[1], there.shares[row]):.2g}", *cells)
    return table


def trials_table(state: SearchState) -> Table:
    """The highest smoothed value first; what has no value last."""
    seen, heads = state.surface, headings(state.settings)
    table = _plain_table()
    table.add_column("#", justify="right", no_wrap=True)
    for key, head in heads.items():
        numeric = state.settings.space[key].choices is None
        table.add_column(head, justify="right" if numeric else "left", overflow="fold")
    table.add_column("seeds", justify="right", no_wrap=True)
    what = "points" if state.settings.objective.maximise == "difference" else "%"
    table.add_column(f"{what} ± SE", justify="right", no_wrap=True)
    table.add_column("smoothed", justify="right", no_wrap=True)
    also = state.settings.objective.also
    if also is not None:
        table.add_column({"gpu_hours": "GPU-h", "response_length": "tokens"}[also], justify="right", no_wrap=True)
    signed = state.settings.objective.maximise == "difference"
    for trial in in_order(state):
        done = trial.number in seen.mean
        value = (
            f"{_number(seen.mean[trial.number], signed)} ± {seen.error[trial.number]:.1f}" if done else status(trial)
        )
        table.add_row(
            str(trial.number),
            *(spelled(trial.point.get(key)) for key in heads),
            str(len(trial.values)) if done else "",
            value,
            _number(seen.smoothed[trial.number], signed) if done else "",
            *([spelled(trial.cost)] if also is not None else []),
        )
    return table


def in_order(state: SearchState) -> list[Trial]:
    seen = state.surface
    return sorted(
        state.trials, key=lambda t: (t.number not in seen.smoothed, -seen.smoothed.get(t.number, 0), t.number)
    )


def status(trial: Trial) -> str:
    """Of a trial without a value."""
    return "under way" if trial.waiting else "ended early" if trial.pruned else "withheld"


def _number(value: float, signed: bool) -> str:
    return points(value) if signed else f"{value:.1f}"


def remarks(state: SearchState) -> list[str]:
    """What was withheld, and what the numbers are."""
    found = []
    for trial in state.trials:
        for seed, why in state.why_void(trial).items():
            found.append(f"withheld: trial {trial.number}, seed {seed}: {why}")
    goal = state.settings.objective
    against = "differences to the baseline, seed by seed" if goal.maximise == "difference" else "scores"
    found.append(
        f"{against}, on the {goal.questions} questions, which are never reported; smoothed: with what neighbouring "
        f"trials say (Gaussian process); one run scatters by about {state.known_sd:.1f} points"
    )
    return found


def confirmed_table(found: Answer) -> Table:
    """Means over fresh seeds on the questions of the confirmation, and differences to no noise."""
    table = _plain_table()
    table.add_column("confirmed")
    table.add_column("seeds", justify="right", no_wrap=True)
    table.add_column("mean %", justify="right", no_wrap=True)
    table.add_column("points [95 %]", justify="right", no_wrap=True)
    table.add_column("p, Holm", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for candidate in sorted(found.candidates, key=lambda c: (c.gain is not None, -(c.scores.mean or 0))):
        gain, mean = candidate.gain, candidate.scores.mean
        table.add_row(
            escape(candidate.label),
            str(len(candidate.scores.scored)),
            f"{mean:.1f}" if mean is not None else "–",
            points(gain.treatment.difference, gain.treatment.low, gain.treatment.high) if gain else "",
            bare_p(gain.adjusted.p) if gain else "",
            Text(gain.verdict, style=VERDICT_STYLES.get(gain.verdict, "")) if gain else "",
        )
    return table


def said_of(state: SearchState, found: Answer) -> str:
    pick = (
        f"; where one has to be taken, selection and confirmation together speak for {found.pick}" if found.pick else ""
    )
    return f"reported on the {state.settings.confirm.questions} questions, with seeds that no trial had{pick}"
