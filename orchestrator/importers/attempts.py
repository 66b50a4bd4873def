"""What a source tells of the attempts at one run → curves, one per attempt and test set. Pure.

Nothing is dropped in silence: a test set or an attempt that cannot be recorded is a curve without points that says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experiment_specs.errors import SpecError, nearest
from orchestrator.claimed_counts import KEPT_DECIMALS
from orchestrator.importers.curves import (
    MAX_STEP,
    RESAMPLED,
    Ended,
    ImportedCurve,
    Point,
    answered_otherwise,
    called,
    choose_each,
    named,
    percent,
    remarks,
    set_of,
)

READ_ONE = "`--metric TAG` reads one as a share of right answers"


@dataclass(frozen=True)
class Eval:
    """One value of one tag. NaN or infinity: the eval gave no number.

    ``decimals``: of the share, as it was printed; None where it was kept in full.
    """

    value: float
    decimals: int | None = None
    file: str = ""
    line: int | None = None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run, as a source has it."""

    evals: Mapping[str, Mapping[int, Sequence[Eval]]]
    """Tag → step → values in the order in which they were written."""
    tags: Sequence[str]
    """Every tag that was seen, also of what is no eval."""
    last_step: int
    planned_steps: int | None = None
    ended: Ended = "unknown"
    why: str = ""
    notes: tuple[str, ...] = ()


def curves_of(name: str, source: str, attempts: Sequence[Attempt], metrics: Sequence[str] = ()) -> list[ImportedCurve]:
    """A curve of each attempt and test set. ``metrics``: the tags to read; empty: the score of every test set."""
    scores = [choose_each(_counts(attempt)) for attempt in attempts]
    # A score is known by its test set, whether it was asked for or not; any other tag by its own name.
    picked = [_asked(*one, metrics) for one in zip(attempts, scores, strict=True)] if metrics else scores
    several = len({key for found in (*scores, *picked) for key in found}) > 1
    found = []
    for number, (attempt, chosen) in enumerate(zip(attempts, picked, strict=True), 1):
        empty = _empty(called(name, "", number if len(attempts) > 1 else None), source, attempt)
        for key, tag in chosen.items():
            own = called(name, key if several else "", number if len(attempts) > 1 else None)
            found.append(_curve(replace(empty, name=own, metric=tag), attempt, tag, chosen))
        reasons = _not_there(attempt, metrics) if metrics else _without_score(attempt, chosen)
        found += [replace(empty, left_out=why) for why in reasons]
    return found


def _counts(attempt: Attempt) -> dict[str, int]:
    return {tag: len(steps) for tag, steps in attempt.evals.items()}


def _asked(attempt: Attempt, chosen: Mapping[str, str], metrics: Sequence[str]) -> dict[str, str]:
    there = [tag for tag in dict.fromkeys(metrics) if tag in attempt.evals]
    return {set_of(tag) if chosen.get(set_of(tag)) == tag else tag: tag for tag in there}


def _empty(name: str, source: str, attempt: Attempt) -> ImportedCurve:
    return ImportedCurve(
        name=name,
        source=source,
        metric="",
        points=(),
        last_step=attempt.last_step,
        planned_steps=attempt.planned_steps,
        ended=attempt.ended,
        why=attempt.why,
        notes=attempt.notes,
    )


def _curve(empty: ImportedCurve, attempt: Attempt, tag: str, chosen: Mapping[str, str]) -> ImportedCurve:
    notes, points = list(attempt.notes), []
    if odd_steps := [step for step in attempt.evals[tag] if not 0 <= step <= MAX_STEP]:
        return replace(empty, left_out=f"{tag} has a value at step {odd_steps[0]}: no number of training steps")
    for step, written in sorted(attempt.evals[tag].items()):
        last = written[-1]
        if len(written) > 1:
            notes.append(f"step {step} was evaluated {len(written)} times: {last.value:g} was the last")
        if not math.isfinite(last.value):
            notes.append(f"the eval of step {step} gave no number")
            continue
        try:
            value = percent(last.value, tag=tag, file=last.file, line=last.line)
        except SpecError as error:
            line = f", line {last.line}" if last.line is not None else ""
            odd = f"{tag} at step {step}{line}: {error.problem}"
            return replace(empty, left_out=odd)
        points.append(Point(step, value, _decimals(last.decimals)))
    if not points:
        return replace(empty, left_out=f"no eval of {tag} gave a number")
    read = set(chosen.values()) - {tag}
    own = [other for other in attempt.tags if other not in read and set_of(other) in (set_of(tag), "")]
    notes += remarks(tag, own)
    return replace(
        empty,
        points=tuple(points),
        notes=tuple(notes),
        shares=not answered_otherwise(tag, attempt.tags) and RESAMPLED.search(tag) is None,
    )


def _decimals(of_share: int | None) -> int | None:
    """Decimals of a percentage whose share was printed with so many."""
    return None if of_share is None else min(max(of_share - 2, -2), KEPT_DECIMALS)


def _without_score(attempt: Attempt, chosen: Mapping[str, str]) -> list[str]:
    """Why an attempt, or a test set in it, has nothing to record."""
    if not attempt.tags:
        return ["it has no numbers"]
    if not chosen:
        return [f"none of its tags is a score; seen: {named(attempt.tags)}; {READ_ONE}"]
    by_set: dict[str, list[str]] = {}
    for tag in attempt.tags:
        if (test_set := set_of(tag)) and test_set not in chosen:
            by_set.setdefault(test_set, []).append(tag)
    return [
        f"test set {test_set} has no mean over its questions; seen: {named(tags)}; {READ_ONE}"
        for test_set, tags in by_set.items()
    ]


def _not_there(attempt: Attempt, metrics: Sequence[str]) -> list[str]:
    """Of each tag that was asked for and has no values: that it has none, and what there is."""
    found = []
    for tag in (tag for tag in dict.fromkeys(metrics) if tag not in attempt.evals):
        close = nearest(tag, attempt.tags)
        meant = f"; did you mean {close!r}?" if close else ""
        found.append(f"it has no numbers of {tag}; seen: {named(attempt.tags)}{meant}")
    return found


def not_read(name: str, source: str, why: str) -> ImportedCurve:
    """What stands for a file or folder that gave nothing."""
    return replace(_empty(called(name), source, Attempt({}, (), 0)), left_out=why)
