"""From a scan's errors to multipliers, and the scan's own measures."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from experiment_specs.errors import SpecError
from experiment_specs.language import Aqn, Dtype, Srdd
from experiment_specs.layers import aimed, layer_multipliers
from experiment_specs.load import build_condition, load_sweep
from experiment_specs.presets import presets
from tests.unit.test_rollout import tiny_model
from tests.unit.test_treatments import Toy
from workers.treatments.aqn import Noise, by_layer
from workers.treatments.quantize import quantise
from workers.treatments.srdd import disturbance, scan_layers

ERRORS = [0.10, 0.30, 0.20, 0.40]
FLOOR = Dtype(format="mxfp4", scale_rule="floor")
STANDARD = Aqn(schedule="kstage", sigma_start=0.01, sigma_end=0.0001, num_stages=10)


def srdd(**fields: object) -> Srdd:
    return Srdd.model_validate(fields)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (srdd(aim="targeted", top_k=2), (0.0, 1.0, 0.0, 1.0)),
        (srdd(aim="variable"), (0.4, 1.2, 0.8, 1.6)),
        (srdd(aim="inverse"), (1.6, 0.8, 1.2, 0.4)),
        (srdd(aim="variable", ceiling=True), (0.25, 0.75, 0.5, 1.0)),
        (srdd(aim="inverse", ceiling=True), (1.0, 0.5, 0.75, 0.25)),
        (srdd(aim="variable", bands=(1.5, 1.0)), (1.0, 1.5, 1.0, 1.5)),
    ],
)
def test_multipliers_follow_from_errors(how, expected) -> None:
    assert aimed(how, ERRORS) == pytest.approx(expected)


def test_four_of_28_layers_are_ranked_and_not_thresholded() -> None:
    errors = [0.1 + 0.001 * layer for layer in range(28)]
    errors[14:18] = [0.3, 0.31, 0.32, 0.3]
    found = aimed(Srdd.model_validate(presets()["srdd"]["targeted"]), errors)
    assert [layer for layer, m in enumerate(found) if m] == [14, 15, 16, 17]


@given(errors=st.lists(st.floats(1e-6, 10), min_size=1, max_size=40))
def test_shares_add_up_and_ceilings_hold(errors) -> None:
    assert sum(aimed(srdd(aim="variable"), errors)) == pytest.approx(len(errors))
    assert min(aimed(srdd(aim="inverse"), errors)) >= 0
    assert max(aimed(srdd(aim="variable", ceiling=True), errors)) == pytest.approx(1.0)


def test_what_cannot_be_aimed_is_an_error() -> None:
    with pytest.raises(ValueError, match="top_k is 9, and the model has 4 decoder layers"):
        aimed(srdd(aim="targeted", top_k=9), ERRORS)
    with pytest.raises(ValueError, match="needs the result of a layer scan"):
        layer_multipliers(STANDARD, srdd(aim="variable"), None)
    with pytest.raises(ValidationError, match="top_k belongs to aim targeted"):
        srdd(aim="variable", top_k=3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("set: {srdd: variable, aqn: none, dtype: mxfp4}", "there is nothing to aim"),
        ("set: {srdd: variable, aqn: standard, dtype: bf16}", "next to no quantisation error to scan"),
        ("set: {srdd: variable, dtype: mxfp4, aqn: {preset: standard, multipliers: [1, 2]}}", "keep one"),
    ],
)
def test_contradictions_of_a_spec_are_told(write_spec, fields, words) -> None:
    sweep = load_sweep(write_spec(f"sweep: s\nbase: bases/tiny-cpu.yaml\n{fields}\n"))
    with pytest.raises(SpecError, match=words):
        build_condition(sweep, {})


def test_a_scan_of_another_format_than_the_run_is_declared(write_spec) -> None:
    text = (
        "sweep: s\nbase: bases/tiny-cpu.yaml\nset: {aqn: standard, srdd: {preset: variable, dtype: {format: nvfp4}}}\n"
    )
    condition = build_condition(load_sweep(write_spec(text)), {})
    assert condition.dtype.format == "bf16"
    assert condition.srdd is not None
    assert condition.srdd.dtype == Dtype(format="nvfp4")


def test_noise_has_each_layers_multiplier_and_says_so() -> None:
    toy = Toy()
    noise = Noise(toy, "linear", layer_multipliers(STANDARD, srdd(aim="targeted", top_k=1), [0.1, 0.3, 0.2]))
    noise.remember()
    noise.draw(0.05, seed=1, step=1)
    pooled, expected = noise.expect(0.05, seed=1, step=1)
    table = by_layer(noise, noise.measure(), lambda layer: expected[layer])
    assert table["layer"] == [0, 1, 2]
    assert table["multiplier"] == [0.0, 1.0, 0.0]
    assert table["changed"] == [0, 3, 0]
    assert table["std"] == pytest.approx([0.0, 0.05, 0.0], rel=0.1)
    assert pooled.due == 3


def test_layers_beyond_the_multipliers_are_an_error() -> None:
    with pytest.raises(ValueError, match="decoder layer 1, and there are 1 multipliers"):
        Noise(Toy(), "rmsnorm", layer_multipliers(STANDARD.model_copy(update={"multipliers": (1.0,)}), None, None))


def test_measures_of_a_known_activation() -> None:
    x = torch.zeros(1, 32)
    x[0, :4] = torch.tensor([6.0, 5.9, 2.4, 0.2])  # scale 1: 6, 6, 2, 0
    found = disturbance(x, FLOOR)
    assert quantise(x, FLOOR)[0, :4].tolist() == [6.0, 6.0, 2.0, 0.0]
    assert found["relative_error"] == pytest.approx((0.1 / 5.9 + 0.4 / 2.4 + 1.0) / 32, rel=1e-5)
    assert found["sqnr_db"] == pytest.approx(10 * torch.log10((x**2).sum() / (0.1**2 + 0.4**2 + 0.2**2)).item())
    assert found["deadzone"] == pytest.approx(1 / 4)
    assert found["saturation"] == pytest.approx(1 / 32)
    assert disturbance(torch.zeros(2, 32), FLOOR)["sqnr_db"] is None


def test_a_scan_measures_every_decoder_layer_of_a_real_model_and_repeats() -> None:
    prompts = [torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])]
    table = scan_layers(tiny_model(), prompts, FLOOR)
    assert table["layer"] == [0, 1]
    assert all(0 < error < 1 for error in table["relative_error"])
    assert scan_layers(tiny_model(), prompts, FLOOR) == table
    assert scan_layers(tiny_model(5), prompts, FLOOR) != table
    with pytest.raises(RuntimeError, match="no decoder layers"):
        scan_layers(torch.nn.Linear(2, 2), [], FLOOR)
