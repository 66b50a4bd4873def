"""Expansion: the product, less exclusions, plus inclusions, each condition once and under its label."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiment_specs.load import load_sweep
from orchestrator.expand import expand
from orchestrator.plan import make_plan, plan_as_json
from tests.conftest import TINY

SWEEPS = Path(__file__).resolve().parents[2] / "experiment_specs" / "sweeps"


def test_the_demo_is_four_labelled_conditions() -> None:
    expansion = expand(load_sweep(SWEEPS / "demo.yaml"))
    assert [p.label for p in expansion.conditions] == ["tiny-bf16", "tiny-bf16-aqn", "tiny-mxfp4", "tiny-mxfp4-aqn"]
    assert len({p.condition.id for p in expansion.conditions}) == 4


def test_exclusions_carry_their_reason_and_inclusions_their_fields() -> None:
    plan = make_plan(load_sweep(SWEEPS / "lora-on-a-quantised-base.yaml"))
    # 3 dtypes x 3 aqn x 2 srdd, less 3 without noise, less the 2 further ones with bf16, plus 1
    assert len(plan.conditions) == 14
    assert len(plan.excluded) == 5
    assert {e.reason.split(";")[0] for e in plan.excluded} == {
        "SRDD aims AQN",
        "bf16 has no quantisation error to scan",
    }
    extra = plan.conditions[-1]
    assert (extra.condition.epochs, extra.steps.total) == (2, 58)
    labels = {c.label for c in plan.conditions}
    assert {"E7a", "E6a", "E6b"} <= labels


def test_spelled_out_and_named_conditions_are_one(write_spec) -> None:
    spelled = "{schedule: kstage, num_stages: 10, sigma_end: 0.0001, sigma_start: 0.01, layer_types: rmsnorm}"
    expansion = expand(load_sweep(write_spec(TINY.replace("[none, standard]", f"[standard, {spelled}]"))))
    assert len(expansion.conditions) == 2
    assert expansion.merged == 2


def test_dotted_axes_reach_into_a_preset(write_spec) -> None:
    text = "sweep: s\nbase: bases/tiny-cpu.yaml\nset: {aqn: standard}\naxes: {aqn.sigma_start: [0.01, 0.02]}\n"
    conditions = [p.condition for p in expand(load_sweep(write_spec(text))).conditions]
    assert [c.aqn.sigma_start for c in conditions if c.aqn] == [0.01, 0.02]
    assert all(c.aqn and c.aqn.num_stages == 10 for c in conditions)


def test_json_has_the_promised_keys() -> None:
    data = plan_as_json(make_plan(load_sweep(SWEEPS / "demo.yaml")))
    assert {"sweep", "conditions", "excluded", "warnings"} <= data.keys()
    assert {
        "label", "condition_id", "condition", "seeds", "steps_per_epoch", "total_steps", "eval_steps",
        "trainer_overrides", "warnings",
    } <= data["conditions"][0].keys()  # fmt: skip


def test_what_the_workers_cannot_carry_out_is_said_in_the_plan() -> None:
    plan = make_plan(load_sweep(SWEEPS / "lora-on-a-quantised-base.yaml"))
    assert all(any("rollout: vllm" in blocker for blocker in c.blockers) for c in plan.conditions)


def test_a_whole_field_goes_before_its_parts_in_whatever_order_they_are_written(write_spec) -> None:
    text = "sweep: s\nbase: bases/tiny-cpu.yaml\naxes: {aqn.sigma_start: [0.02, 0.06], aqn: [standard, high]}\n"
    sigmas = [
        (p.condition.aqn.sigma_start, p.condition.aqn.sigma_end)
        for p in expand(load_sweep(write_spec(text))).conditions
    ]
    assert sigmas == [(0.02, 1e-4), (0.02, 5e-4), (0.06, 1e-4), (0.06, 5e-4)]
    text = "sweep: s\nbase: bases/tiny-cpu.yaml\naxes: {dtype: [bf16]}\ninclude: [{aqn.sigma_start: 0.02, aqn: standard, because: x}]\n"
    extra = expand(load_sweep(write_spec(text))).conditions[-1].condition
    assert extra.aqn.sigma_start == 0.02


def test_exclusions_read_the_choice_and_the_defaults(write_spec) -> None:
    text = """\
sweep: s
base: bases/tiny-cpu.yaml
axes: {dtype: [bf16, mxfp4, nvfp4], aqn: [none, standard]}
exclude:
  - {when: {dtype.format: mxfp4, aqn: standard}, because: one}
  - {when: {dtype: nvfp4, lora: none, eval.samples: 1}, because: two}
"""
    expansion = expand(load_sweep(write_spec(text)))
    assert [(p.condition.dtype.format, p.condition.aqn is None) for p in expansion.conditions] == [
        ("bf16", True), ("bf16", False), ("mxfp4", True),
    ]  # fmt: skip
    assert [e.reason for e in expansion.excluded] == ["one", "two", "two"]


EVERY_SWEEP = sorted(SWEEPS.rglob("*.yaml"))


@pytest.mark.parametrize("path", EVERY_SWEEP, ids=lambda p: p.stem)
def test_every_shipped_sweep_can_be_planned(path) -> None:
    plan = make_plan(load_sweep(path))
    assert plan.conditions
    assert len({c.label for c in plan.conditions}) == len(plan.conditions)


def test_every_run_of_the_seed_has_its_label_its_steps_and_its_evals() -> None:
    planned = {c.label: c for path in (SWEEPS / "seed").glob("*.yaml") for c in make_plan(load_sweep(path)).conditions}
    hardware = ["Baseline", "E5", "E5b", "E5c", "E9a", "E9a-high-σ", "E9b"]
    one_epoch = ["E8a", "E3a", "E3b", "E4a", "E4b", "E7a", "E5a-LoRA", "E5b-LoRA", "E6a", "E6b", "E12"]
    two_epochs = [f"{name}-2ep" for name in ("E6b", "E6a", "E7a", "E3a", "E3b", "E8a", "E12")]
    for label in hardware:
        assert planned[label].steps.total == 116
    for label in one_epoch:
        assert planned[label].steps.total == 29
    for label in two_epochs:
        assert planned[label].steps.evals == (0, 10, 20, 30, 40, 50, 58)
    for label in ("E6b-qerl", "E12-qerl"):
        assert planned[label].steps.total == 233
    assert planned["E9a"].condition.srdd.dtype.format == "mxfp4"
    assert planned["E12"].condition.lora.rank == 32


@pytest.mark.parametrize("twin", sorted((SWEEPS / "tiny").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_twin_has_the_runs_of_its_family(twin) -> None:
    family = load_sweep(SWEEPS / "seed" / twin.name)
    assert [label.removeprefix("tiny-") for label in load_sweep(twin).labels] == list(family.labels)
    dtypes = [
        [(c.label.removeprefix("tiny-"), c.condition.dtype.format, c.condition.lora is None, c.condition.algorithm.name)
         for c in make_plan(load_sweep(path)).conditions]
        for path in (SWEEPS / "seed" / twin.name, twin)
    ]  # fmt: skip
    assert sorted(dtypes[0]) == sorted(dtypes[1])


def test_auto_names_what_it_became(write_spec) -> None:
    text = TINY.replace("aqn: [none, standard]", "attention: [auto, eager]").replace(
        "dtype: [bf16, mxfp4]", "dtype: [bf16]"
    )
    text += "labels: {A: {attention: auto}}\ncontrasts: {k: {vary: attention, from: auto, to: eager}}\n"
    plan = make_plan(load_sweep(write_spec(text)))
    assert {c.label: c.condition.attention for c in plan.conditions}["A"] == "sdpa"
    assert not [warning for warning in plan.warnings if "differ in attention" in warning]
