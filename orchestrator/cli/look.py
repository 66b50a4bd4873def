"""`aqn status`, `runs`, `show`, `logs`: looking, never changing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import (
    NOTHING_MATCHED,
    find_run,
    find_subject,
    known_among,
    print_json,
    registry,
    registry_rows,
)
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy import Engine

    from db.records import Run

RunName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run's id (or its beginning), or its label.", autocompletion=completing.runs),
]


MOST_OTHERS = 4


def status(as_json: Json = False) -> None:
    """What is running, what waits, and whether the fleet is up."""
    from dataclasses import asdict

    from db import reads, steering
    from orchestrator.fleet.head import current
    from orchestrator.scheduler.leadership import leadership
    from orchestrator.settings import load_settings

    settings = load_settings()
    engine = registry()
    counts = reads.state_counts(engine)
    active = reads.runs(engine, states=("running", "queued"), kinds=("train", "scan", "eval"))
    head = current(settings)
    drained = steering.drained(engine)
    paused = {name: c.paused for name, c in steering.sweep_controls(engine).items() if c.paused}
    with leadership(settings, engine) as free:
        scheduled = not free
    if as_json:
        from orchestrator.runs_json import run_as_json

        print_json(
            {
                "counts": counts,
                "scheduler": "running" if scheduled else "not running",
                "drained": drained,
                "paused": paused,
                "fleet": None if head is None else asdict(head),
                "active": [run_as_json(run, curves=True) for run in active if run.kind != "scan"],
                "scans": [
                    {"run_id": run.id, "label": run.label, "status": run.state} for run in active if run.kind == "scan"
                ],
            }
        )
        return
    from orchestrator.cli.render import console, progress_table

    screen = console()
    screen.print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no runs yet")
    screen.print("scheduler: " + ("running" if scheduled else "not running"))
    if active and not scheduled:
        screen.print("nobody schedules the runs that wait; `aqn serve` does, or `aqn submit` of any sweep")
    if drained:
        screen.print(f"drained ({drained['why']}): nothing starts; `aqn drain --off` ends it")
    for name, said in paused.items():
        screen.print(f"paused: {name} ({said['why']}); `aqn resume {name}` goes on")
    screen.print("fleet: " + (f"Ray head at {head.address}, process {head.pid}" if head else "no local Ray head"))
    if active:
        screen.print(progress_table(active, {}, ""))


def runs(  # noqa: PLR0917 - typer reads them as options
    sweep: Annotated[
        str | None, typer.Option(help="Only the runs of this sweep.", autocompletion=completing.sweeps)
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 100,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="With --json: the eval curves too.")] = False,
    evaluations: Annotated[bool, typer.Option("--evaluations", help="Also what `aqn eval` evaluated anew.")] = False,
    as_json: Json = False,
) -> None:
    """List runs, newest first, and, apart from them, imported claims."""
    from db import listing

    most = None if everything else limit
    with registry_rows() as rows:
        if sweep is not None:
            known_among(listing.sweep_names(rows), sweep)
        found = listing.runs(rows, sweep=sweep, limit=most, kinds=("train", "eval") if evaluations else ("train",))
        left = None if most is None else most - len(found)
        claims = listing.claims(rows, limit=left) if sweep is None and left != 0 else []
        conditions = listing.conditions(rows, [claim.condition_id for claim in claims if claim.condition_id])
    said: list[dict[str, Any]] = []
    if claims:
        from orchestrator.claims import claim_rows  # the language costs a list of runs time

        said = claim_rows(claims, conditions, curves=curves)
    if as_json:
        from orchestrator.runs_json import run_as_json

        print_json([run_as_json(run, curves=curves) for run in found] + said)
        return
    from orchestrator.cli.render import bug_notes, claims_table, console, runs_table

    screen = console()
    if found or not claims:
        screen.print(runs_table(found, screen.width) if found else "no runs yet", soft_wrap=True)
        for note in bug_notes(found):
            screen.print(note)
    if claims:
        screen.print("claims: what people wrote; nothing of it was measured here")
        screen.print(claims_table(claims, said))


def show(run: RunName, as_json: Json = False) -> None:
    """One run: condition, curve, attempts, and the evidence behind its verdict; or a claim, and what was said."""
    from db import reads
    from db.records import Claim
    from orchestrator.cli.overlay_view import show_claim

    engine = registry()
    found = find_subject(engine, run)
    if isinstance(found, Claim):
        show_claim(engine, found, as_json=as_json)
        return
    if found.kind == "scan":
        _show_scan(engine, found, as_json=as_json)
        return
    if as_json:
        print_json(_as_json(engine, found))
        return
    from orchestrator.cli.render import console

    _print_run(console(), engine, found, reads.transitions(engine, found.id))
    others = [other for other in reads.runs(engine, conditions=[found.condition_id]) if other.id != found.id]
    if run == found.label and others:
        named = ", ".join(f"{other.id} (seed {other.seed})" for other in others[:MOST_OTHERS])
        more = f" and {len(others) - MOST_OTHERS} more" if len(others) > MOST_OTHERS else ""
        typer.echo(f"this is the newest run called so; others of its condition: {named}{more}", err=True)


def _show_scan(engine: Engine, run: Run, *, as_json: bool) -> None:
    from db import reads
    from orchestrator.cli.render import console
    from orchestrator.cli.scan import print_scan, scan_as_json
    from orchestrator.settings import load_settings

    facts = reads.evidence(engine, run.attempt.id, kinds=("scan",)) if run.attempt else []
    data = facts[-1].data if facts else None
    if as_json:
        print_json(scan_as_json(run, data))
    else:
        print_scan(console(), run, data, load_settings().reports / f"scan-{run.id}.png")


def _as_json(engine: Engine, run: Run) -> dict[str, Any]:
    from db import reads
    from orchestrator.cli.overlay_view import changes_as_json
    from orchestrator.runs_json import links_as_json, run_as_json

    facts = reads.evidence(engine, run.attempt.id) if run.attempt else []
    return run_as_json(run, curves=True) | {
        "attempts": [
            {
                "number": a.number, "state": a.state, "node": a.node, "trainer_pid": a.trainer_pid,
                "started": a.created_at, "ended": a.ended_at, "exit": a.exit_code, "retry": a.retry,
                "resumed_from_step": a.resumed_step, "micro_batches_halved": a.halvings, "run_dir": a.run_dir,
            }
            for a in run.attempts
        ],
        "evidence": [{"seq": f.seq, "kind": f.kind, "at": f.at, "data": f.data} for f in facts],
        "transitions": [
            {"at": at, "from": before, "to": after, "why": why}
            for at, before, after, why in reads.transitions(engine, run.id)
        ],
        "marks": changes_as_json(engine, run.id),
        "links": links_as_json(run.id, run.links),
    }  # fmt: skip


def _print_run(screen: Console, engine: Engine, run: Run, history: list[tuple[float, str | None, str, str]]) -> None:
    from rich.text import Text

    from db import reads
    from orchestrator.cli.evidence_view import condition_table, evidence_table
    from orchestrator.cli.overlay_view import print_overlay
    from orchestrator.cli.render import attempt_lines, clock, curve_lines, verdict_text
    from orchestrator.counts import counts_of
    from orchestrator.numbers import percent_with_interval

    sweeps = f", sweeps {', '.join(run.sweeps)}" if run.sweeps else ""
    screen.print(Text.assemble((run.label, "bold"), f"  run {run.id}, seed {run.seed}{sweeps}"))
    score = run.score
    line = Text(f"{run.state}  ")
    line.append_text(verdict_text(run))
    if score:
        rule, mode = run.score_rule.get("rule"), run.score_rule.get("mode")
        line.append(f"  {score.k}/{score.n * score.samples} = {percent_with_interval(score)}")
        line.append(f"  at step {score.step} ({rule}, {mode} mode)")
    screen.print(line)
    for reason in run.reasons:
        screen.print(Text(f"  because {reason}", style="magenta"))
    print_overlay(screen, engine, run)
    screen.print(condition_table(run))
    if run.curve:
        screen.print(curve_lines([run]))
    if run.attempt:
        screen.print(Text("\nevidence", style="bold"))
        screen.print(evidence_table(run, reads.evidence(engine, run.attempt.id), counts_of(engine, [run]).get(run.id)))
    screen.print(Text("\nhistory", style="bold"))
    for at, before, after, why in history:
        screen.print(Text(f"  {clock(at)}  {before or '–'} → {after}: {why}"), soft_wrap=True)
    for attempt in run.attempts:
        for text in attempt_lines(attempt):
            screen.print(Text(text), soft_wrap=True)


def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as the run writes.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many lines from the end.", min=1)] = 40,
    as_json: Json = False,
) -> None:
    """The trainer's own log of a run's last attempt."""
    from workers.launch import LOG_NAME

    engine = registry()
    found = find_run(engine, run)
    if found.attempt is None:
        typer.echo(f"{found.label} has not started yet", err=True)
        raise typer.Exit(NOTHING_MATCHED)
    path = Path(found.attempt.run_dir) / LOG_NAME
    if not path.exists():
        typer.echo(f"there is no log at {path}", err=True)
        raise typer.Exit(NOTHING_MATCHED)
    with path.open(encoding="utf-8", errors="replace") as log:
        tail = log.readlines()[-lines:]
        if as_json:
            print_json({"run_id": found.id, "path": str(path), "lines": [line.rstrip("\n") for line in tail]})
            return
        typer.echo("".join(tail), nl=False)
        while follow:
            if chunk := log.read():
                typer.echo(chunk, nl=False)
            elif (now := find_run(engine, found.id)).state not in ("running", "queued"):
                typer.echo(f"-- {now.state}, {now.verdict or 'not judged'} --", err=True)
                return
            else:
                time.sleep(0.5)
