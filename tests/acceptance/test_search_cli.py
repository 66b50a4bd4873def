"""`aqn search` and Optuna's dashboard as a user meets them, without verl."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from db.engine import open_registry
from experiment_specs.search import load_search
from orchestrator.plan import _shipped
from orchestrator.search.decide import Finish
from orchestrator.search.owner import Owner
from orchestrator.settings import load_settings
from tests.acceptance.test_cli import DEMO, REPOSITORY, aqn, home
from tests.search_tools import SEARCH, finish

SIGMA = REPOSITORY / "experiment_specs" / "searches" / "sigma.yaml"
TINY = REPOSITORY / "experiment_specs" / "searches" / "demo.yaml"


@pytest.fixture
def ended(write_spec) -> Path:
    """A search that came to its end, with invented scores."""
    spec = write_spec(SEARCH.format(runs=24, sampler="tpe", more=""), "search.yaml")
    settings = load_settings()
    engine = open_registry(settings.registry_url)
    owner = Owner(engine, load_search(spec), _shipped)
    owner.begin()
    while not isinstance((step := owner.step())[1], Finish):
        finish(engine, settings, [run for run in step[0].runs if run.state == "queued"][-1])
    engine.dispose()
    return spec


def test_a_dry_run_shows_space_and_spending_and_writes_nothing() -> None:
    done = aqn("search", TINY, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "0.003 to 0.3, by its logarithm" in done.stdout
    assert "budget: 26 runs, 12 runs of it for the confirmation" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not home().exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DEMO, "this is a sweep: aqn submit runs it"),
        (SIGMA, "rollout: vllm needs vLLM, which is not installed here"),
        (Path("nowhere.yaml"), "cannot be read"),
    ],
)
def test_what_cannot_be_searched_is_one_line_and_exit_code_2(spec: Path, message: str) -> None:
    done = aqn("search", spec)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not home().exists()


def test_a_dry_run_shows_what_other_machines_could_do() -> None:
    done = aqn("search", SIGMA, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "budget: 60 runs, 21 runs of it for the confirmation" in done.stdout
    assert "note: rollout: vllm needs vLLM, which is not installed here" in done.stdout


def test_a_search_given_to_plan_says_what_it_is() -> None:
    done = aqn("plan", TINY)
    assert done.returncode == 2
    assert "this is a search: aqn search runs it" in done.stderr


def test_an_ended_search_is_shown_again_in_80_columns_with_its_answer_and_pictures(ended: Path) -> None:
    done = aqn("search", ended)
    assert done.returncode == 0, done.stderr
    assert re.search(r"cannot be told apart|is best: every other", done.stdout)
    assert "importance (fANOVA" in done.stdout
    assert "sigma_start" in done.stdout
    shown = [line for line in done.stdout.splitlines() if not line.startswith("picture")]
    assert max(map(len, shown)) <= 80
    for name in ("history", "slice", "map", "importance"):
        assert (home() / "reports" / f"light-search-{name}.png").stat().st_size > 5000
    told = json.loads(aqn("search", ended, "--json").stdout)
    assert told["simplest"] == told["best"][0]
    assert {one["role"] for one in told["confirmed"]} == {"plain", "confirmed", "beside"}


def test_the_report_has_the_search_and_the_same_bytes_twice(ended: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert aqn("report", "--out", tmp_path / name).returncode == 0
    text = (tmp_path / "one" / "report.md").read_text()
    assert "Search: light-search" in text
    assert "figures/search-light-search-map.svg" in text
    assert "on questions that a search selects by" in text
    for file in ("report.md", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def _answer(url: str) -> bytes:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - of our own server
                return bytes(response.read())
        except OSError:
            signal.sigtimedwait([], 0.5)
    pytest.fail(f"{url} does not answer")


@pytest.mark.timeout(300)
def test_the_dashboards_are_served_and_end_with_the_command(ended: Path, free_ports: list[int]) -> None:
    ports = ["--port", str(free_ports[2]), "--mlflow-port", str(free_ports[0]), "--optuna-port", str(free_ports[1])]
    command = [sys.executable, "-m", "orchestrator.cli.main", "ui", *ports, "--json"]
    served = subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
    try:
        studies = json.loads(_answer(f"http://127.0.0.1:{free_ports[1]}/api/studies"))["study_summaries"]
        assert [study["study_name"] for study in studies] == ["light-search"]
        assert b"MLflow" in _answer(f"http://127.0.0.1:{free_ports[0]}/")
        children = psutil.Process(served.pid).children(recursive=True)
        assert b"streamlit" in _answer(f"http://127.0.0.1:{free_ports[2]}/").lower()
        assert len(children) >= 3
        served.send_signal(signal.SIGTERM)
        assert served.wait(timeout=60) == 0
        assert psutil.wait_procs(children, timeout=30)[1] == []
    finally:
        served.kill()


@pytest.fixture
def free_ports() -> list[int]:
    import socket
    from contextlib import ExitStack

    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(3)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
