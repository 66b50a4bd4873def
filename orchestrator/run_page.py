"""One run on a page of Markdown: what it was to be, what was measured of it, and what follows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from db.records import Fact, Run
from orchestrator.evidence_words import condition_lines, measured_lines
from orchestrator.numbers import percent_with_interval
from orchestrator.runs_json import standing


def run_page(run: Run, facts: Sequence[Fact]) -> str:
    """As `aqn show` says it."""
    return "\n".join(_lines(run, facts)) + "\n"


def summary(run: Run, dashboard: str = "") -> str:
    """Verdict and score in a line or a few, with where there is more. ``dashboard``: an address of the run's page in
    the dashboard; without one its path is named, because a file does not know at which port `aqn ui` serves."""
    score = run.score
    counts = "counts" if run.valid else f"does not count ({standing(run)})"
    lines = [f"**{run.verdict or run.state}**"]
    if score is not None:
        rule = run.score_rule.get("rule")
        right = f"{score.k}/{score.n * score.samples} = {percent_with_interval(score)}"
        lines.append(f"{right} at step {score.step} ({rule}): {counts}")
    lines += [f"* {reason}" for reason in run.reasons]
    page = f"[this run]({dashboard})" if dashboard else f"`/run?run={run.id}`"
    lines.append(f"`aqn show {run.id}`; in the dashboard of `aqn ui`: {page}")
    return "\n\n".join(lines)


def _lines(run: Run, facts: Sequence[Fact]) -> Iterable[str]:
    yield f"# {run.label}, seed {run.seed}"
    yield ""
    yield summary(run)
    for title, rows in (("Condition", list(condition_lines(run))), ("What was measured", measured_lines(run, facts))):
        yield ""
        yield f"## {title}"
        yield ""
        yield "| | |"
        yield "| --- | --- |"
        for name, text in rows:
            yield f"| {name} | {text.replace('|', chr(92) + '|')} |"
    if run.curve:
        yield ""
        yield "## Evals"
        yield ""
        yield "| step | k/n | score [95 %] |"
        yield "| --- | --- | --- |"
        for point in run.curve:
            yield f"| {point.step} | {point.k}/{point.n * point.samples} | {percent_with_interval(point)} |"
