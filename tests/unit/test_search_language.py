"""The language of searches: what it means, and that whatever is wrong is told with its line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_specs.errors import SpecError
from experiment_specs.presets import PACKAGE
from experiment_specs.search import SEARCH_KEYS, corners, load_search, reserved
from experiment_specs.search_language import Parameter, Requirement, SearchSettings
from tests.search_tools import SEARCH

SHIPPED = sorted((PACKAGE / "searches").glob("*.yaml"))
TEXT = SEARCH.format(runs=20, sampler="tpe", more="")


@pytest.fixture
def load(write_spec):
    def loaded(text: str = TEXT):
        return load_search(write_spec(text))

    return loaded


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_searches_load_and_their_settings_survive_the_registry(path: Path) -> None:
    settings = load_search(path).settings
    assert (
        SearchSettings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json"))), strict=False)
        == settings
    )


def test_a_point_is_a_condition_on_the_questions_that_are_selected_on(load) -> None:
    search = load()
    point = {"aqn.schedule": "linear", "aqn.sigma_start": 0.02, "aqn.sigma_end": 0.001}
    condition = search.trial(point, "selection")
    assert condition.aqn is not None
    assert (condition.aqn.sigma_start, condition.aqn.num_stages) == (0.02, None)
    assert condition.data.test == "tiny/addition-selection"
    assert search.trial(point, "test").data.test == "tiny/addition"
    assert search.baseline("selection").aqn is None
    assert list(search.beside()) == ["standard"]
    assert reserved(search) == 2 * (2 + 2)


def test_presets_stand_beside_where_nothing_is_said(load) -> None:
    assert list(load(TEXT.replace(", beside: {standard: {aqn: standard}}", "")).beside()) == [
        "standard",
        "high",
        "lower",
    ]


def test_fields_exist_only_where_others_have_these_values(load) -> None:
    settings = load().settings
    drawn = [settings.draw(random.Random(seed)) for seed in range(50)]
    assert {("aqn.num_stages" in point) == (point["aqn.schedule"] == "kstage") for point in drawn} == {True}


def test_corners_are_allowed_points(load) -> None:
    search = load()
    found = corners(search)
    assert len(found) == len({repr(point) for point in found}) == 9
    assert all(point["aqn.sigma_end"] <= point["aqn.sigma_start"] for point in found)


@given(a=st.floats(0, 1), b=st.floats(0, 1))
def test_requirements(a: float, b: float) -> None:
    point = {"x": a, "y": b}
    assert Requirement(at_most=("x", "y")).holds(point) == (a <= b)
    assert Requirement(below=("x", "y")).holds(point) == (a < b)
    assert Requirement(at_most=("x", 0.5)).holds(point) == (a <= 0.5)
    assert Requirement(at_most=("x", "z")).holds(point)
    assert Requirement(never={"x": a, "y": b}).holds(point) is False
    assert Requirement(never={"x": a, "y": b + 1}).holds(point)


def test_grids() -> None:
    assert Parameter(low=1, high=3).grid() == (1, 2, 3)
    assert Parameter(low=1, high=10, points=4).grid() == (1, 4, 7, 10)
    assert Parameter(low=0.01, high=1.0, log=True).grid() == pytest.approx((0.01, 0.1, 1.0))
    assert Parameter(low=0.0, high=1.0, step=0.25).grid() == (0, 0.25, 0.5, 0.75, 1.0)
    assert Parameter(choices=("a", "b")).grid() == ("a", "b")


WRONG = {
    "no name": (("search: light-search", ""), "a search needs a name"),
    "a sweep's key": (("budget:", "axes: {{epochs: [1, 2]}}\nbudget:"), "axes: unknown key"),
    "unknown field": (("aqn.sigma_start: {{", "aqn.sigma_star: {{"), "did you mean 'sigma_start'"),
    "low above high": (("low: 1.0e-3, high: 1.0e-1", "low: 1.0e-1, high: 1.0e-3"), "must be below high"),
    "log of zero": (("low: 1.0e-3", "low: 0"), "log needs a low above 0"),
    "neither": (("{{low: 1.0e-5, high: 1.0e-2, log: true}}", "{{log: true}}"), "choices, or low and high"),
    "a bare list": (("{{choices: [kstage, linear]}}", "[kstage, linear]"), "is choices: […], or low and high"),
    "a list as choice": (("[kstage, linear]", "[[kstage], linear]"), "a choice is a name, a number"),
    "when is below": (("when: {{aqn.schedule: kstage}}", "when: {{aqn.layer_types: rmsnorm}}"), "is no field of the space"),
    "when is no choice": (("when: {{aqn.schedule: kstage}}", "when: {{aqn.schedule: kstages}}"), "did you mean 'kstage'"),
    "impossible corner": (("require: [{{at_most: [aqn.sigma_end, aqn.sigma_start]}}]\n", ""), "require: can keep points out"),
    "nothing allowed": (("at_most: [aqn.sigma_end, aqn.sigma_start]", "at_most: [aqn.sigma_start, 1.0e-6]"), "leaves no point"),
    "require of what": (("[aqn.sigma_end, aqn.sigma_start]", "[aqn.sigma_nd, aqn.sigma_start]"), "did you mean 'aqn.sigma_end'"),
    "order of choices": (("[aqn.sigma_end, aqn.sigma_start]", "[aqn.schedule, aqn.sigma_start]"), "only ranges have an order"),
    "set decides it too": (("dtype: mxfp4,", "dtype: mxfp4, aqn.sigma_start: 0.01,"), "the space aqn.sigma_start decides it"),
    "unknown questions": (("fresh_seeds: 2", "questions: tset, fresh_seeds: 2"), "did you mean 'test'"),
    "selected on": (("fresh_seeds: 2", "questions: selection, fresh_seeds: 2"), "what is reported would be luck"),
    "one fresh seed": (("fresh_seeds: 2", "fresh_seeds: 1"), "confirm.fresh_seeds"),
    "no budget": (("{{runs: {runs}}}", "{{}}"), "runs or gpu_hours must be said"),
    "too small": (("{{runs: {runs}}}", "{{runs: 10}}"), "10 runs are too few: the confirmation takes 8"),
    "selects on the test set": (("budget:", "objective: {{questions: test}}\nbudget:"), "stays for what is reported"),
    "never of a choice": (("{{at_most: [aqn.sigma_end, aqn.sigma_start]}}", "{{never: {{aqn.schedule: kstagee}}}}"), "did you mean 'kstage'"),
    "half steps of whole": (("low: 3, high: 6,", "low: 3, high: 6, step: 0.5,"), "must divide 3 to 6"),
    "steps that do not fit": (("low: 3, high: 6,", "low: 3, high: 6, step: 2,"), "must divide 3 to 6"),
    "next to nothing": (("at_most: [aqn.sigma_end, aqn.sigma_start]", "at_most: [aqn.sigma_start, 1.0e-3]"), "leaves no point"),
    "a name of its own": (("{{standard:", "{{baseline:"), "is a name that the search gives itself"),
    "a pair in the space": (("space:", "space:\n  batch.prompts: {{low: 16, high: 31}}"), "space.batch.prompts: prompts (31) must be a multiple"),
    "sampler": (("name: {sampler}", "name: tpee"), "did you mean 'tpe'"),
    "pruner": (("budget:", "pruner: {{from_step: 2, z: 0.5}}\nbudget:"), "pruner.z"),
    "parallel": (("budget:", "parallel: 0\nbudget:"), "is at least 1"),
    "first above up_to": (("first: 1", "first: 4"), "must not be above up_to"),
    "beside": (("{{aqn: standard}}", "{{aqn: standart}}"), "did you mean 'standard'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_file_and_line(name: str, load, tmp_path: Path) -> None:
    (old, new), message = WRONG[name]
    assert old in SEARCH, "the test spoils nothing"
    text = SEARCH.replace(old, new, 1).format(runs=20, sampler="tpe", more="")
    with pytest.raises(SpecError) as caught:
        load(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'sweep.yaml'}:")
    assert len(str(caught.value).splitlines()) == 1


def test_the_space_may_not_hold_the_baseline(load) -> None:
    text = TEXT.replace("space:", "space:\n  aqn: {choices: [none, standard]}\n  #", 1)
    begin, end = text.index("  #"), text.index("require:")
    with pytest.raises(SpecError, match="holds the baseline itself"):
        load(text[:begin] + text[end:].replace("require: [{at_most: [aqn.sigma_end, aqn.sigma_start]}]\n", ""))


def test_every_key_is_explained_in_the_documentation() -> None:
    text = (PACKAGE.parent / "docs" / "searches.md").read_text()
    assert [key for key in SEARCH_KEYS if f"`{key}`" not in text] == []
