"""Known answers, and simulated sweeps whose truth is known: the promised error rates and power hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from orchestrator.statistics.checkpoints import answers, difference_of_counts, difference_on_shared
from orchestrator.statistics.power import smallest_effect
from orchestrator.statistics.treatments import ALPHA, difference_by_seed, family, holm, noise
from tests import simulated_sweeps
from tests.simulated_sweeps import World, differences

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Student (1908): hours of sleep gained under one drug over another, ten patients."""


def shared(both: int, first: int, second: int, neither: int) -> tuple[list[int], list[int]]:
    return [1] * (both + first) + [0] * (second + neither), [1] * both + [0] * first + [1] * second + [0] * neither


def test_mcnemar_and_its_interval_give_the_published_answer() -> None:
    """Bentur et al. 2009, airway hyper-responsiveness, as in Fagerland et al. 2014, tables 4 and 6."""
    found = difference_on_shared(*shared(1, 1, 7, 12))
    assert found.p == pytest.approx(0.0703, abs=5e-5)
    assert found.difference == pytest.approx(100 * 6 / 21)
    assert (found.low, found.high) == pytest.approx((1.3, 50.8), abs=0.06)
    assert (found.only_first, found.only_second, found.n) == (1, 7, 21)


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(lambda cells: sum(cells) > 0))
def test_checkpoints_in_any_table(cells) -> None:
    found = difference_on_shared(*shared(*cells))
    _, first, second, _ = cells
    assert found.p == pytest.approx(binomtest(first, first + second).pvalue if first + second else 1.0)
    assert found.low <= found.difference <= found.high or min(first, second) == 0  # pulled towards 0 at the edge
    assert -100 <= found.low < found.high <= 100
    back = difference_on_shared(*reversed(shared(*cells)))
    assert (back.low, back.high, back.p) == pytest.approx((-found.high, -found.low, found.p))


def test_several_samples_of_a_question_are_one_unit() -> None:
    """Eight samples that always agree tell no more than one."""
    first, second = shared(60, 12, 25, 40)
    once = difference_on_shared(first, second)
    eight = difference_on_shared([8 * k for k in first], [8 * k for k in second], (8, 8))
    assert eight.difference == pytest.approx(once.difference)
    assert eight.p == pytest.approx(once.p, rel=0.5)
    assert eight.high - eight.low == pytest.approx(once.high - once.low, rel=0.05)


def test_one_question_and_no_scatter_prove_nothing() -> None:
    assert difference_on_shared([0], [4], (4, 4)).p == 1.0
    assert difference_on_shared([0, 0], [1, 1], (4, 4)).p > ALPHA


def test_a_coarse_member_of_a_family_widens_no_other() -> None:
    fine, coarse = difference_by_seed([2.0, 2.1, 1.9], step=0.076), difference_by_seed([5.0, 0.0, 10.0], step=5.0)
    alone, both = family([fine], size=2)[0], family([fine, coarse])[0]
    assert (alone.low, alone.high) == (both.low, both.high)


def test_packed_outcomes() -> None:
    assert answers(bytes([0b0000_0101]), 4, 1) == [1, 0, 1, 0]
    assert answers(bytes([0b0000_0111]), 2, 3) == [3, 0]
    with pytest.raises(ValueError, match="too few"):
        answers(b"\x01", 9, 1)
    with pytest.raises(ValueError, match="not the same"):
        difference_on_shared([1], [1, 0])


def test_counts_alone_give_the_published_answer() -> None:
    """Newcombe 1998, example (a), method 10: 56/70 - 48/80."""
    found = difference_of_counts((48, 80), (56, 70))
    assert (found.low, found.high) == pytest.approx((5.24, 33.39), abs=0.006)
    assert found.only_first is None
    assert difference_of_counts((48, 80), (48, 80)).p == 1.0


def test_students_own_example() -> None:
    found = difference_by_seed(SLEEP)
    assert found.difference == pytest.approx(1.58)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.7001, 2.4599), abs=1e-4)
    assert found.sd == pytest.approx(1.2300, abs=1e-4)


@given(
    st.lists(st.floats(-9, 9).map(lambda d: round(d, 2)), min_size=2, max_size=9).filter(lambda d: len(set(d)) > 1),
    st.floats(0.1, 5),
)
def test_difference_and_equivalence_are_those_of_the_libraries(apart, margin) -> None:
    found = difference_by_seed(apart, margin)
    assert found.p == pytest.approx(float(ttest_1samp(apart, 0).pvalue), abs=1e-9)
    assert found.p_equal == pytest.approx(float(DescrStatsW(apart).ttost_mean(-margin, margin)[0]), abs=1e-9)


def test_one_seed_an_arm_is_not_assessable() -> None:
    one = difference_by_seed([7.0])
    assert (one.p, one.low, one.sd, one.assessable) == (None, None, None, False)
    assert family([one])[0].verdict == "not assessable"
    assert difference_by_seed([]).difference is None


def test_two_equal_differences_prove_nothing_beyond_their_rounding() -> None:
    step = 100 / 1319
    found = difference_by_seed([3 * step, 3 * step], step=step)
    assert found.p is not None
    assert found.p > ALPHA
    with pytest.raises(ValueError, match="step"):
        difference_by_seed([2.0, 2.0])


def test_holm_over_a_family() -> None:
    """Holm 1979: the smallest p times m, the next times m - 1, never falling."""
    members = [difference_by_seed(d) for d in ([3.0, 3.1, 3.05], [1.0, 1.2, 1.4], [0.2, -0.1, 0.3], [5.0])]
    p = sorted(m.p for m in members if m.p is not None)
    found = family(members)
    assert found[0].p == pytest.approx(4 * p[0])
    assert found[1].p == pytest.approx(max(4 * p[0], 3 * p[1]))
    assert found[0].verdict == "higher"
    assert found[3].verdict == "not assessable"
    assert (found[0].low or 0) < (members[0].low or 0)  # intervals that hold together are wider
    assert family([]) == []


@pytest.mark.parametrize("p", [[0.5], [0.01, 0.04, 0.03, 0.5, 0.01, 1.0], [0.2, 0.0, 0.2, 0.05]])
def test_holm_is_statsmodels(p) -> None:
    """Few examples: each of its calls collects garbage, a second of it in a process that has loaded torch."""
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_equivalence_is_said_only_where_it_is_shown() -> None:
    close, vague = difference_by_seed([0.1, -0.1, 0.05, 0.0]), difference_by_seed([0.1, -2.0, 2.2, 0.0])
    assert [a.verdict for a in family([close])] == ["equivalent"]
    assert [a.verdict for a in family([vague])] == ["not distinguishable"]
    assert family([difference_by_seed([-0.3, -0.31, -0.32])])[0].verdict == "lower"  # small, and surely there


def test_noise_of_seeds_and_of_questions_apart() -> None:
    rng = np.random.default_rng(3)
    n, seeds = 2000, 40
    tastes = rng.normal(0, 0.3, n)
    values = tastes[None, :] + rng.normal(0, 0.02, seeds)[:, None] + rng.normal(0, 0.1, (seeds, n))
    found = noise(values.tolist())
    assert found.questions == pytest.approx(100 * 0.3 / math.sqrt(n), rel=0.1)
    assert found.seeds == pytest.approx(100 * math.hypot(0.02, 0.1 / math.sqrt(n)) / math.sqrt(seeds), rel=0.25)
    assert noise(values[:1].tolist()).seeds is None
    assert noise([[0.0, 1.0], [1.0, 0.0]]).questions is None  # nothing is left for the questions


SWEEPS = 3000


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_null_sweeps_are_called_different_as_often_as_promised(seeds) -> None:
    """Also in a family of four, where one claim in it is one too many."""
    rng = np.random.default_rng(seeds)
    world = World(questions=500)
    apart = differences(simulated_sweeps.answers(world, 0.0, SWEEPS, seeds, rng))
    tested = [difference_by_seed(row, step=100 / world.questions) for row in apart.tolist()]
    false = sum(t.p < ALPHA for t in tested if t.p is not None)
    assert binomtest(false, SWEEPS, ALPHA, alternative="greater").pvalue > 1e-3
    families = [tested[i : i + 4] for i in range(0, SWEEPS, 4)]
    wrong = sum(any(a.verdict in ("higher", "lower") for a in family(f)) for f in families)
    assert binomtest(wrong, len(families), ALPHA, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_effects_are_found_as_often_as_the_power_analysis_promises(seeds) -> None:
    rng = np.random.default_rng(seeds)
    world = World(questions=500)
    null = differences(simulated_sweeps.answers(world, 0.0, 400, seeds, rng))
    sd = float(null.std(ddof=1))  # what the planner would know of the field
    effect = smallest_effect(seeds, ALPHA) * sd
    if effect > 25:
        effect = 25.0  # two seeds: beyond what points can show in a curved world
    apart = differences(simulated_sweeps.answers(world, effect, 600, seeds, rng))
    real = apart.mean()  # a logistic curve makes large effects smaller
    tested = [difference_by_seed((row + (effect - real)).tolist(), step=0.2) for row in apart]
    found = sum(t.p < ALPHA for t in tested if t.p is not None)
    assert 0.72 <= found / len(tested) <= 0.9
