"""`aqn search`: look for the treatment that helps, within a budget, and confirm what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import FAILED, print_json
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from experiment_specs.search import Search
    from orchestrator.cli.submit import Watched
    from orchestrator.search.owner import Owner
    from orchestrator.search.state import SearchState
    from orchestrator.settings import Settings


def search(
    spec: Annotated[
        Path, typer.Argument(help="A search, as experiment_specs/searches/sigma.yaml.", show_default=False)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it and show what it would spend.")] = False,
    as_json: Json = False,
) -> None:
    """Search a space of conditions, and confirm the best on other questions with other seeds. Interrupted or killed, it
    goes on where it was when called again."""
    from experiment_specs.search import load_search
    from orchestrator.cli.common import registry
    from orchestrator.prepare import look
    from orchestrator.search.owner import Owner, ownership
    from orchestrator.search.questions import check_apart
    from orchestrator.settings import load_settings

    wanted = load_search(spec)
    warnings = _check(wanted, dry=dry_run)
    check_apart(wanted)
    if dry_run:
        _show_plan(wanted, warnings, as_json=as_json)
        return
    settings = load_settings()
    engine = registry(create=True)
    with ownership(settings, wanted.name):
        owner = Owner(engine, wanted, look)
        owner.begin()
        if not as_json:
            _say_begin(wanted, owner.state(), warnings)
        try:
            _follow(settings, engine, owner, quiet=as_json)
        except KeyboardInterrupt:
            typer.echo("\nleft; what runs goes on. The same command takes the search up again.", err=True)
            raise typer.Exit(130) from None
        _finish(settings, engine, owner.state(), as_json=as_json)


def _check(wanted: Search, *, dry: bool) -> list[str]:
    """The baseline, what stands beside and some corners of the space, checked as a sweep's conditions are. ``dry``:
    what the workers or this machine's files do not allow is a warning."""
    from dataclasses import replace
    from importlib.util import find_spec

    from experiment_specs.search import corners, covering
    from orchestrator.composed import check_with_verl
    from orchestrator.expand import Planned
    from orchestrator.plan import Plan, planned_condition
    from orchestrator.prepare import look
    from orchestrator.submit import check

    settings = wanted.settings
    asked = settings.objective.questions
    found = {"baseline": wanted.baseline(asked), "baseline confirmed": wanted.baseline(settings.confirm.questions)}
    points = covering(corners(wanted))
    found |= {f"corner {place}": wanted.trial(point, asked) for place, point in enumerate(points)}
    found |= wanted.beside()
    planned = (
        planned_condition(wanted.sweep, Planned(label, c, wanted.place_of), look(c.model.path))
        for label, c in found.items()
    )
    plan = Plan(wanted.sweep, tuple(replace(one, seeds=(1,)) for one in planned), (), ())
    if settings.sampler.name == "gp" and find_spec("torch") is None:
        raise wanted.sweep.error("gp needs PyTorch, which is not installed", ("sampler",), "gp")
    if not dry:
        check(plan)
    told = [text for one in plan.conditions for text in (*one.warnings, *one.blockers)]
    return [*check_with_verl(plan), *dict.fromkeys(told)]


def _show_plan(wanted: Search, warnings: list[str], *, as_json: bool) -> None:
    from experiment_specs.search import reserved

    settings = wanted.settings
    if as_json:
        print_json(
            {"search": wanted.name, "settings": settings.model_dump(mode="json"), "reserved": reserved(wanted),
             "warnings": warnings}
        )  # fmt: skip
        return
    from orchestrator.cli.render import console
    from orchestrator.cli.search_view import space_table

    screen = console()
    screen.print(space_table(settings))
    for line in _spending(wanted):
        screen.print(line)
    for warning in warnings:
        screen.print(f"note: {warning}", style="yellow", markup=False)


def _spending(wanted: Search) -> list[str]:
    from experiment_specs.search import reserved

    settings, aside = wanted.settings, reserved(wanted)
    budget, seeds = settings.budget, settings.replicates
    parts = [
        f"{budget.runs} runs" if budget.runs else "",
        f"{budget.gpu_hours:g} GPU-hours" if budget.gpu_hours else "",
    ]
    lines = [f"budget: {' and '.join(filter(None, parts))}, {aside} runs of it for the confirmation"]
    asked = settings.objective.questions
    lines.append(f"trials: {settings.sampler.name}, {seeds.first} to {seeds.up_to} seeds each, on {asked} questions")
    confirm = settings.confirm
    others = "".join(f", {name}" for name in wanted.beside())
    lines.append(
        f"confirmation: the best {confirm.top} beside the baseline{others}, {confirm.fresh_seeds} fresh seeds each, on "
        f"{confirm.questions} questions"
    )
    return lines


def _say_begin(wanted: Search, state: SearchState, warnings: list[str]) -> None:
    from orchestrator.cli.render import console

    screen = console()
    for line in _spending(wanted):
        screen.print(line, markup=False)
    for warning in warnings:
        typer.echo(f"note: {warning}", err=True)
    if state.trials:
        screen.print(f"it goes on: {len(state.trials)} trials, {len(state.runs)} runs so far")
    if state.confirming:
        screen.print("its confirmation has begun: the selection is closed, whatever the budget is now")


def _follow(settings: Settings, engine: Engine, owner: Owner, *, quiet: bool) -> None:
    from orchestrator.cli.submit import Watched, follow_while
    from orchestrator.search.decide import Finish
    from orchestrator.search.storage import publish

    published = ""

    def watched() -> Watched:
        nonlocal published
        state, order = owner.step()
        told = repr([(trial.number, sorted(trial.values)) for trial in state.trials])
        problem = ""
        if told != published:
            published = told
            try:
                publish(state, settings.home)
            except Exception as error:  # noqa: BLE001 - the dashboard's copy; `aqn ui` writes it again
                problem = f"Optuna's storage: {error}"
        active = [run for run in state.runs if run.state in ("queued", "running")]
        return Watched(active[::-1], isinstance(order, Finish), problem or _note(state))

    follow_while(settings, engine, watched, quiet=quiet)


def _note(state: SearchState) -> str:
    from orchestrator.search.space import spelled

    if state.confirming:
        return f"confirming {len(state.of_role('confirmed'))} trials"
    seen = state.surface
    if seen.leader is None:
        return f"{len(state.trials)} trials"
    leader = next(trial for trial in state.trials if trial.number == seen.leader)
    point = ", ".join(f"{key.rpartition('.')[2]} {spelled(value)}" for key, value in leader.point.items())
    value = f"{seen.smoothed[leader.number]:+.1f} ± {seen.smoothed_error(leader.number):.1f}".replace("-", "−")
    return f"{len(state.trials)} trials; ahead: trial {leader.number}, {value} points ({point})"


def _finish(settings: Settings, engine: Engine, state: SearchState, *, as_json: bool) -> None:
    from orchestrator.cli.submit import project_the_rest
    from orchestrator.comparison import recorded_answers
    from orchestrator.search.answer import answer, as_json_object

    project_the_rest(settings, engine)
    found = answer(state, recorded_answers(engine))
    if as_json:
        print_json(as_json_object(state, found))
    else:
        from orchestrator.cli.render import console
        from orchestrator.cli.search_view import print_search

        print_search(console(), state, found, settings)
    if found is None or found.best is None:
        raise typer.Exit(FAILED)
