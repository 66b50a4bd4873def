"""The whole path on real verl: four full runs. Killed and adopted; by hand and the same; broken and refuted; a local
model on questions in GSM8K's own files. And a checkpoint that is evaluated anew."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiment_specs.load import load_sweep
from workers.events import Event, read_events
from workers.launch import read_order

pytestmark = [pytest.mark.verl, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = """\
sweep: short
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 4, eval: {every: 2}, dtype: mxfp4, aqn: {preset: standard, num_stages: 4}}
labels: {short: {dtype: mxfp4}}
trainer:
  trainer.logger: [wandb]
  trainer.project_name: addition
  actor_rollout_ref.actor.clip_ratio_c: 3.0
  algorithm.norm_adv_by_std_in_grpo: true
  actor_rollout_ref.actor.policy_loss.loss_mode: vanilla
"""


SECRETS = {"HF_TOKEN": "hf_planted0secret0of0the0tests", "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567"}
"""In the environment of every command, and to be found in no file."""


class Home:
    """One AQN_HOME for the module: assets are made once, the fleet is started once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = folder / "short.yaml"
        self.spec.write_text(SPEC)
        own = {"AQN_HOME": str(folder / "home"), "PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "offline"}
        self.environment = os.environ | own | SECRETS

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli.main", *arguments], cwd=self.folder,
            env=self.environment | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def aqn(self, *arguments: str, timeout: float = 800, **environment: str) -> tuple[int, str]:
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=timeout)
        return process.returncode, output

    def json(self, *arguments: str) -> Any:
        code, output = self.aqn(*arguments, "--json")
        assert code == 0, output
        return json.loads(output)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("verl"))
    yield home
    home.aqn("fleet", "down")


@pytest.fixture(scope="module")
def adopted(home: Home) -> tuple[int, dict[str, Any], str]:
    """A run whose `aqn submit` was killed after the first training step, finished by a second one."""
    first = home.start("submit", str(home.spec))
    try:
        pid = wait_for_first_step(home, first)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert psutil.pid_exists(pid)
    code, output = home.aqn("submit", str(home.spec))
    assert code == 0, output
    return pid, home.json("show", "short"), output


def wait_for_first_step(home: Home, submit: subprocess.Popen[str]) -> int:
    """The trainer's pid, once the spool has a training step."""
    while submit.poll() is None:
        for spool in (home.folder / "home" / "runs").glob("*/1/events.jsonl"):
            events, _ = read_events(spool.parent)
            if any(event.kind == "step" for event in events):
                return next(event.pid for event in events if event.kind == "started")
        signal.sigtimedwait([], 0.2)
    pytest.fail(f"aqn submit ended early: {submit.communicate()[0]}")


def test_the_same_trainer_is_adopted_and_nothing_is_lost_or_doubled(home, adopted) -> None:
    pid, run, output = adopted
    assert "taken over" in output or "exist already" in output
    assert [a["trainer_pid"] for a in run["attempts"]] == [pid]
    assert (run["status"], run["verdict"], run["reasons"]) == ("succeeded", "PROVEN", [])
    assert [p["step"] for p in run["curve"]] == [0, 2, 4]
    assert run["score"]["step"] == 4
    assert run["score"]["n"] == 500
    assert [t["to"] for t in run["transitions"]] == ["queued", "running", "succeeded"]
    sequence = [fact["seq"] for fact in run["evidence"]]
    assert len(sequence) == len(set(sequence))


def test_secrets_of_the_environment_are_written_nowhere(home, adopted) -> None:
    files = [path for path in (home.folder / "home").rglob("*") if path.is_file()]
    assert len(files) > 20
    told = [path for path in files for secret in SECRETS.values() if secret.encode() in path.read_bytes()]
    assert told == []


def test_verls_own_logger_writes_to_wandb_beside_the_record(adopted) -> None:
    """Offline; `wandb sync` would take the file from there."""
    (file,) = Path(adopted[1]["run_dir"]).glob("wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()
    assert b"addition" in written  # the project that the spec names
    assert written.count(b"training/global_step") >= 4  # a record a step
    assert b"val-core/" in written


def test_every_key_of_verls_that_the_spec_sets_was_read_by_a_process_of_the_run(adopted) -> None:
    places: dict[str, set[str]] = {}
    for fact in adopted[1]["evidence"]:
        if fact["kind"] == "setting_read":
            places.setdefault(fact["data"]["key"], set()).add(fact["data"]["place"].partition(":")[0])
    assert set(places) == {
        "actor_rollout_ref.actor.clip_ratio_c",
        "algorithm.norm_adv_by_std_in_grpo",
        "actor_rollout_ref.actor.policy_loss.loss_mode",
    }
    assert all(place.startswith("verl/") for files in places.values() for place in files), places


def test_policy_and_rollout_computed_with_the_attention_of_the_condition(adopted) -> None:
    facts = {f["data"]["role"]: f["data"] for f in adopted[1]["evidence"] if f["kind"] == "attention"}
    assert set(facts) == {"policy", "rollout"}
    assert all(set(fact["functions"]) == {"sdpa_attention_forward"} for fact in facts.values())
    assert facts["policy"]["masked"] is True


def test_the_evidence_is_of_the_treatments(adopted) -> None:
    facts: dict[str, list[dict[str, Any]]] = {}
    for fact in adopted[1]["evidence"]:
        facts.setdefault(fact["kind"], []).append(fact["data"])
    assert len(facts["quantised"][0]["quantised"]) == 14
    assert "lm_head" in facts["quantised"][0]["linears"]
    assert [f["serves"] for f in facts["sync"]] == [1, 2, 3, 4]
    assert all(f["realised"]["modules"] == 5 for f in facts["sync"])
    assert all(f["realised"]["modules"] == 0 for f in facts["eval_mode"])
    assert all(p["input_error"] < 1e-4 < p["input_error_unquantised"] for p in facts["gradient_probe"])
    assert facts["started"][0]["fingerprints"]["model"]


def test_the_evidence_can_be_read(home, adopted) -> None:
    code, output = home.aqn("show", "short")
    assert code == 0, output
    assert "14 of 15 linears to mxfp4, SQNR" in output
    assert "5 modules in 4 of 4 rollouts" in " ".join(output.split())
    assert max(map(len, output.splitlines()[:40])) <= 80
    assert "training/global_step" in home.aqn("logs", "short", "-n", "5000")[1]


def test_it_leaves_nothing_behind_and_mlflow_knows_the_end(home, adopted) -> None:
    from mlflow import MlflowClient

    token = read_order(Path(adopted[1]["attempts"][0]["run_dir"])).token
    assert not [p for p in psutil.process_iter() if environment_of(p).get("AQN_ATTEMPT_TOKEN") == token]
    client = MlflowClient(tracking_uri=f"sqlite:///{home.folder}/home/mlflow.db")
    experiment = client.get_experiment_by_name("short")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["verdict"], run.data.tags["label"]) == ("FINISHED", "PROVEN", "short")
    assert [m.step for m in client.get_metric_history(run.info.run_id, "critic/score/mean")] == [1, 2, 3, 4]


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_second_submit_finds_it_done(home, adopted) -> None:
    code, output = home.aqn("submit", str(home.spec))
    assert code == 0
    assert "all 1 runs exist already" in output
    assert "PROVEN" in output


def test_the_command_that_a_plan_shows_is_the_run_and_gives_the_same_answers(home, adopted) -> None:
    directory = Path(adopted[1]["attempts"][0]["run_dir"])
    code, script = home.aqn("plan", str(home.spec), "--show-command", "short", "--on", "cpu")
    assert code == 0, script
    made = read_order(directory).assets  # the same model; made anew it would take a minute
    script = script.replace('"assets": "assets"', f'"assets": "{made}"')
    done = subprocess.run(
        ["bash", "-ec", script], cwd=home.folder, env=home.environment, capture_output=True, text=True, timeout=800,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    by_hand = home.folder / "by-hand"
    assert answers(by_hand) == answers(directory)
    assert losses(by_hand) == losses(directory)


def answers(directory: Path) -> list[tuple[int, int, str]]:
    return [(e.data["step"], e.data["k"], e.data["outcomes"]) for e in of_kind(directory, "eval")]


def losses(directory: Path) -> list[float]:
    return [e.data["metrics"]["actor/grad_norm"] for e in of_kind(directory, "step")]


def of_kind(directory: Path, kind: str) -> list[Event]:
    return [event for event in read_events(directory)[0] if event.kind == kind]


def test_a_broken_treatment_is_refuted_with_its_reason(home, adopted) -> None:
    code, output = home.aqn("submit", "--again", str(home.spec), AQN_WORKER_PLUGINS="tests.plugins.sigma_zero")
    assert code == 1, output
    assert "REFUTED" in output
    assert "sigma stayed 0 in all 4 rollouts in which the schedule has noise" in " ".join(output.split())
    run = home.json("show", "short")
    assert (run["status"], run["verdict"], run["validity"]) == ("succeeded", "REFUTED", "unverified")
    started = next(f["data"] for f in run["evidence"] if f["kind"] == "started")
    assert started["plugins"] == ["tests.plugins.sigma_zero"]


def test_a_checkpoint_is_evaluated_anew_and_another_one_is_refused(home, adopted) -> None:
    run = adopted[1]
    again = home.json("eval", run["run_id"])
    assert (again["verdict"], again["validity"], again["reasons"]) == ("PROVEN", "valid", [])
    assert again["re_evaluates"] == run["run_id"]
    assert (again["score"]["k"], again["score"]["step"], again["score"]["mode"]) == (run["score"]["k"], 4, "native")
    kinds = [fact["kind"] for fact in home.json("show", again["run_id"])["evidence"]]
    assert {"source", "loaded", "eval_mode"} <= set(kinds)
    assert "step" not in kinds  # nothing was trained
    assert max(map(len, home.aqn("show", again["run_id"])[1].splitlines()[:12])) <= 80
    weights = next((Path(run["run_dir"]) / "checkpoints" / "global_step_4" / "actor").glob("model_*.pt"))
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        code, output = home.aqn("eval", run["run_id"])
    finally:
        weights.write_bytes(whole)
    assert code == 1, output
    assert "is not the file that was saved" in " ".join(output.split())
    code, output = home.aqn("eval", run["run_id"], "--mode", "merged")
    assert (code, "needs a run with adapters" in output) == (2, True)


GSM8K = """\
sweep: gsm8k-shaped
base: bases/qwen2.5-1.5b-gsm8k-grpo.yaml
set:
  model.path: model
  data: {train_rows: 64, test_rows: 50, max_prompt_tokens: 16, max_response_tokens: 24}
  batch: {prompts: 16, mini_batch: 16}
  optimiser: {lr: 5e-5, grad_clip: 0.5}
  compute: fp32
  rollout: transformers
  dtype: mxfp4
  eval.every: 2
labels: {gsm8k-shaped: {dtype: mxfp4}}
resources: {gpus: 1}
checkpoints: {keep: best}
"""


def test_a_local_model_trains_on_gsm8ks_files_with_verls_scorer_and_keeps_its_best_checkpoint(home, adopted) -> None:
    """Questions of the embedded task in files of GSM8K's shape, so that the embedded model can answer them."""
    assets = next(Path(read_order(adopted[1]["attempts"][0]["run_dir"]).assets).glob("tiny-*"))
    shutil.copytree(assets / "model", home.folder / "model")
    raw = home.folder / "raw" / "main"
    raw.mkdir(parents=True)
    for name, count in (("train", 64), ("test", 50)):
        rows = pq.read_table(assets / f"{name}.parquet").to_pylist()[:count]
        published = [
            {"question": r["prompt"][0]["content"], "answer": f"so\n#### {r['reward_model']['ground_truth']}"}
            for r in rows
        ]
        pq.write_table(pa.Table.from_pylist(published), raw / f"{name}-00000-of-00001.parquet")
    code, output = home.aqn("data", "prepare", "gsm8k", "raw", "--instruction", "")
    assert code == 0, output
    spec = home.folder / "gsm8k.yaml"
    spec.write_text(GSM8K)
    code, output = home.aqn("submit", str(spec))
    assert code == 0, output
    run = home.json("show", "gsm8k-shaped")
    assert (run["status"], run["verdict"], run["reasons"]) == ("succeeded", "PROVEN", [])
    assert [p["step"] for p in run["curve"]] == [0, 2, 4]
    assert {p["n"] for p in run["curve"]} == {50}
    assert 0 < run["curve"][0]["k"] < 50
    facts = [(f["kind"], f["data"]) for f in run["evidence"]]
    written = json.loads((home.folder / "data" / "gsm8k" / "fingerprints.json").read_text())
    prints = next(data["fingerprints"] for kind, data in facts if kind == "started")
    assert prints.keys() == {"model", "train", "test"}
    assert all(prints.values())
    assert written["files"]["test.parquet"]["rows"] == 50
    saved = [data["step"] for kind, data in facts if kind == "checkpoint"]
    removed = [data["step"] for kind, data in facts if kind == "checkpoint_removed"]
    right = {p["step"]: p["k"] for p in run["curve"]}
    best = max((2, 4), key=lambda step: (right[step], -step))
    assert (saved, removed) == ([2, 4], [6 - best])
    kept = Path(run["attempts"][0]["run_dir"]) / "checkpoints"
    assert [p.name for p in kept.glob("global_step_*")] == [f"global_step_{best}"]
    size = sum(p.stat().st_size for p in kept.rglob("*.pt"))
    assert size == pytest.approx(12 * 101_696, rel=0.1)  # what a plan counts on


def test_a_scan_by_the_command_line_is_made_once(home, adopted) -> None:
    scan = home.json("scan", "tiny/qwen2", "--dtype", "nvfp4")
    assert scan["verdict"] == "PROVEN"
    assert scan["layers"]["layer"] == [0, 1]
    assert sum(scan["multipliers"]["variable"]) == pytest.approx(2.0)
    assert scan["multipliers"]["targeted"] is None  # top 4 of 2 layers
    assert home.json("scan", "tiny/qwen2", "--dtype", "nvfp4")["run_id"] == scan["run_id"]
    code, output = home.aqn("show", scan["run_id"])
    assert code == 0, output
    assert max(map(len, output.splitlines()[:6])) <= 80
    assert (home.folder / "home" / "reports" / f"scan-{scan['run_id']}.png").exists()
    code, output = home.aqn("scan", "tiny/qwen2", "--dtype", "nvpf4")
    assert (code, "did you mean 'nvfp4'?" in output) == (2, True)


@pytest.mark.slow
def test_a_bug_is_found_marked_fixed_and_its_victim_rerun_and_superseded(home, adopted) -> None:
    """The whole story, on real verl: a sweep recorded with the study's bug, its victims listed, marked and replaced."""
    spec = home.folder / "bug.yaml"
    spec.write_text(SPEC.replace("sweep: short", "sweep: bug").replace("aqn: {preset: standard, num_stages: 4}", "aqn: none").replace("labels: {short:", "labels: {victim:"))  # fmt: skip
    code, output = home.aqn("submit", str(spec), AQN_WORKER_PLUGINS="tests.plugins.restored_in_place")
    assert code == 1, output
    assert "it used the unquantised W" in " ".join(output.split())
    victim = home.json("show", "victim")
    found = home.json("bugs", "check", "ste-backward")
    assert [m["run_id"] for m in found["matches"]] == [victim["run_id"]]
    assert {m["label"] for m in found["clean"]} >= {"short"}
    assert home.json("bugs", "apply", "ste-backward")["marks"] == {"affected": 1}
    dry = home.json("rerun-tagged", "ste-backward", "--dry-run")
    assert [(r["run_id"], r["problem"], r["created"]) for r in dry["replacements"]] == [(victim["run_id"], None, False)]

    done = home.json("rerun-tagged", "ste-backward")
    (new,) = [r["replacement"] for r in done["replacements"]]
    after = home.json("show", new)
    assert (after["verdict"], after["validity"], after["supersedes"]) == ("PROVEN", "valid", victim["run_id"])
    assert (after["condition_id"], after["seed"]) == (victim["condition_id"], victim["seed"])
    assert after["code_version"] != victim["code_version"]
    assert after["run_dir"] != victim["run_dir"]
    old = home.json("show", victim["run_id"])
    assert (old["validity"], old["superseded_by"]) == ("superseded", new)
    assert [m["to"] for m in old["marks"]] == ["affected", "resolved"]
    assert old["score"] == victim["score"]  # nothing of the old run was edited
    code, output = home.aqn("rerun-tagged", "ste-backward")
    assert (code, "nothing is affected" in output) == (3, True)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home.folder}/home/mlflow.db")
    experiment = client.get_experiment_by_name("bug")
    assert experiment is not None
    tags = {run.data.tags["aqn.run_id"]: run.data.tags for run in client.search_runs([experiment.experiment_id])}
    assert (tags[new]["score.valid"], tags[victim["run_id"]]["score.valid"]) == ("true", "false")
    assert tags[victim["run_id"]]["superseded_by"] == new


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_kind_of_run_is_proven(home) -> None:
    code, output = home.aqn("submit", str(REPOSITORY / "experiment_specs" / "sweeps" / "tiny-each.yaml"), timeout=1700)
    assert code == 0, output
    runs = home.json("runs", "--sweep", "tiny-each")
    assert {run["label"]: run["verdict"] for run in runs} == dict.fromkeys(
        (
            "plain",
            "nvfp4-linear",
            "grpo-kl",
            "compute-bf16",
            "two-epochs",
            "srdd-variable",
            "linear-noise",
            "hw-noise",
            "hw-noise-layer",
            "lora-merged",
            "lora-adapter",
        ),
        "PROVEN",
    )
    assert len({run["score"]["k"] for run in runs}) > 1


TWINS = sorted((REPOSITORY / "experiment_specs" / "sweeps" / "tiny").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("spec", TWINS, ids=lambda p: p.stem)
def test_the_small_twin_of_every_family_is_proven(home, spec) -> None:
    code, output = home.aqn("submit", str(spec), timeout=1700)
    assert code == 0, output
    runs = home.json("runs", "--sweep", load_sweep(spec).name)
    assert {run["label"] for run in runs} == set(load_sweep(spec).labels)
    assert {run["verdict"] for run in runs} == {"PROVEN"}
