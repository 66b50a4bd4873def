"""What a search does next, and what it believes: pure functions, with known answers and on simulated trials."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_specs.presets import PACKAGE
from experiment_specs.search import load_search
from orchestrator.search.answer import spoken_for
from orchestrator.search.decide import (
    Confirm,
    Finish,
    NewTrial,
    Order,
    Replicate,
    Rules,
    Trial,
    View,
    Wait,
    behind_at_equal_steps,
    chosen,
    next_order,
)
from orchestrator.search.estimate import Surface, plane, replicate_sd, surface
from orchestrator.search.space import Told, column, headings, place
from orchestrator.search.suggest import distribution, suggest

SETTINGS = load_search(PACKAGE / "searches" / "sigma.yaml").settings
RULES = Rules(seeds=(1, 2, 3, 4), first=1, top=3, startup=3, baseline=True, total=20)


def trial(number: int, values: list[float], **more: object) -> Trial:
    return Trial(number, {"aqn.sigma_start": 0.01}, dict(enumerate(values, 1)), **more)


def seen(trials: tuple[Trial, ...], sd: float = 1.0) -> Surface:
    where = {t.number: [t.number / 10] for t in trials}
    return surface({t.number: t.values for t in trials}, where, sd, shared=False)


def ordered(*trials: Trial, left: int = 20, slots: int = 1, baseline: int = 1, **more: object) -> Order:
    rules = more.pop("rules", RULES)
    view = View(rules, trials, frozenset(range(1, baseline + 1)), left, slots, **{"confirmable": 3, **more})
    return next_order(view, seen(trials))


class TestDecisions:
    def test_it_begins_with_new_points(self) -> None:
        assert ordered(baseline=0) == NewTrial((1,))
        assert ordered(trial(1, [5.0])) == NewTrial((1,))

    def test_the_promising_get_further_seeds_and_those_surely_behind_none(self) -> None:
        trials = [trial(1, [0.0]), trial(2, [9.0]), trial(3, [-20.0, -20.0])]
        assert ordered(*trials) == Replicate(2, 2)
        trials[1] = trial(2, [9.0, 9.0, 9.0, 9.0])
        assert ordered(*trials, left=3) == NewTrial((1,)), "the leader has all its seeds, the others are behind"

    def test_nothing_starts_without_a_slot_or_budget(self) -> None:
        assert ordered(trial(1, [1.0]), slots=0) == Wait()
        assert ordered(trial(1, [1.0]), left=0) == Confirm((1,))
        assert ordered(trial(1, [], waiting=frozenset({1})), left=0, waiting=True) == Wait()

    def test_a_seed_that_the_baseline_lacks_costs_two(self) -> None:
        four = [trial(n, [1.0]) for n in range(1, 5)]
        assert isinstance(ordered(*four, left=1), NewTrial), "a further seed would need the baseline's too"
        assert ordered(*four, left=1, exhausted=True) == Confirm((1, 2, 3))

    def test_the_last_runs_are_for_the_promising_alone(self) -> None:
        five = [trial(n, [float(n), float(n)]) for n in range(1, 6)]
        assert ordered(*five, left=4, baseline=3) == Replicate(5, 3)

    def test_void_and_pruned_trials_are_not_confirmed(self) -> None:
        void, pruned = trial(1, [], void=frozenset({1})), trial(2, [], pruned=frozenset({1}))
        assert ordered(void, pruned, left=0) == Confirm(())
        assert ordered(void, pruned, trial(3, [-5.0]), left=0) == Confirm((3,))

    def test_a_fallen_baseline_seed_is_not_asked_again_and_orphans_come_first(self) -> None:
        rules = replace(RULES, seeds=(2, 3, 4))
        assert ordered(rules=rules, baseline=1) == NewTrial((2,))
        orphan = trial(1, [], void=frozenset({1}), orphaned=frozenset({1}))
        assert ordered(orphan, rules=rules, baseline=1) == Replicate(1, 2)
        assert ordered(orphan, rules=replace(RULES, seeds=()), baseline=4) == Confirm(())

    def test_only_what_can_be_paid_is_confirmed(self) -> None:
        four = [trial(n, [float(n)]) for n in range(1, 5)]
        assert ordered(*four, left=0, confirmable=2) == Confirm((4, 3))
        assert ordered(*four, left=0, confirmable=-1) == Confirm(())

    def test_with_two_objectives_what_is_beaten_in_both_comes_last(self) -> None:
        trials = (trial(1, [4.0] * 4, cost=3.0), trial(2, [3.0] * 4, cost=4.0), trial(3, [1.0] * 4, cost=1.0))
        assert chosen(trials, seen(trials, 0.1), 3) == (1, 3, 2)

    def test_it_ends_when_the_confirmation_does(self) -> None:
        assert ordered(trial(1, [1.0]), confirming=True, waiting=True) == Wait()
        assert ordered(trial(1, [1.0]), confirming=True) == Finish()

    @given(
        values=st.lists(st.lists(st.floats(-20, 20), max_size=4), max_size=8),
        left=st.integers(0, 30), slots=st.integers(0, 3), baseline=st.integers(0, 4),
    )  # fmt: skip
    def test_it_never_asks_for_what_cannot_be_paid_or_is_there(
        self, values: list[list[float]], left: int, slots: int, baseline: int
    ) -> None:
        trials = tuple(trial(number, own) for number, own in enumerate(values, 1))
        order = ordered(*trials, left=left, slots=slots, baseline=baseline)
        if isinstance(order, NewTrial | Replicate):
            assert slots > 0
            seed = order.seed if isinstance(order, Replicate) else 1
            assert 1 + (seed > baseline) <= left
        if isinstance(order, Replicate):
            assert order.seed not in trials[order.trial - 1].asked
            assert order.seed in RULES.seeds


def test_a_run_is_pruned_beyond_the_noise_alone() -> None:
    assert not behind_at_equal_steps(50.0, 52.7, sd=1.0, z=2.0)
    assert behind_at_equal_steps(50.0, 52.9, sd=1.0, z=2.0)
    assert not behind_at_equal_steps(52.9, 50.0, sd=1.0, z=2.0)
    assert not behind_at_equal_steps(50.0, 52.9, sd=1.0, z=2.0, looks=10)


@pytest.mark.parametrize("looks", [1, 5, 20])
def test_equally_good_runs_are_pruned_as_rarely_as_said_however_often_it_is_asked(looks: int) -> None:
    """The leader is the highest of ten equal trials, and every eval is a look."""
    chance, trials, n = np.random.default_rng(4), 10, 2000
    leaders = chance.normal(size=(n, trials, looks)).max(axis=1)
    own = chance.normal(size=(n, looks))
    pruned = sum(
        any(behind_at_equal_steps(o, first, 1.0, 2.0, looks * trials) for o, first in zip(mine, theirs, strict=True))
        for mine, theirs in zip(own.tolist(), leaders.tolist(), strict=True)
    )
    assert pruned / n < 0.0228 + 0.01


class TestEstimates:
    def test_the_scatter_of_replicates_is_pooled_with_what_is_known(self) -> None:
        assert replicate_sd([[1.0], [5.0]], known=2.0) == 2.0
        many = [[0.0, 6.0]] * 100  # variance 18
        assert replicate_sd(many, known=1.0) == pytest.approx(math.sqrt(18), rel=0.03)
        assert replicate_sd([[0.0, 2.0]], known=3.0) == pytest.approx(math.sqrt((4 * 9 + 2) / 5))

    def test_means_and_errors_are_those_of_the_seeds(self) -> None:
        found = seen((trial(1, [2.0, 4.0]), trial(2, [1.0])), sd=1.0)
        assert found.mean == {1: 3.0, 2: 1.0}
        assert found.error == pytest.approx({1: math.sqrt(0.5), 2: 1.0})
        both = surface({1: {1: 2.0, 2: 4.0}, 2: {1: 1.0}}, {1: [0.1], 2: [0.2]}, 1.0, shared=True)
        assert both.error == pytest.approx({1: 1.0, 2: math.sqrt(2)})
        assert both.noise[0, 1] == pytest.approx(0.5)

    def test_a_lucky_trial_is_shrunk_to_its_neighbours(self) -> None:
        chance = np.random.default_rng(1)
        trials = tuple(trial(n, [float(chance.normal())]) for n in range(10))
        found = seen(trials, sd=1.0)
        assert max(found.smoothed.values()) < max(found.mean.values())
        assert np.std(list(found.smoothed.values())) < 0.6 * np.std(list(found.mean.values()))

    def test_what_is_far_above_the_noise_is_not(self) -> None:
        trials = tuple(trial(n, [10.0 if n == 4 else 0.0] * 4) for n in range(8))
        found = seen(trials, sd=0.5)
        assert found.leader == 4
        assert found.smoothed[4] > 8
        assert found.behind(1, 4) > 5

    def test_smoothed_values_are_nearer_to_the_truth_than_means(self) -> None:
        """Over many simulated searches: a smooth truth, one noisy run a trial."""
        chance, better = np.random.default_rng(2), []
        for _ in range(40):
            at = chance.uniform(size=12)
            truth = 4 * np.exp(-(((at - 0.5) / 0.3) ** 2))
            values = {n: {1: float(truth[n] + 1.5 * chance.normal())} for n in range(12)}
            found = surface(values, {n: [float(at[n])] for n in range(12)}, 1.5, shared=False)
            own = fmean((found.mean[n] - truth[n]) ** 2 for n in range(12))
            better.append(fmean((found.smoothed[n] - truth[n]) ** 2 for n in range(12)) / own)
        assert fmean(better) < 0.7

    @pytest.mark.parametrize("shared", [False, True])
    @pytest.mark.parametrize("shape", [np.zeros_like, lambda at: 3 * np.sin(4 * at), lambda at: 10.0 * (at > 0.5)])
    def test_errors_of_smoothed_values_are_honest(self, shape, shared: bool) -> None:
        """Also where nothing matters (whoever takes the likeliest surface is then sure of it, and wrong), and where all
        trials are held against one run of the baseline."""
        chance, apart = np.random.default_rng(3), []
        for _ in range(60):
            at = chance.uniform(size=10)
            truth, plain = shape(at), float(chance.normal()) * shared
            values = {n: {1: float(truth[n] + chance.normal()) - plain} for n in range(10)}
            found = surface(values, {n: [float(at[n])] for n in range(10)}, 1.0, shared=shared)
            apart += [(found.smoothed[n] - truth[n]) / found.smoothed_error(n) for n in range(10)]
        assert 0.7 < np.std(apart) < 1.3
        assert np.mean(np.abs(apart) < 1.96) > 0.89

    def test_a_map_has_holes_where_the_space_has_no_point(self) -> None:
        where = {n: [n / 9, (n * 7 % 10) / 9] for n in range(10)}
        found = surface({n: {1: where[n][0] * 10} for n in range(10)}, where, 0.5, shared=False)
        mapped = plane(found, where, (0, 1), lambda a, b: b <= a, 5)
        assert mapped is not None
        assert [[bool(np.isnan(cell)) for cell in row] for row in mapped.mean] == [
            [up > across for across in range(5)] for up in range(5)
        ]
        assert mapped.mean[0, 4] > mapped.mean[0, 0] + 3
        assert (mapped.error[~np.isnan(mapped.error)] > 0).all()

    def test_no_trials_no_leader(self) -> None:
        assert surface({}, {}, 1.0, shared=True).leader is None


def test_selection_and_confirmation_are_weighted_by_their_precision() -> None:
    assert spoken_for([2.0, 1.0], [1.0, 1.0], [70.0, 70.5], [3, 3], sd=3.0) == 0
    assert spoken_for([2.0, 1.0], [1.0, 1.0], [70.0, 70.5], [3, 3], sd=0.5) == 1
    assert spoken_for([2.0, 1.0], [9.0, 9.0], [70.0, 70.5], [3, 3], sd=3.0) == 1


class TestSuggestions:
    def test_they_follow_from_what_is_recorded_and_the_seed(self) -> None:
        told = [Told({"aqn.schedule": "linear", "aqn.sigma_start": 0.01, "aqn.sigma_end": 0.001}, (1.0,))] * 3
        assert suggest(SETTINGS, told, 30) == suggest(SETTINGS, told, 30)
        assert suggest(SETTINGS, told, 30) != suggest(SETTINGS, told, 30, attempt=1)
        assert suggest(SETTINGS, told, 30) != suggest(SETTINGS.model_copy(update={"seed": 1}), told, 30)

    @pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "gp"])
    def test_they_lie_in_the_space_and_fulfil_what_is_required(self, sampler: str) -> None:
        settings = SETTINGS.model_copy(
            update={"sampler": SETTINGS.sampler.model_copy(update={"name": sampler, "startup": 3})}
        )
        told: list[Told] = []
        for _ in range(8):
            point = suggest(settings, told, 30)
            assert point is not None
            assert settings.allows(point)
            assert ("aqn.num_stages" in point) == (point["aqn.schedule"] == "kstage")
            assert all(distribution(settings.space[key])._contains(_internal(key, v)) for key, v in point.items())
            told.append(Told(point, (-abs(math.log10(point["aqn.sigma_start"]) + 2),)))

    def test_tpe_learns_from_values(self) -> None:
        told: list[Told] = []
        for _ in range(40):
            point = suggest(SETTINGS, told, 40)
            assert point is not None
            told.append(Told(point, (-abs(math.log10(point["aqn.sigma_start"]) + 1.3),)))
        apart = [abs(math.log10(one.point["aqn.sigma_start"]) + 1.3) for one in told]
        assert fmean(apart[-10:]) < 0.5 * fmean(apart[:8])

    def test_trials_under_way_withheld_and_ended_early_are_told_as_such(self) -> None:
        point = {"aqn.schedule": "linear", "aqn.sigma_start": 0.01, "aqn.sigma_end": 0.001}
        import optuna

        from orchestrator.search.suggest import fill

        study = optuna.create_study(direction="maximize")
        told = [
            Told(point, (1.5,), about={"seeds": [1]}), Told(point, None, running=True), Told(point, None),
            Told(point, None, pruned=True, curve={2: 40.0}),
        ]  # fmt: skip
        fill(study, SETTINGS, told)
        assert [t.state.name for t in study.trials] == ["COMPLETE", "RUNNING", "FAIL", "PRUNED"]
        assert study.trials[3].intermediate_values == {2: 40.0}
        assert study.best_value == 1.5


def _internal(key: str, value: object) -> float:
    return distribution(SETTINGS.space[key]).to_internal_repr(value)


def test_places_in_the_unit_cube() -> None:
    point = {"aqn.schedule": "kstage", "aqn.sigma_start": 0.01, "aqn.sigma_end": 1e-5, "aqn.num_stages": 12}
    assert place(SETTINGS, point) == pytest.approx([math.sqrt(0.5), 0, 0.5, 0, 1])
    assert place(SETTINGS, {**point, "aqn.schedule": "linear"})[:2] == pytest.approx([0, math.sqrt(0.5)])
    assert column(SETTINGS, "aqn.sigma_end") == 3
    assert headings(SETTINGS)["aqn.sigma_end"] == "sigma_end"
