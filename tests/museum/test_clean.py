"""Where nothing is broken the run is proven, and says all that a verdict needs; one fault, and it is not."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from experiment_specs.schedules import sigma_at
from orchestrator.verdict import PROVEN, REFUTED
from workers.events import read_events

CHECKPOINTING = {"actor_rollout_ref.model.enable_gradient_checkpointing": True}
SMALL_MICRO_BATCHES = {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2}


def test_a_clean_run_is_proven(make_run) -> None:
    run = make_run()
    verdict = run.train()
    assert (verdict.status, verdict.reasons) == (PROVEN, ())
    exported, forward, sync = run.of("exported"), run.of("forward_weights"), run.of("sync")
    assert [fact["export"] for fact in exported] == [0, 1, 2, 3, 4]
    assert [fact["export"] for fact in forward] == [fact["step"] for fact in sync] == [0, 1, 2, 3]
    assert [fact["weights"] for fact in forward] == [fact["used"] for fact in exported[:4]]
    assert [fact["weights"] for fact in sync] == [fact["weights"] for fact in exported[:4]]
    assert len(sync[0]["weights"]) == len(dict(run.engine.module.named_parameters()))
    for fact in run.of("eval_mode"):
        assert exported[fact["step"]]["weights"] == fact["weights"]
        assert fact["realised"]["modules"] == 0
    assert [fact["sigma_planned"] for fact in sync] == [sigma_at(run.condition.aqn, t, 4, 4) for t in (1, 2, 3, 4)]
    assert all(fact["realised"]["modules"] == 5 and fact["on_grid"] == fact["watched"] for fact in sync)
    assert [fact["step"] for fact in run.of("eval")] == [0, 2, 4]
    assert len(run.of("gradient_probe")) == 4
    moved = run.of("moved")
    assert [fact["optimiser_updates"] for fact in moved] == [0, 1, 2, 3, 4]
    assert moved[0]["block_linears"] == 0 < moved[1]["block_linears"] < moved[4]["block_linears"]


@pytest.mark.parametrize(
    ("fields", "overrides"),
    [
        ({"dtype": "nvfp4", "aqn": "none"}, {}),
        ({"compute": "bf16"}, {}),
        ({"algorithm.kl_loss": 0.01}, {}),
        ({"batch.prompts": 4, "eval.samples": 2, "eval.temperature": 1.0}, {}),
        ({}, CHECKPOINTING),
        ({}, SMALL_MICRO_BATCHES),
        ({"dtype": {"format": "mxfp4", "scale_rule": "rceil", "exclude": ["*.layers.0.mlp.*"]}}, {}),
        ({"dtype": {"format": "nvfp4", "include": ["*.self_attn.*"]}}, {}),
        ({"aqn.layer_types": "linear"}, {}),
        ({"aqn.during_eval": True}, {}),
        ({"aqn.multipliers": [1.5, 0.0]}, {}),
        ({"aqn.multipliers": [0.5, 2.0], "aqn.layer_types": "linear", "compute": "bf16"}, {}),
        ({"lora": "r32"}, {}),
        ({"lora": "r32", "aqn.layer_types": "linear"}, {}),
        ({"lora": {"sync": "merged"}}, {}),
        ({"lora": {"rank": 8}, "compute": "bf16", "algorithm.kl_loss": 0.01}, CHECKPOINTING),
        ({"lora": {"sync": "merged"}, "dtype": "nvfp4"}, {}),
        ({"lora": "r32", "hw_noise": {"scale": 0.05, "ops": ["linear"], "backward": True}}, {}),
        ({"hw_noise": "matmul-5pct"}, {}),
        ({"hw_noise": {"scale": 0.02, "backward": True}, "dtype": "nvfp4"}, CHECKPOINTING),
        ({"hw_noise": {"scale": 0.1, "phases": ["train"], "layers": [1]}, "compute": "bf16"}, {}),
        ({"hw_noise": {"scale": 0.05, "phases": ["rollout", "eval"]}, "lora": "r32"}, {}),
    ],
)
def test_other_clean_runs_are_proven(make_run, fields, overrides) -> None:
    verdict = make_run(fields, overrides=overrides).train()
    assert (verdict.status, verdict.reasons) == (PROVEN, ())


def test_a_clean_run_aimed_by_a_scan_is_proven(make_run) -> None:
    run = make_run({"srdd": "variable"}, scan={"run": "s", "model": "made up", "errors": [0.3, 0.1]})
    run.plan = replace(run.plan, scan_errors=(0.3, 0.1), scanned_model="made up")
    verdict = run.train()
    assert (verdict.status, verdict.reasons) == (PROVEN, ())
    table = run.of("sync")[2]["layers"]
    assert (table["layer"], table["multiplier"]) == ([0, 1, None], pytest.approx([1.5, 0.5, 1.0]))


def test_adapters_move_and_the_base_is_frozen(make_run) -> None:
    run = make_run({"lora": "r32"})
    assert run.train().status == PROVEN
    last = run.of("moved")[-1]
    assert last["adapters"] > 0
    assert (last["block_linears"], last["other"]) == (0.0, 0.0)
    (quantised,) = run.of("quantised")
    assert len(quantised["adapted"]) == len(quantised["quantised"]) == 14
    assert not any("lora_" in name for name in quantised["quantised"])
    assert quantised["trained"] < quantised["parameters"] / 2
    assert {("lora_" in fact["module"]) for fact in run.of("gradient_probe")} == {True, False}


@pytest.mark.parametrize("sync", ["adapter", "merged"])
def test_the_rollout_with_adapters_is_the_policys_function(make_run, sync) -> None:
    """Q(W)x + (alpha/rank)·BAx on both sides, whichever way the adapters travel."""
    run = make_run({"lora": {"sync": sync}, "optimiser.lr": 1e-2, "aqn": "none"})
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        before = run.rollout_copy.held.model(ids).logits
    run.step()
    run.step()
    with torch.no_grad():
        policy, rollout = run.engine.module(input_ids=ids).logits, run.rollout_copy.held.model(ids).logits
    assert torch.allclose(policy, rollout, atol=1e-5)
    assert not torch.allclose(before, rollout, atol=1e-2)


def test_what_a_number_format_means_must_be_in_the_model(make_run) -> None:
    with pytest.raises(ValueError, match=r"names modules that the model does not have: \*\.experts\.\*"):
        make_run({"dtype": {"format": "mxfp4", "scale_rule": "floor", "exclude": ["*.experts.*"]}})


def told(run: Any) -> list[Any]:
    """All but the times that metrics have in them."""
    return [
        (event.kind, event.data["metrics"]["actor/grad_norm"] if event.kind == "step" else event.data)
        for event in read_events(run.run_dir)[0]
    ]


def test_the_same_seed_says_the_same_and_another_does_not(make_run) -> None:
    one, same, other = make_run(), make_run(), make_run(seed=2)
    for _ in range(2):
        for run in (one, same, other):  # by turns: nothing of one gets into another
            run.step()
            run.evaluate()
    assert told(one) == told(same)
    assert told(one) != told(other)


def test_a_fault_is_seen_and_nothing_of_it_stays(make_run, monkeypatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("workers.verl.rollout_copy.RolloutCopy.planned_sigma", lambda self: 0.0)
        verdict = make_run().train()
    assert verdict.status == REFUTED
    assert make_run().train().status == PROVEN


def test_the_process_is_left_as_it_was(make_run) -> None:
    def state() -> dict[str, Any]:
        return {
            "environment": dict(os.environ),
            "random": torch.get_rng_state().tolist(),
            "threads": torch.get_num_threads(),
            "gradients": torch.is_grad_enabled(),
            "type": torch.get_default_dtype(),
        }

    before = state()
    run = make_run()
    assert state() == before
    run.step()
    run.evaluate()
    assert state() == before


def test_adapters_start_from_the_seed_of_the_run_and_from_nothing_else(make_run) -> None:
    def start(seed: int, state: int) -> dict[str, str]:
        sent = make_run({"lora": {"rank": 8}}, seed=seed, state=state).of("exported")[0]["weights"]
        return {key: value for key, value in sent.items() if ".lora_A" in key}

    first = start(seed=1, state=7)
    assert first
    assert start(seed=1, state=8) == first
    assert not set(start(seed=2, state=7).items()) & set(first.items())
