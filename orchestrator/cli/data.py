"""`aqn data`: data sets in the layout that training reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import print_json
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from workers.datasets import Prepared

app = typer.Typer(help="Data sets in the layout that training reads.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """A group with one command stays a group."""


@app.command()
def prepare(
    kind: Annotated[str, typer.Argument(help="gsm8k or dapo-math.", show_default=False)],
    source: Annotated[
        Path | None,
        typer.Argument(help="A folder of parquet or jsonl files as published; else the hub.", show_default=False),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write.", show_default="data/KIND")] = None,
    instruction: Annotated[
        str | None, typer.Option(help="Appended to every question, instead of the data set's own.", show_default=False)
    ] = None,
    hold_out: Annotated[
        int, typer.Option(help="So many training questions into a file of their own, to select treatments by.", min=0)
    ] = 0,
    *,
    again: Annotated[bool, typer.Option("--again", help="Replace files that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Write train.parquet, test.parquet and their fingerprints, each question once."""
    from experiment_specs.errors import SpecError
    from workers.datasets import KINDS
    from workers.datasets import prepare as write

    if kind not in KINDS:
        raise SpecError(f"{kind!r} is no data set that is known", key="KIND", value=kind, accepted=KINDS)
    folder = out or Path("data") / kind
    names = ["train", "test", *(["held-out", "train-rest"] if hold_out else [])]
    there = [path for name in names if (path := folder / f"{name}.parquet").exists()]
    if there and not again:
        raise SpecError(f"{there[0]} is there already; --again replaces it", key="--out")
    written = write(kind, source, folder, instruction=instruction, hold_out=hold_out)
    if as_json:
        print_json({name: vars(p) | {"path": str(p.path)} for name, p in written.items()})
        return
    for p in written.values():
        repeated = f", {p.repeated:,} repeated rows left out" if p.repeated else ""
        differs = f" (published: {p.published:,})" if p.rows != p.published else ""
        typer.echo(f"{p.path}  {p.rows:,} questions{differs}{repeated}  sha256 {p.sha256[:16]}")
    if shared := written["test"].shared:
        typer.echo(f"warning: {shared:,} of the test questions are in train too", err=True)
    typer.echo(f"in a spec:\nset:\n  data:\n{_lines(written, {'train': 'train', 'test': 'test'}, 4)}", nl=False)
    if hold_out:
        told = _lines(written, {"test": "held-out", "train": "train-rest"}, 4)
        typer.echo(f"in a search:\nquestions:\n  selection:\n{told}", nl=False)


def _lines(written: Mapping[str, Prepared], keys: Mapping[str, str], indent: int) -> str:
    """``keys``: of the spec → which file."""
    files = [f"{key}: {written[name].path}" for key, name in keys.items()]
    rows = [f"{key}_rows: {written[name].rows}" for key, name in keys.items()]
    return "".join(f"{' ' * indent}{line}\n" for line in (*files, *rows))
