"""What every importer gives: one curve of accuracy over steps, and what is to be known about it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from experiment_specs.errors import SpecError

Ended = Literal["complete", "early", "unknown"]


@dataclass(frozen=True)
class Point:
    """One eval: ``percent`` of the answers were right after ``step`` training steps."""

    step: int
    percent: float


@dataclass(frozen=True)
class ImportedCurve:
    """One run, or one attempt at it."""

    name: str
    source: str
    """The file or folder it was read from."""
    metric: str
    """The tag that was read; empty where no eval was found."""
    points: tuple[Point, ...]
    last_step: int
    planned_steps: int | None
    ended: Ended
    why: str
    """The line that decided how it ended."""
    notes: tuple[str, ...] = ()


# The last form is that of verl's first months. ``mean_1`` is what torch's first SummaryWriters made of ``mean@1``.
TAG = re.compile(r"val-core/.+/(?P<variable>acc|reward)/mean[@_](?P<samples>\d+)|val/test_score/.+")
MOST_NAMES = 6


def rank(tag: str) -> tuple[bool, int] | None:
    """The less, the better a tag tells accuracy; None for a tag that does not."""
    found = TAG.fullmatch(tag)
    if found is None:
        return None
    return found["variable"] != "acc", int(found["samples"] or 1)


def choose(tags: Iterable[str]) -> str | None:
    """The tag to read; among equals (several test sets) the first."""
    ranked = [(order, tag) for tag in tags if (order := rank(tag)) is not None]
    return min(ranked, key=lambda entry: entry[0])[1] if ranked else None


def percent(value: float, *, tag: str, file: str, line: int | None = None) -> float:
    """100 × the value of an eval. Raises SpecError where it is no share: rewards of −1 to 1 are not accuracy."""
    if not 0 <= value <= 1:
        raise SpecError(f"{value} is not between 0 and 1: no share of right answers", file=file, line=line, key=tag)
    return round(100 * as_written(value), 10)  # 57, not 56.99999999999999


def as_written(value: float) -> float:
    """A number of 32 bits without digits that its writer did not mean: 0.7377, not 0.7376999855041504."""
    if struct.unpack("f", struct.pack("f", value))[0] != value:
        return value
    shorter = (float(f"{value:.{digits}g}") for digits in range(6, 10))  # nine digits tell any two of them apart
    return next(short for short in shorter if struct.unpack("f", struct.pack("f", short))[0] == value)


def remarks(chosen: str, tags: Iterable[str]) -> list[str]:
    """Notes on the tag that was read and on those that were not."""
    found = TAG.fullmatch(chosen)
    notes = []
    if found and found["variable"] != "acc":
        notes.append(f"{chosen} is a reward: a share of right answers only if right gives 1 and wrong 0")
    others = [tag for tag in dict.fromkeys(tags) if tag != chosen and tag.startswith(("val-core/", "val/test_score/"))]
    if others:
        more = f" and {len(others) - MOST_NAMES} more" if len(others) > MOST_NAMES else ""
        notes.append(f"not read: {', '.join(others[:MOST_NAMES])}{more}")
    stem = re.sub(r"\d+$", "", chosen).replace("val-core/", "val-aux/", 1)
    if partial := sorted({tag for tag in tags if re.fullmatch(re.escape(stem) + r"\d+", tag)}):
        # verl calls core only the mean over the prompts with the most answers.
        notes.append(f"prompts were answered different numbers of times: {chosen} leaves out those of {partial[0]}")
    return notes
