"""`aqn import script` as a user meets it: the spec on standard output, the report beside it, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.test_cli import aqn, home

SCRIPTS = Path(__file__).resolve().parents[1] / "data" / "scripts"
ROWS = ("--train-rows", "7473", "--test-rows", "1319")


def test_a_launch_script_becomes_a_sweep_that_plans(tmp_path: Path) -> None:
    out = tmp_path / "sweep.yaml"
    done = aqn("import", "script", SCRIPTS / "grpo.sh", *ROWS, "--out", out)
    assert (done.returncode, done.stdout) == (0, "")
    assert "2 without a place: another value holds" in done.stderr
    assert f"next:  aqn plan {out}" in done.stderr
    plan = json.loads(aqn("plan", out, "--json").stdout)
    assert [c["total_steps"] for c in plan["conditions"]] == [3 * (7473 // 128)]
    again = aqn("import", "script", SCRIPTS / "grpo.sh", "--out", out)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert not home().exists()


def test_what_is_open_is_told_in_one_go_and_the_sweep_is_written_all_the_same() -> None:
    done = aqn("import", "script", SCRIPTS / "megatron.sh")
    assert done.returncode == 1
    assert "# TO FILL IN: actor_rollout_ref.model.path=$WEIGHTS/model is not known" in done.stdout
    for field in ("model.path", "data.train", "data.test_rows", "resources.gpus", "algorithm.samples_per_prompt"):
        assert f"to fill in: {field}" in done.stderr
    told = json.loads(aqn("import", "script", SCRIPTS / "megatron.sh", "--env", "DEVICE=gpu", "--json").stdout)
    assert "gpus: 8\n" in told["spec"]
    assert (told["plans"], told["complete"]) == (False, False)
    assert not [line for line in told["lines"] if line["key"] == "trainer.device"]  # it is there for npu alone


def test_what_is_no_launch_script_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "x.sh"
    path.write_text("echo hello\n")
    done = aqn("import", "script", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {path}: starts no training")
    assert len(done.stderr.splitlines()) == 1
    assert aqn("import", "script", tmp_path / "none.sh").returncode == 2
    assert "is not NAME=VALUE" in aqn("import", "script", path, "--env", "X").stderr


def test_words_that_are_not_read_make_every_default_uncertain(tmp_path: Path) -> None:
    path = tmp_path / "x.sh"
    path.write_text(
        "n=4\n(( n *= 2 ))\nwhile read -r l; do ARGS+=(trainer.y=1); done < list\n"
        "python3 -m verl.trainer.main_ppo actor_rollout_ref.model.path=m data.train_files=t data.val_files=v "
        "trainer.test_freq=5 trainer.no_such=1 actor_rollout_ref.rollout.n=$n $(cat args.txt)\n"
    )
    done = aqn("import", "script", path, *ROWS)
    assert done.returncode == 1
    assert "samples_per_prompt: 8\n" in done.stdout
    assert "# verl's default, unless 1 word that was not read set it" in done.stdout
    assert "# verl's default\n" not in done.stdout
    told = json.loads(aqn("import", "script", path, *ROWS, "--json").stdout)
    assert {line["key"]: line["kind"] for line in told["lines"]}["$(cat args.txt)"] == "unread"
    assert any(line["key"] == "trainer.no_such" and "no such key" in line["text"] for line in told["lines"])


def test_equal_lines_are_told_once(tmp_path: Path) -> None:
    path = tmp_path / "x.sh"
    path.write_text("python3 -m verl.trainer.main_ppo actor_rollout_ref.rollout.n=4" + " $(cat a)" * 3 + "\n")
    told = json.loads(aqn("import", "script", path, *ROWS, "--json").stdout)
    lines = [line for line in told["lines"] if line["kind"] == "unread"]
    assert [(line["key"], line["text"]) for line in lines] == [
        ("$(cat a)", "is not known before the script runs (3 times)")
    ]
