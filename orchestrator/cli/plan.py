"""`aqn plan`: what a spec means, what it would cost and what it could show, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import NOTHING_MATCHED, print_json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from orchestrator.plan import Plan

Spec = Annotated[Path, typer.Argument(help="A sweep, as experiment_specs/sweeps/demo.yaml.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def plan(
    spec: Spec,
    show_command: Annotated[
        str,
        typer.Option(metavar="LABEL", help="Print the command and configuration of one condition."),
    ] = "",
    on: Annotated[str, typer.Option(help="With --show-command: what the node has, gpu or cpu.")] = "gpu",
    as_json: Json = False,
) -> None:
    """Expand and check a sweep, price it, and say what it could show; writes nothing."""
    from orchestrator.prepare import prepare

    planned = prepare(spec)
    if show_command:
        _show_command(planned, show_command, on, as_json=as_json)
        return
    from dataclasses import asdict

    from db.submissions import recorded
    from orchestrator.aims import aims_of
    from orchestrator.forecast import forecast
    from orchestrator.history import history, pasts
    from orchestrator.plan import plan_as_json
    from orchestrator.submit import submission

    engine = _registry()
    aims = aims_of(planned, engine)
    runs = history(engine) if engine is not None else []
    there = recorded(engine, submission(planned)) if engine is not None else 0
    outlook = forecast(planned, pasts(engine, runs) if engine is not None else [], runs)
    if as_json:
        told = plan_as_json(planned)
        for condition in told["conditions"]:
            aim = aims.get(condition["condition_id"])
            condition["scan"] = aim.scan_id if aim else None
            condition["layer_multipliers"] = list(aim.multipliers) if aim and aim.multipliers else None
        print_json(told | {"forecast": asdict(outlook), "recorded": there})
        return
    from orchestrator.cli.plan_view import plan_view
    from orchestrator.cli.render import console

    screen = console()
    for part in plan_view(planned, outlook, aims, there):
        screen.print(part)


def _registry() -> Engine | None:
    """Past runs price the ones to come; a plan needs none."""
    from db.engine import NoRegistryError, RegistryError, open_registry
    from orchestrator.settings import load_settings

    try:
        return open_registry(load_settings().registry_url, create=False, migrate=False)
    except NoRegistryError:
        return None
    except RegistryError as error:
        typer.echo(f"history is not read: {error}", err=True)
        return None


def _show_command(planned: Plan, label: str, on: str, *, as_json: bool) -> None:
    from experiment_specs.errors import SpecError, nearest
    from orchestrator.composed import show

    if on not in ("gpu", "cpu"):
        raise SpecError(f"{on!r} is not known", key="--on", value=on, accepted=["gpu", "cpu"])
    chosen = next((c for c in planned.conditions if c.label == label), None)
    if chosen is None:
        close = nearest(label, [c.label for c in planned.conditions])
        typer.echo(f"no condition is called {label!r}" + (f"; did you mean {close!r}?" if close else ""), err=True)
        raise typer.Exit(NOTHING_MATCHED)
    shown = show(planned, chosen, cpu=on == "cpu")
    if as_json:
        print_json(vars(shown))
        return
    from orchestrator.cli.plan_view import command_text

    typer.echo(command_text(planned, chosen, shown, on))
