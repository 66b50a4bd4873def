"""Comparisons in the terminal, 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.comparison import ONE_SEED, Comparison, DeclaredContrast
from orchestrator.numbers import bare_p, noise_in_words, p_value, percent_with_interval, points
from orchestrator.scores import LeftOut
from orchestrator.statistics.treatments import ALPHA
from orchestrator.words import short_value

if TYPE_CHECKING:
    from rich.console import Console

VERDICT_STYLES = {"higher": "bold blue", "lower": "bold magenta", "equivalent": "bold", "not comparable": "magenta"}
MOST_FIELDS = 8


def print_comparison(screen: Console, found: Comparison) -> None:
    first, second = found.first, found.second
    screen.print(Text.assemble((second.label, "bold"), " against ", (first.label, "bold")))
    _print_varied(screen, found)
    if found.pairs:
        screen.print(_pairs_table(found))
    for problem in found.problems:
        screen.print(Text(f"not comparable: {problem}", style="magenta"))
    for text in treatment_lines(found):
        screen.print(text)
    for arm in (first, second):
        for out in arm.left_out:
            line = f"left out: {arm.label}, seed {out.run.seed}, run {out.run.id}: {out.why}"
            screen.print(Text(line, style="dim"))
        if not arm.scored:
            screen.print(Text(f"{arm.label} has no score that counts", style="magenta"))
    for note in found.notes:
        screen.print(Text(f"note: {note}", style="yellow"))


def _print_varied(screen: Console, found: Comparison) -> None:
    shown = list(found.varied.items())
    for key, (one, other) in shown[:MOST_FIELDS]:
        screen.print(Text(f"  {key}: {short_value(key, one)} → {short_value(key, other)}", style="dim"))
    if len(shown) > MOST_FIELDS:
        screen.print(Text(f"  and {len(shown) - MOST_FIELDS} fields more (--json)", style="dim"))


def _pairs_table(found: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("A % [95 %]", no_wrap=True)
    table.add_column("B % [95 %]", no_wrap=True)
    table.add_column("only A/B", justify="right", no_wrap=True)
    table.add_column("B - A, points", no_wrap=True)
    for pair in found.pairs:
        checkpoints = pair.checkpoints
        low, high = (checkpoints.low, checkpoints.high) if checkpoints else (None, None)
        sure = "bold" if checkpoints is not None and checkpoints.differ else ""
        table.add_row(
            str(pair.first.seed),
            *(percent_with_interval(s.point).replace(" %", "") for s in (pair.first, pair.second)),
            f"{checkpoints.only_first}/{checkpoints.only_second}" if checkpoints else "–",
            Text(points(pair.second.point.percent - pair.first.point.percent, low, high), style=sure),
        )
    table.caption = "only A/B: questions that one of the two alone answered right"
    table.caption_justify = "left"
    return table


def treatment_lines(found: Comparison) -> list[Text]:
    """What the seeds say, and what the questions do."""
    treatment, lines = found.treatment, []
    checkpoints = [pair.checkpoints for pair in found.pairs if pair.checkpoints is not None]
    if checkpoints:
        one = checkpoints[0]
        differ = sum(c.differ for c in checkpoints)
        verdict = f"{differ} of {len(checkpoints)} pairs differ" if len(checkpoints) > 1 else _checkpoints_word(one.p)
        text = Text.assemble(("checkpoints ", "bold"), f"{verdict} on these {one.n} questions ({one.test}")
        lines.append(text.append(f", {p_value(one.p)})" if len(checkpoints) == 1 else " at 5 % each, not corrected)"))
    if not found.pairs:
        return lines
    line = Text.assemble(("treatments  ", "bold"), (found.verdict, VERDICT_STYLES.get(found.verdict, "")))
    if treatment.p is None:
        lines.append(line.append(f": {ONE_SEED}"))
        return lines
    line.append(f": {points(treatment.difference, treatment.low, treatment.high)} points")
    line.append(f" (t over {treatment.seeds} seeds, {p_value(treatment.p)}")
    if found.verdict == "equivalent":
        line.append(f"; within ±{treatment.margin:g}: {p_value(treatment.p_equal or 0.0)}")
    lines.append(line.append(")"))
    if found.noise is not None and found.noise.seeds is not None:
        lines.append(Text.assemble(("noise       ", "bold"), noise_in_words(found.noise)))
    return lines


def _checkpoints_word(p: float) -> str:
    return "differ" if p < ALPHA else "cannot be told apart"


def print_contrasts(screen: Console, sweep: str, contrasts: Sequence[DeclaredContrast]) -> None:
    """All declared comparisons of a sweep, with Holm's correction over them."""
    total = sum(len(contrast.comparisons) for contrast in contrasts)
    screen.print(Text.assemble((sweep, "bold"), f"  declared contrasts: {total} comparison{'s' * (total != 1)}"))
    for contrast in contrasts:
        screen.print(Text.assemble("\n", (contrast.name, "bold"), f"  varies {contrast.vary}"))
        if not contrast.comparisons:
            screen.print("  no pair of conditions is recorded; submit the sweep again to record them")
            continue
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("from → to")
        table.add_column("seeds", justify="right", no_wrap=True)
        table.add_column("points [95 %]", no_wrap=True)
        table.add_column("p, Holm", justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for one in contrast.comparisons:
            treatment = one.treatment
            table.add_row(
                escape(f"{one.first.label} → {one.second.label}"),
                str(treatment.seeds),
                points(treatment.difference, treatment.low, treatment.high),
                bare_p(one.adjusted.p),
                Text(one.verdict, style=VERDICT_STYLES.get(one.verdict, "")),
            )
        screen.print(table)
        for problem in dict.fromkeys(p for one in contrast.comparisons for p in one.problems):
            screen.print(Text(f"not comparable: {problem}", style="magenta"))
    out = [f"{o.run.label} seed {o.run.seed} ({o.why})" for o in left_out(contrasts)]
    if out:
        screen.print(Text("left out: " + ", ".join(out), style="dim"))
    margins = sorted({one.treatment.margin for c in contrasts for one in c.comparisons})
    within = " or ".join(f"{m:g}" for m in margins)
    screen.print(
        Text(
            f"t intervals over per-seed paired differences, each at 95 %; p corrected by Holm over all {total};"
            f" equivalent: surely within ±{within} points. Not distinguishable is no proof of equality.",
            style="dim",
        )
    )


def left_out(contrasts: Sequence[DeclaredContrast]) -> list[LeftOut]:
    found: dict[str, LeftOut] = {}
    for contrast in contrasts:
        for one in contrast.comparisons:
            found |= {out.run.id: out for arm in (one.first, one.second) for out in arm.left_out}
    return list(found.values())


def print_claims(screen: Console, found: dict[str, Any]) -> None:
    """Two claims: what their percentages could mean."""
    screen.print(Text.assemble((found["b"], "bold"), " against ", (found["a"], "bold"), ("  two claims", "yellow")))
    interval = found["interval"]
    line = points(found["difference"], *(interval or (None, None)))
    screen.print(f"  {line} points, as written" + (f" ({found['test']}, {p_value(found['p'])})" if interval else ""))
    screen.print(Text.assemble(("treatments  ", "bold"), found["verdict"]))
    for note in found["notes"]:
        screen.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))
