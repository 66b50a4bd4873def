"""Addresses of MLflow's pages, and what its first page leaves in a browser."""

from __future__ import annotations

from importlib.metadata import entry_points

from orchestrator import mlflow_pages
from orchestrator.mlflow_pages import browser_defaults, run_address, sweep_address, with_defaults


def test_addresses_hold_any_name() -> None:
    base = "http://127.0.0.1:5000"
    assert sweep_address(base, "demo") == f"{base}/aqn/sweep/demo"
    assert sweep_address(base, "a/b ?#ü") == f"{base}/aqn/sweep/a%2Fb%20%3F%23%C3%BC"
    assert run_address(base, "c8e1") == f"{base}/aqn/run/c8e1"


def test_what_the_browser_is_given() -> None:
    off = browser_defaults(telemetry=False)
    assert off["mlflow.workflowType_v1"] == "machine_learning"
    assert off["mlflow.settings.telemetry.enabled_v1"] is False
    on = browser_defaults(telemetry=True)
    assert not any("telemetry" in name for name in on), "a user's choice, and MLflow's notice of it, stay"
    page = with_defaults("<html><head><title>MLflow</title></head></html>", off)
    assert page.index("localStorage.setItem") < page.index("<title>")
    assert with_defaults("Unable to display", off) == "Unable to display"


def test_mlflow_finds_the_plugin() -> None:
    """Fails where this package was installed before it had one: `pip install -e .` again."""
    assert mlflow_pages.installed()
    (found,) = {entry.value for entry in entry_points(group="mlflow.app", name=mlflow_pages.APP_NAME)}
    module, function = found.split(":")
    assert module == mlflow_pages.__name__
    assert function == mlflow_pages.create_app.__name__
