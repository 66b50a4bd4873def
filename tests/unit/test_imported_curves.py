"""Which tags are scores, what curves are called, and where an attempt begins. Pure."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_specs.errors import SpecError
from orchestrator.importers.curve_claims import questions_of_sets, with_questions
from orchestrator.importers.curves import (
    ImportedCurve,
    Point,
    answered_otherwise,
    answers_of,
    as_written,
    called,
    choose_each,
    named,
    same_mean,
    set_of,
    starts_over,
    told_apart,
)


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        (["val-core/a/acc/mean@8", "val-core/a/reward/mean@8", "val-core/b/reward/mean@1"], ["val-core/a/acc/mean@8", "val-core/b/reward/mean@1"]),
        (["val-core/a/reward/mean@1", "val/test_score/a"], ["val-core/a/reward/mean@1"]),
        (["val-core/a/b/c/acc/mean_4"], ["val-core/a/b/c/acc/mean_4"]),
        (["val-core/a/acc/best@4/mean", "val-core/a/acc/maj@4/mean", "val-core/a/acc/std@4", "val-aux/a/acc/mean@4"], []),
        (["val-core/a/score/mean@4", "val/success_rate", "val/loss", "critic/score/mean", "val/a/test_score"], []),
        (["val-core/a/acc/mean@8", "val-core/a/acc/mean@4"], ["val-core/a/acc/mean@4"]),
    ],
)  # fmt: skip
def test_the_score_of_each_test_set(tags: list[str], wanted: list[str]) -> None:
    assert list(choose_each(dict.fromkeys(tags, 1)).values()) == wanted
    assert sorted(choose_each(dict.fromkeys(reversed(tags), 1)).values()) == sorted(wanted)


@pytest.mark.parametrize(
    ("tag", "test_set", "answers"),
    [
        ("val-core/openai/gsm8k/acc/mean@1", "openai/gsm8k", 1),
        ("val-core/aime24/acc/mean@32", "aime24", 32),
        ("val-core/aime24/acc/mean_32", "aime24", 32),
        ("val-aux/aime24/acc/best@32/mean", "aime24", 1),
        ("val/test_score/openai/gsm8k", "openai/gsm8k", 1),
        ("val/success_rate", "", 1),
        ("val-aux/num_turns/mean", "", 1),
    ],
)
def test_what_a_tag_says(tag: str, test_set: str, answers: int) -> None:
    assert (set_of(tag), answers_of(tag)) == (test_set, answers)


def test_means_after_other_numbers_of_answers() -> None:
    tags = ["val-core/a/acc/mean@8", "val-aux/a/acc/mean@4", "val-aux/a/reward/mean@4", "val-aux/b/acc/mean@4"]
    assert answered_otherwise("val-core/a/acc/mean@8", tags) == ["val-aux/a/acc/mean@4"]
    assert answered_otherwise("val-core/b/acc/mean@4", ["val-core/b/acc/mean@4"]) == []
    assert answered_otherwise("val/success_rate", tags) == []


@pytest.mark.parametrize(
    ("other", "same"),
    [("val-core/a/acc/mean@64", True), ("val-core/a/acc/mean_8", True), ("val-core/b/acc/mean@32", False),
     ("val-core/a/reward/mean@32", False), ("val-aux/a/acc/mean@8", False), ("val/test_score/a", False)],
)  # fmt: skip
def test_a_mean_after_another_number_of_answers_is_the_same_mean(other: str, same: bool) -> None:
    assert same_mean("val-core/a/acc/mean@32", other) is same


def test_a_name_keeps_its_test_set_and_attempt_however_long_it_is() -> None:
    assert called("a") == "a"
    assert called("a", "gsm8k", 2) == "a on gsm8k (attempt 2)"
    long = called("a" * 300, "gsm8k", 2)
    assert len(long) == 200
    assert long.endswith("a on gsm8k (attempt 2)")


@pytest.mark.parametrize(
    ("step", "first", "over"), [(0, 0, True), (1, 0, True), (5, 5, True), (2, 0, False), (6, 5, False)]
)
def test_an_attempt_begins_where_steps_begin_again(step: int, first: int, over: bool) -> None:
    assert starts_over(step, first) is over


def test_tags_that_are_like_a_score_are_named_first_and_the_rest_is_counted() -> None:
    tags = [f"perf/{n}" for n in range(9)] + ["val/success_rate"]
    assert named(tags) == "val/success_rate, perf/0, perf/1, perf/2, perf/3, perf/4 and 4 more"
    assert named([]) == "none"


@given(st.floats(0, 1, width=32))
def test_a_number_of_32_bits_has_the_digits_that_tell_it_apart(value: float) -> None:
    short = as_written(value)
    assert struct.unpack("f", struct.pack("f", short))[0] == value
    assert len(repr(short)) <= max(len(str(np.float32(value))), len("0.000001"))


@given(st.decimals(0, 1, places=6))
def test_what_was_written_into_32_bits_comes_out_as_it_was(value) -> None:
    assert as_written(float(np.float32(float(value)))) == float(value)


@pytest.mark.parametrize("value", [0.1, 1e300, -1e300, 1 / 3])
def test_other_numbers_stay_as_they_are(value: float) -> None:
    assert as_written(value) == value


def curve(test_set: str, *, variable: str = "acc", shares: bool = True, value: float = 50.0) -> ImportedCurve:
    tag = f"val-core/{test_set}/{variable}/mean@1"
    return ImportedCurve("r", "f", tag, (Point(0, value),), 0, None, "unknown", "", shares=shares)


def test_questions_are_those_of_the_test_set() -> None:
    one, two = curve("a"), curve("b")
    assert questions_of_sets([one, one], 30) == {"a": 30}
    assert questions_of_sets([one, two], 30) == {}
    assert questions_of_sets([one, two], {"b": 30, "c": 5}) == {"b": 30}
    assert questions_of_sets([one], None) == {}


def test_questions_are_not_used_for_what_is_no_share_of_them() -> None:
    assert [n for _, n in with_questions([curve("a", shares=False)], 30)] == [None]
    assert [n for _, n in with_questions([curve("a", variable="reward")], 30)] == [30]
    [(noted, n)] = with_questions([curve("a", variable="reward", value=51.0)], 3)
    assert (n, noted.notes) == (
        None, ("3 questions are not used: not every value of the reward is a number of right answers to them",)
    )  # fmt: skip
    assert [n for _, n in with_questions([curve("a", value=51.0)], 3)] == [3], "accuracy has to be k of n"


def test_questions_of_a_test_set_that_no_curve_has_are_refused() -> None:
    with pytest.raises(SpecError, match=r"--questions: no such test set was read; accepted: aime24; did you mean"):
        with_questions([curve("aime24")], {"aime25": 30})


@given(st.lists(st.one_of(st.text(max_size=4), st.text("ab\0\n ", min_size=195, max_size=205)), max_size=8))
def test_labels_differ_whatever_the_names_are(names: list[str]) -> None:
    labels = told_apart(names)
    assert len(set(labels)) == len(names)
    assert all(0 < len(label) <= 200 and label.isprintable() and label == label.strip() for label in labels)
    assert told_apart(labels) == labels


def test_curves_whose_names_differ_in_what_is_cut_off_or_replaced_have_labels_of_their_own() -> None:
    names = ["a\0", "a\n", "x" * 200 + "y", "x" * 200 + "z"]
    counted = with_questions([replace(curve("a"), name=name) for name in names], None)
    assert [one.name for one, _ in counted] == ["a_", "a_ #2", "x" * 200, "x" * 197 + " #2"]
