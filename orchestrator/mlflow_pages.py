"""MLflow's server as `aqn ui` starts it: its own app, which opens a sweep at its runs, and three addresses of ours.

This is a plugin of the kind ``mlflow.app`` (https://mlflow.org/docs/latest/self-hosting/security/custom): ``mlflow
server --app-name aqn`` calls :func:`create_app`, found by the entry point in ``pyproject.toml``. Nothing of MLflow is
patched.

Why it is needed: MLflow 3 has two workflows, GenAI and model training, and shows the pages of one of them. Which one is
decided by ``workflowType`` in the address, else by what the switch in its side bar left in the browser's storage, else
it is GenAI. The kind of an experiment (tag ``mlflow.experimentKind``) is not asked. So the page that starts MLflow in
the browser fills in what the browser has no value for yet (:func:`browser_defaults`): who moves a switch of MLflow's
keeps that choice.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import quote, urlencode

APP_NAME = "aqn"
ADDRESS_VARIABLE, DASHBOARD_VARIABLE = "AQN_MLFLOW_PAGES", "AQN_DASHBOARD_PAGES"
"""By which `aqn ui` tells its servers where this one is, and where the dashboard is, with no slash at the end."""
WORKFLOW = "machine_learning"
RUN_PATH, SWEEP_PATH, DASHBOARD_PATH = "/aqn/run", "/aqn/sweep", "/aqn/dashboard"


def installed() -> bool:
    """Does MLflow find this plugin? Not where this package was installed before it had one."""
    return bool(entry_points(group="mlflow.app", name=APP_NAME))


def run_address(base: str, mlflow_run: str) -> str:
    """Address of a run's page; ``base`` is the server's address, ``mlflow_run`` MLflow's id of the run."""
    return f"{base}{RUN_PATH}/{quote(mlflow_run, safe='')}"


def sweep_address(base: str, sweep: str) -> str:
    """Address of the list of a sweep's runs."""
    return f"{base}{SWEEP_PATH}/{quote(sweep, safe='')}"


def dashboard_path(run: str) -> str:
    """Path on this server that leads to the dashboard's page of a run; ``run`` is our id of it."""
    return f"{DASHBOARD_PATH}/{quote(run, safe='')}"


def page_of_runs(experiment: str) -> str:
    """MLflow's own address of an experiment's runs, on its server."""
    return f"/#/experiments/{experiment}/runs?workflowType={WORKFLOW}"


def page_of_run(experiment: str, mlflow_run: str) -> str:
    """MLflow's own address of a run, on its server."""
    return f"/#/experiments/{experiment}/runs/{mlflow_run}?workflowType={WORKFLOW}"


def browser_defaults(*, telemetry: bool) -> dict[str, Any]:
    """What MLflow's pages keep in the browser, by name. ``telemetry``: does this server pass its pages' reports on?"""
    shown = {"mlflow.workflowType_v1": WORKFLOW, "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True}
    off = {"mlflow.settings.telemetry.enabled_v1": False, "mlflow.telemetry.info.alert.dismissed_v1": True}
    return shown if telemetry else shown | off


def with_defaults(page: str, defaults: dict[str, Any]) -> str:
    """MLflow's first page with a script in front of its own that stores each default where the browser has no value."""
    kept = json.dumps({name: json.dumps(value) for name, value in defaults.items()})
    script = (
        f"try {{ for (const [name, value] of Object.entries({kept}))"
        " if (localStorage.getItem(name) === null) localStorage.setItem(name, value); }"
        " catch (error) { /* no storage in this browser: MLflow does without it too */ }"
    )
    return page.replace("<head>", f"<head><script>{script}</script>", 1)


def create_app(app: Any = None) -> Any:
    """What `mlflow server` runs; ``app`` is MLflow's Flask application."""
    from flask import Response, redirect, request
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.server import app as mlflow_app
    from mlflow.server.fastapi_app import create_fastapi_app
    from mlflow.telemetry.utils import is_telemetry_disabled

    from orchestrator.settings import load_settings

    app = mlflow_app if app is None else app
    client = MlflowClient(tracking_uri=load_settings().mlflow_url)
    defaults = browser_defaults(telemetry=not is_telemetry_disabled())

    def whole() -> None:
        if request.path == "/":  # a browser that has the page of a plain MLflow asks whether it changed: it did not
            for asked in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE"):
                request.environ.pop(asked, None)

    def started(response: Response) -> Response:
        if request.path == "/" and response.mimetype == "text/html" and response.status_code == 200:
            response.direct_passthrough = False  # MLflow sends the file itself
            response.set_data(with_defaults(response.get_data(as_text=True), defaults))
            for name in ("ETag", "Last-Modified"):  # they are those of MLflow's file
                response.headers.pop(name, None)
            response.headers["Cache-Control"] = "no-store"
        return response

    def sweep(name: str) -> Any:
        found = client.get_experiment_by_name(name)
        if found is None:
            why = "it gets one when a run starts that no earlier sweep has"
            return Response(f"MLflow has no experiment {name!r}: {why}\n", 404, mimetype="text/plain")
        return redirect(page_of_runs(found.experiment_id))

    def run(mlflow_run: str) -> Any:
        try:
            found = client.get_run(mlflow_run)
        except MlflowException as error:
            return Response(f"{error.message}\n", 404, mimetype="text/plain")
        return redirect(page_of_run(found.info.experiment_id, mlflow_run))

    def dashboard(of: str) -> Any:
        base = os.environ.get(DASHBOARD_VARIABLE)
        if base is None:
            why = f"`aqn ui` did not start this server; the dashboard has this run at /run?run={of}"
            return Response(f"{why}\n", 404, mimetype="text/plain")
        return redirect(f"{base}/run?{urlencode({'run': of})}")

    app.before_request(whole)
    app.after_request(started)
    app.add_url_rule(f"{SWEEP_PATH}/<path:name>", "aqn_sweep", sweep)
    app.add_url_rule(f"{DASHBOARD_PATH}/<of>", "aqn_dashboard", dashboard)
    app.add_url_rule(f"{RUN_PATH}/<mlflow_run>", "aqn_run", run)
    return create_fastapi_app(app)
