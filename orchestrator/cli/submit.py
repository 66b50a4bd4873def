"""`aqn submit`: record a sweep and run it to the end, showing how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import FAILED, print_json
from orchestrator.cli.plan import Json, Spec

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from db.records import Run
    from orchestrator.settings import Settings


def submit(
    spec: Spec,
    again: Annotated[bool, typer.Option("--again", help="Run everything anew, also what is done.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Record it and leave it to `aqn serve`.")] = False,
    as_json: Json = False,
) -> None:
    """Run a sweep to its end. Interrupted or killed, it goes on where it was when called again."""
    from orchestrator.cli.common import registry
    from orchestrator.prepare import prepare
    from orchestrator.settings import load_settings
    from orchestrator.submit import check, record

    planned = prepare(spec)
    check(planned)
    settings = load_settings()
    engine = registry(create=True)
    submitted = record(engine, planned, again=again)
    if not as_json:
        typer.echo(_summary(planned.sweep.name, len(submitted.created), len(submitted.existing)))
    if detach:
        _left(settings, engine, list(submitted.all), as_json=as_json)
        return
    try:
        follow(settings, engine, [*submitted.needed, *submitted.all], quiet=as_json)
    except KeyboardInterrupt:
        typer.echo(
            "\nleft; what runs goes on, what waits waits.\nThe same command takes both up; `aqn fleet down` ends all.",
            err=True,
        )
        raise typer.Exit(130) from None
    _finish(settings, engine, planned.sweep.name, list(submitted.all), as_json=as_json)


def _left(settings: Settings, engine: Engine, ids: list[str], *, as_json: bool) -> None:
    from db import reads
    from orchestrator.runs_json import run_as_json
    from orchestrator.scheduler.leadership import leadership

    with leadership(settings, engine) as free:
        scheduled = not free
    if as_json:
        print_json([run_as_json(run, curves=True) for run in reads.runs(engine, ids=ids)])
    else:
        who = "an aqn process schedules already" if scheduled else "nobody schedules yet: `aqn serve` does"
        typer.echo(f"recorded, not waited for; {who}. `aqn status` shows how far they are")


def _summary(name: str, created: int, existing: int) -> str:
    if not created:
        return f"sweep {name}: all {existing} runs exist already; --again runs them anew"
    return f"sweep {name}: {created} new run{'s' * (created > 1)}" + (f", {existing} taken over" if existing else "")


@dataclass(frozen=True)
class Watched:
    """What a command waits for: the runs to show, whether all is over, and a remark."""

    runs: list[Run]
    over: bool
    note: str = ""


def follow(settings: Settings, engine: Engine, ids: list[str], *, quiet: bool) -> None:
    """Lead, or watch whoever leads, until all runs are over."""
    from db import reads
    from db.states import TERMINAL

    def watched() -> Watched:
        runs = reads.runs(engine, ids=ids)
        return Watched(runs, all(run.state in TERMINAL for run in runs))

    follow_while(settings, engine, watched, quiet=quiet)


def follow_while(settings: Settings, engine: Engine, watched: Callable[[], Watched], *, quiet: bool) -> None:
    """Lead, or watch whoever leads, until ``watched``, which is asked again and again, says that all is over."""
    import time

    from sqlalchemy.exc import OperationalError

    from orchestrator.cli.progress import Progress
    from orchestrator.scheduler.lead import AGAIN_SECONDS, TICK_SECONDS, lead
    from orchestrator.scheduler.leadership import leadership

    with Progress(quiet=quiet) as progress:

        def over(note: str) -> bool:
            try:
                now = watched()
            except OperationalError as error:
                progress.note(f"the registry cannot be read just now ({str(error.orig).splitlines()[0]})")
                return False
            progress.show(now.runs, note or now.note)
            return now.over

        note = ""
        while not over(note):
            note = ""
            try:
                with leadership(settings, engine) as leads:
                    if leads:
                        lead(settings, engine, leads, over)
                    else:
                        note = "another aqn process schedules; watching"
                        time.sleep(TICK_SECONDS)
            except OperationalError as error:  # a server that is restarted
                note = f"the registry cannot be used just now ({str(error.orig).splitlines()[0]}); trying again"
                time.sleep(AGAIN_SECONDS)


def project_the_rest(settings: Settings, engine: Engine) -> None:
    """What an earlier command, killed at its end, did not tell MLflow any more."""
    from orchestrator.mlflow_projector import catch_up

    try:
        catch_up(settings, engine)
    except Exception as error:  # noqa: BLE001 - the results stand, whatever MLflow says
        typer.echo(f"MLflow is behind ({type(error).__name__}: {error}); the next command tries again", err=True)


def _differences(engine: Engine, runs: list[Run]) -> list[str]:
    from experiment_specs.language import Condition
    from orchestrator.arms import undeclared
    from orchestrator.counts import counts_of

    counts = counts_of(engine, runs)
    ended = [run for run in runs if run.state == "succeeded" and run.id in counts]
    return undeclared([(r.label, Condition.model_validate(r.condition, strict=False), counts[r.id]) for r in ended])


def _finish(settings: Settings, engine: Engine, name: str, ids: list[str], *, as_json: bool) -> None:
    from db import reads
    from orchestrator.runs_json import run_as_json

    project_the_rest(settings, engine)
    runs = reads.runs(engine, ids=ids)
    if as_json:
        print_json([run_as_json(run, curves=True) for run in runs])
    else:
        print_results(settings, engine, name, runs)
    if any(run.state != "succeeded" or not run.valid for run in runs):
        raise typer.Exit(FAILED)


def print_results(settings: Settings, engine: Engine, name: str, runs: list[Run]) -> None:
    """Scores, the sweep's declared contrasts, curves, and where to look further."""
    from rich.text import Text

    from orchestrator.cli.compare_view import print_contrasts
    from orchestrator.cli.render import console, curve_lines, outlook, results_table
    from orchestrator.comparison import declared
    from orchestrator.report.canvas import to_png
    from orchestrator.report.curves import draw_curves

    screen = console()
    screen.print(results_table(runs))
    for text in _differences(engine, runs):
        screen.print(Text(f"note: {text}", style="yellow"))
    contrasts = [c for c in declared(engine, name) if c.comparisons]
    if contrasts:
        print_contrasts(screen, name, contrasts)
    if any(run.curve for run in runs):
        picture = to_png(draw_curves(runs, name), settings.reports / f"{name}-curves.png")
        screen.print(curve_lines(runs))
        screen.print(Text(f"curves with intervals: {picture}"), soft_wrap=True)
    screen.print(outlook(runs))
