"""The schema accepts what is good and refuses what is bad; every key can be explained; a new spec plans as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from experiment_specs.errors import SpecError
from experiment_specs.explain import explain, keys
from experiment_specs.schema import sweep_schema
from experiment_specs.yaml_source import read_yaml
from orchestrator.composed import verl_key

SPECS = Path(__file__).resolve().parents[2] / "experiment_specs"
FILES = sorted([*SPECS.glob("bases/*.yaml"), *SPECS.glob("sweeps/**/*.yaml")])


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    Draft202012Validator.check_schema(sweep_schema())
    return Draft202012Validator(sweep_schema())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_shipped_spec_is_good(schema, path) -> None:
    assert not list(schema.iter_errors(read_yaml(path).data))


@pytest.mark.parametrize(
    "bad",
    [
        {"axis": {}},
        {"axes": {"dtype": ["mxpf4"]}},
        {"axes": {"dtype": "mxfp4"}},
        {"axes": {"dytpe": ["mxfp4"]}},
        {"axes": {"aqn.sigma_sart": [0.1]}},
        {"axes": {"aqn": [False]}},
        {"set": {"epochs": 0}},
        {"set": {"optimiser.lr": "fast"}},
        {"set": {"aqn": {"preset": "standrad"}}},
        {"exclude": [{"when": {"dtype": "bf16"}}]},
        {"seeds": [1, 1]},
        {"score": {"rule": "last"}},
        {"checkpoints": {"keep": "first"}},
        {"contrasts": {"c": {"vary": "aqn", "from": "none"}}},
    ],
    ids=str,
)
def test_what_an_editor_should_underline(schema, bad: dict[str, Any]) -> None:
    assert list(schema.iter_errors({"sweep": "s", **bad}))


def test_a_reference_to_another_key_is_good(schema) -> None:
    assert not list(schema.iter_errors({"sweep": "s", "set": {"epochs": 2, "eval.every": "${set.epochs}"}}))


@pytest.mark.parametrize("key", keys())
def test_every_key_is_explained(key) -> None:
    found = explain(key)
    assert found.about
    assert found.accepts
    assert "object at 0x" not in found.default


def test_an_explanation_says_what_is_accepted_decided_and_meant() -> None:
    assert explain("optimiser.lr").verl_keys == ("actor_rollout_ref.actor.optim.lr",)
    assert explain("aqn").presets["high"]["sigma_start"] == 0.05
    assert explain("aqn.num_stages").accepts == "a whole number at least 3 or none"
    assert explain("checkpoints.keep").default == "last"
    with pytest.raises(SpecError, match=r"did you mean 'aqn\.sigma_start'"):
        explain("aqn.sigma_strat")
    assert verl_key("data.train_batch_size").about.startswith("A key of verl's that batch.prompts decides")
    assert "not discounted" in verl_key("algorithm.gamma").about
    assert verl_key("aqn") is None
