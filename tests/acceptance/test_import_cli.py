"""`aqn import wandb`, `mlflow` and `parquet` as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.acceptance.test_bug_cli import aqn, flat, ok
from tests.wandb_runs import GSM8K, MATH, verl_config, write_run


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two W&B runs, one of them without a score, and a file that is none."""
    folder: Path = tmp_path_factory.mktemp("offline")
    evals = {0: {GSM8K: 0.0812, MATH: 0.1}, 3: {GSM8K: 0.7377, MATH: 0.3}}
    write_run(folder, evals, config=verl_config(), id="one")
    write_run(folder, {2: {"eval/accuracy": 0.5}}, id="two", name="other")
    (folder / "wandb" / "run-torn.wandb").write_bytes(b"")
    return folder / "wandb"


def test_wandb(offline: Path) -> None:
    told = flat(ok("import", "wandb", offline, "--history", "old", "--questions", "openai/gsm8k=1319"))
    assert "exp (one) openai/gsm8k: 73.77 % at step 3, ended complete" in told
    assert "left out torn: " in told
    assert "is empty" in told
    assert "left out other (two): no score of a test set" in told
    assert "its tags are eval/accuracy" in told
    assert "2 new claims" in told
    again = json.loads(
        aqn("import", "wandb", offline, "--history", "old", "--questions", "openai/gsm8k=1319", "--json").stdout
    )
    assert (again["created"], again["changed"]) == ([], [])
    assert again["same"] == ["exp (one) math", "exp (one) openai/gsm8k"]
    assert {one["run"] for one in again["left_out"]} == {"torn", "other (two)"}
    rows = {row["label"]: row for row in json.loads(aqn("runs", "--json", "--curves").stdout)}
    assert (rows["exp (one) openai/gsm8k"]["score"]["k"], rows["exp (one) math"]["score"]["k"]) == (973, None)
    shown = flat(ok("show", "exp (one) math"))
    assert "algorithm.name dapo" in shown
    assert "lora none" in shown
    assert "dtype" not in shown
    told_json = json.loads(aqn("show", "exp (one) math", "--json").stdout)
    assert (told_json["tracker"]["run_id"], told_json["config"]["fields"]["rollout"]) == ("one", "vllm")
    assert "2 contradictions" not in ok("audit")


def test_a_chosen_tag(offline: Path) -> None:
    told = flat(ok("import", "wandb", offline, "--metric", "eval/accuracy"))
    assert "other (two) eval/accuracy: 50.00 % at step 2" in told
    done = aqn("import", "wandb", offline, "--metric", "eval/accurcay")
    assert done.exit_code == 2
    assert "did you mean 'eval/accuracy'?" in done.stderr


def test_parquet_and_csv(tmp_path: Path) -> None:
    file = tmp_path / "chart.csv"
    file.write_text('"Step","exp - eval/acc","exp - eval/acc__MIN","exp - eval/acc__MAX"\n"0","0.1","0.1","0.1"\n')
    told = flat(ok("import", "parquet", file, "--metric", "eval/acc", "--recorded", "2026-01-02"))
    assert "exp eval/acc: 10.00 % at step 0" in told
    assert "1 as they were" in ok("import", "parquet", file, "--metric", "eval/acc", "--recorded", "2026-01-02")


def test_mlflow(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'store.db'}")
    run_id = client.create_run(client.create_experiment("study"), run_name="exp").info.run_id
    client.log_metric(run_id, "val-core/openai/gsm8k/acc/mean_at_1", 0.7377, step=58)
    client.set_terminated(run_id)
    told = ok("import", "mlflow", f"sqlite:///{tmp_path / 'store.db'}")
    assert f"exp ({run_id[:8]}): 73.77 % at step 58, ended complete" in flat(told)
    assert "1 as they were" in ok("import", "mlflow", tmp_path / "store.db")
    [row] = json.loads(aqn("runs", "--json").stdout)
    assert (row["history"], row["category"], row["status"]) == ("store.db", "study", "imported")


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("wandb", "looked for files run-*.wandb"),
        ("mlflow", "no MLflow run in this folder"),
        ("parquet", "no Parquet file"),
    ],
)
def test_an_empty_folder_is_one_error_and_nothing_is_written(tmp_path: Path, command: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    for words in ((), ("--json",)):
        done = aqn("import", command, tmp_path / "empty", *words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert problem in done.stderr
    done = aqn("import", command, tmp_path / "nowhere")
    assert done.exit_code == 2
    assert not Path(os.environ["AQN_HOME"]).exists()


def test_a_name_or_a_day_that_is_none_writes_nothing(offline: Path) -> None:
    for words in (("--history", "a/b"), ("--recorded", "2026-02-31")):
        done = aqn("import", "wandb", offline, *words)
        assert done.exit_code == 2
        assert words[0] in done.stderr
    assert not Path(os.environ["AQN_HOME"]).exists()


def test_questions_of_an_unknown_test_set_write_nothing(offline: Path) -> None:
    for words in ((), ("--json",)):
        done = aqn("import", "wandb", offline, "--questions", "openai/gsm8=1319", *words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--questions: no such test set was read; accepted: " in done.stderr
        assert "did you mean 'openai/gsm8k'?" in done.stderr
    assert not Path(os.environ["AQN_HOME"]).exists()


def test_one_number_of_questions_for_several_test_sets_is_told(offline: Path) -> None:
    for words in ((), ("--json",)):
        done = aqn("import", "wandb", offline, "--questions", "30", *words)
        assert done.exit_code == 0
        assert "--questions 30 was not used: there are several test sets" in flat(done.stderr)
    assert json.loads(done.stdout)["same"] == ["exp (one) math", "exp (one) openai/gsm8k"]


def test_why_questions_are_not_used_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path, {3: {"val-core/math/reward/mean@1": 0.5371}}, id="r")
    told = flat(ok("import", "wandb", tmp_path, "--questions", "7"))
    assert "7 questions are not used: not every value of the reward is a number of right answers" in told


def test_no_password_of_a_server_is_printed_or_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What MLflow's client gives is that of a store beside it: only the address is a server's."""
    import mlflow

    real, store, asked = mlflow.MlflowClient, f"sqlite:///{tmp_path / 'store.db'}", []
    client = real(tracking_uri=store)
    run_id = client.create_run(client.create_experiment("study"), run_name="exp").info.run_id
    client.log_metric(run_id, "eval/acc", 0.5, step=1)

    def from_server(tracking_uri: str) -> mlflow.MlflowClient:
        asked.append(tracking_uri)
        return real(tracking_uri=store)

    monkeypatch.setattr(mlflow, "MlflowClient", from_server)
    uri = "http://me:secret@tracking.example:5000"
    for words in ((), ("--metric", "eval/acd")):
        failed = aqn("import", "mlflow", uri, *words)
        assert failed.exit_code == 2
        assert "http://tracking.example:5000: " in failed.stderr
        assert "secret" not in failed.output + failed.stderr
    done = aqn("import", "mlflow", uri, "--metric", "eval/acc")
    assert done.exit_code == 0
    shown = aqn("show", f"exp ({run_id[:8]}) eval/acc", "--json").stdout
    assert f"http://tracking.example:5000 run {run_id}" in shown
    assert set(asked) == {uri}
    kept = b"".join(file.read_bytes() for file in Path(os.environ["AQN_HOME"]).rglob("*") if file.is_file())
    assert b"tracking.example" in kept
    assert b"secret" not in (done.output + done.stderr + shown).encode() + kept


def test_runs_without_any_score_are_one_error(offline: Path, tmp_path: Path) -> None:
    [folder] = offline.glob("offline-run-*-two")
    shutil.copytree(folder, tmp_path / folder.name)
    done = aqn("import", "wandb", tmp_path)
    assert done.exit_code == 2
    assert "other (two): no score of a test set" in done.stderr
    assert not Path(os.environ["AQN_HOME"]).exists()


@pytest.mark.parametrize("command", ["wandb", "mlflow", "parquet"])
def test_the_help_has_examples(command: str) -> None:
    assert f"aqn import {command} " in flat(ok("import", command, "--help"))
