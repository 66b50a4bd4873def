"""MLflow as a user of `aqn ui` sees it, in Chromium with an empty profile: every way to a sweep ends at its runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from db import reads
from db.engine import open_registry
from experiment_specs.load import load_sweep
from orchestrator.plan import make_plan
from orchestrator.settings import load_settings
from orchestrator.submit import record
from tests.acceptance.test_dashboard import CHROMIUM, FLAGS
from tests.acceptance.ui import REPOSITORY, free_ports, wait_for
from tests.registry_tools import finish
from tests.unit.test_telemetry import users_environment

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package `chromium`)"),
    pytest.mark.timeout(600),
]
SWEEP = """\
sweep: half done + more
base: bases/tiny-cpu.yaml
about: does noise help 4-bit weights?
set: {steps_per_epoch: 4, eval: {every: 2}, dtype: mxfp4}
axes: {aqn: [none, standard]}
labels: {plain: {aqn: none}, noisy: {aqn: standard}}
"""
NAME = "half done + more"


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """Of an empty profile; nothing that it shows may come from elsewhere."""
    context = chromium.new_context(viewport={"width": 1500, "height": 900})
    context.set_default_timeout(60_000)
    elsewhere: list[str] = []
    own = re.compile(r"(https?|ws)://(127\.0\.0\.1|localhost):|data:|blob:|about:")
    context.on("request", lambda request: None if own.match(request.url) else elsewhere.append(request.url))
    yield context.new_page()
    context.close()
    assert elsewhere == []


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mlflow-pages")


@pytest.fixture(scope="module")
def runs(home) -> dict[str, str]:
    """Two runs that ended, by label."""
    engine = open_registry(load_settings({"AQN_HOME": str(home)}).registry_url)
    spec = home / "sweep.yaml"
    spec.write_text(SWEEP)
    ids = record(engine, make_plan(load_sweep(spec))).all
    for run_id in ids:
        finish(engine, run_id)
    found = {run.label: run.id for run in reads.runs(engine, ids=ids)}
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def ui(home, runs) -> Iterator[dict[str, str]]:
    """The addresses that `aqn ui` prints."""
    ports = free_ports(3)
    names = ("--port", "--mlflow-port", "--optuna-port")
    options = [word for name, port in zip(names, ports, strict=True) for word in (name, str(port))]
    own = users_environment(AQN_HOME=str(home), AQN_REGISTRY_URL="")
    command = [sys.executable, "-m", "orchestrator.cli.main", "ui", "--json", *options]
    served = subprocess.Popen(command, cwd=REPOSITORY, env=own, stdout=subprocess.PIPE, text=True)
    assert served.stdout is not None
    text = ""
    while not text.endswith("}\n"):
        text += (line := served.stdout.readline())
        assert line, "it ended before it said where it is"
    for port in ports[:2]:
        wait_for(port, served)
    yield json.loads(text)
    children = psutil.Process(served.pid).children(recursive=True)
    served.send_signal(signal.SIGTERM)
    assert served.wait(timeout=60) == 0
    assert psutil.wait_procs(children, timeout=30)[1] == []


def at_the_runs(page: Any) -> None:
    """The list of the sweep's runs is shown, and nothing covers it."""
    for label in ("plain", "noisy"):
        page.get_by_role("link", name=f"{label} seed 1").wait_for()
    assert re.search(r"#/experiments/\d+/runs\?", page.url)
    assert "workflowType=machine_learning" in page.url
    assert page.get_by_role("dialog").count() == 0
    page.get_by_role("link", name="noisy seed 1").click()  # Playwright clicks only what is on top
    page.get_by_role("heading", name="noisy seed 1").wait_for()


def test_the_click_from_mlflows_first_page_ends_at_the_runs(page, ui) -> None:
    page.goto(ui["mlflow"])
    page.get_by_text("Recent Experiments").wait_for()
    assert page.get_by_text("MLflow collects usage data").count() == 0, "it is off, and is not told to be on"
    page.get_by_role("link", name=NAME, exact=True).click()
    at_the_runs(page)


def test_the_click_from_the_list_of_experiments_ends_at_the_runs(page, ui) -> None:
    page.goto(ui["mlflow"])
    page.get_by_role("link", name="Experiments").first.click()
    page.get_by_role("heading", name="Experiments").wait_for()
    page.get_by_text("does noise help 4-bit weights?").first.wait_for()
    page.get_by_role("link", name=NAME, exact=True).click()
    at_the_runs(page)


def test_each_link_of_the_dashboard_ends_at_what_it_names_and_back(page, ui, runs) -> None:
    page.goto(f"{ui['dashboard']}/?sweep=half+done+%2B+more")
    page.get_by_role("link", name="in MLflow").click()
    at_the_runs(page)
    page.goto(f"{ui['dashboard']}/run?run={runs['plain']}")
    page.get_by_role("link", name="in MLflow").click()
    page.get_by_role("heading", name="plain seed 1").wait_for()
    page.goto(page.get_by_role("link", name="this run").evaluate("link => link.href"))  # it may open a tab of its own
    page.get_by_text("PROVEN: what was measured agrees").wait_for()
    assert page.url == f"{ui['dashboard']}/run?run={runs['plain']}"


def test_whoever_moves_mlflows_switch_keeps_their_choice(page, ui) -> None:
    page.goto(ui["mlflow"])
    page.get_by_text("Recent Experiments").wait_for()
    page.get_by_text("GenAI", exact=True).click()
    page.reload()
    page.get_by_text("Recent Experiments").wait_for()
    assert page.evaluate("localStorage.getItem('mlflow.workflowType_v1')") == '"genai"'


def test_a_browser_that_knows_the_page_of_a_plain_mlflow_gets_ours(ui) -> None:
    """A plain server gives the page a tag, and a browser that has it is told that nothing changed."""
    from mlflow.server import app

    with app.test_client() as plain:
        tag = plain.get("/").headers["ETag"]
    asked = urllib.request.Request(ui["mlflow"], headers={"If-None-Match": tag})  # noqa: S310 - our own server
    with urllib.request.urlopen(asked, timeout=60) as response:  # noqa: S310
        assert response.status == 200
        assert b"mlflow.workflowType_v1" in response.read()
