"""Written percentages and the counts that they can stand for: however a library rounds, nobody is accused wrongly."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from experiment_specs.claims import ClaimedRun, Point, Statement
from orchestrator.claimed_counts import (
    agree,
    claimed_count,
    claimed_counts,
    count_of_questions,
    decimals_of_share,
    decimals_shown,
    possible_counts,
)
from orchestrator.importers.curves import percent

COUNTS = st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.integers(0, 8), st.sampled_from([ROUND_HALF_EVEN, ROUND_HALF_UP]))
def test_every_count_is_possible_however_it_is_rounded(count: tuple[int, int], decimals: int, how: str) -> None:
    k, n = count
    with localcontext(prec=60):
        written = (Decimal(100 * k) / n).quantize(Decimal(1).scaleb(-decimals), rounding=how)
    assert k in possible_counts(float(written), n)
    assert k in possible_counts(float(written), n, decimals)


@given(COUNTS, st.integers(1, 16))
def test_every_count_is_possible_as_python_and_numpy_print_its_share(count: tuple[int, int], digits: int) -> None:
    k, n = count
    share = k / n
    for printed in (f"{share:.{digits}f}", f"{share:.{digits}e}", repr(round(share, digits)), repr(share)):
        assert imported_allows(k, n, float(printed))
        decimals = -int(Decimal(printed).as_tuple().exponent) - 2
        assert k in possible_counts(percent(float(printed), tag="", file=""), n, decimals)
    for number in (np.float32(share), np.round(np.float32(share), digits), np.round(np.float64(share), digits)):
        assert imported_allows(k, n, float(number))
    printed = percent(float(np.float32(share)), tag="", file="")
    assert k in possible_counts(printed, n, 10), "32 bits printed with all digits of 64"


def imported_allows(k: int, n: int, share: float) -> bool:
    """Whether an eval that an importer read may be k of n."""
    value = percent(share, tag="", file="")
    return k in claimed_counts(run(value), value, n)


@given(COUNTS, st.integers(0, 6), st.floats(0, 100))
def test_what_no_count_rounds_to_is_not_possible(count: tuple[int, int], decimals: int, value: float) -> None:
    _, n = count
    value = round(value, decimals)
    near = round(value * n / 100)
    apart = min(abs(Fraction(100 * k, n) - Fraction(str(value))) for k in (near - 1, near, near + 1) if 0 <= k <= n)
    assume(apart > Fraction(1, 2) / 10**decimals + Fraction(1, 10**5))
    assert not possible_counts(value, n, decimals)


@given(COUNTS, st.integers(0, 4))
def test_counts_are_all_those_in_the_interval(count: tuple[int, int], decimals: int) -> None:
    k, n = count
    counts = possible_counts(round(100 * k / n, decimals), n, decimals)
    assert list(counts) == sorted(counts)
    for one in (counts[0] - 1, counts[-1] + 1):
        far = abs(Fraction(100 * one, n) - Fraction(str(round(100 * k / n, decimals))))
        assert not 0 <= one <= n or far > Fraction(1, 2) / 10**decimals


@pytest.mark.parametrize(
    ("percent", "questions", "k"),
    [
        (62.1, 1312, 815),  # 814 is 62.04 %, 815 is 62.12 %: only 815 rounds to 62.1
        (9.5833333333, 960, 92),
        (9.5833333333, 30, None),
        (72.1, 1319, 951),
        (70.27, 1319, None),
        (100.0, 32, 32),
        (0.0, 32, 0),
        (53.12, 32, 17),
        (20.0, 10_000, 2000),  # in a table: 20.00
        (20.0, 1319, None),
    ],
)
def test_the_one_count_of_what_people_wrote(percent: float, questions: int, k: int | None) -> None:
    written = ClaimedRun(label="r", said=(Statement(place="p", score=percent),))
    assert claimed_count(written, percent, questions) == k


@pytest.mark.parametrize(
    ("decimals", "percent", "questions", "k"),
    [
        (None, 20.0, 100, 20),  # kept in full: 0.2
        (-1, 20.0, 100, None),  # printed as 0.2: 15 to 25
        (1, 20.0, 100, 20),
        (1, 60.0, 1319, None),  # 0.600: 791 or 792
        (None, 60.0, 1319, None),
        (None, 73.77, 1319, 973),
    ],
)
def test_the_one_count_of_an_eval(decimals: int | None, percent: float, questions: int, k: int | None) -> None:
    assert claimed_count(run(percent, decimals), percent, questions) == k


@pytest.mark.parametrize(
    ("percent", "decimals"), [(62.1, 1), (62.0, 0), (60.0, 0), (73.7680060652, 10), (0.0, 0), (100.0, 0), (1e-05, 5)]
)
def test_decimals_that_a_number_shows(percent: float, decimals: int) -> None:
    assert decimals_shown(percent) == decimals


@pytest.mark.parametrize(("percent", "decimals"), [(62.1, 1), (62.0, 0), (60.0, -1), (73.7680060652, 10), (100.0, -2)])
def test_decimals_that_a_share_was_printed_with(percent: float, decimals: int) -> None:
    assert decimals_of_share(percent) == decimals


def run(percent: float, decimals: int | None = None, samples: int | None = None) -> ClaimedRun:
    return ClaimedRun(
        label="r", said=(Statement(place="p", score=percent),), samples=samples,
        curve=(Point(step=1, percent=percent, decimals=decimals),),
    )  # fmt: skip


def test_decimals_that_were_printed_count_more_than_those_that_a_number_shows() -> None:
    assert list(claimed_counts(run(62.0), 62.0, 1000)) == list(range(615, 626))  # printed as 0.62
    assert list(claimed_counts(run(62.0, decimals=1), 62.0, 1000)) == [620]  # as 0.620
    assert not claimed_counts(run(62.0, decimals=1), 62.0, 7)
    assert list(claimed_counts(run(60.0, decimals=-1), 60.0, 7)) == [4]  # 57.1 % printed as 0.6


def test_several_answers_to_a_question_are_counted_one_by_one() -> None:
    several = run(9.5833333333, samples=32)
    assert claimed_count(several, 9.5833333333, 30) == 92
    assert count_of_questions(several, 9.5833333333, 30) is None, "the answers to one question are not independent"
    assert claimed_count(run(9.5833333333), 9.5833333333, 30) is None
    assert claimed_count(several, None, 30) is None
    assert claimed_count(several, 9.5833333333, None) is None


def test_a_claim_without_the_new_fields_is_recorded_as_before() -> None:
    plain = run(50.0).model_dump(mode="json")
    assert "samples" not in plain
    assert plain["curve"] == [{"step": 1, "percent": 50.0}]
    full = run(50.0, 10, 8).model_dump(mode="json")
    assert ClaimedRun.model_validate(full, strict=False) == run(50.0, 10, 8)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [(73.77, 73.768006, True), (73.77, 73.78, False), (73.8, 73.75, True), (73.8, 73.84, True), (73.8, 73.86, False),
     (73.77, 73.762, False), (73.77, 73.77, True), (74.0, 73.77, True)],
)  # fmt: skip
def test_percentages_agree_to_the_decimals_that_both_have(one: float, other: float, same: bool) -> None:
    assert agree(one, other) is same
    assert agree(other, one) is same
