"""`aqn fleet`: the Ray cluster behind the runs."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from orchestrator.cli.common import print_json

app = typer.Typer(help="The Ray cluster behind the runs.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(as_json: Json = False) -> None:
    """Start the local Ray head, if it is not running."""
    from orchestrator.fleet.head import up as start
    from orchestrator.settings import load_settings

    head = start(load_settings())
    if as_json:
        print_json(asdict(head))
    else:
        typer.echo(f"Ray head at {head.address}, process {head.pid}, {head.gpus} GPU(s)")


@app.command()
def down(as_json: Json = False) -> None:
    """End the local Ray head and every run on it (the next `aqn submit` tries those runs again)."""
    from orchestrator.fleet.head import down as end
    from orchestrator.settings import load_settings

    head = end(load_settings())
    if as_json:
        print_json(None if head is None else asdict(head))
    else:
        typer.echo("no local Ray head is running" if head is None else f"ended the Ray head, process {head.pid}")


@app.command()
def status(as_json: Json = False) -> None:
    """Where the cluster is, and whether it answers."""
    from orchestrator.fleet.head import ADDRESS_VARIABLE, current
    from orchestrator.settings import load_settings

    head = current(load_settings())
    given = os.environ.get(ADDRESS_VARIABLE)
    if as_json:
        print_json({"given_address": given, "local_head": None if head is None else asdict(head)})
    elif given:
        typer.echo(f"{ADDRESS_VARIABLE} names a cluster: {given}")
    elif head is None:
        typer.echo("no local Ray head is running; `aqn submit` starts one when it needs it")
    else:
        typer.echo(f"Ray head at {head.address}, process {head.pid}, {head.gpus} GPU(s)")
