"""`aqn compare`: what the difference between two arms, or each declared contrast of a sweep, can bear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import NOTHING_MATCHED, find_subject, known_sweep, print_json, registry
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from db.records import Claim
    from orchestrator.scores import Arm

Side = Annotated[
    str | None,
    typer.Argument(
        help="A label: all its condition's runs. A run's id: that run alone. Or a claim.",
        autocompletion=completing.runs,
    ),
]


def compare(
    a: Side = None,
    b: Side = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Only runs of this sweep; alone: all contrasts that it declares.", autocompletion=completing.sweeps
        ),
    ] = None,
    equal_within: Annotated[
        float | None, typer.Option(help="Points within which two treatments count as equal: 1.", min=0)
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare B with A: by shared questions as checkpoints, by seeds as treatments."""
    from db.records import Claim
    from experiment_specs.errors import SpecError
    from orchestrator.comparison import as_json as in_json
    from orchestrator.comparison import compare as compare_arms
    from orchestrator.comparison import recorded_answers
    from orchestrator.scores import Arm
    from orchestrator.statistics.treatments import EQUAL_WITHIN

    engine = registry()
    if sweep is not None:
        known_sweep(engine, sweep)
    if a is None or b is None:
        if a is not None or sweep is None:
            raise SpecError("compare takes two runs, or --sweep with declared contrasts", key="A B")
        if equal_within is not None:
            raise SpecError(
                "a sweep's contrasts say themselves what counts as equal (equal_within)", key="--equal-within"
            )
        _contrasts(engine, sweep, as_json=as_json)
        return
    sides = [_side(engine, name, sweep) for name in (a, b)]
    claims = [side for side in sides if isinstance(side, Claim)]
    arms = [side for side in sides if isinstance(side, Arm)]
    if claims and arms:
        raise SpecError("a claim and a run are never compared: nothing of a claim was measured here", key="compare")
    if claims:
        _claims(claims[0], claims[1], as_json=as_json)
        return
    first, second = arms
    found = compare_arms(
        first, second, recorded_answers(engine), EQUAL_WITHIN if equal_within is None else equal_within
    )
    if as_json:
        print_json(in_json(found))
    else:
        from orchestrator.cli.compare_view import print_comparison
        from orchestrator.cli.render import console

        print_comparison(console(), found)
    if not found.pairs:
        raise typer.Exit(NOTHING_MATCHED)


def _side(engine: Engine, name: str, sweep: str | None) -> Arm | Claim:
    """All runs of a label's condition, or the one run that was named, or a claim."""
    from db import reads
    from db.records import Claim
    from experiment_specs.errors import SpecError
    from orchestrator.comparison import evaluations_for, load_arms
    from orchestrator.scores import arms

    if called := reads.conditions_called(engine, name, sweep):
        if len(called) > 1:
            typer.echo(
                f"note: {name} names {len(called)} conditions; the newest is compared (--sweep, or ids)", err=True
            )
        return load_arms(engine, called[:1], sweep)[called[0]]
    if sweep is not None:
        raise SpecError(f"no run of sweep {sweep} has this label", key="compare", value=name)
    side = find_subject(engine, name)
    if isinstance(side, Claim):
        return side
    if side.kind != "train":
        raise SpecError("is no training run", key="compare", value=side.label)
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


def _claims(first: Claim, second: Claim, *, as_json: bool) -> None:
    from orchestrator.claims import compared

    found = compared(first, second)
    if as_json:
        print_json(found)
        return
    from orchestrator.cli.compare_view import print_claims
    from orchestrator.cli.render import console

    print_claims(console(), found)
