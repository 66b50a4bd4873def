"""Which counts of right answers a written percentage can stand for. Pure.

A percentage claims an interval: half a unit of its last printed decimal on either side, both ends included. So it holds
whatever way of rounding a library has (Python's ``format`` and NumPy round to nearest, ties to even; others round ties
up). A number that was cut off instead of rounded is not covered: no library that prints scores does that.
"""

from __future__ import annotations

import math
from fractions import Fraction

from experiment_specs.claims import ClaimedRun

SINGLE = Fraction(1, 2**23)
"""Relative error of a score that a logger kept in 32 bits: half a unit in the last place, and as much for the fewest
digits that tell it from its neighbours."""
STORED = Fraction(1, 10**9)
"""Percentage points that the conversion of a share to a percentage may be off."""
KEPT_DECIMALS = 10
"""Decimals that importers keep of a percentage."""
TABLE_DECIMALS = 2
"""Decimals of the percentages in most tables; a number that shows fewer may have lost zeros at its end."""


def decimals_shown(percent: float) -> int:
    """Decimals of a number as it prints: 62.1 has 1, 62.0 none. Zeros at the end are not counted as printed."""
    text = f"{percent:.12f}".rstrip("0")
    return len(text.partition(".")[2])


def decimals_of_share(percent: float) -> int:
    """Decimals of a percentage that was printed as a share: 0.621 has 1, 0.6 has -1."""
    return decimals_shown(percent / 100) - 2


def agree(one: float, other: float) -> bool:
    """Whether two written percentages can be of one score: the one with more decimals rounds to the other."""
    few, many = sorted((decimals_shown(one), decimals_shown(other)))
    if few == many:
        return one == other
    return abs(Fraction(f"{one:.10f}") - Fraction(f"{other:.10f}")) <= half_unit(few) + STORED


def half_unit(decimals: int) -> Fraction:
    """How far a number of so many decimals may be from what was rounded."""
    return Fraction(1, 2) / Fraction(10) ** decimals


def possible_counts(percent: float, answers: int, decimals: int | None = None) -> range:
    """Every k in 0..``answers`` that ``percent`` can stand for; empty where there is none.

    ``answers``: questions × answers to each. ``decimals``: how many were printed of the percentage, -1 for a share that
    was printed as 0.6; None: as many as the number shows.
    """
    digits = decimals_shown(percent) if decimals is None else decimals
    written = Fraction(f"{percent:.10f}")
    within = half_unit(digits) + written * SINGLE + STORED
    least = math.ceil((written - within) * answers / 100)
    most = math.floor((written + within) * answers / 100)
    return range(max(least, 0), min(most, answers) + 1)


def count_of(percent: float, answers: int, decimals: int | None = None, exactly: int | None = None) -> int | None:
    """The k that ``percent`` stands for; None where no k is possible, or several.

    ``exactly``: decimals that it may well have, though zeros at their end do not show; they decide between several k.
    """
    counts = possible_counts(percent, answers, decimals)
    if len(counts) > 1 and exactly is not None:
        counts = possible_counts(percent, answers, exactly)
    return counts[0] if len(counts) == 1 else None


def printed_decimals(run: ClaimedRun, percent: float) -> int | None:
    """Decimals that were printed of an imported eval's percentage, the fewest; None where it was kept in full."""
    printed = [p.decimals for p in run.curve if p.percent == percent and p.decimals is not None]
    return min(printed, default=None)


def is_imported(run: ClaimedRun, percent: float) -> bool:
    """Whether a percentage is one of the evals that an importer read; else somebody wrote it."""
    return any(point.percent == percent for point in run.curve)


def decimals_of(run: ClaimedRun, percent: float) -> int:
    """Decimals by which a percentage of a claim is judged: those that were printed, or that it shows."""
    printed = printed_decimals(run, percent)
    if printed is not None:
        return printed
    return decimals_of_share(percent) if is_imported(run, percent) else decimals_shown(percent)


def claimed_counts(run: ClaimedRun, percent: float, questions: int) -> range:
    """:func:`possible_counts` of a percentage that a claim has."""
    return possible_counts(percent, questions * run.answers, decimals_of(run, percent))


def claimed_count(run: ClaimedRun, percent: float | None, questions: int | None) -> int | None:
    """:func:`count_of` a percentage that a claim has; None where the questions are not known."""
    if percent is None or not questions:
        return None
    exactly = None
    if printed_decimals(run, percent) is None:
        exactly = KEPT_DECIMALS if is_imported(run, percent) else TABLE_DECIMALS
    return count_of(percent, questions * run.answers, decimals_of(run, percent), exactly)


def count_of_questions(run: ClaimedRun, percent: float | None, questions: int | None) -> int | None:
    """:func:`claimed_count` where each question was answered once: only then are the answers independent."""
    return claimed_count(run, percent, questions) if run.answers == 1 else None
