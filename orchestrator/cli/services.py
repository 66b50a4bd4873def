"""`aqn ui` and `aqn doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.common import FAILED, print_json, registry
from orchestrator.cli.plan import Json


def ui(
    port: Annotated[int, typer.Option(help="Port of MLflow's pages.", min=1, max=65535)] = 5000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as JSON before serving.")] = False,
) -> None:
    """Serve MLflow's pages over the recorded runs, on this machine only, until interrupted."""
    import os
    import sys

    from experiment_specs.errors import AqnError
    from orchestrator.mlflow_projector import catch_up
    from orchestrator.settings import load_settings

    settings = load_settings()
    catch_up(settings, registry())
    if not (settings.home / "mlflow.db").exists():
        raise AqnError(f"there is nothing in {settings.home} to show yet; `aqn submit` a sweep first")
    address = f"http://127.0.0.1:{port}"
    if as_json:
        print_json({"mlflow": address})
    else:
        typer.echo(f"MLflow at {address}   (Ctrl-C ends it)")
    sys.stdout.flush()
    os.execv(  # noqa: S606 - this process becomes the server
        sys.executable,
        [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.mlflow_url,
            "--artifacts-destination", str(settings.mlflow_artifacts), "--host", "127.0.0.1", "--port", str(port),
            "--workers", "1",
        ],
    )  # fmt: skip


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
