"""Studies side by side: published ones, and the settings of sweeps or histories. Values; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiment_specs.language import TINY_PREFIX, Condition
from experiment_specs.references import Reference, Results
from orchestrator.numbers import points
from orchestrator.report.document import Block, Section, table
from orchestrator.report.gather import Material
from orchestrator.report.settings import SETTINGS, settings_of
from orchestrator.statistics.checkpoints import difference_of_counts
from orchestrator.words import readable


def against(material: Material, references: Sequence[Reference]) -> Section | None:
    """Only of sweeps on questions that others publish scores of, too."""
    own = []
    for sweep in material.sweeps:
        bodies = {run.condition_id: run.condition for run in sweep.runs}
        if conditions := [c for body in bodies.values() if (c := readable(body)) and not _is_tiny(c)]:
            own.append((sweep.name, settings_of(conditions)))
    return comparison_with("Against published work", own, references) if own and references else None


def _is_tiny(condition: Condition) -> bool:
    """On questions that are made locally."""
    return condition.data.test.startswith(TINY_PREFIX)


def comparison_with(
    title: str, own: Sequence[tuple[str, Mapping[str, str]]], references: Sequence[Reference]
) -> Section:
    """Settings side by side: published ones, and those of sweeps or histories."""
    blocks: list[Block] = []
    for reference in references:
        says = {setting.what: setting.says for setting in reference.settings}
        whats = list(dict.fromkeys([*says, *SETTINGS]))
        rows = [(what, says.get(what, "–"), *(settings.get(what, "–") for _, settings in own)) for what in whats]
        columns = ("setting", reference.reference, *(name for name, _ in own))
        blocks.append(table(columns, rows, caption=f"{reference.reference}: {reference.source}."))
        if reference.results is not None:
            blocks.append(_published(reference.reference, reference.results))
    return Section(title, tuple(blocks))


def _published(name: str, results: Results) -> Block:
    """Percentages, and each row over the one above with the interval that its questions explain."""
    rows = []
    for nth, row in enumerate(results.rows):
        above = results.rows[nth - 1].percent if nth else ()
        apart = [
            difference_of_counts(*((round(percent * n / 100), n) for percent in pair))
            for pair, n in zip(zip(above, row.percent, strict=False), results.questions, strict=False)
        ]
        over = [points(one.difference, one.low, one.high) for one in apart] or ["–"] * len(results.columns)
        rows.append((row.method, *(f"{percent:.2f} %" for percent in row.percent), *over))
    over_columns = tuple(f"{column}: over the row above" for column in results.columns)
    caption = (
        f"{name}, {results.title}: claims of others, one number a cell, without seeds, on"
        f" {' and '.join(f'{n:,}' for n in results.questions)} questions. Differences in points, with the interval"
        " (Newcombe) that questions alone explain."
    )
    columns = ("method", *results.columns, *over_columns)
    return table(columns, rows, right=columns[1:], caption=caption)
