"""What a report says of differences: declared contrasts, categories, length, batch, the best. Values; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.comparison import ONE_SEED, Comparison
from orchestrator.families import Best
from orchestrator.numbers import bare_p, noise_in_words, percent_with_interval, points
from orchestrator.report.canvas import to_svg
from orchestrator.report.document import Block, Cell, Figure, Items, Paragraph, Section, slug, table
from orchestrator.report.forest import Line, draw_forest
from orchestrator.report.gather import Material, SweepMaterial
from orchestrator.runs_json import category
from orchestrator.scores import Arm
from orchestrator.statistics.treatments import difference_by_seed
from orchestrator.words import condition_words, readable, treatments

CATEGORIES = {"HW": "Imitated hardware errors", "Quant": "Full fine-tuning", "LoRA": "Adapters on a fixed base"}
MOST_LETTERS = 60
"""In the words for a condition: of longer ones the treatments alone are shown."""
UNCORRECTED = (
    "Differences with a t interval of 95 % over per-seed pairs, each taken alone: not corrected for their number, as"
    " declared contrasts are. Intervals of scores end at 0 and 100 %."
)
TIES = {
    ("equivalent", "not distinguishable"): "cannot be told apart from it",
    ("not assessable",): "not assessable, too few shared seeds",
    ("not comparable",): "not comparable",
    ("higher",): "higher on the seeds that both have",
}
"""Verdict against the leader → in words."""


def arm_words(arms: Sequence[Arm]) -> dict[str, str]:
    """Condition id → what tells it from the others."""
    known = [(arm.condition_id, c) for arm in arms if (c := readable(arm.condition)) is not None]
    texts = condition_words([condition for _, condition in known]) if known else []
    if max(map(len, texts), default=0) > MOST_LETTERS:  # too many things differ for all of them to be said
        texts = [treatments(condition) for _, condition in known]
    told = dict(zip((condition_id for condition_id, _ in known), texts, strict=True))
    return {arm.condition_id: told.get(arm.condition_id, "written by another version") for arm in arms}


def arm_score(arm: Arm) -> str:
    """Mean over seeds with its t interval; of one seed, its own score with Wilson's."""
    if not arm.scored:
        return "–"
    if len(arm.scored) == 1:
        return percent_with_interval(arm.scored[0].point)
    point = arm.scored[0].point
    found = difference_by_seed([s.point.percent for s in arm.scored], step=100 / (point.n * point.samples))
    low, high = max(0.0, found.low or 0.0), min(100.0, found.high or 100.0)
    return f"{arm.mean:.1f} % [{low:.1f}, {high:.1f}]"


def asks(sweep: SweepMaterial) -> bool:
    return any(contrast.comparisons for contrast in sweep.contrasts)


def silent(sweeps: Sequence[SweepMaterial]) -> Section | None:
    """Sweeps of which nothing is compared, and why."""
    rows = [
        (sweep.name, sweep.about or "–", "recorded without the pairs of its contrasts: submitting it again adds them")
        if sweep.contrasts
        else (sweep.name, sweep.about or "–", "declares no contrasts: what it wants to compare is not told")
        for sweep in sweeps
    ]
    return Section("Sweeps without comparisons", (table(("sweep", "asks", "why"), rows),)) if rows else None


def contrasts(sweep: SweepMaterial) -> Section:
    compared = [(contrast, one) for contrast in sweep.contrasts for one in contrast.comparisons]
    title = f"What {sweep.name} shows"
    blocks: list[Block] = [Paragraph(sweep.about)] if sweep.about else []
    rows = []
    for contrast, one in compared:
        rows.append(
            (
                contrast.name, f"{one.first.label} → {one.second.label}", str(one.treatment.seeds),
                points(one.treatment.difference, one.treatment.low, one.treatment.high),
                _interval(one.adjusted.low, one.adjusted.high), _each(one),
                bare_p(one.adjusted.p), Cell(one.verdict, strong=one.verdict in ("higher", "lower", "equivalent")),
            )
        )  # fmt: skip
    margins = " or ±".join(sorted({f"{one.treatment.margin:g}" for _, one in compared}))
    caption = (
        "Second minus first, in points. The t interval of 95 % of each over per-seed pairs; the intervals that hold"
        f" together for all {len(compared)} (Bonferroni); the difference of each seed; p"
        " of the t test, by Holm over all of them. Equivalent: surely within"
        f" ±{margins} points. Not distinguishable is no proof of equality: few seeds find large differences alone."
    )
    columns = ("contrast", "from → to", "seeds", "points [95 %]", "all together", "by seed", "p", "verdict")
    right = ("seeds", "points [95 %]", "all together", "p")
    blocks.append(table(columns, rows, right=right, caption=caption))
    blocks += _noise_and_problems([one for _, one in compared])
    blocks.append(_forest(sweep.name, [(f"{c.name}: {o.first.label} → {o.second.label}", o) for c, o in compared]))
    return Section(title, tuple(blocks))


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:+.1f}, {high:+.1f}]".replace("-", "−")


def _each(one: Comparison) -> str:
    return ", ".join(points(d) for d in one.treatment.differences) or "–"


def _noise_and_problems(compared: Sequence[Comparison]) -> list[Block]:
    entries = []
    for one in compared:
        name = f"{one.first.label} → {one.second.label}"
        entries += [f"{name}: {text}" for text in (*one.problems, *one.notes)]
        if not one.treatment.assessable and not one.problems:
            entries.append(f"{name}: {ONE_SEED if one.pairs else 'no seed has a score that counts on both sides'}")
        elif one.noise is not None and one.noise.seeds is not None:
            entries.append(f"{name}: {noise_in_words(one.noise)}")
        for arm in (one.first, one.second):
            entries += [f"{name}: left out, seed {out.run.seed} of {arm.label} ({out.why})" for out in arm.left_out]
    return [Items(tuple(dict.fromkeys(entries)))] if entries else []


def _forest(name: str, compared: Sequence[tuple[str, Comparison]]) -> Figure:
    lines = []
    for label, one in compared:
        low, high = one.adjusted.low, one.adjusted.high
        both = (low, high) if low is not None and high is not None else None
        lines.append(
            Line(
                label, one.treatment.difference, one.treatment.low, one.treatment.high, both, one.treatment.margin,
                one.verdict, one.treatment.assessable, one.treatment.differences,
            )
        )  # fmt: skip
    picture = draw_forest(lines, "difference, points", f"{name}: declared contrasts, second minus first")
    caption = (
        f"Declared contrasts of {name}. Dot: mean over seeds; ticks: single seeds; bold: t interval of 95 % of each;"
        " thin: intervals of all together; shaded: within which two treatments count as equal."
    )
    return Figure(f"contrasts-{slug(name)}", to_svg(picture, caption), caption)


def by_category(material: Material) -> list[Section]:
    benefit: dict[str, Comparison] = {}
    for one in material.noise:
        benefit.setdefault(one.second.condition_id, one)
    found = []
    for key, title in CATEGORIES.items():
        arms = [arm for arm in material.reported if category(dict(arm.condition)) == key]
        if not arms:
            continue
        words = arm_words(arms)
        rows = []
        for arm in arms:
            own = benefit.get(arm.condition_id)
            rows.append(
                (
                    arm.label, words[arm.condition_id], str(arm.condition["epochs"]), str(len(arm.scored)),
                    arm_score(arm),
                    points(own.treatment.difference, own.treatment.low, own.treatment.high) if own else "–",
                    Cell(own.verdict, note=f"against {own.first.label}") if own else "",
                )
            )  # fmt: skip
        columns = ("condition", "what it is", "epochs", "seeds", "score % [95 %]", "AQN benefit, points", "verdict")
        caption = (
            "Scores: mean over seeds with a t interval; of one seed, with Wilson's. AQN benefit: against the condition"
            f" that is equal but for the noise. {UNCORRECTED}"
        )
        right = ("epochs", "seeds", "score % [95 %]", "AQN benefit, points")
        found.append(Section(title, (table(columns, rows, right=right, caption=caption),)))
    return found


def pairs_of(title: str, what: str, compared: Sequence[Comparison], value: Any) -> Section | None:
    if not compared:
        return None
    rows = [
        (
            f"{one.first.label} → {one.second.label}", f"{value(one.first)} → {value(one.second)}",
            " → ".join(_total_steps(arm) for arm in (one.first, one.second)), str(one.treatment.seeds),
            arm_score(one.first), arm_score(one.second),
            points(one.treatment.difference, one.treatment.low, one.treatment.high), one.verdict,
        )
        for one in compared
    ]  # fmt: skip
    columns = ("conditions", what, "training steps", "seeds", "first [95 %]", "second [95 %]", "points", "verdict")
    return Section(title, (table(columns, rows, right=("seeds", "points"), caption=UNCORRECTED),))


def _total_steps(arm: Arm) -> str:
    runs = [s.trained for s in arm.scored] or [out.run for out in arm.left_out]
    return str(runs[0].total_steps) if runs else "–"


def best_of_each(best: Sequence[Best], words: Mapping[str, str]) -> Section | None:
    if not best:
        return None
    rows = []
    for one in best:
        notes = [
            f"{', '.join(arm.label for arm in arms)}: {why}"
            for verdicts, why in TIES.items()
            if (arms := one.others(*verdicts))
        ]
        rule = "" if one.leader.rule == "final" else f" ({one.leader.rule} of its evals)"
        rows.append(
            (
                one.category, Cell(one.leader.label, strong=one.alone, note="; ".join(notes)),
                words[one.leader.condition_id], arm_score(one.leader) + rule, str(len(one.leader.scored)),
                ", ".join(arm.label for arm in one.others("lower")) or "–",
            )
        )  # fmt: skip
    caption = (
        "Of each category the highest mean over seeds, and below it what is not surely lower (paired by seed, corrected"
        " over all pairs of the category); in bold where everything else is. Only runs that count, by one score rule."
    )
    columns = ("category", "highest", "what it is", "score % [95 %]", "seeds", "surely lower")
    return Section("Best of each category", (table(columns, rows, right=("score % [95 %]", "seeds"), caption=caption),))
