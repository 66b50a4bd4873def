"""`aqn report`: the living summary, as Markdown and as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import known_sweep, print_json, registry
from orchestrator.cli.plan import Json


def report(
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="Only this sweep; may be given several times.", autocompletion=completing.sweeps),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to: AQN_HOME/reports, of sweeps a folder there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the report: tables, contrasts, known issues, plots. The same registry gives the same bytes."""
    from experiment_specs.references import shipped_references
    from orchestrator.report.gather import gather
    from orchestrator.report.write import document, write
    from orchestrator.settings import load_settings

    engine = registry()
    for name in sweep or ():
        known_sweep(engine, name)
    names = list(dict.fromkeys(sweep)) if sweep else None
    made = document(gather(engine, names), shipped_references(), names)
    own = Path("+".join(names)) if names else Path()  # the whole report stays where it is
    written = write(made, out if out is not None else load_settings().reports / own)
    if as_json:
        print_json(
            {"markdown": str(written.markdown), "html": str(written.html), "sections": [s.title for s in made.sections]}
        )
        return
    typer.echo(f"{len(made.sections)} sections, {written.figures} figures")
    typer.echo(f"  {written.html}")
    typer.echo(f"  {written.markdown}")
