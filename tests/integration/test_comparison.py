"""Comparisons, reports and exports over a real registry: what counts, what is left out and why, and the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine

import orchestrator
from db import reads, submissions
from db.records import Run
from experiment_specs.bug_rules import rule_from_text
from experiment_specs.claims import load_history
from experiment_specs.presets import PACKAGE
from experiment_specs.references import shipped_references
from orchestrator.bugs import engine as bugs
from orchestrator.comparison import as_json, compare, declared, evaluations_for, load_arms, recorded_answers
from orchestrator.export import export, tensorboard_name, write_tensorboard
from orchestrator.families import batch_pairs, best_of, length_pairs, noise_pairs
from orchestrator.frames import chosen
from orchestrator.importers import tensorboard
from orchestrator.importers.history import claims_of, import_history
from orchestrator.report.curves import draw_curves
from orchestrator.report.document import Document, Section, Table
from orchestrator.report.gather import gather
from orchestrator.report.write import document, write
from orchestrator.scores import arms
from orchestrator.words import typed_condition
from tests.registry_tools import QUESTIONS, finish, probe

SWEEP = """\
sweep: compared
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 4, eval: {every: 2}}
axes: {dtype: [bf16, mxfp4], aqn: [none, standard]}
labels:
  plain: {dtype: bf16, aqn: none}
  noisy: {dtype: bf16, aqn: standard}
  small: {dtype: mxfp4, aqn: none}
  small-noisy: {dtype: mxfp4, aqn: standard}
seeds: [1, 2, 3]
contrasts:
  4-bit-costs: {vary: dtype, from: bf16, to: mxfp4}
  noise-helps: {vary: aqn, from: none, to: standard, equal_within: 20}
"""
RIGHT = {"plain": (12, 13, 12), "noisy": (12, 13, 12), "small": (4, 5, 5), "small-noisy": (9, 4, 6)}
MARKED = """\
bug: wrong-gradients
version: 1
title: Gradients were those of other weights
found: 2026-01-12
status: confirmed
disposition: rerun
affects: {evidence: gradient_probe.relative_error, above: 0.1}
"""


def by_label(engine: Engine) -> dict[tuple[str, int], Run]:
    return {(run.label, run.seed): run for run in reads.runs(engine)}


@pytest.fixture
def finished(engine: Engine, submit: Callable[..., object]) -> Engine:
    submit(SWEEP)
    for (label, seed), run in by_label(engine).items():
        spoilt = (label, seed) == ("small", 2)
        facts = [("gradient_probe", probe(0.2 if spoilt else 1e-7))]
        finish(engine, run.id, right=RIGHT[label][seed - 1], facts=facts)
    return engine


@pytest.fixture
def mark(finished: Engine, tmp_path: Path) -> Callable[[], None]:
    def apply() -> None:
        bugs.apply(finished, rule_from_text(MARKED, tmp_path / "rule.yaml"), "found")

    return apply


def condition_of(engine: Engine, label: str) -> str:
    return next(run.condition_id for (name, _), run in by_label(engine).items() if name == label)


def arm(engine: Engine, label: str):
    condition = condition_of(engine, label)
    return load_arms(engine, [condition])[condition]


def section(made: Document, title: str) -> Section:
    return next(section for section in made.sections if section.title == title)


def rows(section: Section) -> list[list[str]]:
    table = next(block for block in section.blocks if isinstance(block, Table))
    return [[cell.text for cell in row] for row in table.rows]


def test_treatments_are_compared_by_seed_and_checkpoints_by_question(finished) -> None:
    found = compare(arm(finished, "plain"), arm(finished, "small"), recorded_answers(finished))
    assert found.verdict == "lower"
    assert set(found.varied) == {"dtype.format", "dtype.scale_rule"}
    assert found.treatment.differences == pytest.approx([-100 * d / QUESTIONS for d in (8, 8, 7)])
    assert [p.checkpoints.only_first for p in found.pairs if p.checkpoints] == [8, 8, 7]
    assert [p.checkpoints.only_second for p in found.pairs if p.checkpoints] == [0, 0, 0]
    shown = as_json(found)
    assert {"a", "b", "difference", "interval", "p", "test", "n", "discordant", "verdict"} <= shown.keys()
    assert (shown["a"], shown["b"], shown["n"], shown["discordant"]) == ("plain", "small", 3, [23, 0])


def test_a_sweeps_contrasts_are_corrected_together(finished) -> None:
    contrasts = declared(finished, "compared")
    verdicts = {(o.first.label, o.second.label): o.verdict for c in contrasts for o in c.comparisons}
    assert verdicts == {
        ("plain", "small"): "lower", ("noisy", "small-noisy"): "not distinguishable",
        ("plain", "noisy"): "equivalent", ("small", "small-noisy"): "not distinguishable",
    }  # fmt: skip
    one = contrasts[0].comparisons[0]
    assert one.adjusted.p == pytest.approx(4 * one.treatment.p)


def test_a_marked_run_falls_out_of_everything_at_once(finished, mark) -> None:
    before = document(gather(finished), [])
    mark()
    spoilt = by_label(finished)[("small", 2)]
    small = arm(finished, "small")
    assert small.seeds == (1, 3)
    assert [(out.run.id, out.why) for out in small.left_out] == [(spoilt.id, "affected: wrong-gradients")]
    compared = compare(arm(finished, "plain"), small, recorded_answers(finished))
    assert [p.first.seed for p in compared.pairs] == [1, 3]
    assert any("seed 2 of plain" in note for note in compared.notes)
    assert spoilt.id not in set(orchestrator.open_registry().runs().run_id)
    assert spoilt.id in set(orchestrator.open_registry().runs(everything=True).run_id)
    after = document(gather(finished), [])
    complete = section(after, "All runs").blocks[0]
    assert isinstance(complete, Table)
    struck = [row for row in complete.rows if row[4].struck]
    assert [(row[0].text, row[1].text, row[4].note) for row in struck] == [("small", "2", "affected: wrong-gradients")]
    assert rows(section(before, "All runs"))[0] == rows(section(after, "All runs"))[0]
    issues = section(after, "Known issues")
    assert any("not rerun" in cell.text for block in issues.blocks[1:] for row in block.rows for cell in row)  # type: ignore[union-attr]


def test_one_seed_an_arm_is_never_a_finding(engine, submit) -> None:
    submit(SWEEP.replace("[1, 2, 3]", "[1]"))
    for (label, _), run in by_label(engine).items():
        finish(engine, run.id, right=RIGHT[label][0])
    contrasts = declared(engine, "compared")
    assert {one.verdict for contrast in contrasts for one in contrast.comparisons} == {"not assessable"}
    found = compare(arm(engine, "plain"), arm(engine, "small"), recorded_answers(engine))
    assert as_json(found)["test"] == "exact McNemar"
    assert found.pairs[0].checkpoints is not None
    assert found.pairs[0].checkpoints.differ
    best = best_of("x", list(arms(reads.runs(engine)).values()), recorded_answers(engine))
    assert best is not None
    assert len(best.others("not assessable")) == 3
    assert not best.alone


def test_the_best_is_named_with_all_that_cannot_be_told_from_it(finished) -> None:
    best = best_of("x", list(arms(reads.runs(finished)).values()), recorded_answers(finished))
    assert best is not None
    assert {best.leader.label, *(a.label for a in best.others("equivalent", "not distinguishable"))} >= {
        "plain",
        "noisy",
    }
    assert best.leader.label in ("plain", "noisy")
    assert [a.label for a in best.others("lower")] == ["small"]
    assert not best.alone


def test_other_questions_are_not_compared(engine, submit) -> None:
    submit(SWEEP.replace("[1, 2, 3]", "[1, 2]"))
    for (label, _), run in by_label(engine).items():
        finish(engine, run.id, questions="others" if label == "small" else "q")
    found = compare(arm(engine, "plain"), arm(engine, "small"), recorded_answers(engine))
    assert found.verdict == "not comparable"
    assert "other questions" in found.problems[0]
    assert as_json(found)["interval"] is None


def test_of_several_runs_of_a_seed_the_newest_counts(finished, submit) -> None:
    submit(SWEEP, again=True)
    again = next(
        run for run in reads.runs(finished) if run.label == "plain" and run.state == "queued" and run.seed == 1
    )
    finish(finished, again.id, right=3)
    plain = arm(finished, "plain")
    assert plain.scored[0].by.id == again.id
    assert {out.why for out in plain.left_out} == {"a newer run has this seed", "queued"}


def test_a_native_evaluation_stands_in_for_the_score_that_it_mends(finished, tmp_path) -> None:
    run = by_label(finished)[("small", 2)]
    rule = MARKED.replace("disposition: rerun", "disposition: re-evaluate")
    bugs.apply(finished, rule_from_text(rule, tmp_path / "rule.yaml"), "found")
    plan = {"total_steps": 4, "steps_per_epoch": 4, "eval_steps": [4], "mode": "native",
            "source": {"run": run.id, "step": 4}}  # fmt: skip
    new = submissions.NewRun("small, native", run.condition_id, run.condition, 2, plan, 1, kind="eval")
    again = submissions.evaluation(finished, new, run.id, None, "code", 2, 0)
    finish(finished, again, right=7)
    small = arm(finished, "small")
    assert [(s.seed, s.point.k, s.by.id == again) for s in small.scored] == [(1, 4, False), (2, 7, True), (3, 5, False)]
    assert [run.id for run in evaluations_for(finished, reads.runs(finished))] == [again]
    frame = orchestrator.open_registry().runs()
    assert frame[frame.run_id == run.id][["k", "scored_by", "validity"]].values.tolist() == [[7, again, "superseded"]]
    (row,) = [
        row for row in section(document(gather(finished), []), "All runs").blocks[0].rows if row[-1].text == run.id
    ]  # type: ignore[union-attr]
    assert row[4].struck
    assert row[4].note.startswith(f"its checkpoint, by run {again}: 43.8 %")


def test_a_best_of_evals_is_never_mixed_with_final_scores(finished, submit) -> None:
    submit(SWEEP.replace("sweep: compared", "sweep: peaks\nscore: {rule: best}").replace("[1, 2, 3]", "[4]"))
    for run in reads.runs(finished, sweep="peaks"):
        finish(finished, run.id, right=15)
    small = arm(finished, "small")
    assert small.seeds == (1, 2, 3)
    assert [out.why for out in small.left_out] == ["scored by another rule, best"]
    peaks = load_arms(finished, [small.condition_id], "peaks")[small.condition_id]
    assert compare(small, peaks, recorded_answers(finished)).verdict == "not comparable"


def test_two_runs_of_other_seeds_are_two_checkpoints(finished) -> None:
    runs = by_label(finished)
    one, other = (arms([runs[("plain", seed)]]).popitem()[1] for seed in (1, 2))
    found = compare(one, other, recorded_answers(finished))
    assert found.verdict == "not assessable"
    assert found.pairs[0].checkpoints is not None
    assert found.notes == ("both are the same condition", "the two runs have other seeds: 1 and 2")


def test_nobody_shares_a_seed(finished) -> None:
    runs = by_label(finished)
    one = arms([runs[("plain", 1)], runs[("plain", 2)]]).popitem()[1]
    other = arms([runs[("small", 3)]]).popitem()[1]
    found = compare(one, other, recorded_answers(finished))
    assert not found.pairs
    assert "no seed in common: 1, 2 and 3" in found.notes
    assert as_json(found)["discordant"] is None


def test_scores_at_both_ends_and_odd_names_are_drawn(engine, submit, tmp_path) -> None:
    labels = {"plain": "'$\\sigma_$ and $x'", "noisy": "_hidden", "small": "'lr 1'", "small-noisy": "'lr-1'"}
    text = SWEEP.replace("[1, 2, 3]", "[1]")
    for name, odd in labels.items():
        text = text.replace(f"  {name}:", f"  {odd}:")
    submit(text)
    submit(text.replace("sweep: compared", "sweep: Compared"))
    for run, right in zip(reads.runs(engine), (0, 16, 16, 0), strict=True):
        finish(engine, run.id, verdict="UNPROVEN" if right == 0 else "PROVEN", right=right, at_start=0)
    made = document(gather(engine), [])
    written = write(made, tmp_path)
    assert len({figure.name for figure in made.figures}) == len(made.figures) == written.figures
    assert len(list((tmp_path / "figures").iterdir())) == written.figures
    assert "_hidden" in (tmp_path / "report.html").read_text()


def test_conditions_that_share_a_label_are_drawn_apart(engine, submit) -> None:
    submit(SWEEP.replace("[1, 2, 3]", "[1, 2]"))
    submit(SWEEP.replace("[1, 2, 3]", "[1, 2]").replace("set: {", "set: {optimiser.lr: 1e-3, "))
    for run in reads.runs(engine):
        finish(engine, run.id)
    legend = draw_curves(reads.runs(engine), "x").axes[0].get_legend_handles_labels()[1]
    assert len(legend) == len(set(legend)) == 8
    assert all("(2 seeds)" in name for name in legend)


def test_arms_that_differ_in_noise_length_or_batch_alone_are_paired(engine, submit) -> None:
    submit(
        SWEEP.replace("contrasts:", "include: [{because: longer, dtype: bf16, epochs: 2, eval.every: 4},"
        " {because: smaller batches, dtype: bf16, batch: {prompts: 8, mini_batch: 8}, steps_per_epoch: 8}]\ncontrasts:")
        .replace("aqn: none}\n  noisy", "aqn: none, epochs: 1, batch.prompts: 16}\n  noisy")
    )  # fmt: skip
    found = list(arms(reads.runs(engine)).values())
    assert {(a.label, b.label) for a, b in noise_pairs(found)} == {("plain", "noisy"), ("small", "small-noisy")}
    assert [(a.label, b.condition["epochs"]) for a, b in length_pairs(found)] == [("plain", 2)]
    assert [(a.label, b.condition["batch"]["prompts"]) for a, b in batch_pairs(found)] == [("plain", 8)]


# ------------------------------------------------------------------------------------------------ the report


def test_the_same_registry_gives_the_same_bytes(finished, mark, tmp_path) -> None:
    """Also in another process, whose hashes of texts are others."""
    mark()
    import_history(finished, PACKAGE / "history" / "aqn_2026_01.yaml")
    write(document(gather(finished), shipped_references()), tmp_path / "one")
    environment = os.environ | {"PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-m", "orchestrator.cli.main", "report", "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) > 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_the_page_needs_nothing_else(finished, tmp_path) -> None:
    written = write(document(gather(finished), shipped_references()), tmp_path)
    page = written.html.read_text()
    for outside in ("<script", "<link", "<img", "@import", "url(http"):
        assert outside not in page
    assert page.count("<svg") == written.figures == len(list((tmp_path / "figures").glob("*.svg")))


def test_names_cannot_break_out_of_the_page(engine, submit, tmp_path) -> None:
    label = 'a|b <script>alert("x")</script>'
    submit(SWEEP.replace("[1, 2, 3]", "[1]").replace("  plain:", f"  '{label}':"))
    for run in reads.runs(engine):
        finish(engine, run.id, verdict="REFUTED" if run.label == label else "PROVEN")
    written = write(document(gather(engine), []), tmp_path)
    assert "<script" not in written.html.read_text()
    lines = [line for line in written.markdown.read_text().splitlines() if "script" in line and line.startswith("|")]
    (complete,) = [line for line in lines if "REFUTED" in line and "final" in line]
    assert complete.replace("\\|", "").count("|") == 11
    assert "~~" in complete


def test_an_empty_registry_and_a_sweep_that_waits_have_a_report(engine, submit, tmp_path) -> None:
    assert document(gather(engine), []).lead[0] == "Nothing is recorded yet."
    submit(SWEEP)
    made = document(gather(engine), shipped_references())
    write(made, tmp_path)
    assert len(rows(section(made, "All runs"))) == 12
    assert "0 scores count" in made.lead[0]


def test_a_report_of_one_sweep_knows_nothing_of_others(finished, submit) -> None:
    submit(SWEEP.replace("sweep: compared", "sweep: other").replace("every: 2", "every: 4"))
    import_history(finished, PACKAGE / "history" / "aqn_2026_01.yaml")
    made = document(gather(finished, ["compared"]), [], ["compared"])
    assert len(rows(section(made, "All runs"))) == 12
    assert not any("aqn-2026-01" in s.title or "other" in s.title for s in made.sections)


# ------------------------------------------------------------------------------------------------ exports


def test_tables_are_the_same_in_every_format(finished, mark, tmp_path) -> None:
    mark()
    for format_ in ("csv", "parquet", "json"):
        written = dict(export(finished, tmp_path, format_, sweep=None, everything=False))
        assert written[tmp_path / f"runs.{format_}"] == 11
    runs = pd.read_parquet(tmp_path / "runs.parquet")
    pd.testing.assert_frame_equal(
        runs[["run_id", "label", "percent"]], pd.read_csv(tmp_path / "runs.csv")[["run_id", "label", "percent"]],
        check_dtype=False,
    )  # fmt: skip
    assert {row["run_id"] for row in json.loads((tmp_path / "runs.json").read_text())} == set(runs.run_id)
    assert set(runs["condition.dtype.format"]) == {"bf16", "mxfp4"}
    curves = pd.read_parquet(tmp_path / "curves.parquet")
    assert list(curves.groupby("run_id").size().unique()) == [2]
    export(finished, tmp_path / "all", "csv", sweep="compared", everything=True)
    everything = pd.read_csv(tmp_path / "all" / "runs.csv")
    assert everything.validity.value_counts().to_dict() == {"valid": 11, "affected": 1}
    assert everything[everything.validity == "affected"].bugs.tolist() == ["wrong-gradients"]


def test_verls_own_keys_of_any_type_fit_a_table(engine, submit, tmp_path) -> None:
    submit(SWEEP.replace("[1, 2, 3]", "[1]") + "trainer: {actor_rollout_ref.actor.entropy_coeff: 0.1}\n")
    for run in reads.runs(engine):
        finish(engine, run.id)
    export(engine, tmp_path, "parquet", sweep=None, everything=False)
    frame = pd.read_parquet(tmp_path / "runs.parquet")
    assert set(frame["condition.trainer.actor_rollout_ref.actor.entropy_coeff"]) == {"0.1"}


def test_event_files_say_what_the_registry_says(finished, tmp_path) -> None:
    """Read back by our own importer, which reads what TensorBoard writes."""
    folders = write_tensorboard(finished, chosen(finished, sweep=None, everything=False), tmp_path)
    assert len(set(folders.values())) == 12
    curves = {curve.name: curve for curve in tensorboard.read(tmp_path)}
    run = by_label(finished)[("small-noisy", 1)]
    name = folders[run.id].name
    assert name == "Q_MXFP4_DAPO_fullFT_1ep_AQN_56.25_seed1"
    assert [(p.step, p.percent) for p in curves[name].points] == [(p.step, p.percent) for p in run.curve]
    first = {p: p.read_bytes() for p in tmp_path.rglob("*tfevents*")}
    write_tensorboard(finished, chosen(finished, sweep=None, everything=False), tmp_path)
    assert first == {p: p.read_bytes() for p in tmp_path.rglob("*tfevents*")}


def test_generated_names_are_those_that_the_study_used() -> None:
    """Where the study is consistent with itself: its adapters but for the scan, and full fine-tuning without noise."""
    loaded = load_history(PACKAGE / "history" / "aqn_2026_01.yaml")
    claims = {claim.label: claim for claim in claims_of(loaded)}
    names = {run.label: run for run in loaded.history.runs if run.tensorboard}
    for label in ("E7a", "E5a-LoRA", "E5b-LoRA", "E6a", "E6b", "E8a", "E3a"):
        condition = typed_condition(claims[label].condition)
        assert tensorboard_name(condition, names[label].first("score")) == names[label].tensorboard


def test_notebooks_get_frames(finished) -> None:
    registry = orchestrator.open_registry()
    runs = registry.runs(sweep="compared")
    assert runs.groupby("label").percent.mean().to_dict() == pytest.approx(
        {label: 100 * sum(right) / 3 / QUESTIONS for label, right in RIGHT.items()}
    )
    assert runs.k.dtype == "Int64"
    assert len(registry.curves()) == 24
    assert list(registry.claims()) == list(registry.claims().columns)
    assert len(registry.claims()) == 0
