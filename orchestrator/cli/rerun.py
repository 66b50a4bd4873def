"""`aqn rerun-tagged`: replace what a bug affects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import FAILED, NOTHING_MATCHED, print_json
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from orchestrator.bugs.rerun import Replacement


def rerun_tagged(  # noqa: PLR0917 - typer reads them as options
    bug: Annotated[
        str, typer.Argument(metavar="BUG", help="The name of an applied bug.", autocompletion=completing.bugs)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be run, make nothing.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this run or claim, by id or label; may be given again.", autocompletion=completing.runs
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed for claims, whose own nobody told.", min=0, max=2**31 - 1)] = 1,
    priority: Annotated[int, typer.Option(help="Runs of a higher one start first.", min=-1000, max=1000)] = 0,
    gpu_hours: Annotated[float | None, typer.Option(help="Spend no more than this.", min=0)] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Queue the runs and leave; `aqn submit` runs them.")] = False,
    as_json: Json = False,
) -> None:
    """Run again, with today's code, what a bug affects: same condition, same seed, linked to the run it replaces.

    Of a bug whose disposition is re-evaluate, the checkpoints are evaluated anew instead. A replacement that comes out
    PROVEN resolves the mark of the old run. Called again, it makes nothing twice.
    """
    from experiment_specs.errors import SpecError
    from orchestrator.bugs.rerun import make, replacements
    from orchestrator.cli.bugs import known_bug
    from orchestrator.cli.common import find_subject, registry

    engine = registry()
    known = known_bug(engine, bug)
    if known.disposition not in ("rerun", "re-evaluate", "unverified"):
        raise SpecError(f"its disposition is {known.disposition}: nothing is to be run again", key="BUG", value=bug)
    found = replacements(engine, known, seed=seed, gpu_hours=gpu_hours)
    if only:
        meant = {name: [o for o in found if name in (o.subject, o.label)] for name in only}
        wanted = {o.subject for named in meant.values() for o in named}
        wanted |= {find_subject(engine, name).id for name, named in meant.items() if not named}
        found = [one for one in found if one.subject in wanted]
    made: dict[str, str] = {}
    if not dry_run and found:
        made = make(engine, known, found, priority)
    if as_json and (dry_run or queue):
        print_json(_as_json(bug, found, made, dry_run=dry_run))
    elif not as_json:
        _print(bug, found, made, dry_run=dry_run)
    if not found:
        raise typer.Exit(NOTHING_MATCHED)
    if dry_run or queue:
        return
    _run(engine, bug, found, made, as_json=as_json)


def _run(engine: Engine, bug: str, found: Sequence[Replacement], made: Mapping[str, str], *, as_json: bool) -> None:
    from db import reads
    from orchestrator.cli.submit import follow
    from orchestrator.settings import load_settings

    by_subject = {one.subject: made.get(one.subject) or one.exists for one in found}
    ids = list(dict.fromkeys(run for run in by_subject.values() if run is not None))
    if ids:
        waits = [run.waits_for for run in reads.runs(engine, ids=ids) if run.waits_for]
        try:
            follow(load_settings(), engine, [*dict.fromkeys(waits), *ids], quiet=as_json)
        except KeyboardInterrupt:
            typer.echo("\nleft; what runs goes on. The same command takes it up.", err=True)
            raise typer.Exit(130) from None
        from orchestrator.cli.submit import project_the_rest

        project_the_rest(load_settings(), engine)
    runs = {run.id: run for run in reads.runs(engine, ids=ids)}
    if as_json:
        print_json(_as_json(bug, found, made, dry_run=False))
    elif runs:
        from orchestrator.cli.render import console, results_table

        screen = console()
        screen.print(results_table(list(runs.values())))
        for one in found:
            new = by_subject[one.subject]
            if new is not None:
                screen.print(f"{one.label} ({one.subject}) → {new}: {_outcome(runs[new].verdict, runs[new].valid)}")
    if any(run is None or not runs[run].valid for run in by_subject.values()):
        raise typer.Exit(FAILED)


def _outcome(verdict: str | None, valid: bool) -> str:
    if valid:
        return "PROVEN; the old run is superseded, its mark resolved"
    return f"{verdict or 'not judged'}; the old run stays affected"


def _as_json(bug: str, found: Sequence[Replacement], made: Mapping[str, str], *, dry_run: bool) -> dict[str, Any]:
    return {
        "bug": bug,
        "dry_run": dry_run,
        "replacements": [
            {
                "run_id": one.subject, "label": one.label, "condition_id": one.new.condition_id if one.new else None,
                "seed": one.new.seed if one.new else None, "gpus": one.new.gpus if one.new else None,
                "gpu_hours": one.gpu_hours, "replacement": made.get(one.subject) or one.exists,
                "created": one.subject in made, "problem": one.problem, "note": one.note,
            }
            for one in found
        ],
    }  # fmt: skip


def _print(bug: str, found: Sequence[Replacement], made: Mapping[str, str], *, dry_run: bool) -> None:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from orchestrator.cli.render import console
    from orchestrator.words import treatments, typed_condition

    screen = console()
    if not found:
        screen.print(f"nothing is affected by {bug}")
        return
    words = {one.subject: treatments(typed_condition(one.new.condition)) for one in found if one.new is not None}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    priced = any(one.gpu_hours is not None for one in found)
    table.add_column("affected", no_wrap=True)
    table.add_column("id", no_wrap=True)
    table.add_column("condition")
    table.add_column("seed", justify="right")
    table.add_column("GPUs", justify="right")
    if priced:
        table.add_column("GPU-h", justify="right")
    table.add_column("replacement", no_wrap=True)
    for one in found:
        state = made.get(one.subject) or one.exists
        what = state or ("not possible" if one.problem else "a new run" if dry_run else "")
        cost = [f"{one.gpu_hours:.3g}" if one.gpu_hours is not None else "?"] if priced else []
        counts = [str(one.new.seed), str(one.new.gpus)] if one.new else ["", ""]
        shown = Text(what, style="yellow" if one.problem and not state else "")
        table.add_row(one.label, one.subject, words.get(one.subject, ""), *counts, *cost, shown)
    screen.print(table)
    groups: dict[str, list[str]] = {}
    for one in found:
        for text in (one.problem if not one.exists else None, one.note if one.wanted or one.problem else None):
            if text:
                groups.setdefault(text, []).append(one.label)
    for text, labels in groups.items():
        who = "all" if len(labels) == len(found) > 1 else ", ".join(labels)
        screen.print(Padding(Text.assemble((f"{who}: ", "bold"), text), (0, 0, 0, 0)))
    new = sum(one.wanted for one in found)
    known = [one.gpu_hours for one in found if one.wanted and one.gpu_hours is not None]
    spends = f", about {sum(known):.3g} GPU-hours" if known and len(known) == new else ""
    if dry_run:
        screen.print(f"{new} of {len(found)} would be run{spends}; nothing is written")
    else:
        screen.print(f"{len(made)} new run{'s' * (len(made) != 1)} of {len(found)}{spends}")
