"""`aqn import script`: a verl launch script becomes a sweep, with a line for everything that has no place in one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import FAILED, print_json
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from orchestrator.importers.script.ported import PortedScript

Rows = Annotated[int | None, typer.Option(help="Rows of that file, where it is not here to be read.", min=1)]


def script(  # noqa: PLR0917 - typer reads them as options
    file: Annotated[Path, typer.Argument(help="A bash script that starts verl.", show_default=False)],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="What the script is started with: $1 and so on.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep to write; standard output by default.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A variable that the script finds set. Repeatable.")
    ] = None,
    train_rows: Rows = None,
    test_rows: Rows = None,
    command: Annotated[int, typer.Option(help="Which of the commands that start verl, from 1.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Write the sweep that a launch script describes, and say what becomes of every override. Nothing is run.

    Exits with 1 where something is to be filled in or checked by hand.
    """
    from experiment_specs.errors import SpecError
    from orchestrator.importers.script.ported import Given, import_script

    if out is not None and out.suffix not in (".yaml", ".yml"):
        raise SpecError(f"{out.name!r} does not end in .yaml", key="--out")
    if out is not None and out.exists():
        raise SpecError(f"{out} is there already", key="--out")
    rows = {"data.train_rows": train_rows, "data.test_rows": test_rows}
    given = Given(
        variables=_variables(env or []), arguments=tuple(arguments or ()), command=command,
        rows={key: count for key, count in rows.items() if count is not None},
    )  # fmt: skip
    ported = import_script(file, given)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("x", encoding="utf-8") as target:
            target.write(ported.text)
    if as_json:
        print_json(ported.as_json() | {"out": str(out) if out is not None else None})
    else:
        if out is None:
            typer.echo(ported.text, nl=False)
        _report(ported, out)
    if not ported.complete:
        raise typer.Exit(FAILED)


def _variables(env: list[str]) -> dict[str, str]:
    from experiment_specs.errors import SpecError

    found = {"HOME": str(Path.home()), "PWD": str(Path.cwd())}
    for item in env:
        name, given, value = item.partition("=")
        if not given or not name.isidentifier():
            raise SpecError(f"{item!r} is not NAME=VALUE", key="--env")
        found[name] = value
    return found


def _report(ported: PortedScript, out: Path | None) -> None:
    """On stderr: the spec is what standard output is for."""
    import shlex
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from orchestrator.importers.script.port import KINDS

    screen = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 120)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, share in (("key", 5), ("in the script", 3), ("what becomes of it", 5)):
        table.add_column(title, ratio=share, overflow="fold")
    for kind in reversed(KINDS):  # what asks for a hand is last, beside the prompt
        lines = [line for line in ported.lines if line.kind == kind]
        if lines:
            table.add_section()
            table.add_row(Text(f"{len(lines)} {KINDS[kind]}", style="bold"), "", "")
            for line in lines:
                table.add_row(Text(line.key), Text(line.value, style="dim"), Text(line.text))
    screen.print(table)
    for note in ported.notes:
        screen.print(Text(f"note: {note}", style="dim"))
    for field, why in ported.asked.items():
        screen.print(Text.assemble(("to fill in: ", "bold"), f"{field}: {why}"))
    if ported.problem is not None:
        screen.print(Text.assemble(("does not plan yet: ", "bold"), ported.problem))
    path = shlex.quote(str(out)) if out is not None else "SWEEP.yaml"
    state = "plans" if ported.plans else "is to be completed by hand"
    screen.print(Text(f"{ported.summary}; the sweep {state}\nnext:  aqn plan {path}"))
