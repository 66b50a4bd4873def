"""Claims, audit and bugs as a user meets them: the three commands of a bug, their tables, their errors."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from experiment_specs.errors import AqnError
from experiment_specs.presets import PACKAGE
from orchestrator.cli.main import command_line

SEED = PACKAGE / "history" / "aqn_2026_01.yaml"
VICTIMS = ["E3a", "E3a-2ep", "E3b", "E3b-2ep", "E4a", "E4b"]


def aqn(*words: str | Path) -> Result:
    """In this process: each start would cost a second. Errors of ours end as the console script ends them."""
    done = CliRunner().invoke(command_line(), [str(word) for word in words])
    if isinstance(done.exception, AqnError):
        done.exit_code = done.exception.exit_code
        done.stderr_bytes = f"error: {done.exception}".encode()
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def ok(*words: str | Path) -> str:
    done = aqn(*words)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines()), default=0) <= 80
    return str(done.stdout)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def seed() -> None:
    ok("import", "history", "aqn_2026_01")


def test_the_story_of_the_seeds_bug(seed) -> None:
    assert "27 as they were" in ok("import", "history", SEED)
    audited = ok("audit")
    assert "aqn-2026-01: 27 claims, 24 contradictions" in audited
    assert "72.48 - 67.48 is +5.00" in flat(audited)
    checked = ok("bugs", "check", "ste-backward")
    assert "6 affected, 0 unknown, 21 clean" in checked
    assert json.loads(aqn("bugs", "list", "--json").stdout)[-1]["applied"] is False
    assert "6 affected" in ok("bugs", "apply", "ste-backward")
    assert "no mark changes" in ok("bugs", "apply", "ste-backward")
    dry = ok("rerun-tagged", "ste-backward", "--dry-run")
    assert "0 of 6 would be run; nothing is written" in dry
    assert "rollout: vllm needs vLLM, which is not installed here" in flat(dry)
    assert re.findall(r"^ (E3a|E3b|E4a|E4b)(?:-2ep)? ", dry, re.MULTILINE).__len__() == 6
    assert "affected" in ok("runs")
    shown = flat(ok("show", "E3b-2ep"))
    assert "this score is affected" in shown
    assert "two-scores-at-one-step" in shown
    assert "extends E3b" in shown
    assert "-4.32 over E3b (2-Epoch Extension Experiments, Results): does not stand" in shown
    assert "+2.57 over E7a (2-Epoch Extension Experiments, Results) " in flat(ok("show", "E7a-2ep")) + " "


def test_json_has_the_shapes_that_others_build_on(seed) -> None:
    ok("bugs", "apply", "ste-backward")
    runs = json.loads(aqn("runs", "--json", "--curves").stdout)
    assert len(runs) == 27
    assert {
        "run_id", "label", "aliases", "category", "sweeps", "seed", "condition", "condition_id", "status", "verdict",
        "validity", "score", "peak", "curve", "bugs", "supersedes", "superseded_by", "epochs", "code_version",
    } <= runs[0].keys()  # fmt: skip
    assert {run["status"] for run in runs} == {"imported"}
    assert sorted(run["label"] for run in runs if run["validity"] == "affected") == VICTIMS
    check = json.loads(aqn("bugs", "check", "ste-backward", "--json").stdout)
    assert check.keys() >= {"rule", "version", "matches", "unknown", "clean"}
    assert sorted(m["label"] for m in check["matches"]) == VICTIMS
    assert check["matches"][0].keys() == {"run_id", "label", "facts"}
    audit = json.loads(aqn("audit", "--json").stdout)
    assert all(c.keys() >= {"check", "runs", "fields", "claimed", "expected", "text"} for c in audit)
    claim = json.loads(aqn("show", "E3a", "--json").stdout)
    assert claim.keys() >= {"attempts", "evidence", "marks", "links", "versions", "contradictions"}
    assert [mark["to"] for mark in claim["marks"]] == ["affected"]
    dry = json.loads(aqn("rerun-tagged", "ste-backward", "--dry-run", "--json").stdout)
    assert sorted(r["label"] for r in dry["replacements"]) == VICTIMS


def test_amend_shows_first_and_waive_and_retract_are_on_record(seed, tmp_path: Path) -> None:
    rule = tmp_path / "rule.yaml"
    text = (PACKAGE / "bugs" / "ste-backward.yaml").read_text()
    ok("bugs", "apply", "ste-backward")
    rule.write_text(text.replace("version: 1", "version: 2").replace("[mxfp4, nvfp4]", "[nvfp4]"))
    shown = ok("bugs", "amend", rule)
    assert "affected → withdrawn" in shown
    assert "nothing is written" in shown
    assert "6 affected" in ok("bugs", "list")
    assert "2 affected, 4 withdrawn" in ok("bugs", "amend", rule, "--yes", "--because", "only nvfp4 was")
    assert "E4a" in ok("bugs", "waive", "ste-backward", "E4a", "--because", "probed by hand")
    assert aqn("bugs", "waive", "ste-backward", "E3a", "--because", "x").exit_code == 3
    assert "probed by hand" in flat(ok("show", "E4a"))
    assert "disputed" in ok("bugs", "dispute", "ste-backward", "--because", "is it?", "--yes")
    assert "nothing is written" in ok("bugs", "retract", "ste-backward", "--because", "no")
    assert "marks of ste-backward: 1 waived, 5 withdrawn" in ok(
        "bugs", "retract", "ste-backward", "--because", "no", "--yes"
    )
    assert {r["validity"] for r in json.loads(aqn("runs", "--json").stdout)} == {"unverified"}
    history = json.loads(aqn("show", "E4a", "--json").stdout)["marks"]
    assert [mark["to"] for mark in history] == ["affected", "affected", "waived", "waived", "waived"]
    assert aqn("rerun-tagged", "ste-backward").exit_code == 3
    assert "E4a" in ok("bugs", "waive", "ste-backward", "E4a", "--undo", "--because", "it was not")
    assert "version 4, retracted" in ok("bugs", "check", "ste-backward")  # the applied one, not the shipped
    assert json.loads(aqn("bugs", "list", "--json").stdout)[-1]["version"] == 4  # taking back amended nothing
    assert aqn("bugs", "dispute", "ste-backward", "--because", "x", "--yes").exit_code == 2
    assert "confirmed" in ok("bugs", "confirm", "ste-backward", "--because", "seen again", "--yes")
    assert "no mark changes" in ok("bugs", "apply", "ste-backward")


def test_taking_a_waiver_back_asks_the_applied_version_and_not_a_later_one_that_is_shipped(
    seed, tmp_path: Path
) -> None:
    text = (PACKAGE / "bugs" / "final-eval-arithmetic.yaml").read_text()
    rule = tmp_path / "rule.yaml"
    rule.write_text(text.replace("version: 2", "version: 1").replace("retracted", "confirmed"))
    ok("bugs", "apply", rule)
    ok("bugs", "waive", "final-eval-arithmetic", "E3a", "--because", "x")
    ok("bugs", "waive", "final-eval-arithmetic", "E3a", "--undo", "--because", "y")
    (listed,) = [
        bug for bug in json.loads(aqn("bugs", "list", "--json").stdout) if bug["bug"] == "final-eval-arithmetic"
    ]
    assert (listed["version"], listed["status"], set(listed["marks"])) == (1, "confirmed", {"affected"})


def test_curves_under_a_historys_name_leave_what_it_says_alone(seed) -> None:
    log = Path(__file__).resolve().parents[1] / "data" / "verl_driver.log"
    ok("import", "verl-log", log, "--history", "aqn-2026-01", "--label", "another")
    assert "28 claims, 24 contradictions" in ok("audit")


def test_logs_and_event_files_become_claims(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "Q_MXFP4_DAPO_fullFT_1ep_73.77"))
    for step, share in ((0, 0.5), (20, 0.7377)):
        value = Summary.Value(tag="val-core/openai/gsm8k/acc/mean@1", simple_value=share)
        writer.add_event(Event(step=step, wall_time=1.0, summary=Summary(value=[value])))
    writer.close()
    ok("import", "tensorboard", tmp_path, "--questions", "1319", "--history", "old")
    log = Path(__file__).resolve().parents[1] / "data" / "verl_driver.log"
    ok("import", "verl-log", log, "--label", "by hand", "--questions", "500", "--recorded", "2026-01-02")
    rows = {row["label"]: row for row in json.loads(aqn("runs", "--json", "--curves").stdout)}
    board = rows["Q_MXFP4_DAPO_fullFT_1ep_73.77"]
    assert (board["history"], board["status"], board["validity"]) == ("old", "imported", "unverified")
    assert (board["score"]["step"], round(board["score"]["percent"], 2), board["score"]["k"]) == (20, 73.77, 973)
    assert [p["step"] for p in board["curve"]] == [0, 20]
    assert rows["by hand"]["curve"]


WRONG_RULE = "bug: x\nversion: 1\ntitle: t\nfound: 2026-01-12\nstatus: confirmed\ndisposition: rerun\n"


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (("import", "history"), "history: h\nruns: []\n", "recorded is missing"),
        (("import", "history"), "runs: [\n", "not valid YAML"),
        (("import", "history"), "history: h\nrecorded: 2026-01-12\nruns: [{label: a}]\n", "says something"),
        (("import", "verl-log"), "nothing\n", "no verl console log"),
        (("import", "history"), f"history: h\nrecorded: 2026-01-12\nquestions: {'9' * 400}\nruns: []\n", "questions"),
        (
            ("import", "history"),
            "history: h\nrecorded: 2026-02-31\nruns: [{label: a, said: [{place: p, score: 1.0}]}]\n",
            "no such day",
        ),
        (
            ("import", "history"),
            "history: h\nrecorded: 2026-01-12\nruns: [{label: a, said: [{place: p}]}]\n",
            "says nothing",
        ),
        (("import", "history"), "history: h\nrecorded: 2026-01-12\nruns: []\n", "runs"),
        (
            ("bugs", "check"),
            WRONG_RULE.replace("version: 1", f"version: {10**22}") + "affects: {field: lora, is: none}\n",
            "version",
        ),
        (
            ("bugs", "check"),
            WRONG_RULE.replace("2026-01-12", "2026-13-45") + "affects: {field: lora, is: none}\n",
            "no such day",
        ),
        (("bugs", "check"), WRONG_RULE + "affects: {record: verdict, is: proven}\n", "is a word; accepted: PROVEN"),
        (("bugs", "check"), WRONG_RULE + "affects: {field: algorithm.name, is: GRPO}\n", "can never be 'GRPO'"),
        (("bugs", "check"), WRONG_RULE + "affects: {score: integral, is: 'no'}\n", "true or false"),
        (("bugs", "check"), WRONG_RULE + "affects: {artefact: checkpoint, at_least: 3}\n", "is a word"),
        (("bugs", "check"), WRONG_RULE + "affects: {field: model, above: 4}\n", "has parts"),
        (("bugs", "check"), WRONG_RULE + "affects: {field: dtype, is: 4}\n", "neither a name nor a mapping"),
        (("bugs", "check"), WRONG_RULE + "affects: {score: step, above: .nan}\n", "not a number"),
        (("bugs", "check"), WRONG_RULE, "affects is missing"),
        (("bugs", "check"), WRONG_RULE + "affects: {field: lorra, is: none}\n", "unknown field"),
        (("bugs", "apply"), WRONG_RULE + "affects: []\n", "must be a mapping"),
    ],
)
def test_bad_files_are_one_line_with_exit_code_2_and_nothing_is_written(
    tmp_path: Path, words: tuple[str, ...], text: str, message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    if words[0] == "bugs":
        ok("import", "history", "aqn_2026_01")
    done = aqn(*words, path)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 or lines[-1] == f"{len(lines) - 1} problems"
    assert "bad.yaml" in done.stderr
    if words[0] == "import":
        assert not Path(os.environ["AQN_HOME"]).exists()
    else:
        assert all(not bug["applied"] for bug in json.loads(aqn("bugs", "list", "--json").stdout))


def test_names_that_are_not_there_exit_with_3_and_the_nearest(seed) -> None:
    for words, near in (
        (("show", "E3bb"), "E3b"), (("audit", "--history", "aqn-2026-02"), "aqn-2026-01"),
        (("bugs", "waive", "ste-backwards", "E3a", "--because", "x"), ""), (("logs", "E3b"), ""),
        (("eval", "E3b"), ""), (("rerun-tagged", "ste-backward"), ""),
    ):  # fmt: skip
        done = aqn(*words)
        assert done.exit_code == 3, (words, done.output)
        assert near in done.stderr
    assert aqn("show", "").exit_code == 3
    assert aqn("bugs", "check", "x" * 5000).exit_code == 2
    done = aqn("bugs", "check", "ste-backwrd")
    assert (done.exit_code, "did you mean 'ste-backward'?" in done.stderr) == (2, True)
    assert aqn("audit", "--history", "x").exit_code == 3


def test_every_new_command_has_help() -> None:
    for words in (
        ("audit",), ("eval",), ("rerun-tagged",), ("import",), ("import", "history"), ("import", "tensorboard"),
        ("import", "verl-log"), ("import", "wandb"), ("import", "mlflow"), ("import", "parquet"), ("bugs",), *(("bugs", c) for c in ("list", "check", "apply", "amend", "waive", "retract")),
    ):  # fmt: skip
        assert len(ok(*words, "--help").splitlines()) > 5
