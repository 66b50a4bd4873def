"""What a report says of findings that people wrote: can their data bear them? Values; pure."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.findings import BEYOND, MARKED, WITHIN, Assessment
from orchestrator.numbers import bare_p, points
from orchestrator.report.canvas import to_svg
from orchestrator.report.document import Block, Cell, Figure, Paragraph, Section, slug, table
from orchestrator.report.forest import Line, draw_forest
from orchestrator.report.gather import HistoryMaterial
from orchestrator.statistics.treatments import holm

CLAIM = "Claims: what people wrote. Nothing of it was measured here."
BY_QUESTIONS = (
    "Intervals (Newcombe) and p-values (score test) take the questions alone as chance, and the two scores as"
    " independent samples: which questions each run answered is not recorded, and on shared questions the paired"
    " interval would be narrower. Between seeds runs scatter on top of that, and no seed is told. So no p-value here"
    " is one of a treatment."
)


def findings(history: HistoryMaterial) -> Section | None:
    if not history.findings:
        return None
    known = [w.apart.p for one in history.findings for w in one.weighed if w.apart and w.standing in (BEYOND, WITHIN)]
    corrected = iter(holm(known))
    cells = []
    for number, one in enumerate(history.findings, 1):
        for nth, weighed in enumerate(one.weighed):
            lead: tuple[Cell | str, ...] = ("", "", "")
            if nth == 0:
                lead = (str(number), Cell(one.finding.says, note=one.finding.place), Cell(one.verdict, strong=True))
            apart, struck = weighed.apart, weighed.standing == MARKED
            tested = apart is not None and weighed.standing in (BEYOND, WITHIN)
            text = points(weighed.difference, apart.low, apart.high) if apart else points(weighed.difference)
            cells.append(
                (
                    *lead, weighed.name, Cell(text, struck=struck), bare_p(apart.p) if apart and tested else "–",
                    bare_p(next(corrected)) if tested else "–", weighed.standing, "; ".join(weighed.against) or "–",
                )
            )  # fmt: skip
    columns = ("", "finding", "can the data bear it?", "by", "points [95 %]", "p", "p, Holm", "by itself", "against it")
    caption = (
        f"{CLAIM} {BY_QUESTIONS} p, Holm: corrected over the {len(known)} comparisons that can be tested. Fields are"
        " those of the condition that a claim is filed under."
    )
    blocks: list[Block] = [
        Paragraph(_summary(history.findings)),
        table(columns, cells, right=("", "points [95 %]", "p", "p, Holm"), caption=caption),
        _forest(history),
    ]
    return Section(f"{history.name}: what its findings can bear", tuple(blocks))


def _summary(findings: Sequence[Assessment]) -> str:
    counts: dict[str, int] = {}
    for one in findings:
        counts[one.verdict.partition(":")[0]] = counts.get(one.verdict.partition(":")[0], 0) + 1
    words = {
        "no": "contradicted by its own figures, or resting on marked runs",
        "not contradicted": "no difference shown, and no equality",
        "not established": "its differences are no larger than the choice of questions explains, or cannot be tested",
        "these checkpoints only": "these checkpoints differ, for whatever reason",
    }
    parts = [f"{counts[verdict]}: {meaning}" for verdict, meaning in words.items() if verdict in counts]
    return (
        f"None of the {len(findings)} findings can be attributed to a treatment, by one run an arm. {'; '.join(parts)}."
    )


def _forest(history: HistoryMaterial) -> Figure:
    lines = []
    for number, one in enumerate(history.findings, 1):
        for weighed in one.weighed:
            if weighed.difference is not None:
                apart = weighed.apart
                lines.append(
                    Line(
                        f"{number}: {weighed.name}", weighed.difference, apart.low if apart else None,
                        apart.high if apart else None, note=weighed.standing, counts=weighed.standing != MARKED,
                    )
                )  # fmt: skip
    caption = (
        f"Differences behind the findings of {history.name}, by their numbers, with the interval that questions alone"
        " explain. Hollow: without an interval; grey: a bug rule marks a side. None of them is a treatment's."
    )
    picture = draw_forest(lines, "difference, points", "two checkpoints each, as written")
    return Figure(f"findings-{slug(history.name)}", to_svg(picture, caption), caption)
