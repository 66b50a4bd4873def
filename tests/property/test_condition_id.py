"""A condition's id depends on what it means, never on how it was written."""

from __future__ import annotations

import random

import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiment_specs.language import Condition, condition_id
from experiment_specs.load import build_condition, load_sweep
from tests.conftest import TINY

FIELDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["bf16", "mxfp4", "nvfp4"]),
        "aqn": st.sampled_from(["none", "standard", "high", "lower"]),
        "epochs": st.integers(1, 5),
        "optimiser.lr": st.floats(1e-7, 1e-2),
        "batch.prompts": st.sampled_from([16, 32]),
    }
)


def shuffled(value: object, order: random.Random) -> object:
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {k: shuffled(v, order) for k, v in items}
    return value


@given(fields=FIELDS, seed=st.integers(0, 2**16))
def test_key_order_formatting_and_spelled_out_defaults_do_not_matter(tmp_path_factory, fields, seed) -> None:
    path = tmp_path_factory.mktemp("spec") / "sweep.yaml"
    path.write_text(TINY)
    condition = build_condition(load_sweep(path), fields)
    spelled = condition.model_dump(mode="json")
    written = yaml.safe_dump(
        {"sweep": "s", "set": {k: "none" if v is None and k in ("aqn", "srdd", "hw_noise", "lora") else v
                               for k, v in shuffled(spelled, random.Random(seed)).items()}},
        default_flow_style=bool(seed % 2), sort_keys=False,
    )  # fmt: skip
    path.write_text(written)
    again = build_condition(load_sweep(path), {})
    assert again == condition
    assert again.id == condition.id == condition_id(shuffled(spelled, random.Random(seed)))


@given(first=FIELDS, second=FIELDS)
def test_different_meanings_have_different_ids(tmp_path_factory, first, second) -> None:
    path = tmp_path_factory.mktemp("spec") / "sweep.yaml"
    path.write_text(TINY)
    sweep = load_sweep(path)
    a, b = build_condition(sweep, first), build_condition(sweep, second)
    assert (a.id == b.id) == (a == b)


def test_every_field_of_a_condition_enters_its_id() -> None:
    dumped = {name: f"value of {name}" for name in Condition.model_fields}
    ids = {condition_id(dumped | {name: "changed"}) for name in Condition.model_fields}
    assert len(ids) == len(Condition.model_fields)
