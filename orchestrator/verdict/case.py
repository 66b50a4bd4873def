"""What every check looks at and answers with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any

from experiment_specs.language import Condition

PROVEN, REFUTED, UNPROVEN = "PROVEN", "REFUTED", "UNPROVEN"

Facts = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Measured:
    """One recorded fact: the kind of event and its data."""

    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class PlannedSteps:
    """What the plan promised."""

    total_steps: int
    eval_steps: tuple[int, ...]
    steps_per_epoch: int
    code_version: str | None = None
    """The code that the run was submitted for; None leaves it unchecked (a run by hand)."""
    scan_errors: tuple[float, ...] | None = None
    """Relative error by decoder layer, as the registry has it of the scan that the run depends on."""
    scanned_model: str | None = None
    """Fingerprint of the model that was scanned."""


@dataclass(frozen=True)
class Verdict:
    """The judgement and, for anything but PROVEN, its reasons in words that a user understands."""

    status: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """A check's answer: reasons against, and facts that are missing."""

    against: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    condition: Condition
    plan: PlannedSteps
    facts: Sequence[Measured]

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [fact.data for fact in self.facts if fact.kind == kind]

    def syncs(self) -> Iterator[Mapping[str, Any]]:
        """What the rollout held, in the order of the steps."""
        found = by_step(self.of("sync"), "step")
        return (fact for step in sorted(found) for fact in found[step])


def by_step(facts: Facts, key: str) -> dict[int, list[Mapping[str, Any]]]:
    """Facts of every replica by step."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for fact in facts:
        found.setdefault(fact[key], []).append(fact)
    return found


def complete(facts: Facts) -> bool:
    """Has every replica of the rollout spoken?"""
    return bool(facts) and len({fact["replica"] for fact in facts}) == facts[0]["replicas"]


def different(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Names whose fingerprints differ, or are on one side only."""
    return [name for name in (*one, *(n for n in other if n not in one)) if one.get(name) != other.get(name)]


def off_plan(measured: float, planned: float, n_eff: float, rounding: float, most_errors: float = 5.0) -> bool:
    """Is a relative error another than planned? ``n_eff`` equal elements give it a standard error of
    planned / √(2·n_eff); rounding adds to it in quadrature. Not a number is off."""
    chance = most_errors * planned / sqrt(2 * n_eff) if n_eff > 0 else 0.0
    return not planned - chance <= measured <= hypot(planned, rounding) + chance


def short(items: Sequence[Any], most: int = 4) -> str:
    shown = ", ".join(str(item) for item in items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def some(reasons: list[str], most: int = 3) -> tuple[str, ...]:
    """The same complaint at every step says no more than at the first few."""
    return tuple(reasons if len(reasons) <= most else [*reasons[:most], f"and {len(reasons) - most} more of the kind"])
