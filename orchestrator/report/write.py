"""Material → document → files. The same registry gives the same bytes: nothing here asks for the time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiment_specs.references import Reference
from orchestrator.report import claim_sections, run_sections
from orchestrator.report.document import Block, Document, Figure, Section
from orchestrator.report.gather import Material
from orchestrator.report.html import as_html
from orchestrator.report.markdown import FIGURES, as_markdown


@dataclass(frozen=True)
class Written:
    markdown: Path
    html: Path
    figures: int


def document(material: Material, references: Sequence[Reference], sweeps: Sequence[str] | None = None) -> Document:
    """``sweeps``: the ones that it is restricted to, for its title."""
    title = f"Report: {', '.join(sweeps)}" if sweeps else "Report of all experiments"
    sections: list[Section] = run_sections.sections(material, references)
    for history in material.histories:
        sections += claim_sections.sections(history, material.bugs, references)
    if sections:
        sections.append(run_sections.glossary())
    return Document(title, tuple(_lead(material)), tuple(_named_apart(sections)))


def _named_apart(sections: Sequence[Section]) -> list[Section]:
    """Names of files that only blanks or capitals tell apart become different ones."""
    seen: Counter[str] = Counter()
    found = []
    for section in sections:
        blocks: list[Block] = []
        for block in section.blocks:
            if isinstance(block, Figure):
                seen[block.name] += 1
                again = seen[block.name]
                blocks.append(replace(block, name=f"{block.name}-{again}") if again > 1 else block)
            else:
                blocks.append(block)
        found.append(replace(section, blocks=tuple(blocks)))
    return found


def _lead(material: Material) -> list[str]:
    lead = []
    runs = material.runs
    if runs:
        counted = sum(len(arm.scored) for arm in material.arms)
        first, last = (run_sections.day(f(run.created_at for run in runs)) for f in (min, max))
        when = first if first == last else f"{first} to {last}"
        lead.append(
            f"{len(runs)} runs of {len(material.arms)} conditions, submitted {when}; {counted} scores count:"
            " PROVEN, marked by no known bug, one a condition and seed."
            + (" The others enter no comparison; the table of all runs says why." * (counted < len(runs)))
        )
    elif not material.histories:
        lead.append("Nothing is recorded yet.")
    for history in material.histories:
        lead.append(
            f"{len(history.claims)} claims of {history.name}, recorded {history.about.get('recorded', '–')}: what"
            " people wrote of runs that no registry saw. They stand apart and are never compared with runs."
        )
    lead.append("Written by aqn report from the registry. Corrections belong there: run it again, and this is current.")
    return lead


def write(made: Document, out: Path) -> Written:
    """``report.md`` with its figures, and ``report.html``, complete in itself."""
    folder = out / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{figure.name}.svg": figure.svg for figure in made.figures}
    markdown, html = out / "report.md", out / "report.html"
    for name in _drawn_before(markdown) - wanted.keys():
        (folder / name).unlink(missing_ok=True)
    for name, svg in wanted.items():
        (folder / name).write_text(svg + "\n", encoding="utf-8")
    markdown.write_text(as_markdown(made), encoding="utf-8")
    html.write_text(as_html(made), encoding="utf-8")
    return Written(markdown, html, len(wanted))


def _drawn_before(markdown: Path) -> set[str]:
    """Pictures of the report that is about to be replaced."""
    if not markdown.exists():
        return set()
    return set(re.findall(rf"\({FIGURES}/([\w.-]+\.svg)\)", markdown.read_text(encoding="utf-8")))
