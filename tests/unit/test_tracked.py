"""Runs of a tracker → curves: which tags are scores, and what becomes of steps that were written twice."""

from __future__ import annotations

import math
from typing import Any

import pytest

from experiment_specs.errors import SpecError
from orchestrator.importers.curve_claims import claimed_run
from orchestrator.importers.tracked import GLOBAL_STEP, LeftOut, Tracked, TrackedRun, curves_of, with_labels

ACC = "val-core/openai/gsm8k/acc/mean@1"
STEPS = {GLOBAL_STEP: [(0, 0.0), (20, 20.0)]}


def run(metrics: dict[str, list[tuple[int, float]]], **how: Any) -> TrackedRun:
    named = {"name": "exp", "run_id": "abc", "source": "file"} | how
    return TrackedRun(metrics=STEPS | metrics, **named)


def curves(*runs: TrackedRun, metrics: tuple[str, ...] = ()) -> list[tuple[str, list[tuple[int, float]]]]:
    found, _ = curves_of(Tracked("source", runs), metrics)
    return [(one.curve.name, [(p.step, p.percent) for p in one.curve.points]) for one in found]


def test_one_curve_per_test_set_by_its_best_tag() -> None:
    metrics = {
        ACC: [(0, 0.1), (20, 0.7)], "val-core/openai/gsm8k/reward/mean@1": [(0, 0.0)],
        "val-core/math/acc/mean@8": [(0, 0.2)], "val-core/math/acc/mean@4": [(0, 0.3)],
        "val-core/math/acc/best@4/mean": [(0, 0.9)], "critic/score/mean": [(0, 0.0)],
    }  # fmt: skip
    assert curves(run(metrics)) == [
        ("exp (abc) math", [(0, 30.0)]),
        ("exp (abc) openai/gsm8k", [(0, 10.0), (20, 70.0)]),
    ]
    assert curves(run({ACC: metrics[ACC]})) == [("exp (abc)", [(0, 10.0), (20, 70.0)])]


def test_a_chosen_tag_has_the_label_that_it_has_without_choosing() -> None:
    metrics = {ACC: [(0, 0.1)], "val-core/math/acc/mean@4": [(0, 0.3)], "eval/acc": [(0, 0.5)]}
    assert curves(run(metrics), metrics=(ACC,)) == [("exp (abc) openai/gsm8k", [(0, 10.0)])]
    assert curves(run({ACC: [(0, 0.1)]}), metrics=(ACC,)) == [("exp (abc)", [(0, 10.0)])]
    assert curves(run(metrics), metrics=("eval/acc",)) == [("exp (abc) eval/acc", [(0, 50.0)])]


def test_later_values_replace_earlier_ones_and_that_is_told() -> None:
    found, _ = curves_of(Tracked("source", (run({ACC: [(0, 0.1), (20, 0.5), (20, 0.6), (0, 0.1)]}),)), ())
    assert [(p.step, p.percent) for p in found[0].curve.points] == [(0, 10.0), (20, 60.0)]
    assert found[0].curve.notes == ("step 20 was written again: 0.6 in the place of 0.5",)


def test_no_number_is_no_point() -> None:
    values = [(0, math.nan), (5, math.inf), (10, 0.5), (15, math.nan), (15, math.nan)]
    found, _ = curves_of(Tracked("source", (run({ACC: values}),)), ())
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
    found, left_out = curves_of(Tracked("source", (run(metrics), good), (LeftOut("x", "y"),)), ())
    assert [one.run.run_id for one in found] == ["good"]
    assert [one.name for one in left_out] == ["x", "exp (abc)"]
    with pytest.raises(SpecError, match=why):
        curves_of(Tracked("source", (run(metrics),)), ())


def test_one_test_set_that_is_no_share_does_not_refuse_the_other() -> None:
    odd = "val-core/games/acc/mean@1"
    found, left_out = curves_of(Tracked("source", (run({odd: [(0, -0.5)], ACC: [(0, 0.5)]}),)), ())
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
    (one, other), _ = curves_of(Tracked("source", (counted, untold)), ())
    assert one.curve.notes == (f"steps are the tracker's own: its step 7 has {GLOBAL_STEP} 20",)
    assert (one.curve.last_step, other.curve.last_step) == (20, 0)
    assert "nothing says that they are training steps" in other.curve.notes[0]


def test_long_names_ids_and_tags_make_labels_that_differ_and_fit() -> None:
    tags = [f"val-core/{'x' * 180}{end}/acc/mean@1" for end in "ab"]
    found, _ = curves_of(
        Tracked("source", (run({tag: [(0, 0.5)] for tag in tags}, name="n" * 119, run_id="i" * 59),)), ()
    )
    labels = [claimed_run(one.curve).label for one in found]
    assert labels == [one.curve.name for one in found], "told apart after they were shortened"
    assert len(set(labels)) == 2
    assert max(map(len, labels)) <= 200
    assert [label[-3:] for label in labels] == ["xxa", "xxb"]
    [long], _ = curves_of(Tracked("source", (run({ACC: [(0, 0.5)]}, name="n" * 300, run_id="i" * 300),)), ())
    assert long.curve.name == f"{'n' * 137} ({'i' * 60})"


def test_what_cannot_be_printed_is_replaced_and_told_apart() -> None:
    tags = {f"val-core/a{odd}/acc/mean@1": [(0, 0.5)] for odd in ("\0", "\t", "\x1b", "_")}
    odd = run(tags, name="\0e\ud800\n", run_id="i\0", project="p\x1b", notes=("a\0b",), source="f\0")
    blank = run({ACC: [(0, 0.5)]}, name="\n ", run_id="\t", project="q")
    nothing = run({"val/a\0": [(0, 0.5)]}, name="\0")
    found, left_out = curves_of(Tracked("source", (odd, blank, nothing), (LeftOut("f\0", "w\0"),)), ())
    labels = [one.curve.name for one in found]
    assert len(set(labels)) == 5
    assert [claimed_run(one.curve).label for one in found] == labels
    assert sorted(labels)[-4:] == ["p_: _e__ (i_) a_", *(f"p_: _e__ (i_) a_ #{n}" for n in (2, 3, 4))]
    told = [word for one in found for word in (one.curve.metric, one.curve.source, *one.curve.notes)]
    assert all(map(str.isprintable, [*told, *(word for one in left_out for word in (one.name, one.why))]))
    assert len({one.identity for one in found}) == 5


def test_what_makes_a_curve_the_same_is_its_project_run_and_tag_alone() -> None:
    def identities(*runs: TrackedRun, metrics: tuple[str, ...] = ()) -> list[str]:
        return [one.identity for one in curves_of(Tracked("source", runs), metrics)[0]]

    one = run({ACC: [(0, 0.5)]}, project="p")
    [alone] = identities(one)
    math = "val-core/math/acc/mean@4"
    both = run({ACC: [(0, 0.5)], math: [(0, 0.5)]}, project="p", name="renamed", source="another")
    assert identities(both)[1] == alone
    assert identities(both, metrics=(ACC,)) == [alone]
    others = [run({ACC: [(0, 0.5)]}, **how) for how in ({"project": "q"}, {"project": "p", "part": 2})]
    others += [run({ACC: [(0, 0.5)]}, project="p", run_id="", name=name) for name in ("abc", "exp")]
    assert alone in (found := identities(*others, one))
    assert len(set(found)) == 5
    assert len(set(identities(one, one))) == 2, "even what no tracker should have does not collide"


def test_a_label_that_was_given_is_kept_and_given_to_no_other() -> None:
    runs = [run({ACC: [(0, 0.5)]}, project=project) for project in "pq"]
    found, _ = curves_of(Tracked("source", tuple(runs)), ())
    first, second = (one.identity for one in found)

    def labels(kept: dict[str, str], taken: tuple[str, ...] = ()) -> list[str]:
        return [one.curve.name for one in with_labels(found, kept, taken)]

    assert labels({}) == ["p: exp (abc)", "q: exp (abc)"]
    assert labels({first: "exp (abc)"}) == ["exp (abc)", "q: exp (abc)"]
    assert labels({second: "p: exp (abc)"}) == ["p: exp (abc) #2", "p: exp (abc)"]
    assert labels({}, ("q: exp (abc)",)) == ["p: exp (abc)", "q: exp (abc) #2"]
    [alone] = with_labels(found[:1], {}, ("exp (abc)",))
    assert alone.curve.name == "p: exp (abc)"


def test_errors_tell_the_source_as_it_may_be_shown() -> None:
    tracked = Tracked("http://h:5000", (run({"eval/acc": [(0, 0.5)]}),))
    with pytest.raises(SpecError, match=r"^http://h:5000: nothing here can be a claim"):
        curves_of(tracked, ())
    with pytest.raises(SpecError, match=r"^http://h:5000: --metric: no run has this tag"):
        curves_of(tracked, ("eval/acd",))
