"""Imports of logs and event folders as a user meets them: what is recorded, what is left out, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from experiment_specs.errors import AqnError
from orchestrator.cli.main import command_line

GSM8K = "val-core/openai/gsm8k/acc/mean@1"


def aqn(*words: str | Path) -> Result:
    """In this process, its errors as the console script ends them."""
    done = CliRunner().invoke(command_line(), [str(word) for word in words])
    if isinstance(done.exception, AqnError):
        done.exit_code = done.exception.exit_code
        done.stderr_bytes = f"error: {done.exception}".encode()
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def flat(text: str) -> str:
    return " ".join(text.split())


def claims() -> dict[str, dict[str, Any]]:
    found = aqn("runs", "--json", "--curves")
    return {row["label"]: row for row in json.loads(found.stdout)} if found.exit_code == 0 else {}


@pytest.fixture
def log(tmp_path: Path):
    def write(*steps: str, name: str = "exp.log") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"(TaskRunner pid=9) step:{5 * n} - {step}\n" for n, step in enumerate(steps)))
        return path

    return write


THREE_SETS = (
    "val-aux/aime24/acc/std@32:0.1 - val-core/aime24/acc/mean@32:0.050 - val-core/aime24/acc/best@32/mean:0.2"
    " - val-core/amc23/acc/mean@32:0.300 - val-core/math500/acc/mean@1:0.500"
)


def test_each_test_set_becomes_a_claim_with_questions_of_its_own(log) -> None:
    path = log(THREE_SETS, THREE_SETS.replace(":0.050", ":0.096"))
    done = aqn("import", "verl-log", path, "--questions", "aime24=30", "--questions", "math500=500")
    assert done.exit_code == 0
    rows = claims()
    assert {label: (row["score"]["n"], row["score"]["samples"]) for label, row in rows.items()} == {
        "exp on aime24": (30, 32), "exp on amc23": (None, 32), "exp on math500": (500, 1),
    }  # fmt: skip
    assert [rows[f"exp on {name}"]["score"]["k"] for name in ("aime24", "amc23", "math500")] == [92, None, 250]
    assert "not read: val-core/aime24/acc/best@32/mean" in done.stdout
    assert "exp.log: 3 claims, 0 contradictions" in aqn("audit").stdout
    assert "92 of 960" in aqn("show", "exp on aime24").stdout


def test_one_number_of_questions_is_not_used_for_several_test_sets_and_this_is_said(log) -> None:
    done = aqn("import", "verl-log", log(THREE_SETS), "--questions", "30")
    assert done.exit_code == 0
    assert "--questions 30 was not used: there are several test sets" in flat(done.stderr)
    assert "--questions aime24=N --questions amc23=N --questions math500=N" in flat(done.stderr)
    assert {row["score"]["n"] for row in claims().values()} == {None}


def test_one_number_of_questions_is_of_the_one_set_that_is_read(log) -> None:
    assert aqn("import", "verl-log", log(THREE_SETS), "--metric", "val-core/math500/acc/mean@1",
               "--questions", "500").exit_code == 0  # fmt: skip
    [row] = claims().values()
    assert (row["label"], row["score"]["k"], row["score"]["n"]) == ("exp on math500", 250, 500)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("aime=30",), "--questions: no such test set was read; accepted: aime24, amc23, math500; did you mean 'aime24'?"),
        (("aime24=thirty",), "--questions: is no number of questions: one number, as 1319, or each test set once"),
        (("0",), "is no number of questions"),
        (("-1",), "is no number of questions"),
        (("aime24=30", "aime24=31"), "is no number of questions"),
        (("30", "math500=500"), "is no number of questions"),
    ],
)  # fmt: skip
def test_wrong_numbers_of_questions_are_refused_and_nothing_is_written(
    log, words: tuple[str, ...], message: str
) -> None:
    done = aqn("import", "verl-log", log(THREE_SETS), *(f"--questions={word}" for word in words))
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert claims() == {}


def test_a_log_without_a_score_becomes_no_claim_and_its_tags_are_said(log) -> None:
    path = log(
        "val/alfworld/test_score:1.250 - val/success_rate:0.125", "val/alfworld/test_score:6.1 - val/success_rate:0.610"
    )
    done = aqn("import", "verl-log", path)
    assert done.exit_code == 3
    assert "seen: val/alfworld/test_score, val/success_rate; `--metric TAG` reads one" in flat(done.stderr)
    assert claims() == {}
    as_json = aqn("import", "verl-log", path, "--json")
    assert [one["name"] for one in json.loads(as_json.stdout)["left_out"]] == ["exp"]
    assert aqn("import", "verl-log", path, "--metric", "val/success_rate", "--questions", "200").exit_code == 0
    [row] = claims().values()
    assert (row["score"]["percent"], row["score"]["k"]) == (61.0, 122)
    missing = aqn("import", "verl-log", path, "--metric", "val/succes_rate")
    assert (missing.exit_code, "did you mean 'val/success_rate'?" in flat(missing.stderr)) == (3, True)


def test_an_odd_test_set_refuses_no_other(log) -> None:
    done = aqn("import", "verl-log", log(f"val-core/game/acc/mean@1:-1.0 - {GSM8K}:0.5", f"{GSM8K}:0.6"), "--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["created"] == ["exp on openai/gsm8k"]
    assert "val-core/game/acc/mean@1 at step 0, line 1: -1.0 is not between 0 and 1" in told["left_out"][0]["why"]


def test_a_reward_that_is_no_count_is_not_accused(log) -> None:
    done = aqn("import", "verl-log", log("val/test_score/math:0.3", "val/test_score/math:0.5371"), "--questions", "7")
    assert "7 questions are not used: not every value of the reward is a number of right answers" in flat(done.stdout)
    assert "1 claims, 0 contradictions" in aqn("audit").stdout
    assert next(iter(claims().values()))["score"]["n"] is None


def test_attempts_in_one_event_folder_are_linked_and_other_runs_in_the_tree_are_kept(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def write(name: str, tag: str, *shares: float) -> None:
        with SummaryWriter(str(tmp_path / "tree" / name)) as writer:
            for n, share in enumerate(shares):
                writer.add_scalar(tag, share, 5 * n)

    write("exp", GSM8K, 0.1, 0.2, 0.3, 0.4)
    write("exp", GSM8K, 0.11, 0.55)
    write("game", "val-core/game/acc/mean@1", -1.0, -0.5)
    write("sft", "val/loss", 1.7, 0.9)
    done = aqn("import", "tensorboard", tmp_path / "tree", "--history", "old", "--questions", "1319")
    assert done.exit_code == 0
    assert "game: left out" in done.stderr
    assert "sft: left out" in done.stderr
    rows = claims()
    assert {label: row["score"]["percent"] for label, row in rows.items()} == {
        "exp (attempt 1)": 40.0, "exp (attempt 2)": 55.0,
    }  # fmt: skip
    [link] = rows["exp (attempt 2)"]["links"]
    assert (link["kind"], link["to"]) == ("attempt-of", rows["exp (attempt 1)"]["run_id"])
    again = aqn("import", "tensorboard", tmp_path / "tree", "--history", "old", "--questions", "1319")
    assert "2 as they were" in again.stdout
    nothing = aqn("import", "tensorboard", tmp_path / "tree" / "sft")
    assert (nothing.exit_code, "nothing was recorded: a claim needs a score" in nothing.stderr) == (3, True)


def test_verls_file_logger_becomes_a_claim(tmp_path: Path) -> None:
    lines = [
        {"step": step, "data": {GSM8K: share, "actor/pg_loss": 0.1}} for step, share in ((0, 0.1), (5, 0.2), (10, None))
    ]
    path = tmp_path / "exp.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = aqn("import", "verl-log", path, "--questions", "10")
    assert "the eval of step 10 gave no number" in done.stdout
    [row] = claims().values()
    assert (row["score"]["step"], row["score"]["percent"], row["score"]["k"]) == (5, 20.0, 2)


def test_a_changed_number_of_answers_keeps_the_last_eval_and_is_not_accused(tmp_path: Path) -> None:
    path = tmp_path / "exp.log"
    path.write_text("step:0 - val-core/aime24/acc/mean@32:0.05\nstep:5 - val-core/aime24/acc/mean@64:0.096\n")
    done = aqn("import", "verl-log", path, "--questions", "30")
    assert "9.60 % at step 5" in done.stdout
    assert "mean@32 at step 0, mean@64 at step 5" in flat(done.stdout)
    assert "30 questions are not used" in flat(done.stdout)
    assert "1 claims, 0 contradictions" in aqn("audit").stdout
    [row] = claims().values()
    assert (row["score"]["step"], row["score"]["n"], row["score"]["samples"]) == (5, None, 64)


def test_a_cell_that_is_no_number_is_told_with_the_score(tmp_path: Path) -> None:
    path = tmp_path / "exp.csv"
    path.write_text(f"step,{GSM8K}\n0,0.5\n5,62.5%\n")
    done = aqn("import", "parquet", path)
    assert done.exit_code == 0
    assert f"no number in row 2, column {GSM8K}: '62.5%'" in flat(done.stdout)
    assert "its score is an older one" in flat(done.stdout)
    path.write_text(f"step,{GSM8K},{GSM8K}\n0,0.5,0.1\n")
    twice = aqn("import", "parquet", path, "--history", "twice")
    assert (twice.exit_code, "columns 2, 3 are all called" in twice.stderr) == (2, True)
