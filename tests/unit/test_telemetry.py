"""Usage reports of libraries: off in what we start, each library asked itself; a user's own value stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiment_specs.telemetry import SWITCHES, telemetry_variables
from workers.launch import trainer_environment

REPOSITORY = Path(__file__).resolve().parents[2]
ASK = {
    "MLFLOW_DISABLE_TELEMETRY": "import mlflow.telemetry as t; from mlflow.telemetry.utils import is_telemetry_disabled as d;"
    " print(not d() or t.get_telemetry_client() is not None)",
    "RAY_USAGE_STATS_ENABLED": "from ray._common.usage.usage_lib import usage_stats_enabled as u; print(u())",
    "HF_HUB_DISABLE_TELEMETRY": "from huggingface_hub import constants as c; print(not c.HF_HUB_DISABLE_TELEMETRY)",
    "HF_UPDATE_DOWNLOAD_COUNTS": "from datasets import config; print(config.HF_UPDATE_DOWNLOAD_COUNTS)",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "from streamlit import config; from streamlit.web import cli;"
    " cli.main(['config', 'show'], standalone_mode=False); print(); print(config.get_option('browser.gatherUsageStats'))",
    "WANDB_ERROR_REPORTING": "import os; os.environ.pop('CI', None); from wandb import env;"
    " print(env.error_reporting_enabled())",
    "VLLM_NO_USAGE_STATS": "from vllm.usage.usage_lib import is_usage_stats_enabled as u; print(u())",
}
"""Prints whether the library would report, as the library says it."""
ON = {"true": "false", "0": "1", "1": "0", "false": "true"}
NEEDS = {"VLLM_NO_USAGE_STATS": "vllm"}


def users_environment(**own: str) -> dict[str, str]:
    """No variable of a test, of CI, or of a user that turns a report off by itself."""
    hushed = {switch.variable for switch in SWITCHES} | {"CI", "GITHUB_ACTIONS", "DO_NOT_TRACK", "DISABLE_TELEMETRY"}
    kept = {k: v for k, v in os.environ.items() if k not in hushed and k != "PYTEST_CURRENT_TEST"}
    return kept | {"HF_HUB_OFFLINE": "0"} | own


def reports(variable: str, environment: dict[str, str], home: Path) -> bool:
    own = environment | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", ASK[variable]],
        env=own,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {"True": True, "False": False}[done.stdout.split()[-1]]


@pytest.mark.parametrize("variable", [switch.variable for switch in SWITCHES])
def test_each_library_says_itself_that_it_reports_nothing(variable: str, tmp_path: Path) -> None:
    if (needed := NEEDS.get(variable)) and find_spec(needed) is None:
        pytest.skip(f"needs {needed}: `make test-vllm` has it")
    before = users_environment()
    trainer = trainer_environment(tmp_path, "token", before)
    assert not reports(variable, trainer, tmp_path)
    switch = next(switch for switch in SWITCHES if switch.variable == variable)
    users = trainer_environment(tmp_path, "token", before | {variable: ON[switch.off]})
    if variable != "MLFLOW_DISABLE_TELEMETRY":  # its client would start to send
        assert reports(variable, users, tmp_path), "what a user turns on stays on"
    assert users[variable] == ON[switch.off]


def test_a_users_value_stays_and_the_rest_is_off() -> None:
    for switch in SWITCHES:
        found = telemetry_variables({switch.variable: "theirs"})
        assert found.pop(switch.variable) == "theirs"
        assert found == {other.variable: other.off for other in SWITCHES if other is not switch}


def test_the_command_line_turns_them_off_before_anything_heavy_is_imported() -> None:
    program = (
        "import json, os, sys\n"
        "from orchestrator.cli.main import run\n"
        "sys.argv = ['aqn', '--version']\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "heavy = sorted({'mlflow', 'ray', 'streamlit', 'datasets', 'wandb'} & set(sys.modules))\n"
        "print(json.dumps([dict(os.environ), heavy]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=users_environment(RAY_USAGE_STATS_ENABLED="1"), cwd=REPOSITORY,
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    environment, heavy = json.loads(done.stdout.splitlines()[-1])
    assert heavy == []
    expected = {switch.variable: switch.off for switch in SWITCHES} | {"RAY_USAGE_STATS_ENABLED": "1"}
    assert {name: environment.get(name) for name in expected} == expected


def test_the_documentation_has_every_switch() -> None:
    page = (REPOSITORY / "docs" / "dashboard.md").read_text()
    for switch in SWITCHES:
        assert f"| `{switch.variable}` | `{switch.off}` | {switch.library} |" in page
