"""`aqn ui` and `aqn doctor`."""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import FAILED, print_json, registry
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    import psutil
    from sqlalchemy import Engine

    from orchestrator.settings import Settings

LOOPBACK = "127.0.0.1"


def ui(
    port: Annotated[int, typer.Option(help="Port of the dashboard.", min=1, max=65535)] = 8501,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's pages.", min=1, max=65535)] = 5000,
    optuna_port: Annotated[int, typer.Option(help="Port of Optuna's dashboard.", min=1, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="Where the dashboard listens: who reaches it sees all.")] = LOOPBACK,
    as_json: Annotated[bool, typer.Option("--json", help="Print the addresses as JSON before serving.")] = False,
) -> None:
    """Serve the dashboard over the registry, MLflow's pages over the recorded runs, and Optuna's dashboard over the
    searches, until interrupted; on this machine only. MLflow's and Optuna's pages can change what they show, and listen
    nowhere else; the dashboard only reads."""
    from db.engine import NoRegistryError
    from orchestrator import mlflow_pages
    from orchestrator.mlflow_projector import catch_up
    from orchestrator.settings import load_settings

    settings = load_settings()
    commands = {"dashboard": _dashboard(host, port)}
    ports = {"dashboard": port, "mlflow": mlflow_port, "optuna": optuna_port}
    searches: list[str] = []
    with suppress(NoRegistryError):  # the dashboard says so, and shows what comes
        engine = registry()
        try:
            catch_up(settings, engine)
        except Exception as error:  # noqa: BLE001 - whatever MLflow lacks, there is the rest to see
            typer.echo(f"MLflow is behind ({type(error).__name__}: {error})", err=True)
        searches = _published(settings, engine)
    variables = {mlflow_pages.DASHBOARD_VARIABLE: f"http://{host}:{port}"}
    if (settings.home / "mlflow.db").exists():
        commands["mlflow"] = _mlflow(settings, mlflow_port)
        if not mlflow_pages.installed():
            typer.echo("MLflow opens a sweep under GenAI here: install aqn-lab once more (pip install -e .)", err=True)
        elif host == LOOPBACK:  # from elsewhere MLflow cannot be reached
            variables[mlflow_pages.ADDRESS_VARIABLE] = f"http://{LOOPBACK}:{mlflow_port}"
    if searches:
        commands["optuna"] = _optuna(settings, optuna_port)
    hosts = {"dashboard": host}
    addresses = {name: f"http://{hosts.get(name, LOOPBACK)}:{ports[name]}" for name in commands}
    if as_json:
        print_json(addresses)
    else:
        typer.echo(f"dashboard at {addresses['dashboard']}   (Ctrl-C ends it)")
        if "mlflow" in addresses:
            typer.echo(f"MLflow at {addresses['mlflow']}")
        if searches:
            typer.echo(f"Optuna's dashboard at {addresses['optuna']}: {', '.join(searches)}")
        else:
            typer.echo("nothing was searched yet: Optuna's dashboard is not started")
    sys.stdout.flush()
    _serve(list(commands.values()), settings.home, variables)


def mlflow(
    again: Annotated[
        bool, typer.Option("--again", help="All of it, into a new store; the old one is put aside.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print how many runs there were as JSON.")] = False,
) -> None:
    """Fill MLflow from the registry: what it does not have yet, which a running scheduler does by itself."""
    from db import reads
    from orchestrator.mlflow_projector import catch_up, rebuild
    from orchestrator.settings import load_settings

    settings, engine = load_settings(), registry()
    if again:
        count = rebuild(settings, engine)
    else:
        before = len(reads.needing_projection(engine))
        catch_up(settings, engine)
        count = before - len(reads.needing_projection(engine))
    if as_json:
        print_json({"runs": count, "store": settings.mlflow_url})
    else:
        said = f"{count} run{'s' * (count != 1)} brought up to date" if count else "nothing new"
        typer.echo(f"{said}; MLflow's store is {settings.mlflow_url}")
        if again:
            typer.echo("an `aqn ui` that runs shows the old store until it is started again")


def _dashboard(host: str, port: int) -> list[str]:
    from importlib.util import find_spec

    found = find_spec("dashboards")  # not imported: the page imports itself
    folder = Path(next(iter(found.submodule_search_locations or ()))) if found is not None else Path("dashboards")
    options = {
        "server.address": host, "server.port": port, "server.headless": "true", "server.fileWatcherType": "none",
        "client.toolbarMode": "minimal", "client.showErrorDetails": "none",
        "theme.base": "light", "theme.primaryColor": "#0072B2",
        "logger.level": "warning", "runner.magicEnabled": "false",
    }  # fmt: skip
    return [
        sys.executable, "-P", "-m", "streamlit", "run", str(folder / "app.py"),
        *(word for name, value in options.items() for word in (f"--{name}", str(value))),
    ]  # fmt: skip


def _mlflow(settings: Settings, port: int) -> list[str]:
    from orchestrator import mlflow_pages

    return [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.mlflow_url,
        "--artifacts-destination", str(settings.mlflow_artifacts), "--host", LOOPBACK, "--port", str(port),
        "--workers", "1", *(("--app-name", mlflow_pages.APP_NAME) if mlflow_pages.installed() else ()),
    ]  # fmt: skip


def _optuna(settings: Settings, port: int) -> list[str]:
    from orchestrator.search.storage import storage_url

    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    return [program, storage_url(settings.home), "--host", LOOPBACK, "--port", str(port), "--quiet"]


def _published(settings: Settings, engine: Engine) -> list[str]:
    """Names of the searches; what Optuna's storage says of them is what the registry says from here on."""
    from db import reads

    searches = [name for name in reads.sweep_names(engine) if "search" in (reads.sweep_details(engine, name) or {})]
    if searches:
        from orchestrator.search.state import read_state
        from orchestrator.search.storage import publish

        for name in searches:
            if (state := read_state(engine, name)) is not None:
                publish(state, settings.home)
    return searches


def _serve(commands: list[list[str]], home: Path, variables: dict[str, str]) -> None:
    """With ``variables`` in their environment, until one of them ends, or this process is told to: none outlives it.
    What they print goes to a file of ``home``, where there is one: else the addresses are buried in it."""
    import signal
    import subprocess
    from types import FrameType

    import psutil

    def told(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, told)
    log = home / "ui.log" if home.is_dir() else None
    with open(log, "w", encoding="utf-8") if log is not None else nullcontext() as out:
        running = [
            subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | variables) for command in commands
        ]
        try:
            while all(process.poll() is None for process in running):
                time.sleep(0.2)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None
        finally:
            _end(psutil.Process())
    if log is not None:  # one ended by itself: its port was taken, perhaps
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()
        typer.echo("\n".join([*said[-5:], f"one of the servers ended; {log} has all that they said"]), err=True)
    raise typer.Exit(FAILED)


def _end(own: psutil.Process) -> None:
    """Servers start processes of their own, which would stay."""
    import psutil

    started = own.children(recursive=True)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(started, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def doctor(as_json: Json = False) -> None:
    """What this machine can run, and what is missing."""
    from orchestrator.doctor import examine

    checks = examine()
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        from rich.text import Text

        from orchestrator.cli.render import console

        screen = console()
        for check in checks:
            mark = {"ok": "ok     ", "warning": "warning", "missing": "MISSING"}[check.state]
            screen.print(Text.assemble((f"{mark}  ", "bold"), f"{check.name}: {check.found}"))
            if check.remedy:
                screen.print(Text(f"         {check.remedy}", style="yellow"))
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(FAILED)
