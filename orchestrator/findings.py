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
from orchestrator.bugs.facts import claimed_percent
from orchestrator.claimed_counts import count_of_questions
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

    def percent(self, of: str) -> float | None:
        if of == "score":
            return claimed_percent(self.run)
        peak = self.run.first("peak")
        return float(peak) if isinstance(peak, int | float) else None


@dataclass(frozen=True)
class Weighed:
    """One comparison of a finding. ``apart``: None where it cannot be tested. ``standing``: what it shows by itself."""

    name: str
    difference: float | None
    apart: CheckpointDifference | None
    standing: str
    against: tuple[str, ...]
    """What speaks against it, each in a sentence."""


@dataclass(frozen=True)
class Assessment:
    """``verdict``: a word or two, a colon, and why."""

    finding: Finding
    verdict: str
    weighed: tuple[Weighed, ...]


MARKED, BEYOND, WITHIN = "rests on marked runs", "beyond questions", "within questions"
UNTESTED, SAME_RUN, MISSING = "cannot be tested: no k of n", "one run: no test", "a score is missing"


NO_DIFFERENCE = "not contradicted: no difference is shown, and no equality either"


def assess(finding: Finding, sides: Mapping[str, Side]) -> Assessment:
    """The worst of what its comparisons show decides. No verdict grants the treatment anything."""
    weighed = tuple(_weigh(finding, one, sides) for one in finding.compares)
    return Assessment(finding, _verdict(finding, weighed), weighed)


def _verdict(finding: Finding, weighed: Sequence[Weighed]) -> str:
    standings = [w.standing for w in weighed]
    if MARKED in standings:
        return "no: it rests on runs that a bug rule marks"
    if MISSING in standings:
        return "no: a score is missing"
    otherwise = sum(not _as_said(finding, w.difference or 0.0) for w in weighed)
    if otherwise:
        return "no: its own figures say otherwise" + (f" ({otherwise} of {len(weighed)})" if len(weighed) > 1 else "")
    if finding.direction == "equal":
        apart = BEYOND in standings
        return "no: they differ by more than questions explain" if apart else NO_DIFFERENCE
    within, untested = standings.count(WITHIN), sum(s in (UNTESTED, SAME_RUN) for s in standings)
    if within or untested:
        parts = [f"{within} of {len(weighed)} within what questions explain"] if within else []
        parts += [f"{untested} cannot be tested"] if untested else []
        return f"not established: {', '.join(parts)}"
    return "these checkpoints only: one run an arm, and its seed not told"


def _weigh(finding: Finding, one: Compared, sides: Mapping[str, Side]) -> Weighed:
    run, than = sides[one.run], sides[one.than]
    mine, theirs = run.percent(one.of), than.percent(one.than_of)
    name = f"{one.run} over {one.than}" if one.run != one.than else f"{one.run}: {one.of} over its {one.than_of}"
    if mine is None or theirs is None:
        return Weighed(name, None, None, MISSING, ())
    apart = _apart(run, mine, than, theirs) if one.run != one.than else None
    difference = apart.difference if apart is not None else mine - theirs
    if {run.validity, than.validity} & {"affected", "superseded"}:
        standing = MARKED
    elif apart is None:
        standing = SAME_RUN if one.run == one.than else UNTESTED
    else:
        standing = BEYOND if apart.differ else WITHIN
    return Weighed(name, difference, apart, standing, tuple(_against(finding, difference, run, than)))


def _apart(run: Side, mine: float, than: Side, theirs: float) -> CheckpointDifference | None:
    if not run.questions or not than.questions:
        return None
    k1 = count_of_questions(than.run, theirs, than.questions)
    k2 = count_of_questions(run.run, mine, run.questions)
    return (
        difference_of_counts((k1, than.questions), (k2, run.questions)) if k1 is not None and k2 is not None else None
    )


def _against(finding: Finding, difference: float, run: Side, than: Side) -> list[str]:
    found = []
    if not _as_said(finding, difference):
        said = f"{finding.points[0]:g} to {finding.points[1]:g} points" if finding.points else finding.direction
        found.append(f"said {said}, and the scores give {points(difference)}")
    if run.condition is None or than.condition is None or not finding.because:
        return found
    differs = [key for key in leaves_that_differ(than.condition, run.condition) if key not in HARMLESS]
    causes = [cause for cause in finding.because if any(_under(key, cause) for key in differs)]
    if len(causes) > 1:
        found.append(f"changed at once: {', '.join(causes)}")
    if also := [key for key in differs if not any(_under(key, cause) for cause in finding.because)]:
        found.append(f"{', '.join(also)} differ{'s' * (len(also) == 1)} too")
    in_evals = ["eval" in ((side.condition or {}).get("hw_noise") or {}).get("phases", ()) for side in (run, than)]
    if in_evals[0] != in_evals[1]:
        found.append("one was evaluated under the errors and the other was not")
    return found


def _under(key: str, cause: str) -> bool:
    return key == cause or key.startswith(f"{cause}.")


def _as_said(finding: Finding, difference: float) -> bool:
    if finding.direction == "equal":
        return True
    if (difference > 0) != (finding.direction == "higher") or difference == 0:
        return False
    if finding.points is None:
        return True
    least, most = finding.points
    return least - ROUNDED <= abs(difference) <= most + ROUNDED
