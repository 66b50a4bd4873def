"""`aqn import …` and `aqn audit`: what people wrote before, and what it contradicts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import NOTHING_MATCHED, print_json
from orchestrator.cli.import_script import script
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from db.bug_writes import Imported
    from orchestrator.importers.curves import ImportedCurve

app = typer.Typer(no_args_is_help=True, help="Record what was there before: histories, TensorBoard folders, verl logs.")
app.command()(script)

Questions = Annotated[
    int | None, typer.Option(help="Test questions, where known: percentages are shares of them.", min=1)
]
Name = Annotated[str | None, typer.Option("--history", help="Name to file the claims under; the source's by default.")]
Day = Annotated[str | None, typer.Option("--recorded", help="Day of the runs, as 2026-01-31; the files' by default.")]


@app.command()
def history(
    file: Annotated[Path, typer.Argument(help="A history, or the name of a shipped one.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Record a file of claims: runs, scores, statuses as people wrote them. Again: only what changed."""
    from experiment_specs.claims import load_history
    from experiment_specs.presets import PACKAGE
    from orchestrator.cli.common import registry
    from orchestrator.importers.history import claims_of, import_history

    shipped = {path.stem: path for path in (PACKAGE / "history").glob("*.yaml")}
    path = shipped.get(file.name, file) if file.suffix == "" else file
    claims_of(load_history(path))  # what is wrong with it, before a registry is made
    engine = registry(create=True)
    _tell(import_history(engine, path), as_json=as_json, then="aqn audit; aqn runs; aqn bugs list")


@app.command()
def tensorboard(
    folder: Annotated[Path, typer.Argument(help="A folder with event files, in it or below.", show_default=False)],
    questions: Questions = None,
    name: Name = None,
    recorded: Day = None,
    as_json: Json = False,
) -> None:
    """Record the eval curves of TensorBoard event files as claims, one a folder."""
    from orchestrator.importers.tensorboard import read

    _curves(read(folder), folder, name, questions, recorded, as_json=as_json)


@app.command("verl-log")
def verl_log(  # noqa: PLR0917 - typer reads them as options
    file: Annotated[Path, typer.Argument(help="What verl printed on its console.", show_default=False)],
    questions: Questions = None,
    label: Annotated[str | None, typer.Option(help="What to call the run; the file's name by default.")] = None,
    name: Name = None,
    recorded: Day = None,
    as_json: Json = False,
) -> None:
    """Record the eval curves of a verl console log as claims, one an attempt."""
    from dataclasses import replace

    from orchestrator.importers.verl_log import read

    curves = read(file)
    if label is not None:
        numbered = len(curves) > 1
        curves = [replace(c, name=f"{label} (attempt {n})" if numbered else label) for n, c in enumerate(curves, 1)]
    _curves(curves, file, name, questions, recorded, as_json=as_json)


def _curves(
    curves: Sequence[ImportedCurve], source: Path, name: str | None, questions: int | None, recorded: str | None, *,
    as_json: bool,
) -> None:  # fmt: skip
    from pydantic import TypeAdapter, ValidationError

    from experiment_specs.claims import HISTORY_NAME, Day
    from experiment_specs.errors import SpecError
    from orchestrator.cli.common import registry
    from orchestrator.importers.curve_claims import record_curves

    day = recorded or time.strftime("%Y-%m-%d", time.gmtime(source.stat().st_mtime))
    history_name = source.resolve().name if name is None else name
    if not HISTORY_NAME.fullmatch(history_name) and name is not None:
        raise SpecError("is no name: up to 100 letters, digits and . _ + -", key="--history", value=name)
    history_name = "".join(c if HISTORY_NAME.fullmatch(c) or c in ".+-" else "_" for c in history_name)[:100]
    try:
        TypeAdapter(Day).validate_python(day)
    except ValidationError as error:
        raise SpecError("is no day, as 2026-01-31", key="--recorded", value=day) from error
    engine = registry(create=True)
    imported = record_curves(engine, history_name, curves, day, questions)
    if not as_json:
        for curve in curves:
            last = f"{curve.points[-1].percent:.2f} % at step {curve.points[-1].step}" if curve.points else "no eval"
            steps = f"{curve.last_step} of {curve.planned_steps} steps" if curve.planned_steps else ""
            parts = (last, steps, f"ended {curve.ended}" if curve.ended != "unknown" else "", *curve.notes)
            typer.echo(f"{curve.name}: {', '.join(part for part in parts if part)}")
    _tell(imported, as_json=as_json, then="aqn runs")


def _tell(imported: Imported, *, as_json: bool, then: str) -> None:
    if as_json:
        print_json({name: list(getattr(imported, name)) for name in ("created", "changed", "same", "missing")})
        return
    parts = [
        f"{len(imported.created)} new claims" if imported.created else "",
        f"{len(imported.changed)} changed, now in a new version: {', '.join(imported.changed)}"
        if imported.changed
        else "",
        f"{len(imported.same)} as they were" if imported.same else "",
    ]
    typer.echo("; ".join(part for part in parts if part) or "no claims")
    if imported.missing:
        typer.echo(f"no longer in the file, and kept: {', '.join(imported.missing)}")
    typer.echo(f"look further:  {then}")


def audit(
    history_name: Annotated[str | None, typer.Option("--history", help="Only the claims of this history.")] = None,
    as_json: Json = False,
) -> None:
    """Find what recorded claims contradict: themselves, their names, arithmetic, other places."""
    from db import bug_reads
    from experiment_specs.errors import nearest
    from orchestrator.claims import contradictions
    from orchestrator.cli.common import registry

    engine = registry()
    known = bug_reads.histories(engine)
    if not known or (history_name is not None and history_name not in known):
        close = nearest(history_name or "", known)
        wanted = f"no history is called {history_name!r}" if history_name else "no claims are recorded"
        hint = f"; did you mean {close!r}?" if close else "; `aqn import history FILE` records them" * (not known)
        typer.echo(wanted + hint, err=True)
        raise typer.Exit(NOTHING_MATCHED)
    found = contradictions(engine, history_name)
    if as_json:
        print_json(
            [
                {"check": c.check, "runs": list(c.runs), "fields": list(c.fields), "claimed": c.claimed,
                 "expected": c.expected, "text": c.text, "history": c.history}
                for c in found
            ]
        )  # fmt: skip
        return
    _print_audit(found, {name: len(bug_reads.claims(engine, history=name)) for name in known})


def _print_audit(found: Sequence[Any], counts: dict[str, int]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from orchestrator.audit import CHECKS
    from orchestrator.cli.render import console

    screen = console()
    for name, count in counts.items():
        own = [c for c in found if c.history == name]
        screen.print(Text.assemble((name, "bold"), f": {count} claims, {len(own)} contradictions"))
        for check, rule in CHECKS.items():
            group = [c for c in own if c.check == check]
            if group:
                screen.print(Text.assemble("\n", (check, "bold"), (f"  {rule}", "dim")))
                for contradiction in group:
                    screen.print(Padding(Text(contradiction.text), (0, 0, 0, 2)))
    screen.print(
        Text("\nNothing here says which of two places is right; the runs' own logs might.", style="dim"),
    )
