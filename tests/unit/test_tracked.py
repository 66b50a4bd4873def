"""Runs of a tracker → curves: which tags are scores, and what becomes of steps that were written twice."""

from __future__ import annotations

import math
from typing import Any

import pytest

from experiment_specs.errors import SpecError
from orchestrator.importers.tracked import GLOBAL_STEP, LeftOut, Tracked, TrackedRun, curves_of

ACC = "val-core/openai/gsm8k/acc/mean@1"
STEPS = {GLOBAL_STEP: [(0, 0.0), (20, 20.0)]}


def run(metrics: dict[str, list[tuple[int, float]]], **how: Any) -> TrackedRun:
    named = {"name": "exp", "run_id": "abc", "source": "file"} | how
    return TrackedRun(metrics=STEPS | metrics, **named)


def curves(*runs: TrackedRun, metrics: tuple[str, ...] = ()) -> list[tuple[str, list[tuple[int, float]]]]:
    found, _ = curves_of(Tracked(runs), metrics, "source")
    return [(one.curve.name, [(p.step, p.percent) for p in one.curve.points]) for one in found]


def test_one_curve_per_test_set_by_its_best_tag() -> None:
    metrics = {
        ACC: [(0, 0.1), (20, 0.7)], "val-core/openai/gsm8k/reward/mean@1": [(0, 0.0)],
        "val-core/math/acc/mean@8": [(0, 0.2)], "val-core/math/acc/mean@4": [(0, 0.3)],
        "val-core/math/acc/best@4/mean": [(0, 0.9)], "critic/score/mean": [(0, 0.0)],
    }  # fmt: skip
    assert curves(run(metrics)) == [
        ("exp (abc) openai/gsm8k", [(0, 10.0), (20, 70.0)]),
        ("exp (abc) math", [(0, 30.0)]),
    ]
    assert curves(run({ACC: metrics[ACC]})) == [("exp (abc)", [(0, 10.0), (20, 70.0)])]


def test_a_chosen_tag_has_the_label_that_it_has_without_choosing() -> None:
    metrics = {ACC: [(0, 0.1)], "val-core/math/acc/mean@4": [(0, 0.3)], "eval/acc": [(0, 0.5)]}
    assert curves(run(metrics), metrics=(ACC,)) == [("exp (abc) openai/gsm8k", [(0, 10.0)])]
    assert curves(run({ACC: [(0, 0.1)]}), metrics=(ACC,)) == [("exp (abc)", [(0, 10.0)])]
    assert curves(run(metrics), metrics=("eval/acc",)) == [("exp (abc) eval/acc", [(0, 50.0)])]


def test_later_values_replace_earlier_ones_and_that_is_told() -> None:
    found, _ = curves_of(Tracked((run({ACC: [(0, 0.1), (20, 0.5), (20, 0.6), (0, 0.1)]}),)), (), "source")
    assert [(p.step, p.percent) for p in found[0].curve.points] == [(0, 10.0), (20, 60.0)]
    assert found[0].curve.notes == ("step 20 was written again: 0.6 in the place of 0.5",)


def test_no_number_is_no_point() -> None:
    values = [(0, math.nan), (5, math.inf), (10, 0.5), (15, math.nan), (15, math.nan)]
    found, _ = curves_of(Tracked((run({ACC: values}),)), (), "source")
    assert [p.step for p in found[0].curve.points] == [10]
    assert found[0].curve.notes == tuple(f"the eval of step {step} gave no number" for step in (0, 5, 15))


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        ({"eval/accuracy": [(0, 0.5)]}, r"no score of a test set .* its tags are eval/accuracy.*--metric TAG"),
        ({ACC: [(0, 57.0)]}, "57.0 is not between 0 and 1"),
        ({ACC: [(0, math.nan)]}, "no number at any step"),
        ({ACC: [(-1, 0.5)]}, "counted from 0"),
    ],
)
def test_a_run_without_a_score_is_left_out_with_its_reason(
    metrics: dict[str, list[tuple[int, float]]], why: str
) -> None:
    good = run({ACC: [(0, 0.5)]}, run_id="good")
    found, left_out = curves_of(Tracked((run(metrics), good), (LeftOut("x", "y"),)), (), "source")
    assert [one.run.run_id for one in found] == ["good"]
    assert [one.name for one in left_out] == ["x", "exp (abc)"]
    with pytest.raises(SpecError, match=why):
        curves_of(Tracked((run(metrics),)), (), "source")


def test_one_test_set_that_is_no_share_does_not_refuse_the_other() -> None:
    odd = "val-core/games/acc/mean@1"
    found, left_out = curves_of(Tracked((run({odd: [(0, -0.5)], ACC: [(0, 0.5)]}),)), (), "source")
    assert [one.curve.name for one in found] == ["exp (abc) openai/gsm8k"]
    assert [one.name for one in left_out] == ["exp (abc) games"]
    assert "-0.5 is not between 0 and 1" in left_out[0].why


def test_a_tag_that_no_run_has_is_an_error_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'val-core/openai/gsm8k/acc/mean@1'") as told:
        curves(run({ACC: [(0, 0.5)]}), metrics=("val-core/openai/gsm8k/acc/mean@2",))
    assert told.value.exit_code == 2


def test_labels_are_the_trackers_own_names_and_ids() -> None:
    hexadecimal = "5af4c6b236794f2ba7258030a8638719"
    assert run({}, run_id=hexadecimal).label == "exp (5af4c6b2)"
    assert run({}, run_id="lr-sweep-2026-a").label == "exp (lr-sweep-2026-a)"
    assert run({}, name="", run_id="q1").label == "q1"
    assert run({}, run_id="").label == run({}, run_id="exp").label == "exp"
    same = [run({ACC: [(0, 0.5)]}, project=project) for project in ("me/p", "me/q", "me/q")]
    assert [name for name, _ in curves(*same)] == ["me/p: exp (abc)", "me/q: exp (abc)", "me/q: exp (abc) #2"]


def test_steps_that_are_no_training_steps_are_told() -> None:
    counted = TrackedRun("exp", "abc", "file", {ACC: [(7, 0.5)], GLOBAL_STEP: [(7, 20.0)]})
    untold = TrackedRun("exp", "abd", "file", {ACC: [(7, 0.5)]})
    (one, other), _ = curves_of(Tracked((counted, untold)), (), "source")
    assert one.curve.notes == (f"steps are the tracker's own: its step 7 has {GLOBAL_STEP} 20",)
    assert (one.curve.last_step, other.curve.last_step) == (20, 0)
    assert "nothing says that they are training steps" in other.curve.notes[0]
