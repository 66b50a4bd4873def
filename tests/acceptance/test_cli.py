"""The command line as a user meets it: exit codes, errors on one line, nothing written by a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "experiment_specs" / "sweeps" / "demo.yaml"


def aqn(*arguments: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli.main", *map(str, arguments)],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def home() -> Path:
    return Path(os.environ["AQN_HOME"])


def test_the_version_is_told() -> None:
    from importlib.metadata import version

    from workers.launch import code_version

    done, code = aqn("--version"), code_version()
    assert done.returncode == 0
    assert done.stdout.startswith(f"aqn {version('aqn-lab')} (")
    assert code.id in done.stdout
    assert (code.commit or "no commit")[:10] in done.stdout


def test_plan_shows_conditions_and_steps_in_80_columns_and_writes_nothing() -> None:
    done = aqn("plan", DEMO)
    assert done.returncode == 0
    assert "tiny-mxfp4-aqn" in done.stdout
    assert "0, 6, 12, 18, 24" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not home().exists()


def test_plan_as_json_is_json() -> None:
    data = json.loads(aqn("plan", DEMO, "--json").stdout)
    assert [c["total_steps"] for c in data["conditions"]] == [24] * 4


EVERY_SWEEP = sorted((REPOSITORY / "experiment_specs" / "sweeps").rglob("*.yaml"))


@pytest.mark.parametrize("spec", EVERY_SWEEP, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_shipped_sweep_fits_80_columns(spec) -> None:
    from typer.testing import CliRunner

    from orchestrator.cli.main import command_line

    done = CliRunner().invoke(command_line(), ["plan", str(spec)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_command_of_a_condition_is_a_script_whose_order_a_worker_reads(tmp_path) -> None:
    from workers.launch import read_order

    done = aqn("plan", DEMO, "--show-command", "tiny-mxfp4-aqn", "--on", "cpu")
    assert done.returncode == 0
    script = [line for line in done.stdout.splitlines() if not line.endswith('"$RUN_DIR"')]  # without the training
    subprocess.run(["bash", "-ec", "\n".join(script)], cwd=tmp_path, check=True)
    order = read_order(tmp_path / "by-hand")
    assert order.typed_condition.id == order.condition_id
    assert "actor_rollout_ref.rollout.n: 8" in done.stdout
    told = json.loads(aqn("plan", DEMO, "--show-command", "tiny-mxfp4-aqn", "--json").stdout)
    assert told["config"]["actor_rollout_ref"]["rollout"]["n"] == 8
    unknown = aqn("plan", DEMO, "--show-command", "tiny-mxfp")
    assert unknown.returncode == 3
    assert "did you mean 'tiny-mxfp4'?" in unknown.stderr
    assert aqn("plan", DEMO, "--show-command", "tiny-bf16", "--on", "tpu").returncode == 2


def test_a_new_spec_plans_as_it_is_and_is_never_written_over(tmp_path) -> None:
    assert aqn("init", "mine.yaml", cwd=tmp_path).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["mine.yaml", "sweep.schema.json"]
    assert aqn("plan", "mine.yaml", cwd=tmp_path).returncode == 0
    again = aqn("init", "mine.yaml", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (2, "error: FILE: mine.yaml is there already\n")
    wrong = aqn("init", "other.yaml", "--base", "bases/tiny.yaml", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "did you mean 'bases/tiny-cpu.yaml'?" in wrong.stderr
    assert not (tmp_path / "other.yaml").exists()


def test_names_that_yaml_reads_otherwise_and_places_that_cannot_be_written(tmp_path) -> None:
    assert aqn("init", "2024.yaml", cwd=tmp_path).returncode == 0
    for name in ("no.yaml", "1e-5.yaml", "010.yaml"):
        assert aqn("init", name, cwd=tmp_path).returncode == 0
    (tmp_path / "afile").write_text("")
    done = aqn("init", "afile/x.yaml", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: afile: File exists\n")


def test_a_plan_leaves_an_old_registry_and_a_broken_one_as_they_are(tmp_path) -> None:
    import sqlite3

    home().mkdir(parents=True)
    registry = home() / "registry.db"
    with sqlite3.connect(registry) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('0001')")
    before = registry.read_bytes()
    done = aqn("plan", DEMO)
    assert done.returncode == 0
    assert "history is not read: the registry at" in done.stderr
    assert registry.read_bytes() == before
    registry.write_bytes(b"no database at all" * 100)
    done = aqn("plan", DEMO)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "cannot be read as a registry" in done.stderr
    assert aqn("runs").returncode == 2


def test_the_language_explains_itself() -> None:
    assert "accepts" in aqn("spec", "explain", "aqn.sigma_start").stdout
    assert "aqn.sigma_start" in aqn("spec", "explain").stdout
    assert aqn("spec", "explain", "aqn.sigma_strat").returncode == 2
    assert json.loads(aqn("spec", "schema").stdout)["title"]
    assert "bases/tiny-cpu.yaml" in aqn("spec", "bases").stdout


def test_data_is_prepared_once_and_its_lines_for_a_spec_are_printed(tmp_path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("train", "test"):
        (raw / f"{name}.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    done = aqn("data", "prepare", "gsm8k", "raw", cwd=tmp_path)
    assert done.returncode == 0
    assert "    train_rows: 1\n" in done.stdout
    assert (tmp_path / "data" / "gsm8k" / "train.parquet").exists()
    assert aqn("data", "prepare", "gsm8k", "raw", cwd=tmp_path).returncode == 2
    assert aqn("data", "prepare", "gsm8k", "raw", "--again", cwd=tmp_path).returncode == 0
    assert "did you mean 'gsm8k'?" in aqn("data", "prepare", "gsm8", cwd=tmp_path).stderr


def test_declared_rows_are_the_files_before_anything_is_written(tmp_path, write_spec) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("train", "test"):
        (tmp_path / "raw" / f"{name}.jsonl").write_text('{"question": "1+1?", "answer": "#### 2"}\n')
    aqn("data", "prepare", "gsm8k", "raw", cwd=tmp_path)
    spec = write_spec(TINY + "set: {data.train: data/gsm8k/train.parquet}\n")
    done = aqn("submit", spec, cwd=tmp_path)
    assert done.returncode == 2
    assert "says 4000, and data/gsm8k/train.parquet has 1 rows" in done.stderr
    assert not home().exists()


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_bad_spec_is_one_line_with_exit_code_2_and_nothing_is_written(command, write_spec) -> None:
    done = aqn(command, write_spec(TINY.replace("mxfp4", "mxpf4")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "sweep.yaml:4: axes.dtype[1]: 'mxpf4' is not a known dtype" in done.stderr
    assert not home().exists()


PORTED = (
    TINY.replace("[none, standard]", "[none, standrad]")
    + """\
set: {optimiser.lr: 1e−5, algorithm.clip_low: 0.1}
seeds: [010]
trainer:
  actor_rollout_ref.actor.kl_loss_type: low_var_kl
  actor_rollout_ref.actor.clip_ratio_low: 0.3
  trainer.critic_warmup: 10
  reward.num_worker: 1
"""
)


@pytest.mark.parametrize("command", [("plan",), ("plan", "--json"), ("submit",)])
def test_all_that_is_wrong_with_a_spec_is_told_at_once_and_nothing_is_written(command, write_spec) -> None:
    spec = write_spec(PORTED)
    done = aqn(*command, spec)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    places = [
        "5: axes.aqn[1]", "6: set.optimiser.lr", "7: seeds[0]", "9: trainer.actor_rollout_ref.actor.kl_loss_type",
        "10: trainer.actor_rollout_ref.actor.clip_ratio_low", "11: trainer.trainer.critic_warmup",
    ]  # fmt: skip
    assert [line.removeprefix(f"error: {spec}:").split(": ")[:2] for line in lines[: len(places)]] == [
        place.split(": ") for place in places
    ]
    assert lines[-1] == f"error: {len(lines) - 1} problems"
    assert not home().exists()


def test_a_refused_key_of_verl_is_told_with_the_value_that_holds(write_spec) -> None:
    text = PORTED.replace("standrad", "standard").replace("1e−5", "1e-5").replace("010", "10")
    told = aqn("plan", write_spec(text)).stderr
    assert "kl_loss_type: is decided by the workers, which set 'low_var_kl', the same value: leave the line out" in told
    assert "clip_ratio_low: is decided by algorithm.clip_low, which is 0.1 here; say it there" in told
    assert "critic_warmup: is decided by the workers, which keep the default 0\n" in told
    assert "trainer.reward.num_worker: verl has no such key" in told
    assert told.endswith("error: 4 problems\n")


def test_what_the_workers_cannot_do_is_refused_before_anything_is_written(write_spec) -> None:
    done = aqn("submit", write_spec(TINY + "set: {rollout: vllm}\n"))
    assert done.returncode == 2
    assert "rollout: vllm needs vLLM, which is not installed here" in done.stderr
    assert not home().exists()


def test_a_missing_data_file_is_told_with_its_line_before_anything_is_written(write_spec) -> None:
    done = aqn("submit", write_spec(TINY + "set: {data: {train: nowhere.parquet}}\n"))
    assert done.returncode == 2
    assert "sweep.yaml:6: set.data.train: no such file" in done.stderr
    assert not home().exists()


@pytest.mark.parametrize("command", [("runs",), ("status",), ("show", "x"), ("logs", "x")])
def test_looking_before_anything_was_submitted_says_so(command) -> None:
    done = aqn(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no")
    assert not home().exists()


def record_the_demo() -> None:
    """Its four runs, queued."""
    from db.engine import open_registry
    from experiment_specs.load import load_sweep
    from orchestrator.plan import make_plan
    from orchestrator.settings import load_settings
    from orchestrator.submit import record

    record(open_registry(load_settings().registry_url), make_plan(load_sweep(DEMO)))


def test_unknown_names_exit_with_3_and_the_nearest_name() -> None:
    record_the_demo()
    for command in (("show", "tiny-mxpf4"), ("logs", "tiny-mxpf4")):
        done = aqn(*command)
        assert done.returncode == 3
        assert "did you mean 'tiny-mxfp4'?" in done.stderr
    assert aqn("runs", "--sweep", "demmo").returncode == 3
    runs = json.loads(aqn("runs", "--json").stdout)
    assert len(runs) == 4
    assert {
        "run_id", "label", "aliases", "category", "sweeps", "seed", "condition", "condition_id", "status", "verdict",
        "validity", "score", "peak", "bugs", "supersedes", "superseded_by", "epochs", "code_version",
    } <= runs[0].keys()  # fmt: skip
    assert "curve" not in runs[0]
    assert "curve" in json.loads(aqn("runs", "--json", "--curves").stdout)[0]
    assert max(map(len, aqn("runs").stdout.splitlines())) <= 80
    assert "queued" in aqn("status").stdout
    assert json.loads(aqn("show", "tiny-bf16", "--json").stdout)["status"] == "queued"
    assert aqn("logs", "tiny-bf16").returncode == 3


def test_doctor_and_fleet_status_look_and_write_nothing() -> None:
    done = aqn("doctor", "--json")
    assert done.returncode == 0
    assert {c["name"] for c in json.loads(done.stdout) if c["state"] == "missing"} == set()
    assert {"Python", "verl", "torch", "memory", "disk", "registry", "fleet"} <= {
        c["name"] for c in json.loads(done.stdout)
    }
    assert json.loads(aqn("fleet", "status", "--json").stdout) == {"given_address": None, "local_head": None}
    assert not home().exists()


def test_a_shell_completes_commands_labels_sweeps_and_rules() -> None:
    record_the_demo()
    assert completed("aqn sea") == ["search"]
    assert completed("aqn show tiny-m") == ["tiny-mxfp4", "tiny-mxfp4-aqn"]
    assert completed("aqn compare tiny-bf16 tiny-mxfp4-") == ["tiny-mxfp4-aqn"]
    assert completed("aqn runs --sweep d") == ["demo"]
    assert completed("aqn bugs check ste") == ["ste-backward"]
    assert completed("aqn scan tiny/qwen2 --dtype mx") == ["mxfp4"]


def test_completing_without_a_registry_is_silent_and_makes_none() -> None:
    assert completed("aqn show ti") == []
    assert not home().exists()


def completed(line: str) -> list[str]:
    """What a real bash is offered, by the function that `aqn --show-completion` prints, at the end of a line."""
    script = Path(sys.executable).with_name("aqn")
    asked = (
        f'eval "$(_AQN_COMPLETE=source_bash {script})"; COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ));'
        f' _aqn_completion {script}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return sorted(done.stdout.split())


def test_light_commands_import_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['aqn', '--help']\n"
        "from orchestrator.cli import main\n"
        "try:\n    main.run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'verl', 'ray', 'mlflow', 'pandas', 'sqlalchemy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
