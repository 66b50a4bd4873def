"""Tables of the terminal where labels are long, alike or full of what a shell takes apart."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from db import reads
from orchestrator.cli.progress import Progress
from orchestrator.cli.render import curve_lines, names_of, outlook, runs_table
from tests.registry_tools import finish

SPEC = """\
sweep: unnamed
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 12, dtype: mxfp4}
axes:
  aqn: [{preset: standard, sigma_start: 0.02}, {preset: standard, sigma_start: 0.03}]
  lora: [none, r32]
seeds: [1, 2]
"""


@pytest.fixture
def runs(submit, engine):
    ids = submit(SPEC).all
    return reads.runs(engine, ids=ids)


def test_what_is_printed_to_be_typed_can_be_typed(runs) -> None:
    first = outlook(runs).plain.splitlines()[0]
    assert f"aqn show '{runs[0].label}'" in first
    shows = [line.index(words) for line, words in zip(
        outlook(runs).plain.splitlines(), ("the evidence", "what the trainer", "tables", "all of it"), strict=True)
    ]  # fmt: skip
    assert len(set(shows)) == 1


def test_runs_with_one_label_are_told_apart_by_their_seeds(runs, capsys) -> None:
    assert len(set(names_of(runs))) == len(runs)
    assert names_of(runs[:1]) == [runs[0].label]
    with Progress() as progress:
        progress.show(runs, "")
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert len(set(lines)) == len(runs)
    assert lines[0] == f"{runs[0].label} seed 1: queued"


def test_labels_that_do_not_fit_still_differ(runs) -> None:
    lines = [line for line in runs_table(runs, 80).plain.splitlines() if line.strip()]
    assert max(map(len, lines)) <= 80
    labels = {line.strip().split("  ")[1] for line in lines if "queued" in line}
    assert len(labels) == len({run.label for run in runs})


def test_a_run_that_was_cancelled_says_so(runs) -> None:
    gone = replace(runs[0], state="cancelled", verdict="UNPROVEN")
    assert "cancelled" in runs_table([gone], 80).plain
    assert "UNPROVEN" not in runs_table([gone], 80).plain


def test_curves_have_their_seeds(submit, engine) -> None:
    ids = submit("sweep: two\nbase: bases/tiny-cpu.yaml\naxes: {dtype: [bf16]}\nseeds: [1, 2]\n").all
    for run_id in ids:
        finish(engine, run_id)
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(curve_lines(reads.runs(engine, ids=ids)))
    assert {"seed 1", "seed 2"} <= {" ".join(line.split()[1:3]) for line in screen.export_text().splitlines()}
