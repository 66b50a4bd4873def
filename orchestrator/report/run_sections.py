"""What a report says of runs: their scores, what is known against them, what they did and where. Values; pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from db.records import Run
from db.states import TERMINAL
from experiment_specs.presets import preset_name
from experiment_specs.references import Reference
from orchestrator.numbers import percent_with_interval
from orchestrator.report.canvas import to_svg
from orchestrator.report.curves import draw_curves
from orchestrator.report.difference_sections import (
    arm_words,
    asks,
    best_of_each,
    by_category,
    contrasts,
    pairs_of,
    silent,
)
from orchestrator.report.document import Block, Cell, Figure, Section, slug, table
from orchestrator.report.gather import BugMaterial, Material, SweepMaterial
from orchestrator.report.noise_levels import draw_sigma
from orchestrator.report.published_sections import against
from orchestrator.report.scans import draw_scan
from orchestrator.report.search_sections import search_section
from orchestrator.runs_json import standing
from orchestrator.scores import Arm
from orchestrator.words import readable

UNSEEN = "never recorded"
"""What a bug rule's facts say where evidence is missing."""


def sections(material: Material, references: Sequence[Reference]) -> list[Section]:
    """Empty where nothing ran."""
    if not material.runs:
        return []
    words = arm_words(material.arms)
    return [
        section
        for section in (
            *(search_section(search) for search in material.searches),
            *(contrasts(sweep) for sweep in material.sweeps if asks(sweep)),
            silent([sweep for sweep in material.sweeps if not asks(sweep)]),
            complete(material),
            *by_category(material),
            pairs_of("Training length", "epochs", material.lengths, lambda arm: str(arm.condition["epochs"])),
            pairs_of(
                "Batch size", "prompts a step", material.batches, lambda arm: str(arm.condition["batch"]["prompts"])
            ),
            best_of_each(material.best, words),
            _configurations(material.reported),
            against(material, references),
            _known_issues(material),
            _steps(material),
            *_curves(material.sweeps),
            _noise(material),
            _scans(material),
            _environment(material),
        )
        if section is not None
    ]


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


def complete(material: Material) -> Section:
    """Every run; what does not count is struck through."""
    rows, words = [], arm_words(material.arms)
    out = {left.run.id: left.why for arm in material.arms for left in arm.left_out}
    mended = {s.trained.id: s for arm in material.arms for s in arm.scored if s.by is not s.trained}
    for run in material.runs:
        score = run.score
        bugs = ", ".join(f"{m.bug} ({m.state})" for m in run.marks if m.state != "withdrawn")
        cell = score_cell(run)
        if run.valid and run.condition_id in material.selected_on:
            cell = replace(cell, note="on questions that a search selects by: not reported elsewhere")
        elif run.valid and run.id in out:
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
    caption = f"{one.bug.bug}: {one.bug.title.rstrip('.')}. Version {one.bug.version} of the rule, {one.bug.status}."
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
        last, over = run.curve[-1].step if run.curve else None, run.state in TERMINAL
        rows.append(
            (
                run.label, str(run.seed), str(run.total_steps),
                Cell(str(counts.training_steps), strong=over and counts.training_steps != run.total_steps),
                Cell(_number(last), strong=over and last != run.total_steps),
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
    caption = "Training steps, by the trainer's own count. In bold: over, and not as planned."
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


def glossary() -> Section:
    return Section("Words", (table(("word", "means"), WORDS),))


def day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))
