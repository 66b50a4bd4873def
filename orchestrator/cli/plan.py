"""`aqn plan`: what a spec means, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import print_json

Spec = Annotated[Path, typer.Argument(help="A sweep, as experiment_specs/sweeps/demo.yaml.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def plan(spec: Spec, as_json: Json = False) -> None:
    """Expand and check a sweep; writes nothing."""
    from experiment_specs.load import load_sweep
    from orchestrator.plan import make_plan, plan_as_json

    planned = make_plan(load_sweep(spec))
    if as_json:
        print_json(plan_as_json(planned))
        return
    from orchestrator.cli.render import console, plan_tables

    screen = console()
    for part in plan_tables(planned):
        screen.print(part)
