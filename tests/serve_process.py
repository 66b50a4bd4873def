"""`aqn serve` with light workers: python -m tests.serve_process RAY_ADDRESS."""

from __future__ import annotations

import os
import sys

import typer

from db.engine import open_registry
from orchestrator.cli.serving import Service
from orchestrator.settings import load_settings
from tests.light_worker import command


class Told(Service):
    """Says which process it is."""

    def _line(self, text: str) -> None:  # type: ignore[override]
        typer.echo(f"service {os.getpid()}: {text}")
        sys.stdout.flush()


def main() -> None:
    from orchestrator.fleet.ray_fleet import RayFleet

    settings = load_settings()
    engine = open_registry(settings.registry_url)
    Told(settings, engine, until_idle=False, as_json=False, connect=lambda _: RayFleet(sys.argv[1], command)).run()


if __name__ == "__main__":
    main()
