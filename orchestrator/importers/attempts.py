"""What a source tells of the attempts at one run → curves, one per attempt and test set. Pure.

Nothing is dropped in silence: a test set or an attempt that cannot be recorded is a curve without points that says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter

from experiment_specs.errors import SpecError, nearest
from orchestrator.claimed_counts import KEPT_DECIMALS
from orchestrator.importers.curves import (
    MAX_STEP,
    MOST_NAMES,
    RESAMPLED,
    Ended,
    ImportedCurve,
    Point,
    answered_otherwise,
    answers_of,
    called,
    choose_each,
    named,
    percent,
    rank,
    remarks,
    same_mean,
    set_of,
)

READ_ONE = "`--metric TAG` reads one as a share of right answers"
LONGEST_TEXT = 60
"""Letters of a cell or value that is quoted in a note."""


@dataclass(frozen=True)
class Eval:
    """One value of one tag. NaN or infinity: the eval gave no number.

    ``decimals``: of the share, as it was printed; None where it was kept in full. ``text``: what stands in the place of
    a number and is none, with a value of NaN.
    """

    value: float
    decimals: int | None = None
    file: str = ""
    line: int | None = None
    text: str = ""


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
            found.append(_curve(replace(empty, name=own, metric=tag), attempt, tag, chosen, asked=bool(metrics)))
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


def _curve(
    empty: ImportedCurve, attempt: Attempt, tag: str, chosen: Mapping[str, str], *, asked: bool
) -> ImportedCurve:  # fmt: skip
    """One curve. A tag that was not asked for by name is followed where the number of answers in it changes."""
    read = _by_step(attempt.evals, tag, followed=not asked)
    if odd_steps := [step for step in read if not 0 <= step <= MAX_STEP]:
        return replace(empty, left_out=f"{tag} has a value at step {odd_steps[0]}: no number of training steps")
    notes, missing, points = list(attempt.notes), [], []
    for step, own in read.items():
        written = attempt.evals[own][step]
        last = written[-1]
        if len(written) > 1:
            notes.append(
                f"step {step} was evaluated {len(written)} times: {last.text or f'{last.value:g}'} was the last"
            )
        if not math.isfinite(last.value):
            missing.append(_no_number(step, last))
            continue
        try:
            value = percent(last.value, tag=own, file=last.file, line=last.line)
        except SpecError as error:
            line = f", line {last.line}" if last.line is not None else ""
            odd = f"{own} at step {step}{line}: {error.problem}"
            return replace(empty, left_out=odd)
        points.append(Point(step, value, _decimals(last.decimals)))
    if not points:
        named_cells = [one for one in missing if "gave no number" not in one][:3]
        return replace(empty, left_out="; ".join([f"no eval of {tag} gave a number", *named_cells]))
    notes += missing + _newer(attempt.evals, read, points[-1].step, followed=not asked) + _changes(read)
    used = list(dict.fromkeys(read.values()))
    metric = read[points[-1].step]
    aside = set(chosen.values()) | set(used)
    own_tags = [other for other in attempt.tags if other not in aside and set_of(other) in (set_of(tag), "")]
    together = [other for other in attempt.tags if _beside(other, read, attempt.evals)]
    notes += remarks(metric, own_tags, together)
    return replace(
        empty,
        metric=metric,
        points=tuple(points),
        notes=tuple(notes),
        shares=len(used) == 1 and not answered_otherwise(metric, together) and RESAMPLED.search(metric) is None,
    )


def _by_step(evals: Mapping[str, Mapping[int, Sequence[Eval]]], tag: str, *, followed: bool) -> dict[int, str]:
    """Step → the tag to read there: ``tag``, else the mean of the same after another number of answers."""
    others = sorted((other for other in evals if other != tag and same_mean(tag, other)), key=answers_of, reverse=True)
    tags = [*(others if followed else ()), tag]
    found = {step: own for own in tags for step in evals[own]}
    return dict(sorted(found.items()))


def _no_number(step: int, written: Eval) -> str:
    if not written.text:
        return f"the eval of step {step} gave no number"
    line = f"line {written.line}: " if written.line is not None else ""
    text = written.text if len(written.text) <= LONGEST_TEXT else written.text[: LONGEST_TEXT - 1] + "…"
    return f"{line}the eval of step {step} is {text!r}, which is no number"


def _newer(
    evals: Mapping[str, Mapping[int, Sequence[Eval]]], read: Mapping[int, str], last: int, *, followed: bool
) -> list[str]:  # fmt: skip
    """That the score is not that of the newest eval, where it is not."""
    notes = []
    newest = max(read)
    if newest > last:
        notes.append(f"the score is that of step {last}: the newest eval, of step {newest}, has no number")
    test_set = set_of(read[last])
    for tag in evals if followed and test_set else ():
        if rank(tag) is not None and set_of(tag) == test_set and max(evals[tag], default=0) > newest:
            notes.append(
                f"the newest eval of the test set, of step {max(evals[tag])}, has only {tag}, which is not read"
            )
    return notes


def _changes(read: Mapping[int, str]) -> list[str]:
    """A note of evals that are means of different numbers of answers."""
    if len(set(read.values())) == 1:
        return []
    parts = [(own, [step for step, _ in group]) for own, group in groupby(read.items(), key=itemgetter(1))]
    told = [
        f"{own.rpartition('/')[2]} at " + (f"steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else f"step {steps[0]}")
        for own, steps in parts
    ]
    more = f" and {len(told) - MOST_NAMES} more changes" if len(told) > MOST_NAMES else ""
    return [f"the number of answers to each question changes: {', '.join(told[:MOST_NAMES])}{more}"]


def _beside(tag: str, read: Mapping[int, str], evals: Mapping[str, Mapping[int, Sequence[Eval]]]) -> bool:
    """Whether a tag may have a value in an eval that another tag is read of."""
    return tag not in evals or any(step in evals[tag] and own != tag for step, own in read.items())


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
