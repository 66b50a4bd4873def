"""`aqn compare`, `report` and `export` as a user meets them, on the study's claims and on runs that never ran."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from db import reads
from db.engine import open_registry
from experiment_specs.load import load_sweep
from orchestrator.cli.submit import print_results
from orchestrator.plan import make_plan
from orchestrator.settings import load_settings
from orchestrator.submit import record
from tests.acceptance.test_bug_cli import aqn, flat, ok
from tests.registry_tools import finish

SWEEP = """\
sweep: seeds
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 4, eval: {every: 2}}
axes: {dtype: [bf16, mxfp4]}
labels: {a: {dtype: bf16}, b: {dtype: mxfp4}}
seeds: [1, 2, 3]
contrasts: {4-bit-costs: {vary: dtype, from: bf16, to: mxfp4}}
"""
TITLES = (
    "what its findings can bear", "all claims", "HW", "Quant", "LoRA", "training length", "small batches",
    "best of each category", "configurations of the noise", "against published work", "known issues",
    "steps, planned and executed", "what the audit found", "environment",
)  # fmt: skip


@pytest.fixture
def claims() -> None:
    ok("import", "history", "aqn_2026_01")


@pytest.fixture
def sweep(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    engine = open_registry(load_settings().registry_url)
    record(engine, make_plan(load_sweep(path)))
    for run in reads.runs(engine):
        finish(engine, run.id, right=(13 if run.label == "a" else 4) - run.seed % 2)
    engine.dispose()


def test_the_report_of_the_study_has_all_that_the_study_had(claims, tmp_path) -> None:
    ok("bugs", "apply", "ste-backward")
    out = aqn("report", "--out", tmp_path).stdout  # its paths are as long as the folder
    assert "15 sections" in out
    text = (tmp_path / "report.md").read_text()
    for title in TITLES:
        assert f"## aqn-2026-01: {title}\n" in text
    for label in json.loads(aqn("runs", "--json").stdout):
        assert f"| {label['label']} |" in text
    assert text.count("~~74.37 % \\[72.0, 76.7\\]~~ (affected: ste-backward)") >= 2
    assert "none: a rule marks all" in text  # of the best of full fine-tuning on 4-bit weights
    assert "no k fits" in text  # 70.27 %
    assert "None of the 14 findings can be attributed to a treatment" in text
    assert (
        "| HW Inject | E9b | 71.19 % | E9b (71.19 %) | E5, E5b, E9a, E9a-high-σ, E5c (no k of n: not tested) | 6 |"
        in text
    )
    assert "Nothing of it was measured here" in text


def test_the_audit_stands_beside_the_claims(claims, tmp_path) -> None:
    assert aqn("report", "--out", tmp_path).exit_code == 0
    text = flat((tmp_path / "report.md").read_text().replace("\\", ""))
    for contradiction in json.loads(aqn("audit", "--json").stdout):
        assert flat(contradiction["text"]) in text


def test_a_sweeps_report_leaves_the_whole_one_alone(sweep) -> None:
    assert aqn("report").exit_code == 0  # its paths are as long as the folder
    whole = (load_settings().reports / "report.md").read_bytes()
    told = json.loads(aqn("report", "--sweep", "seeds", "--json").stdout)
    assert Path(told["markdown"]) == load_settings().reports / "seeds" / "report.md"
    assert (load_settings().reports / "report.md").read_bytes() == whole


def test_two_claims_are_compared_as_what_they_are(claims) -> None:
    shown = flat(ok("compare", "E6a", "E6b"))
    assert "+1.6 [−2.0, +5.2] points, as written" in shown
    assert "not assessable" in shown
    assert "cannot be told from luck" in shown
    found = json.loads(aqn("compare", "E5", "E5c", "--json").stdout)
    assert (found["interval"], found["verdict"]) == (None, "not assessable")  # 70.27 % is no count


def test_a_sweeps_contrasts_and_one_comparison(sweep) -> None:
    table = flat(ok("compare", "--sweep", "seeds"))
    assert "a → b 3 −56.2 [" in table
    assert "lower" in table
    one = flat(ok("compare", "a", "b"))
    assert "dtype.format: bf16 → mxfp4" in one
    assert "treatments lower" in one
    found = json.loads(ok("compare", "a", "b", "--json"))
    assert found["n"] == 3
    assert found["interval"][0] <= found["difference"] <= found["interval"][1] < 0
    assert json.loads(ok("compare", "a", "b", "--sweep", "seeds", "--json"))["verdict"] == "lower"
    ids = [run["run_id"] for run in json.loads(ok("runs", "--json")) if run["seed"] == 1]
    single = flat(ok("compare", *ids))
    assert "checkpoints differ" in single
    assert "not assessable: one pair of runs" in single


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("compare", "a"), 2, "takes two runs"),
        (("compare", "a", "nobody"), 3, "no run is called 'nobody'"),
        (("compare", "a", "E6b"), 2, "a claim and a run are never compared"),
        (("compare", "--sweep", "sedes"), 3, "did you mean 'seeds'"),
        (("report", "--sweep", "sedes"), 3, "did you mean 'seeds'"),
        (("compare", "--sweep", "seeds", "--equal-within", "2"), 2, "say themselves what counts as equal"),
        (("compare", "a", "b", "--sweep", "other"), 3, "no sweep is called 'other'"),
        (("export", "x", "--format", "cvs"), 2, "did you mean 'csv'"),
    ],
)
def test_mistakes_are_one_line(claims, sweep, words, code, message) -> None:
    done = aqn(*words)
    assert done.exit_code == code
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert not Path("x").exists()


def test_export_leaves_out_what_does_not_count_and_says_so(sweep, tmp_path) -> None:
    out = aqn("export", tmp_path / "tables", "--format", "json", "--json").stdout
    assert [entry["rows"] for entry in json.loads(out)] == [6, 12]
    assert "left out" in aqn("export", tmp_path / "events", "--format", "tensorboard").stdout
    assert len(list((tmp_path / "events").iterdir())) == 6


def test_a_sweep_ends_with_what_its_contrasts_show(sweep, capsys) -> None:
    settings = load_settings()
    engine = open_registry(settings.registry_url)
    print_results(settings, engine, "seeds", reads.runs(engine, sweep="seeds"))
    shown = capsys.readouterr().out
    assert max(map(len, (line for line in shown.splitlines() if "curves with intervals" not in line))) <= 80
    assert "declared contrasts: 1 comparison\n" in shown
    assert "lower" in shown
    assert (settings.reports / "seeds-curves.png").exists()
