"""`aqn cancel`, `retry`, `pause`, `resume`, `drain`: what somebody wants of runs and of whoever schedules them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import NOTHING_MATCHED, find_run, known_sweep, print_json, registry
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from db.records import Run

Runs = Annotated[
    list[str] | None,
    typer.Argument(metavar="RUN...", help="Ids or labels.", show_default=False, autocompletion=completing.runs),
]
OfSweep = Annotated[
    str | None, typer.Option(help="All of this sweep's that it applies to.", autocompletion=completing.sweeps)
]
SweepName = Annotated[str, typer.Argument(metavar="SWEEP", help="Its name.", autocompletion=completing.sweeps)]
Why = Annotated[str, typer.Option(help="Kept with it.")]
Now = Annotated[bool, typer.Option("--now", help="What runs saves a checkpoint and waits too, instead of running on.")]


def cancel(
    runs: Runs = None,
    sweep: OfSweep = None,
    why: Why = "on request",
    at_once: Annotated[bool, typer.Option("--now", help="Without saving a checkpoint first.")] = False,
    as_json: Json = False,
) -> None:
    """Cancel runs that wait or are under way: a trainer saves a checkpoint and ends, a scan or an evaluation just ends.

    A cancelled run is never tried again by itself; `aqn retry` goes on with it.
    """
    from db import reads, wishes, writes
    from db.states import TERMINAL

    engine = registry()
    by_id = _named(engine, runs, sweep)
    open_ = {run.id: run for run in by_id.values() if run.state not in TERMINAL}
    reason = f"cancelled by hand: {why}"
    wishes.ask_to_cancel(engine, dict.fromkeys(open_, reason), at_once=at_once)
    for run in open_.values():
        if run.state == "queued":
            writes.cancel_queued(engine, run.id, reason)
    scheduled = _scheduled(engine)
    now = reads.runs(engine, ids=list(by_id)) if by_id else []
    told: list[dict[str, Any]] = [
        {"run_id": run.id, "label": run.label, "before": by_id[run.id].state, "status": run.state} for run in now
    ]
    if as_json:
        print_json(told)
    else:
        for run in now:
            outcome = _outcome(
                by_id[run.id].state, run.state, scheduled=scheduled, at_once=at_once or run.kind != "train"
            )
            typer.echo(f"{run.id}  {run.label}: {outcome}")
    if not open_:
        raise typer.Exit(NOTHING_MATCHED)


def _named(engine: Engine, runs: list[str] | None, sweep: str | None) -> dict[str, Run]:
    from db import reads
    from experiment_specs.errors import AqnError

    if not runs and sweep is None:
        raise AqnError("name a run, or a sweep with --sweep")
    found = [find_run(engine, name) for name in runs or ()]
    if sweep is not None:
        known_sweep(engine, sweep)
        found += reads.runs(engine, sweep=sweep)
    return {run.id: run for run in found}


def _scheduled(engine: Engine) -> bool:
    from orchestrator.scheduler.leadership import leadership
    from orchestrator.settings import load_settings

    with leadership(load_settings(), engine) as free:
        return not free


def _outcome(before: str, now: str, *, scheduled: bool, at_once: bool) -> str:
    from db.states import TERMINAL

    if before in TERMINAL:
        return f"{before} already"
    if now in TERMINAL:
        return now
    how = "is ended" if at_once else "is asked to save a checkpoint and end"
    return how if scheduled else f"{how} as soon as somebody schedules (`aqn serve`, or `aqn submit` of any sweep)"


def retry(runs: Runs = None, sweep: OfSweep = None, as_json: Json = False) -> None:
    """Run again what failed or was cancelled: as a new run of today's code, linked to the old one, which stays as it
    is. It goes on from the old one's last checkpoint where the code is the same."""
    from db import submissions
    from db.states import RETRIABLE
    from experiment_specs.language import CONDITION_SCHEMA
    from workers.launch import code_version

    engine = registry()
    by_id = _named(engine, runs, sweep)
    wanted = {run.id: run for run in by_id.values() if run.state in RETRIABLE}
    made = submissions.retry(engine, list(wanted.values()), code_version().id, CONDITION_SCHEMA)
    told = [
        {"run_id": run.id, "label": run.label, "status": run.state, "retried_by": made.get(run.id)}
        for run in by_id.values()
    ]
    if as_json:
        print_json(told)
    else:
        for run in by_id.values():
            typer.echo(f"{run.id}  {run.label}: {_retried(run, made.get(run.id))}")
        if made and not _scheduled(engine):
            typer.echo("nobody schedules; `aqn serve` does, or `aqn submit` of any sweep")
    if not made:
        raise typer.Exit(NOTHING_MATCHED)


def _retried(run: Run, new: str | None) -> str:
    from db.states import TERMINAL

    if new is not None:
        return f"{run.state}; run {new} tries again"
    if run.state not in TERMINAL:
        return f"{run.state}: it is not over"
    if run.state == "succeeded":
        return f"succeeded, and is {run.verdict}: a run that trained to its end is not tried again"
    return f"{run.state}, and tried again already"


def pause(
    sweep: SweepName,
    why: Why = "on request",
    now: Now = False,
    as_json: Json = False,
) -> None:
    """Start nothing more of a sweep, until `aqn resume`."""
    from db import wishes

    engine = registry()
    known_sweep(engine, sweep)
    wishes.pause(engine, sweep, why, now=now)
    if as_json:
        print_json({"sweep": sweep, "paused": True, "now": now})
    else:
        what = "saves a checkpoint and waits" if now else "runs on"
        typer.echo(f"{sweep} is paused: nothing of it starts, and what runs {what}. `aqn resume {sweep}` goes on")


def resume(sweep: SweepName, as_json: Json = False) -> None:
    """Go on with a paused sweep."""
    from db import wishes

    engine = registry()
    known_sweep(engine, sweep)
    was = wishes.unpause(engine, sweep)
    if as_json:
        print_json({"sweep": sweep, "paused": False, "was_paused": was})
    else:
        typer.echo(f"{sweep} goes on" if was else f"{sweep} was not paused")
    if not was:
        raise typer.Exit(NOTHING_MATCHED)


def drain(
    why: Why = "on request",
    now: Now = False,
    off: Annotated[bool, typer.Option("--off", help="Start runs again.")] = False,
    as_json: Json = False,
) -> None:
    """Start nothing at all, so that the machines can be taken away; `aqn serve` ends when nothing runs any more."""
    from db import wishes

    engine = registry()
    if off:
        was = wishes.undrain(engine)
        if as_json:
            print_json({"drained": False, "was_drained": was})
        else:
            typer.echo("runs start again" if was else "nothing was drained")
        if not was:
            raise typer.Exit(NOTHING_MATCHED)
        return
    wishes.drain(engine, why, now=now)
    if as_json:
        print_json({"drained": True, "now": now})
    else:
        what = "saves a checkpoint and waits" if now else "runs on"
        typer.echo(f"drained: nothing starts, and what runs {what}. `aqn drain --off` ends it")


def serve(
    until_idle: Annotated[bool, typer.Option("--until-idle", help="End when all runs are over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What is done, a line of JSON each.")] = False,
) -> None:
    """Schedule runs, of every sweep that is submitted, until told to end; what runs then runs on.

    A second one waits, and takes over when the first is gone.
    """
    from orchestrator.cli.serving import Service
    from orchestrator.settings import load_settings

    Service(load_settings(), registry(create=True), until_idle=until_idle, as_json=as_json).run()
