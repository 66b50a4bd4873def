"""`aqn cancel`: what nobody wants any more is ended; what it has measured stays."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli.common import NOTHING_MATCHED, find_run, known_sweep, print_json, registry
from orchestrator.cli.plan import Json

OVER = ("succeeded", "failed", "cancelled")


def cancel(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Ids or labels.", show_default=False)
    ] = None,
    sweep: Annotated[str | None, typer.Option(help="All of this sweep's that are not over.")] = None,
    why: Annotated[str, typer.Option(help="Kept beside the run.")] = "on request",
    as_json: Json = False,
) -> None:
    """Cancel runs that wait or train. A trainer is ended by whoever schedules; a run is never tried again."""
    from db import reads, writes
    from experiment_specs.errors import AqnError
    from orchestrator.scheduler.loop import leadership
    from orchestrator.settings import load_settings

    if not runs and sweep is None:
        raise AqnError("name a run, or a sweep with --sweep")
    engine = registry()
    found = [find_run(engine, name) for name in runs or ()]
    if sweep is not None:
        known_sweep(engine, sweep)
        found += reads.runs(engine, sweep=sweep)
    by_id = {run.id: run for run in found}
    open_ = {run.id: run for run in by_id.values() if run.state not in OVER}
    reason = f"cancelled by hand: {why}"
    writes.ask_to_cancel(engine, dict.fromkeys(open_, reason))
    for run in open_.values():
        if run.state == "queued":
            writes.cancel_queued(engine, run.id, reason)
    with leadership(load_settings()) as free:
        scheduled = not free
    now = reads.runs(engine, ids=list(by_id)) if by_id else []
    told: list[dict[str, Any]] = [
        {"run_id": run.id, "label": run.label, "before": by_id[run.id].state, "status": run.state} for run in now
    ]
    if as_json:
        print_json(told)
    else:
        for run in now:
            typer.echo(f"{run.id}  {run.label}: {_outcome(by_id[run.id].state, run.state, scheduled=scheduled)}")
    if not open_:
        raise typer.Exit(NOTHING_MATCHED)


def _outcome(before: str, now: str, *, scheduled: bool) -> str:
    if before in OVER:
        return f"{before} already"
    if now in OVER:
        return now
    if scheduled:
        return "is being ended"
    return "is ended as soon as somebody schedules (`aqn submit` of any sweep does)"
