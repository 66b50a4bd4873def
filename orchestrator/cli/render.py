"""Tables for the terminal, 80 columns wide, readable without colour."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from db.records import Attempt, Claim, EvalPoint, Run
from orchestrator.numbers import duration, percent_with_interval

BARS = "▁▂▃▄▅▆▇█"

STATE_STYLES = {"queued": "dim", "running": "cyan", "succeeded": "", "failed": "magenta", "cancelled": "dim"}
VERDICT_STYLES = {
    "PROVEN": "bold blue", "REFUTED": "bold magenta", "UNPROVEN": "yellow", "affected": "magenta",
    "superseded": "dim", "unverified": "yellow",
}  # fmt: skip
"""Blue and magenta: told apart by every common kind of colour vision; the word says it too."""


def console() -> Console:
    import sys

    return Console(highlight=False, width=None if sys.stdout.isatty() else 80)


def sparkline(points: Sequence[EvalPoint]) -> str:
    """Bars from 0 to 100 %."""
    return "".join(BARS[min(7, int(p.percent / 12.5))] for p in points)


def verdict_text(run: Run) -> Text:
    """The verdict; what a bug makes of a PROVEN run stands in its place."""
    if run.verdict is None:
        return Text("")
    word = run.validity if run.verdict == "PROVEN" and not run.valid else run.verdict
    return Text(word, style=VERDICT_STYLES.get(word, ""))


def progress_table(runs: Sequence[Run], left: Mapping[str, float | None], note: str) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run")
    table.add_column("state")
    table.add_column("step", justify="right")
    table.add_column("last score [95 %]")
    table.add_column("time left", justify="right")
    for run, name in zip(runs, names_of(runs), strict=True):
        step = run.attempt.last_step if run.attempt else 0
        starting = run.kind == "train" and run.state == "running" and not run.curve
        state = "starting" if starting else run.state
        table.add_row(
            escape(name),
            Text(state, style=STATE_STYLES.get(run.state, "")),
            f"{step} of {run.total_steps}" if run.kind == "train" else "",
            percent_with_interval(run.curve[-1]) if run.curve else "",
            duration(left.get(run.id)) if run.state == "running" else "",
        )
    return Group(table, Text(note, style="dim")) if note else table


def results_table(runs: Sequence[Run]) -> RenderableType:
    """The end of a sweep: condition, score with its interval, verdict, and the reasons where it is not PROVEN."""
    from orchestrator.words import condition_words, typed_condition  # the language costs every other table time

    words = condition_words([typed_condition(run.condition) for run in runs])
    seeds = len({run.seed for run in runs}) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run")
    if seeds:
        table.add_column("seed", justify="right")
    table.add_column("condition")
    table.add_column("k/n", justify="right", no_wrap=True)
    table.add_column("score [95 %]", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for run, condition in zip(runs, words, strict=True):
        score = run.score
        style = "" if run.valid else "strike dim"
        table.add_row(
            escape(run.label),
            *([str(run.seed)] if seeds else []),
            escape(condition),
            Text(f"{score.k}/{score.n * score.samples}" if score else "–", style=style if score else ""),
            Text(percent_with_interval(score) if score else run.state, style=style if score else ""),
            verdict_text(run),
        )
    notes = [Text.assemble((f"{run.label}: ", "bold"), "; ".join(run.reasons)) for run in runs if run.reasons]
    notes += bug_notes(runs)
    if any(run.score_rule.get("rule") == "best" for run in runs):
        notes.append(Text("score rule: best of all evals, which luck alone raises", style="dim"))
    if len(runs) > 1 and not seeds:
        notes.append(Text("one seed an arm: differences between these rows may be luck", style="dim"))
    return Group(table, *notes)


def bug_notes(runs: Sequence[Run | Claim]) -> list[Text]:
    """Which bugs touch which of them, a line a bug."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        for mark in run.marks:
            if mark.open and mark.effect != "none":
                groups.setdefault(f"{mark.bug} ({mark.state})", []).append(run.label)
            elif mark.state == "resolved":
                groups.setdefault(f"{mark.bug} (replaced by {mark.replacement})", []).append(run.label)
    return [Text.assemble((f"{bug}: ", "bold"), ", ".join(dict.fromkeys(who))) for bug, who in groups.items()]


def claims_table(claims: Sequence[Claim], rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Claims apart from runs: the percentage as written, and nothing of an interval, which needs k of n."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("id", no_wrap=True)
    table.add_column("claim", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("history", no_wrap=True, overflow="ellipsis")
    table.add_column("as written", justify="right", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for claim, row in zip(claims, rows, strict=True):
        score, style = row["score"], "dim" if claim.validity == "unverified" else "strike dim"
        table.add_row(
            claim.id, escape(claim.label), escape(claim.history),
            Text(f"{score['percent']:.2f} %" if score else "–", style=style),
            str(score["step"]) if score and score["step"] is not None else "",
            Text(claim.validity, style=VERDICT_STYLES.get(claim.validity, "")),
        )  # fmt: skip
    return Group(table, *bug_notes(claims))


def curve_lines(runs: Sequence[Run]) -> RenderableType:
    """Sparklines of the eval curves, 0 to 100 %."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for run, name in zip(runs, names_of(runs), strict=True):
        if run.curve:
            values = " → ".join(f"{p.percent:.1f}" for p in run.curve)
            table.add_row(escape(name), sparkline(run.curve), f"{values} %")
    return table


def outlook(runs: Sequence[Run]) -> RenderableType:
    """Where to look next."""
    name = shlex.quote(runs[0].label) if runs else "RUN"
    commands = {
        f"aqn show {name}": "the evidence behind a verdict",
        f"aqn logs {name}": "what the trainer printed",
        "aqn report": "tables, differences and plots on one page",
        "aqn ui": "all of it in a browser, MLflow beside it",
    }
    width = max(map(len, commands))
    lines = [f"{command:<{width}}   {shows}" for command, shows in commands.items()]
    return Text("\n".join(f"{'look further:' if not nth else '':<15}{line}" for nth, line in enumerate(lines)) + "\n")


def names_of(runs: Sequence[Run]) -> list[str]:
    """Labels; with the seed where several runs have the same."""
    labels = Counter(run.label for run in runs)
    return [run.label if labels[run.label] == 1 else f"{run.label} seed {run.seed}" for run in runs]


def runs_table(runs: Sequence[Run], width: int) -> Text:
    """One line a run, newest first; its verdict, or its state where there is nothing to judge."""
    rows = []
    for run in runs:
        shown = run.score or (run.curve[-1] if run.curve else None)
        style = "" if run.valid else "dim" if run.verdict is None else "strike dim"
        judged = run.verdict is not None and (run.state == "succeeded" or run.validity == "affected")
        rows.append(
            (
                Text(run.id),
                Text(run.label),
                Text(str(run.seed)),
                Text(percent_with_interval(shown).replace(" %", "") if shown else "", style=style),
                Text(f"{shown.step}/{run.total_steps}" if shown else ""),
                verdict_text(run) if judged else Text(run.state, style=STATE_STYLES.get(run.state, "")),
            )
        )
    return _lines(("id", "run", "seed", "score % [95 %]", "step", "verdict"), rows, width, stretched=1, right=(2, 4))


def _lines(
    heads: Sequence[str], rows: Sequence[Sequence[Text]], width: int, stretched: int, right: Sequence[int]
) -> Text:
    """A table of single lines as one text, looking as ``box.SIMPLE_HEAD`` does: a list of hundreds is drawn in a tenth
    of the time that a table of wrapping cells takes. The ``stretched`` column takes, or gives up, what is left."""
    widths = [
        max([cell_len(head), *(cell.cell_len for cell in column)]) for head, *column in zip(heads, *rows, strict=True)
    ]
    widths[stretched] = max(cell_len(heads[stretched]), width - sum(widths) + widths[stretched] - 2 * len(widths))
    found = Text(no_wrap=True)
    for row in ([Text(head, style="bold") for head in heads], None, *rows):
        found.append("\n ")
        if row is None:
            found.append("─" * (sum(widths) + 2 * len(widths) - 2))
            continue
        for index, (cell, size) in enumerate(zip(row, widths, strict=True)):
            shown = _both_ends(cell, size) if index == stretched and cell.cell_len > size else cell
            shown.truncate(size, overflow="ellipsis")
            missing = " " * (size - shown.cell_len)
            found.append(missing if index in right else "").append_text(shown)
            found.append("" if index in right else missing).append("  " if index < len(widths) - 1 else "")
    return found.append("\n")


def _both_ends(cell: Text, size: int) -> Text:
    """Labels that a sweep made itself begin alike: what tells them apart stands at the end."""
    if size < 8:
        return cell
    head = size // 4
    return cell[:head].append("…").append_text(cell[cell.cell_len - (size - head - 1) :])


def clock(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else ""


def attempt_lines(attempt: Attempt) -> list[str]:
    """An attempt, where it was, and the retry decision with what decided it."""
    facts = [attempt.state]
    if attempt.exit_code is not None:
        facts.append(f"exit code {attempt.exit_code}")
    if attempt.node:
        facts.append(f"on {attempt.node}")
    if attempt.resumed_step is not None:
        facts.append(f"went on from step {attempt.resumed_step}")
    if attempt.halvings:
        facts.append(f"micro-batches halved {attempt.halvings} time{'s' * (attempt.halvings > 1)}")
    lines = [f"  attempt {attempt.number}: {', '.join(facts)}", f"    {attempt.run_dir}"]
    if attempt.retry and "cause" in attempt.retry:
        retry = attempt.retry
        wait = f", after {retry['wait']:.0f} s" if retry["again"] and retry["wait"] else ""
        lines.append(f"    {retry['cause']}: {retry['line']}")
        lines.append(f"    {'tried again' if retry['again'] else 'not tried again'}{wait}: {retry['rule']}")
    return lines
