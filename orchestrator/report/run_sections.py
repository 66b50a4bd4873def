"""What a report says of runs: sections as values. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from db.reads import Run
from experiment_specs.presets import preset_name
from experiment_specs.references import Reference, Results
from orchestrator.comparison import ONE_SEED, Comparison
from orchestrator.families import Best
from orchestrator.numbers import bare_p, noise_in_words, percent_with_interval, points
from orchestrator.report.canvas import to_svg
from orchestrator.report.curves import draw_curves
from orchestrator.report.document import Block, Cell, Figure, Items, Paragraph, Section, slug, table
from orchestrator.report.forest import Line, draw_forest
from orchestrator.report.gather import BugMaterial, Material, SweepMaterial
from orchestrator.report.noise_levels import draw_sigma
from orchestrator.report.scans import draw_scan
from orchestrator.report.settings import SETTINGS, settings_of
from orchestrator.runs_json import category, standing
from orchestrator.scores import Arm
from orchestrator.statistics.checkpoints import difference_of_counts
from orchestrator.statistics.treatments import difference_by_seed
from orchestrator.words import condition_words, readable, treatments

CATEGORIES = {"HW": "Imitated hardware errors", "Quant": "Full fine-tuning", "LoRA": "Adapters on a fixed base"}
MOST_LETTERS = 60
"""In the words for a condition: of longer ones the treatments alone are shown."""
UNSEEN = "never recorded"
"""What a bug rule's facts say where evidence is missing."""
UNCORRECTED = (
    "Differences with a t interval of 95 % over per-seed pairs, each taken alone: not corrected for their number, as"
    " declared contrasts are. Intervals of scores end at 0 and 100 %."
)


def sections(material: Material, references: Sequence[Reference]) -> list[Section]:
    """Empty where nothing ran."""
    if not material.runs:
        return []
    words = _words(material.arms)
    return [
        section
        for section in (
            *(_contrasts(sweep) for sweep in material.sweeps if _asks(sweep)),
            _silent([sweep for sweep in material.sweeps if not _asks(sweep)]),
            complete(material),
            *_by_category(material),
            _pairs("Training length", "epochs", material.lengths, lambda arm: str(arm.condition["epochs"])),
            _pairs(
                "Batch size", "prompts a step", material.batches, lambda arm: str(arm.condition["batch"]["prompts"])
            ),
            _best(material.best, words),
            _configurations(material.arms),
            _against(material, references),
            _known_issues(material),
            _steps(material),
            *_curves(material.sweeps),
            _noise(material),
            _scans(material),
            _environment(material),
        )
        if section is not None
    ]


def _words(arms: Sequence[Arm]) -> dict[str, str]:
    """Condition id → what tells it from the others."""
    known = [(arm.condition_id, c) for arm in arms if (c := readable(arm.condition)) is not None]
    texts = condition_words([condition for _, condition in known]) if known else []
    if max(map(len, texts), default=0) > MOST_LETTERS:  # too many things differ for all of them to be said
        texts = [treatments(condition) for _, condition in known]
    told = dict(zip((condition_id for condition_id, _ in known), texts, strict=True))
    return {arm.condition_id: told.get(arm.condition_id, "written by another version") for arm in arms}


def score_cell(run: Run) -> Cell:
    """The score with its interval; struck through, with the reason, where it does not count."""
    if run.score is None:
        return Cell("–" if run.verdict is None else "", note="" if run.verdict in (None, "PROVEN") else _why(run))
    return Cell(percent_with_interval(run.score), struck=not run.valid, note="" if run.valid else _why(run))


def _count(run: Run) -> Cell:
    score = run.score
    return Cell(f"{score.k}/{score.n * score.samples}", struck=not run.valid) if score else Cell("–")


def _why(run: Run) -> str:
    reasons = "; ".join(run.reasons)
    return standing(run) + (f": {reasons}" if reasons and run.verdict != "PROVEN" else "")


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


def _asks(sweep: SweepMaterial) -> bool:
    return any(contrast.comparisons for contrast in sweep.contrasts)


def _silent(sweeps: Sequence[SweepMaterial]) -> Section | None:
    """Sweeps of which nothing is compared, and why."""
    rows = [
        (sweep.name, sweep.about or "–", "recorded without the pairs of its contrasts: submitting it again adds them")
        if sweep.contrasts
        else (sweep.name, sweep.about or "–", "declares no contrasts: what it wants to compare is not told")
        for sweep in sweeps
    ]
    return Section("Sweeps without comparisons", (table(("sweep", "asks", "why"), rows),)) if rows else None


def _contrasts(sweep: SweepMaterial) -> Section:
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


def complete(material: Material) -> Section:
    """Every run; what does not count is struck through."""
    rows, words = [], _words(material.arms)
    out = {left.run.id: left.why for arm in material.arms for left in arm.left_out}
    mended = {s.trained.id: s for arm in material.arms for s in arm.scored if s.by is not s.trained}
    for run in material.runs:
        score = run.score
        bugs = ", ".join(f"{m.bug} ({m.state})" for m in run.marks if m.state != "withdrawn")
        cell = score_cell(run)
        if run.valid and run.id in out:
            cell = replace(cell, note=f"not compared: {out[run.id]}")
        if run.id in mended:
            again = mended[run.id]
            cell = replace(cell, note=f"its checkpoint, by run {again.by.id}: {percent_with_interval(again.point)}")
        rows.append(
            (
                run.label, str(run.seed), words[run.condition_id], _count(run), cell,
                f"{score.step} of {run.total_steps}" if score else f"– of {run.total_steps}",
                run.score_rule.get("rule", "final"), run.verdict or run.state, bugs or "–", run.id,
            )
        )  # fmt: skip
    columns = ("run", "seed", "condition", "k/n", "score [95 %]", "step", "rule", "verdict", "bugs", "id")
    caption = "Every run, by condition and seed, with intervals by Wilson. What is struck through counts nowhere here."
    return Section("All runs", (table(columns, rows, right=("seed", "k/n", "score [95 %]", "step"), caption=caption),))


def _by_category(material: Material) -> list[Section]:
    benefit: dict[str, Comparison] = {}
    for one in material.noise:
        benefit.setdefault(one.second.condition_id, one)
    found = []
    for key, title in CATEGORIES.items():
        arms = [arm for arm in material.arms if category(dict(arm.condition)) == key]
        if not arms:
            continue
        words = _words(arms)
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


def _pairs(title: str, what: str, compared: Sequence[Comparison], value: Any) -> Section | None:
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


def _best(best: Sequence[Best], words: Mapping[str, str]) -> Section | None:
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


def _configurations(arms: Sequence[Arm]) -> Section | None:
    groups: dict[tuple[str, ...], list[str]] = {}
    for arm in arms:
        condition = readable(arm.condition)
        if condition is None or condition.aqn is None:
            continue
        aqn = condition.aqn
        stages = aqn.num_stages or aqn.stages_per_epoch
        key = (
            preset_name("aqn", aqn), f"{aqn.sigma_start:g}→{aqn.sigma_end:g}", aqn.schedule,
            str(stages) if stages else "–", aqn.layer_types,
            preset_name("srdd", condition.srdd), "on" if aqn.during_eval else "lifted",
        )  # fmt: skip
        groups.setdefault(key, []).append(arm.label)
    if not groups:
        return None
    rows = [(*key, ", ".join(labels)) for key, labels in groups.items()]
    columns = ("AQN", "σ", "schedule", "stages", "modules", "SRDD", "in evals", "conditions")
    return Section("Configurations of the noise", (table(columns, rows, right=("stages",)),))


def _against(material: Material, references: Sequence[Reference]) -> Section | None:
    if not references:
        return None
    own = []
    for sweep in material.sweeps:
        bodies = {run.condition_id: run.condition for run in sweep.runs}
        if conditions := [c for body in bodies.values() if (c := readable(body)) is not None]:
            own.append((sweep.name, settings_of(conditions)))
    return comparison_with("Against published work", own, references)


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


def _known_issues(material: Material) -> Section | None:
    if not material.bugs:
        return None
    blocks: list[Block] = [issues_overview(material.bugs)]
    for one in material.bugs:
        marked = [m for m in one.marks if m.subject in material.names]
        if marked:
            blocks.append(marks_table(one, material.names))
    return Section("Known issues", tuple(blocks))


def issues_overview(bugs: Iterable[BugMaterial]) -> Block:
    rows = []
    for one in bugs:
        counts = Counter(mark.state for mark in one.marks)
        numbers = (str(counts.get(state, 0)) for state in ("affected", "unknown", "waived", "resolved"))
        rows.append((one.bug.bug, one.bug.title, one.bug.status, one.bug.disposition, *numbers))
    columns = ("bug", "what it is", "status", "to be done", "affected", "unknown", "waived", "resolved")
    return table(
        columns, rows, right=columns[4:], caption="Bug rules in force, and how many runs and claims each marks."
    )


def marks_table(one: BugMaterial, names: Mapping[str, str]) -> Block:
    rows = []
    for mark in one.marks:
        again = one.reruns.get(mark.subject, ())
        made = ", ".join(f"{run} ({verdict or state})" for run, state, verdict in again)
        rows.append(
            (
                names.get(mark.subject, mark.subject),
                mark.state,
                "; ".join(mark.facts),
                made or "not rerun",
                mark.why or "–",
            )
        )
    columns = ("run", "mark", "by these facts", "rerun", "why")
    caption = f"{one.bug.bug}: {one.bug.title} Version {one.bug.version} of the rule, {one.bug.status}."
    unseen = sum(any(UNSEEN in fact for fact in mark.facts) for mark in one.marks)
    if unseen:
        caption += (
            f" {unseen} of {len(one.marks)} marks rest on something that was never recorded, which the rule decides as"
            " its author wrote: nothing measured confirms them, and what it leaves unmarked is not shown to be clean."
        )
    return table(columns, rows, caption=caption)


def _steps(material: Material) -> Section | None:
    rows = []
    for run in material.runs:
        counts = material.counts.get(run.id)
        if counts is None:
            continue
        last = run.curve[-1].step if run.curve else None
        rows.append(
            (
                run.label, str(run.seed), str(run.total_steps),
                Cell(str(counts.training_steps), strong=counts.training_steps != run.total_steps),
                Cell(_number(last), strong=last != run.total_steps),
                _number(counts.optimiser_steps), _number(counts.trajectories), _number(counts.prompts_generated),
                _number(counts.prompts_kept),
            )
        )  # fmt: skip
    if not rows:
        return None
    columns = (
        "run", "seed", "planned", "executed", "last eval", "optimiser steps", "answers a step", "prompts generated",
        "prompts kept",
    )  # fmt: skip
    caption = "Training steps, by the trainer's own count. In bold: not as planned."
    return Section("Steps, planned and executed", (table(columns, rows, right=columns[1:], caption=caption),))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,g}"


def _curves(sweeps: Sequence[SweepMaterial]) -> list[Section]:
    found = []
    for sweep in sweeps:
        if any(run.curve for run in sweep.runs):
            caption = (
                f"Eval curves of {sweep.name}. Of several seeds each is thin and their mean bold, with a t interval of"
                " 95 % over seeds at the last step; what does not count is dotted."
            )
            figure = Figure(f"curves-{slug(sweep.name)}", to_svg(draw_curves(sweep.runs, sweep.name), caption), caption)
            found.append(Section(f"Curves of {sweep.name}", (figure,)))
    return found


def _noise(material: Material) -> Section | None:
    if not material.sigma:
        return None
    rows = []
    for label, syncs in material.sigma:
        noisy = [s for s in syncs if s["sigma_planned"] > 0]
        inert = sum(s["realised"]["std"] == 0 for s in noisy)
        rows.append(
            (
                label,
                str(len(syncs)),
                str(len(noisy)),
                str(inert),
                str(max((s["realised"]["modules"] for s in syncs), default=0)),
            )
        )
    columns = ("condition", "syncs", "with noise", "rounded away", "modules")
    caption = "σ as planned and as measured in the generating weights of one run a condition, at every weight sync."
    figure = Figure("sigma", to_svg(draw_sigma(material.sigma, "AQN"), caption), caption)
    return Section("Noise, planned and realised", (figure, table(columns, rows, right=columns[1:])))


def _scans(material: Material) -> Section | None:
    figures = []
    for run_id, label, data in material.scans:
        caption = f"Layer scan {run_id}: {label}."
        figures.append(Figure(f"scan-{run_id}", to_svg(draw_scan(data, label), caption), caption))
    return Section("Layer scans (SRDD)", tuple(figures)) if figures else None


def _environment(material: Material) -> Section | None:
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in material.runs:
        facts = material.started.get(run.id)
        if facts is None:
            continue
        code = facts.get("code") or {}
        packages = ", ".join(f"{name} {version}" for name, version in sorted((code.get("packages") or {}).items()))
        commit = str(code.get("commit") or "–")[:10] + (" with changes" if code.get("dirty") else "")
        inputs = ", ".join(f"{k} {str(v)[:12]}" for k, v in sorted((facts.get("fingerprints") or {}).items()))
        machine = f"{facts.get('machine', '–')}; GPUs: {', '.join(facts.get('gpus') or ()) or 'none'}"
        groups.setdefault((str(code.get("id", "–")), commit, packages, machine, inputs), []).append(run.id)
    if not groups:
        return None
    rows = [(*key, str(len(ids))) for key, ids in groups.items()]
    columns = ("code", "commit", "packages", "machine", "inputs", "runs")
    caption = "As the workers found it at their start. Inputs: fingerprints of model and data."
    return Section("Environment", (table(columns, rows, right=("runs",), caption=caption),))


WORDS = (
    ("PROVEN, REFUTED, UNPROVEN", "what was measured agrees with what was planned; contradicts it; does not suffice"),
    ("a score that counts", "PROVEN, and marked by no bug rule; only such scores are compared"),
    ("k/n", "right answers of all answers to the test questions"),
    (
        "AQN, σ",
        "Gaussian noise of standard deviation σ on the RMSNorm weights that generate, drawn at every weight sync",
    ),
    ("kstage, linear, epoch_aware", "how σ falls: in stages over all steps, linearly, or in stages within each epoch"),
    ("rounded away (inert)", "noise so small that the number format leaves the weights as they were"),
    ("lifted", "the test questions are answered without the noise"),
    ("SRDD", "a scan of the layers' quantisation error; targeted: noise in the worst layers; variable: by error"),
    ("hardware noise", "a relative error on matrix products, y + scale·|y|·N(0, 1)"),
    ("points", "percentage points of accuracy"),
    ("a seed", "decides the order of prompts and all sampling; the model at step 0 is the same for all"),
    ("claim", "what people wrote of a run that no registry saw; filed under the condition that it seems to have had"),
)


TIES = {
    ("equivalent", "not distinguishable"): "cannot be told apart from it",
    ("not assessable",): "not assessable, too few shared seeds",
    ("not comparable",): "not comparable",
    ("higher",): "higher on the seeds that both have",
}
"""Verdict against the leader → in words."""


def glossary() -> Section:
    return Section("Words", (table(("word", "means"), WORDS),))


def day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))
