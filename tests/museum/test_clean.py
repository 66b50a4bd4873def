"""Where nothing is broken the run is proven, and says all that a verdict needs; one fault, and it is not."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from experiment_specs.schedules import sigma_at
from orchestrator.verdict import PROVEN, REFUTED

CHECKPOINTING = {"actor_rollout_ref.model.enable_gradient_checkpointing": True}
SMALL_MICRO_BATCHES = {"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2}


def test_a_clean_run_is_proven(make_run) -> None:
    run = make_run()
    verdict = run.train()
    assert (verdict.status, verdict.reasons) == (PROVEN, ())
    exported, forward, sync = run.of("exported"), run.of("forward_weights"), run.of("sync")
    assert [fact["export"] for fact in exported] == [0, 1, 2, 3, 4]
    assert [fact["export"] for fact in forward] == [fact["step"] for fact in sync] == [0, 1, 2, 3]
    assert [fact["weights"] for fact in forward] == [fact["weights"] for fact in sync]
    assert len(sync[0]["weights"]) == 8
    for fact in run.of("eval_mode"):
        assert exported[fact["step"]]["weights"] == fact["weights"] | fact["norms"]
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
    ],
)
def test_other_clean_runs_are_proven(make_run, fields, overrides) -> None:
    verdict = make_run(fields, overrides=overrides).train()
    assert (verdict.status, verdict.reasons) == (PROVEN, ())


def told(run: Any) -> list[Any]:
    """All but the times that metrics have in them."""
    return [
        (fact.kind, fact.data["metrics"]["actor/grad_norm"] if fact.kind == "step" else fact.data)
        for fact in run.facts()
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
