"""`aqn compare`: what the difference between two arms, or each declared contrast of a sweep, can bear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import NOTHING_MATCHED, find_subject, known_sweep, print_json, registry
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from db.bug_reads import Claim
    from db.reads import Run
    from orchestrator.scores import Arm

Side = Annotated[
    str | None, typer.Argument(help="A label: all its condition's runs. A run's id: that run alone. Or a claim.")
]


def compare(
    a: Side = None,
    b: Side = None,
    sweep: Annotated[
        str | None, typer.Option(help="Only runs of this sweep; alone: all contrasts that it declares.")
    ] = None,
    equal_within: Annotated[
        float, typer.Option(help="Points within which two treatments count as equal.", min=0)
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Compare B with A: by shared questions as checkpoints, by seeds as treatments."""
    from experiment_specs.errors import SpecError
    from orchestrator.comparison import as_json as in_json
    from orchestrator.comparison import compare as compare_arms
    from orchestrator.comparison import recorded_answers

    engine = registry()
    if sweep is not None:
        known_sweep(engine, sweep)
    if a is None or b is None:
        if a is not None or sweep is None:
            raise SpecError("compare takes two runs, or --sweep with declared contrasts", key="A B")
        _contrasts(engine, sweep, as_json=as_json)
        return
    sides = [find_subject(engine, name) for name in (a, b)]
    arms = [_arm(engine, side, name, sweep) for side, name in zip(sides, (a, b), strict=True)]
    first, second = arms
    if first is None or second is None:
        _claims(engine, sides, as_json=as_json)
        return
    found = compare_arms(first, second, recorded_answers(engine), equal_within)
    if as_json:
        print_json(in_json(found))
    else:
        from orchestrator.cli.compare_view import print_comparison
        from orchestrator.cli.render import console

        print_comparison(console(), found)
    if not found.pairs:
        raise typer.Exit(NOTHING_MATCHED)


def _arm(engine: Engine, side: Run | Claim, name: str, sweep: str | None) -> Arm | None:
    """All runs of a label's condition, or the one run that was named; None for a claim."""
    from db.bug_reads import Claim
    from experiment_specs.errors import SpecError
    from orchestrator.comparison import evaluations_for, load_arms
    from orchestrator.scores import arms

    if isinstance(side, Claim):
        return None
    if side.kind != "train":
        raise SpecError("is no training run", key="compare", value=side.label)
    if name == side.label:
        found = load_arms(engine, [side.condition_id], sweep)
        if side.condition_id not in found:
            raise SpecError(f"no run of sweep {sweep} has this condition", key="compare", value=name)
        return found[side.condition_id]
    return arms([side], evaluations_for(engine, [side]))[side.condition_id]


def _contrasts(engine: Engine, sweep: str, *, as_json: bool) -> None:
    from orchestrator.comparison import as_json as in_json
    from orchestrator.comparison import declared

    contrasts = declared(engine, sweep)
    if as_json:
        print_json(
            [
                {"contrast": contrast.name, "vary": contrast.vary} | in_json(comparison)
                for contrast in contrasts
                for comparison in contrast.comparisons
            ]
        )
    elif contrasts:
        from orchestrator.cli.compare_view import print_contrasts
        from orchestrator.cli.render import console

        print_contrasts(console(), sweep, contrasts)
    if not contrasts:
        typer.echo(f"sweep {sweep} declares no contrasts; `aqn compare A B` compares two arms", err=True)
        raise typer.Exit(NOTHING_MATCHED)


def _claims(engine: Engine, sides: list[Run | Claim], *, as_json: bool) -> None:
    from db.bug_reads import Claim
    from experiment_specs.errors import SpecError
    from orchestrator.claims import compared

    claims = [side for side in sides if isinstance(side, Claim)]
    if len(claims) < len(sides):
        raise SpecError("a claim and a run are never compared: nothing of a claim was measured here", key="compare")
    found = compared(claims[0], claims[1])
    if as_json:
        print_json(found)
        return
    from orchestrator.cli.compare_view import print_claims
    from orchestrator.cli.render import console

    print_claims(console(), found)
