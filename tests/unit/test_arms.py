"""Confounds: found in the plan where they are written, and in the counts where they are not."""

from __future__ import annotations

import pytest

from experiment_specs.errors import SpecError
from experiment_specs.load import build_condition, load_sweep
from orchestrator.arms import Counts, differences, undeclared
from orchestrator.plan import make_plan

SPEC = """\
sweep: s
base: bases/tiny-cpu.yaml
axes: {aqn: [none, standard]}
labels: {quiet: {aqn: none}, noisy: {aqn: standard}}
contrasts:
  helps: {vary: aqn, from: none, to: standard}
"""


def counts(**changes: object) -> Counts:
    return Counts(**({"training_steps": 24, "optimiser_steps": 24, "trajectories": 128.0, "prompts_generated": 400.0,
                      "prompts_kept": 384.0} | changes))  # fmt: skip


def contrast_warnings(path) -> list[str]:
    return [text for text in make_plan(load_sweep(path)).warnings if text.startswith("contrast ")]


def test_arms_that_differ_in_what_the_contrast_varies_are_a_pair(write_spec) -> None:
    assert contrast_warnings(write_spec(SPEC)) == []


def test_a_second_change_is_named(write_spec) -> None:
    text = SPEC.replace(
        "axes: {aqn: [none, standard]}",
        "axes: {aqn: [none]}\ninclude: [{aqn: standard, optimiser.lr: 1e-4, batch: {prompts: 32, mini_batch: 16}}]",
    )
    assert contrast_warnings(write_spec(text)) == [
        "contrast helps: quiet has no partner; noisy, the nearest, differs in optimiser.lr, batch.prompts too"
    ]


def test_an_arm_whose_partner_the_sweep_leaves_out_is_no_trouble(write_spec) -> None:
    text = SPEC.replace("axes: {", "axes: {dtype: [bf16, mxfp4], ").replace("labels:", "# labels:")
    left_out = "exclude:\n  - when: {dtype: bf16, aqn: standard}\n    because: it has nothing to drown\n"
    by_hand = left_out.replace("{dtype: bf16, aqn: standard}", "{dtype: bf16, aqn: none}")
    assert contrast_warnings(write_spec(text)) == []
    assert contrast_warnings(write_spec(text + left_out)) == []
    assert (
        contrast_warnings(write_spec(text.replace("from: none, to: standard", "from: standard, to: none") + by_hand))
        == []
    )


def test_a_contrast_of_what_the_sweep_does_not_have_is_told(write_spec) -> None:
    text = SPEC.replace("to: standard}", "to: high}")
    with pytest.raises(SpecError, match=r"contrasts\.helps\.to: no condition has this aqn"):
        contrast_warnings(write_spec(text))


def test_differences_are_leaves(write_spec) -> None:
    sweep = load_sweep(write_spec(SPEC))
    one, other = (
        build_condition(sweep, {"dtype": "mxfp4"}),
        build_condition(sweep, {"dtype": "nvfp4", "optimiser.lr": 1e-4}),
    )
    assert differences(one, other) == {
        "optimiser.lr": (5e-5, 1e-4), "dtype.format": ("mxfp4", "nvfp4"), "dtype.scale_rule": ("floor", None),
    }  # fmt: skip


def test_counts_that_differ_where_the_plan_does_not_are_told(write_spec) -> None:
    sweep = load_sweep(write_spec(SPEC))
    one, other = build_condition(sweep, {}), build_condition(sweep, {"aqn": "standard"})
    longer = build_condition(sweep, {"epochs": 2})
    assert undeclared([("a", one, counts()), ("b", other, counts())]) == []
    assert undeclared([("a", one, counts()), ("b", longer, counts(training_steps=48, optimiser_steps=48))]) == []
    assert undeclared([("a", one, counts()), ("b", other, counts(trajectories=256.0))]) == [
        "trajectories differ and nobody declared it: 128 in a; 256 in b"
    ]
    assert undeclared([("a", one, counts()), ("b", other, counts(prompts_generated=960.0))]) == [
        "b generated 40.0 prompts a step and a 16.7: dynamic sampling dropped more of its groups"
    ]
    assert undeclared([("a", one, counts(optimiser_steps=None)), ("b", other, counts())]) == []
