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


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_a_bad_spec_is_one_line_with_exit_code_2_and_nothing_is_written(command, write_spec) -> None:
    done = aqn(command, write_spec(TINY.replace("mxfp4", "mxpf4")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "sweep.yaml:4: axes.dtype[1]: 'mxpf4' is not a known dtype" in done.stderr
    assert not home().exists()


def test_what_the_workers_cannot_do_is_refused_before_anything_is_written(write_spec) -> None:
    done = aqn("submit", write_spec(TINY + "set: {rollout: vllm}\n"))
    assert done.returncode == 2
    assert "rollout: vllm is not carried out" in done.stderr
    assert not home().exists()


def test_a_missing_data_file_is_told_with_its_line_before_anything_is_written(write_spec) -> None:
    done = aqn("submit", write_spec(TINY + "set: {data: {train: nowhere.parquet}}\n"))
    assert done.returncode == 2
    assert "sweep.yaml:6: set.data.train: no such file" in done.stderr
    assert not home().exists()


@pytest.mark.parametrize("command", [("runs",), ("status",), ("show", "x"), ("logs", "x"), ("ui",)])
def test_looking_before_anything_was_submitted_says_so(command) -> None:
    done = aqn(*command)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no")
    assert not home().exists()


def test_unknown_names_exit_with_3_and_the_nearest_name() -> None:
    from db.engine import open_registry
    from experiment_specs.load import load_sweep
    from orchestrator.plan import make_plan
    from orchestrator.settings import load_settings
    from orchestrator.submit import record

    record(open_registry(load_settings().registry_url), make_plan(load_sweep(DEMO)))
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
    assert {"Python", "verl", "torch", "memory", "disk", "registry", "fleet"} <= {
        c["name"] for c in json.loads(done.stdout)
    }
    assert json.loads(aqn("fleet", "status", "--json").stdout) == {"given_address": None, "local_head": None}
    assert not home().exists()


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
