"""The dashboard as a user sees it: `aqn ui`, its pages in a real browser (Chromium), over real registries."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from db import reads, writes
from db.engine import open_registry
from experiment_specs.bug_rules import rule_from_text
from experiment_specs.load import load_sweep
from orchestrator.bugs import engine as bugs
from orchestrator.plan import make_plan
from orchestrator.settings import load_settings
from orchestrator.submit import record
from tests.registry_tools import finish

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package `chromium`)"),
    pytest.mark.timeout(300),
]
REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PAGES = ("sweeps", "runs", "run", "compare", "bugs", "srdd", "search", "fleet")
SWEEP = """\
sweep: half-done
base: bases/tiny-cpu.yaml
about: does noise help 4-bit weights?
set: {steps_per_epoch: 4, eval: {every: 2}, dtype: mxfp4}
axes: {aqn: [none, standard]}
labels: {"plain <b> ~~x~~ $y$": {aqn: none}, noisy: {aqn: standard}}
seeds: [1, 2, 3]
contrasts: {noise-helps: {vary: aqn, from: none, to: standard}}
"""
PLAIN = "plain <b> ~~x~~ $y$"
BUG = """\
bug: third-seed
version: 1
title: the third seed was another one
found: 2026-01-01
status: confirmed
disposition: rerun
affects: {all: [{field: aqn, is: none}, {score: percent, above: 65}]}
"""


@pytest.fixture(scope="module")
def page():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser.new_page(viewport={"width": 1400, "height": 900})
        browser.close()


@pytest.fixture
def served(tmp_path) -> Iterator[Callable[[], str]]:
    """Starts `aqn ui` on this test's home and gives the dashboard's address; ends it, and nothing of it stays."""
    started: list[subprocess.Popen[str]] = []

    def serve() -> str:
        ports = [_free_port() for _ in range(3)]
        options = [w for name, port in zip(("port", "mlflow-port", "optuna-port"), ports, strict=True)
                   for w in (f"--{name}", str(port))]  # fmt: skip
        command = [sys.executable, "-m", "orchestrator.cli.main", "ui", *options, "--json"]
        started.append(
            subprocess.Popen(command, cwd=REPOSITORY, env=dict(os.environ), stdout=subprocess.PIPE, text=True)
        )
        lines = started[-1].stdout
        assert lines is not None
        text = ""
        while not text.endswith("}\n"):
            text += (line := lines.readline())
            assert line, "it ended before it said where it is"
        while not _listens(ports[0]):
            assert started[-1].poll() is None, "it ended before it listened"
            signal.sigtimedwait([], 0.1)
        return str(json.loads(text)["dashboard"])

    yield serve
    for process in started:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert psutil.wait_procs(children, timeout=30)[1] == []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def synced(realised: float) -> dict[str, object]:
    """What a worker measures after a sync, of a sigma of 0.01."""
    return {
        "step": 0, "serves": 1, "sigma_planned": 0.01, "sigma_expected": 0.01, "weights": {},
        "realised": {"std": realised, "modules": 5 if realised else 0, "largest": 0.03},
        "layers": {"layer": [0, 1], "multiplier": [1.0, 1.0], "std": [realised, realised]},
    }  # fmt: skip


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def half_done(write_spec, tmp_path) -> list[str]:
    """Three runs without noise, one of them marked by a bug; of those with noise one PROVEN, one REFUTED, one running."""
    engine = open_registry(load_settings().registry_url)
    ids = record(engine, make_plan(load_sweep(write_spec(SWEEP)))).all
    runs = {(run.label, run.seed): run.id for run in reads.runs(engine, ids=ids)}
    for (label, seed), run_id in runs.items():
        noise = [("sync", synced(0.0099 if seed == 1 else 0.0))] if label == "noisy" else []
        if (label, seed) == ("noisy", 3):
            assert writes.begin_attempt(engine, run_id, tmp_path / "runs") is not None
        else:
            verdict = "REFUTED" if (label, seed) == ("noisy", 2) else "PROVEN"
            finish(engine, run_id, facts=noise, right=8 + seed, verdict=verdict)
    bugs.apply(engine, rule_from_text(BUG, tmp_path / "third-seed.yaml"), "")
    engine.dispose()
    return [runs[PLAIN, 1], runs[PLAIN, 3], runs["noisy", 1], runs["noisy", 2], runs["noisy", 3]]


def text_of(page, url: str, *words: str) -> str:
    """The page's text once all of ``words`` are there and nothing is being drawn any more."""
    page.goto(url)
    for word in words:
        page.get_by_text(word).first.wait_for(timeout=60_000)
    page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]').wait_for(timeout=60_000)
    text = str(page.locator('[data-testid="stMainBlockContainer"]').inner_text())
    assert "could not be drawn" not in text
    return text


def struck(page) -> list[str]:
    return [str(text) for text in page.locator("s").all_inner_texts()]


def test_before_anything_was_submitted_every_page_says_so(page, served) -> None:
    base = served()
    for name in PAGES:
        text_of(page, f"{base}/{name}", "nothing was submitted yet")


def test_an_empty_registry_has_pages_that_say_what_to_do(page, served) -> None:
    open_registry(load_settings().registry_url).dispose()
    base = served()
    for name, words in {
        "sweeps": "aqn submit SPEC", "runs": "aqn submit SPEC", "run": "aqn submit SPEC", "compare": "nothing to compare",
        "bugs": "aqn bugs list", "srdd": "aqn scan MODEL", "search": "aqn search SPEC", "fleet": "Nothing has started yet",
    }.items():  # fmt: skip
        text_of(page, f"{base}/{name}", words)


def test_a_half_finished_sweep_on_every_page(page, served, half_done) -> None:
    plain, marked, noisy, refuted, running = half_done
    base = served()
    text = text_of(page, f"{base}/", "half-done")
    assert "5 of 6 done" in text
    assert "1 running" in text
    assert "4 PROVEN, 1 REFUTED" in text
    text = text_of(page, f"{base}/?sweep=half-done", "Declared contrasts", "not assessable")
    assert PLAIN in text, "a label is text, whatever it says"
    page.locator(".js-plotly-plot").nth(1).wait_for(timeout=60_000)
    text = text_of(page, f"{base}/runs?verdict=REFUTED", "1 of 6 runs")
    assert "as the test wants" in text
    assert struck(page) == ["10/16", "62.5 % [38.6, 81.5]"]
    text = text_of(page, f"{base}/runs?bug=third-seed", "1 of 6 runs")
    assert struck(page) == ["11/16", "68.8 % [44.4, 85.8]"]
    assert "affected: third-seed" in text
    text = text_of(page, f"{base}/runs?aqn=none", "3 of 6 runs")
    assert "noisy" not in text
    text = text_of(page, f"{base}/run?run={plain}", "PROVEN: what was measured agrees", "Attempts")
    assert "9/16" in text
    assert f"{PLAIN}, seed 1" in text
    assert struck(page) == []
    text = text_of(page, f"{base}/run?run={refuted}", "REFUTED: its score does not count", "planned and realised")
    assert "as the test wants" in text
    assert struck(page) == ["10/16", "62.5 % [38.6, 81.5]"]
    text_of(page, f"{base}/run?run={marked}", "PROVEN, and its score does not count: affected: third-seed")
    text_of(page, f"{base}/run?run={running}", "It cannot be read here")
    text = text_of(page, f"{base}/run?run=nobody", "There is no run nobody")
    text = text_of(page, f"{base}/compare?a={plain}&b={noisy}", "What differs", "Questions they disagree on")
    assert "tells two checkpoints apart, not the treatments" in text
    text = text_of(page, f"{base}/bugs?bug=third-seed", "the third seed was another one", "not rerun")
    text = text_of(page, f"{base}/fleet", "Running", "Time line")
    assert "GPUs held\n1" in text


def test_a_registry_that_goes_away_is_told_and_its_return_seen(page, served, half_done) -> None:
    base = served()
    text_of(page, f"{base}/runs", "6 of 6 runs")
    home = load_settings().home
    for file in home.glob("registry.db*"):
        file.rename(home / f"away-{file.name}")
    for name in PAGES:
        text_of(page, f"{base}/{name}", "there is no registry at")
    (home / "registry.db").write_text("this is no database, and nobody will take it for one" * 100)
    text_of(page, f"{base}/runs", "cannot be read as a registry")
    for file in home.glob("away-*"):
        file.rename(home / file.name.removeprefix("away-"))
    text_of(page, f"{base}/runs", "6 of 6 runs")


def test_filters_stand_in_the_address(page, served, half_done) -> None:
    base = served()
    text_of(page, f"{base}/runs", "6 of 6 runs")
    page.get_by_label("label contains").fill("noi")
    page.keyboard.press("Enter")
    page.get_by_text("3 of 6 runs").wait_for(timeout=60_000)
    assert "text=noi" in page.url
    page.get_by_label("label contains").fill("plain")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=plain**")
    page.get_by_label("label contains").fill("noisy")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=noisy**")
    page.get_by_text("3 of 6 runs").wait_for(timeout=60_000)
    page.get_by_role("link", name="noisy").first.click()
    page.get_by_text("What was measured").wait_for(timeout=60_000)
    assert "/run?run=" in page.url
    page.go_back()
    page.get_by_text("3 of 6 runs").wait_for(timeout=60_000)


def test_what_the_address_names_is_asked_for_known_or_not(page, served, half_done) -> None:
    base = served()
    text_of(page, f"{base}/runs?sweep=nobodys", "0 of 6 runs")
    text_of(page, f"{base}/runs?dtype.format=nvfp4&verdict=PROVEN", "0 of 6 runs")
    text_of(page, f"{base}/srdd?scan=nobodys", "No scan is PROVEN yet")
    text_of(page, f"{base}/runs?page=²", "6 of 6 runs")
    text_of(page, f"{base}/run?run={half_done[0]}", "in sweep half-done")
    page.get_by_role("link", name="in sweep half-done").click()
    page.get_by_text("Declared contrasts").wait_for(timeout=60_000)
    assert page.get_by_role("dialog").count() == 0
