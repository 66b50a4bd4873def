"""`aqn plan`: what a spec means, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import print_json

if TYPE_CHECKING:
    from orchestrator.aims import Aim
    from orchestrator.plan import Plan

Spec = Annotated[Path, typer.Argument(help="A sweep, as experiment_specs/sweeps/demo.yaml.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def plan(spec: Spec, as_json: Json = False) -> None:
    """Expand and check a sweep; writes nothing."""
    from experiment_specs.load import load_sweep
    from orchestrator.plan import make_plan, plan_as_json

    planned = make_plan(load_sweep(spec))
    aims = _aims(planned)
    if as_json:
        told = plan_as_json(planned)
        for condition in told["conditions"]:
            aim = aims.get(condition["condition_id"])
            condition["scan"] = aim.scan_id if aim else None
            condition["layer_multipliers"] = list(aim.multipliers) if aim and aim.multipliers else None
        print_json(told)
        return
    from orchestrator.cli.render import aim_lines, console, plan_tables

    screen = console()
    for part in plan_tables(planned):
        screen.print(part)
    for line in aim_lines(planned, aims):
        screen.print(line)


def _aims(planned: Plan) -> dict[str, Aim]:
    """Multipliers from recorded scans; the registry is looked into where there is one and it is needed."""
    if all(c.condition.srdd is None for c in planned.conditions):
        return {}
    from db.engine import NoRegistryError, open_registry
    from orchestrator.aims import aims_of
    from orchestrator.settings import load_settings

    try:
        engine = open_registry(load_settings().registry_url, create=False)
    except NoRegistryError:
        engine = None
    return aims_of(planned, engine)
