"""`aqn eval`: a checkpoint's score in a stated numeric mode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import FAILED, print_json
from orchestrator.cli.look import RunName
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from db.records import Run

MODE_HELP = (
    "Words joined by commas: native (as trained, noise lifted), unquantised, mxfp4, nvfp4, noised or noised=0.01,"
    " merged, adapters, exact (no hardware errors)."
)


def evaluate(
    run: RunName,
    mode: Annotated[str, typer.Option(help=MODE_HELP)] = "native",
    step: Annotated[int | None, typer.Option(help="The checkpoint of this step; the last one by default.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Queue it and leave; `aqn submit` runs it.")] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a run's checkpoint anew in a stated numeric mode, with proof that it was that checkpoint.

    A PROVEN native evaluation resolves marks of bugs whose disposition is re-evaluate.
    """
    from db import reads
    from experiment_specs.errors import SpecError
    from orchestrator.cli.common import find_run, registry
    from orchestrator.cli.submit import follow
    from orchestrator.evaluation import request
    from orchestrator.settings import load_settings

    engine = registry()
    source = find_run(engine, run)
    if source.kind != "train":
        raise SpecError("is no training run: it has no checkpoint", key="RUN", value=source.label)
    run_id = request(engine, source, mode, step)
    if not queue:
        try:
            follow(load_settings(), engine, [run_id], quiet=as_json)
        except KeyboardInterrupt:
            typer.echo("\nleft; the evaluation goes on. `aqn submit` takes it up.", err=True)
            raise typer.Exit(130) from None
    done = reads.runs(engine, ids=[run_id])[0]
    if as_json:
        from orchestrator.runs_json import run_as_json

        print_json(run_as_json(done))
    elif queue:
        typer.echo(f"queued as {run_id}")
    else:
        _print(engine, source, done)
    if not queue and not done.valid:
        raise typer.Exit(FAILED)


def _print(engine: Engine, source: Run, done: Run) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from db import reads
    from orchestrator.cli.render import bug_notes, console, verdict_text
    from orchestrator.numbers import percent_with_interval

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("evaluation", "step", "k/n", "score [95 %]", "verdict"):
        table.add_column(column, no_wrap=column != "evaluation")
    step = done.plan["source"]["step"]
    own = next((p for p in source.curve if p.step == step), None)
    rows: list[tuple[str, Any, Run]] = [("in the run itself, native", own, source), (_mode(done), done.score, done)]
    for name, point, run in rows:
        table.add_row(
            name, str(step), f"{point.k}/{point.n * point.samples}" if point else "–",
            percent_with_interval(point) if point else run.state, verdict_text(run),
        )  # fmt: skip
    screen = console()
    screen.print(Text.assemble((source.label, "bold"), f"  run {source.id}, evaluated anew by run {done.id}"))
    screen.print(table)
    for reason in done.reasons:
        screen.print(Text(f"because {reason}", style="magenta"))
    if done.verdict == "PROVEN" and not done.valid:
        screen.print("the training behind this checkpoint does not stand, and so this score does not either")
    for note in bug_notes([reads.runs(engine, ids=[source.id])[0]]):
        screen.print(note)


def _mode(run: Run) -> str:
    return str(run.plan["mode"])
