"""`aqn init` and `aqn spec`: help with writing a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import print_json
from orchestrator.cli.plan import Json

app = typer.Typer(help="The language of sweeps.", no_args_is_help=True, rich_markup_mode=None)

_NEW = """\
# yaml-language-server: $schema={schema}
# `aqn plan {file}` shows what this means; `aqn spec explain KEY` says what a key accepts.
sweep: {name}
about: What does 4-bit arithmetic cost, and does noise in the rollouts change that?
base: {base}

set:                             # what all runs share, on top of the base
  epochs: 1

axes:                            # the product of these; a name is a preset, a mapping is spelled out
  dtype: [bf16, mxfp4]
  aqn: [none, standard]

labels:                          # the names that tables use
  bf16: {{dtype: bf16, aqn: none}}
  bf16-aqn: {{dtype: bf16, aqn: standard}}
  mxfp4: {{dtype: mxfp4, aqn: none}}
  mxfp4-aqn: {{dtype: mxfp4, aqn: standard}}

seeds: [1, 2, 3]                 # differences are judged by them: one an arm shows nothing
score: {{rule: final, mode: native}}

contrasts:                       # what the sweep wants to know, and how many points are worth finding
  noise-helps: {{vary: aqn, from: none, to: standard, within: [dtype], detect: 2}}
  4-bit-costs: {{vary: dtype, from: bf16, to: mxfp4, within: [aqn]}}
"""


def init(
    file: Annotated[Path, typer.Argument(help="The sweep to write, as sweeps/mine.yaml.", show_default=False)],
    base: Annotated[
        str, typer.Option(help="What it starts from: `aqn spec bases`.", autocompletion=completing.bases)
    ] = "bases/tiny-cpu.yaml",
) -> None:
    """Write a new sweep that plans as it is, with its schema beside it for editors."""
    from experiment_specs.errors import SpecError
    from experiment_specs.load import load_sweep
    from experiment_specs.schema import FILE_NAME, sweep_schema
    from orchestrator.expand import expand

    if file.suffix not in (".yaml", ".yml"):
        raise SpecError(f"{file.name!r} does not end in .yaml", key="FILE")
    if file.exists():
        raise SpecError(f"{file} is there already", key="FILE")
    file.parent.mkdir(parents=True, exist_ok=True)
    text = _NEW.format(name=_name(file.stem), file=file, base=base, schema=FILE_NAME)
    file.write_text(text, encoding="utf-8")
    try:
        expand(load_sweep(file))
    except SpecError:  # a base that is not there, or no base for this
        file.unlink()
        raise
    schema = file.with_name(FILE_NAME)
    schema.write_text(json.dumps(sweep_schema(), indent=1) + "\n", encoding="utf-8")
    typer.echo(f"wrote {file}\nwrote {schema}, for editors\nnext:  aqn plan {file}")


def _name(stem: str) -> str:
    from experiment_specs.scalars import is_text

    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).strip("-._")
    return kept if is_text(kept) else f"sweep-{kept}"


@app.command()
def explain(
    key: Annotated[
        str,
        typer.Argument(
            help="A key, as aqn.sigma_start, or one of verl's; else all are listed.", autocompletion=completing.keys
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Say what a key means, what it accepts, its default, and what it decides in verl."""
    from dataclasses import asdict

    from experiment_specs.explain import explain as explained
    from experiment_specs.explain import keys
    from orchestrator.cli.render import console

    if not key:
        if as_json:
            print_json(keys())
        else:
            console().print(", ".join(keys()))
        return
    from orchestrator.cli.spec_view import explanation
    from orchestrator.composed import verl_key

    found = verl_key(key) or explained(key)
    if as_json:
        print_json(asdict(found))
    else:
        console().print(explanation(found))


@app.command()
def bases(as_json: Json = False) -> None:
    """List what a sweep can start from."""
    from experiment_specs.load import shipped_bases
    from experiment_specs.presets import PACKAGE
    from experiment_specs.yaml_source import read_yaml

    found = {name: read_yaml(PACKAGE / name).data.get("about", "") for name in shipped_bases()}
    if as_json:
        print_json(found)
        return
    for name, about in found.items():
        typer.echo(f"{name:42} {about}")


@app.command()
def schema() -> None:
    """Print the language as a JSON Schema, for editors."""
    from experiment_specs.schema import sweep_schema

    print_json(sweep_schema())
