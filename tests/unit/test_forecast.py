"""What a plan says beforehand: steps and schedules, power, price. Known answers."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from scipy import stats

from experiment_specs.load import load_sweep
from orchestrator.checks import eval_mode
from orchestrator.forecast import forecast
from orchestrator.plan import make_plan
from orchestrator.price import Past, Price, answers_of, kind_of, price
from orchestrator.statistics.power import ASSUMED_SD, Scatter, power, power_of, scatter_of, smallest_effect
from tests.conftest import TINY

QWEN = TINY.replace("tiny-cpu", "qwen2.5-1.5b-gsm8k-dapo")


def warnings_of(write_spec, text: str) -> str:
    plan = make_plan(load_sweep(write_spec(text)))
    return "\n".join([*plan.warnings, *(w for c in plan.conditions for w in c.warnings)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TINY + "set: {steps_per_epoch: 8}\n", "8 training steps cannot hold 10 noise stages"),
        (TINY.replace("standard", "{schedule: epoch_aware, sigma_start: 0.1, sigma_end: 0.01, stages_per_epoch: 24}"),
         "24 steps an epoch cannot hold 24 noise stages"),
        (TINY + "set: {eval: {every: 5}}\n", "the last eval, at step 24, is off the rhythm of every 5 steps: on the rhythm alone the last one would be at 20"),
        (TINY + "set: {optimiser.warmup_steps: 24}\n", "still warming up at the end: 24 steps of 24"),
        (TINY + "set: {algorithm.name: grpo}\n", "is called grpo and has dynamic sampling"),
        (TINY + "set: {eval.samples: 4}\n", "4 answers a question at temperature 0 are the same answer"),
        (QWEN, "sigma is 0.00056 or less in 9 of 29 steps (first at 21)"),
        (QWEN, "steps_per_epoch is 29, and rows and batch give 58: training keeps 0.5 of the data's prompts"),
        (TINY + "include: [{because: x, hw_noise: matmul-5pct}]\n".replace("because: x, ", "because: x, aqn: none, dtype: bf16, "),
         "evaluated under hardware errors, unlike the other conditions, whose scores do not compare"),
    ],
)  # fmt: skip
def test_trouble_is_seen_before_the_run(write_spec, text, words) -> None:
    assert words in warnings_of(write_spec, text)


def test_noise_that_bf16_would_round_away_is_no_trouble_in_fp32(write_spec) -> None:
    assert "rounds it away" not in warnings_of(write_spec, TINY)


def test_what_answers_the_test_questions_is_said_for_every_arm(write_spec) -> None:
    text = TINY + "set: {hw_noise: {scale: 0.05, phases: [train]}}\n"
    modes = [eval_mode(c.condition) for c in make_plan(load_sweep(write_spec(text))).conditions]
    assert modes[0] == "bf16 weights, hardware errors off"
    assert modes[3] == "mxfp4 weights, noise lifted, hardware errors off"


def test_power_of_three_seeds_is_the_noncentral_ts() -> None:
    """Checked against tables: n = 3 pairs, 5 %, 80 % power need an effect of 3.26 standard deviations."""
    found = power(seeds=3, comparisons=1, wished=2.0, scatter=scatter_of([]))
    assert found.detectable == pytest.approx(3.264 * math.sqrt(2) * ASSUMED_SD, rel=1e-3)
    assert found.seeds == 7
    assert power_of(2 / math.sqrt(2), 7, 0.05) >= 0.8 > power_of(2 / math.sqrt(2), 6, 0.05)
    stricter = power(seeds=3, comparisons=4, wished=2.0, scatter=scatter_of([]))
    assert stricter.detectable > found.detectable
    assert power(seeds=1, comparisons=1, wished=2.0, scatter=scatter_of([])).detectable is None


@pytest.mark.parametrize(
    ("pairs", "alpha", "effect"), [(2, 0.05, 11.55), (3, 0.025, 4.625), (5, 0.05, 1.682), (30, 0.05, 0.5292)]
)
def test_smallest_effects_are_those_of_the_tables(pairs, alpha, effect) -> None:
    """The second by 10⁶ simulated experiments: 80.1 % (statsmodels says 4.523, where they find 78.6 %)."""
    assert smallest_effect(pairs, alpha) == pytest.approx(effect, rel=2e-3)


@pytest.mark.parametrize(("pairs", "alpha"), [(2, 0.01), (3, 0.05 / 30), (6, 0.05)])
def test_the_promised_power_is_what_simulated_seeds_show(pairs, alpha) -> None:
    """20 000 experiments each, with the effect that should be found in 80 % of them."""
    draws = np.random.default_rng(3).normal(smallest_effect(pairs, alpha), 1.0, (20_000, pairs))
    found = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < alpha).mean()
    assert 0.79 <= found <= 0.81


def test_more_seeds_than_anybody_has_are_not_counted() -> None:
    assert power(3, 2, 0.001, Scatter(1.0, 0)).seeds is None
    assert power(3, 1, 0.5, Scatter(1.0, 0)).seeds == 65


def test_every_pair_is_a_comparison_where_none_was_declared(write_spec) -> None:
    plan = make_plan(load_sweep(write_spec(TINY + "seeds: [1, 2, 3]\n")))
    assert forecast(plan, [], []).questions[0].power.comparisons == 6


def test_what_follows_from_a_batch_is_told_with_the_contrast(write_spec) -> None:
    text = TINY + "  batch.prompts: [16, 32]\ncontrasts: {c: {vary: batch.prompts, from: 16, to: 32}}\n"
    assert "differ in optimiser updates (24, 48), answers a step (128, 256) too" in warnings_of(write_spec, text)


def test_runs_that_never_scatter_need_two_seeds() -> None:
    for sd in (0.0, 1e-15):
        assert power(3, 2, 2.0, Scatter(sd, 6)).seeds == 2


def test_scatter_is_pooled_over_runs_that_differ_in_their_seed() -> None:
    found = scatter_of([[70.0, 72.0], [60.0, 61.0, 62.0], [99.0]])
    assert found.runs == 5
    pooled = math.sqrt((2.0 + 2.0) / 3)
    assert found.sd == pytest.approx(pooled * math.sqrt(3 / stats.chi2.ppf(0.2, 3)))
    assert scatter_of([[1.0], [2.0]]).runs == 0
    assert scatter_of([[50.0, 50.0]]).sd == ASSUMED_SD  # two equal scores tell nothing


def test_the_bound_on_the_scatter_holds_in_four_of_five() -> None:
    draws = np.random.default_rng(1).normal(0.0, 1.0, (4000, 6))
    above = np.mean([scatter_of([list(scores)]).sd >= 1.0 for scores in draws])
    assert 0.78 <= above <= 0.82


def test_a_price_follows_from_runs_like_these_and_is_unknown_without(write_spec) -> None:
    c = make_plan(load_sweep(write_spec(TINY))).conditions[0]
    work = answers_of(c.condition, c.steps)
    assert work == 24 * 16 * 8 + 4 * 500  # the first eval is part of the start
    assert price(c.condition, c.steps, 3, 1, []) is None
    kind = kind_of(c.condition, 1)
    one = Past(kind, startup=60.0, seconds=100.0, answers=work)
    assert price(c.condition, c.steps, 3, 1, [one]) == Price(pytest.approx(3 * 160 / 3600), None, None, 1)
    assert price(c.condition, c.steps, 3, 8, [one]) is None  # another number of GPUs
    seconds = [80.0, 100.0, 125.0]
    several = [Past(kind, 60.0, s, work) for s in seconds]
    found = price(c.condition, c.steps, 1, 1, several)
    assert found.hours == pytest.approx((60 + statistics.geometric_mean(seconds)) / 3600)
    assert found.low < found.hours < found.high


@pytest.mark.parametrize("runs", [3, 8])
def test_prediction_intervals_hold_what_they_promise(write_spec, runs) -> None:
    """90 % of new runs fall inside, whatever the number of past ones: 1 000 histories of log-normal rates."""
    c = make_plan(load_sweep(write_spec(TINY))).conditions[0]
    chance, kind, inside = random.Random(5), kind_of(c.condition, 1), 0
    for _ in range(1000):
        *past, new = [100 * math.exp(chance.gauss(0, 0.3)) for _ in range(runs + 1)]
        work = answers_of(c.condition, c.steps)
        found = price(c.condition, c.steps, 1, 1, [Past(kind, 0.0, seconds, work) for seconds in past])
        inside += found.low <= new / 3600 <= found.high
    assert 870 <= inside <= 930


def test_a_forecast_asks_the_declared_contrasts_and_counts_their_pairs(write_spec) -> None:
    text = (
        TINY
        + "seeds: [1, 2, 3]\ncontrasts:\n  noise: {vary: aqn, from: none, to: standard, within: [dtype], detect: 4}\n"
    )
    plan = make_plan(load_sweep(write_spec(text)))
    found = forecast(plan, [], [])
    (question,) = found.questions
    assert (question.name, question.power.comparisons, question.power.wished) == ("noise", 2, 4.0)
    assert question.more_runs == (question.power.seeds - 3) * 4
    assert found.price is None
    assert len(found.unknown) == 4
    assert found.disk_bytes == 12 * 12 * 101_696  # twelve runs
    kept = forecast(make_plan(load_sweep(write_spec(text + "checkpoints: {keep: all}\n"))), [], [])
    assert kept.disk_bytes == 4 * found.disk_bytes  # four evals after the start
    none = forecast(make_plan(load_sweep(write_spec(text + "checkpoints: {keep: none}\n"))), [], [])
    assert none.disk_bytes == 0
