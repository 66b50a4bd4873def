"""`aqn export`: the registry for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import known_sweep, print_json, registry
from orchestrator.cli.plan import Json


def export(
    out: Annotated[Path, typer.Argument(help="The folder to write to.")],
    format_: Annotated[
        str, typer.Option("--format", help="csv, parquet, json, or tensorboard: a folder a run.")
    ] = "csv",
    sweep: Annotated[
        str | None, typer.Option(help="Only the runs of this sweep.", autocompletion=completing.sweeps)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also runs whose score does not count; the column validity says why.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write runs and eval curves as tables, or as TensorBoard event files. Only runs that count, unless --all."""
    from experiment_specs.errors import SpecError
    from orchestrator.export import FORMATS
    from orchestrator.export import export as write

    if format_ not in FORMATS:
        raise SpecError("is no format", key="--format", value=format_, accepted=FORMATS)
    if out.exists() and not out.is_dir():
        raise SpecError("is a file, and a folder is wanted", key="OUT", value=str(out))
    engine = registry()
    if sweep is not None:
        known_sweep(engine, sweep)
    written = write(engine, out, format_, sweep=sweep, everything=everything)
    if as_json:
        print_json([{"path": str(path), "rows": count} for path, count in written])
        return
    for path, count in written:
        typer.echo(f"{path}: {count} {'runs' if format_ == 'tensorboard' else 'rows'}")
    if not everything:
        typer.echo("runs whose score does not count are left out; --all writes them too")
