"""What layer scans say for the conditions of a plan: multipliers, or that the scan is still to be made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from db import reads
from experiment_specs.language import Srdd, scan_of
from experiment_specs.layers import aimed
from experiment_specs.presets import presets
from orchestrator.plan import Plan


@dataclass(frozen=True)
class Aim:
    """The scan that a condition depends on, and what follows from it."""

    scan_id: str
    multipliers: tuple[float, ...] | None
    """By decoder layer; None where the scan is still to be made."""
    problem: str | None = None
    """Why the scan cannot aim this condition."""


def aims_of(plan: Plan, engine: Engine | None) -> dict[str, Aim]:
    """Condition id → its aim, for conditions with srdd. ``engine``: None where there is no registry yet."""
    found = {}
    for planned in plan.conditions:
        scan, srdd = scan_of(planned.condition), planned.condition.srdd
        if scan is None or srdd is None:
            continue
        data = reads.proven_scan(engine, scan.id) if engine is not None else None
        try:
            multipliers = aimed(srdd, data["layers"]["relative_error"]) if data is not None else None
        except ValueError as error:
            found[planned.condition.id] = Aim(scan.id, None, str(error))
        else:
            found[planned.condition.id] = Aim(scan.id, multipliers)
    return found


def preset_multipliers(relative_error: Sequence[float]) -> dict[str, tuple[float, ...] | None]:
    """What every preset of srdd makes of a scan, by decoder layer; None where the model has too few layers for it."""
    found: dict[str, tuple[float, ...] | None] = {}
    for name, meaning in presets()["srdd"].items():
        try:
            found[name] = aimed(Srdd.model_validate(meaning), relative_error)
        except ValueError:
            found[name] = None
    return found
