"""Findings that people wrote: can the data that they rest on bear them? Pure.

A single run an arm, of unknown seeds, never bears a finding about treatments; what is worth saying is why, and how far
off: whether the figures say what the finding says, whether the two checkpoints differ by more than the questions
explain, whether a bug touches them, whether something else differed too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiment_specs.claims import ClaimedRun, Compared, Finding
from orchestrator.arms import leaves_that_differ
from orchestrator.bugs.facts import claimed_percent, whole_number_of
from orchestrator.numbers import points
from orchestrator.statistics.checkpoints import CheckpointDifference, difference_of_counts

HARMLESS = ("eval.every", "eval.before_training")
"""When a run is evaluated does not change what it learns."""
ROUNDED = 0.5
"""Points by which what a finding says may be off: people round."""


@dataclass(frozen=True)
class Side:
    """A claim behind a finding."""

    label: str
    run: ClaimedRun
    condition: Mapping[str, Any] | None
    questions: int | None
    validity: str
    bugs: tuple[str, ...] = ()

    def percent(self, of: str) -> float | None:
        if of == "score":
            return claimed_percent(self.run)
        peak = self.run.first("peak")
        return float(peak) if isinstance(peak, int | float) else None


@dataclass(frozen=True)
class Weighed:
    """One comparison of a finding. ``apart``: None where k of n does not follow from what is written."""

    name: str
    difference: float | None
    apart: CheckpointDifference | None
    against: tuple[str, ...]
    """What speaks against it, each in a sentence."""


@dataclass(frozen=True)
class Assessment:
    finding: Finding
    verdict: str
    weighed: tuple[Weighed, ...]
    reasons: tuple[str, ...]


def assess(finding: Finding, sides: Mapping[str, Side]) -> Assessment:
    """The worst of what its comparisons show decides. Every verdict says no to the treatment, and why."""
    weighed = tuple(_weigh(finding, one, sides) for one in finding.compares)
    fallen = sorted({bug for one in finding.compares for name in (one.run, one.than) for bug in sides[name].bugs})
    differences = [w.difference for w in weighed if w.difference is not None]
    reasons = [f"{w.name}: {text}" for w in weighed for text in w.against]
    if fallen:
        return Assessment(
            finding, "no: it rests on runs that a bug affects", weighed, (f"bug {', '.join(fallen)}", *reasons)
        )
    if len(differences) < len(weighed):
        return Assessment(finding, "no: a score is missing", weighed, tuple(reasons))
    if not all(_as_said(finding, d) for d in differences):
        return Assessment(finding, "no: its own figures say otherwise", weighed, tuple(reasons))
    if finding.direction == "equal":
        return Assessment(finding, "not shown: what does not differ is not shown to be equal", weighed, tuple(reasons))
    within = [w for w in weighed if w.apart is None or not w.apart.differ]
    if within:
        share = "its difference is" if len(weighed) == 1 else f"{len(within)} of {len(weighed)} differences are"
        return Assessment(finding, f"not shown: {share} within what questions alone explain", weighed, tuple(reasons))
    return Assessment(finding, "of these checkpoints, not of the treatment: one run an arm", weighed, tuple(reasons))


def _weigh(finding: Finding, one: Compared, sides: Mapping[str, Side]) -> Weighed:
    run, than = sides[one.run], sides[one.than]
    mine, theirs = run.percent(one.of), than.percent(one.than_of)
    name = f"{one.run} over {one.than}" if one.run != one.than else f"{one.run}, {one.of} over {one.than_of}"
    if mine is None or theirs is None:
        return Weighed(name, None, None, ("a score is missing",))
    difference, against = mine - theirs, []
    if not _as_said(finding, difference):
        said = f"{finding.points[0]:g} to {finding.points[1]:g} points" if finding.points else finding.direction
        against.append(f"said {said}, and the scores as written give {points(difference)}")
    counts = [
        (whole_number_of(percent, side.questions), side.questions) if side.questions else (None, None)
        for percent, side in ((theirs, than), (mine, run))
    ]
    (k1, n1), (k2, n2) = counts
    apart = difference_of_counts((k1, n1), (k2, n2)) if None not in (k1, n1, k2, n2) else None  # type: ignore[arg-type]
    if run.condition is not None and than.condition is not None and finding.because:
        also = [
            key
            for key in leaves_that_differ(than.condition, run.condition)
            if not _named(key, finding.because) and key not in HARMLESS
        ]
        if also:
            against.append(f"{', '.join(also)} differ{'s' * (len(also) == 1)} too")
    return Weighed(name, difference, apart, tuple(against))


def _named(key: str, because: Sequence[str]) -> bool:
    return any(key == field or key.startswith(f"{field}.") for field in because)


def _as_said(finding: Finding, difference: float) -> bool:
    if finding.direction == "equal":
        return True
    if (difference > 0) != (finding.direction == "higher") or difference == 0:
        return False
    if finding.points is None:
        return True
    least, most = finding.points
    return least - ROUNDED <= abs(difference) <= most + ROUNDED
