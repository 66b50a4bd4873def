"""`aqn cancel` on a real registry."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from db import reads, writes
from orchestrator.cli.main import command_line


def aqn(*arguments: str):
    return CliRunner().invoke(command_line(), ["cancel", *arguments])


def test_what_waits_is_cancelled_at_once_and_what_trains_by_whoever_schedules(submit, engine, settings) -> None:
    first, second = submit().all
    assert writes.begin_attempt(engine, first, settings.runs) is not None
    done = aqn("--sweep", "light", "--why", "wrong learning rate")
    assert done.exit_code == 0, done.output
    assert "is asked to save a checkpoint and end as soon as somebody schedules" in done.output
    running, waiting = reads.runs(engine, ids=[first, second])
    assert (running.state, running.cancel) == ("running", "cancelled by hand: wrong learning rate")
    assert (waiting.state, waiting.verdict, waiting.valid) == ("cancelled", "UNPROVEN", False)
    assert reads.transitions(engine, second)[-1][1:] == (
        "queued",
        "cancelled",
        "cancelled by hand: wrong learning rate",
    )


def test_what_is_over_stays_what_it_is(submit, engine) -> None:
    first, _ = submit().all
    assert aqn(first, "--json").exit_code == 0
    again = aqn(first, "--json")
    assert again.exit_code == 3
    assert json.loads(again.stdout) == [{"run_id": first, "label": "a", "before": "cancelled", "status": "cancelled"}]
    assert len(reads.transitions(engine, first)) == 2


def test_a_sweep_that_is_submitted_again_runs_anew_what_was_cancelled(submit, engine) -> None:
    first, second = submit().all
    assert aqn("a").exit_code == 0
    again = submit()
    assert first not in again.all
    assert second in again.all


def test_names_that_nobody_has_and_no_name_at_all(submit) -> None:
    submit()
    assert aqn("zz").exit_code == 3, "no id begins so"
    assert aqn("--sweep", "lihgt").exit_code == 3
    assert aqn().exit_code != 0
