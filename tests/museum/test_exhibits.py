"""What went wrong in this field, once more, with the real engine and rollout in this process. None comes out PROVEN.

Each test is named after what happened. The names of functions that are broken are strings: verl must be loaded for the
CPU before anything imports the workers' side of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from experiment_specs.language import Dtype, Model, Scan
from orchestrator.verdict import PROVEN, REFUTED, Measured, judge, judge_scan
from tests.broken import restored_in_place
from tests.one_process import OneProcess

COPY = "workers.verl.rollout_copy.RolloutCopy"
ENGINE = "workers.verl.engine.TreatedEngine"


def refuted(run: OneProcess, words: str) -> None:
    verdict = run.train()
    assert verdict.status == REFUTED
    assert words in "; ".join(verdict.reasons)


# ---------------------------------------------------------------- the treatment is inert


def test_nobody_told_the_rollout_the_step_and_sigma_stayed_0(make_run, monkeypatch) -> None:
    monkeypatch.setattr(f"{COPY}.serves", property(lambda self: 0))
    refuted(make_run(), "sigma stayed 0 in all 4 rollouts")


def test_the_schedule_returned_its_warm_up_0_for_ever(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.verl.rollout_copy.sigma_at", lambda *_: 0.0)
    refuted(make_run(), "sigma stayed 0 in all 4 rollouts")


def test_noise_was_drawn_and_never_written_into_the_model(make_run, monkeypatch) -> None:
    monkeypatch.setattr(f"{COPY}.apply_noise", lambda self: None)
    refuted(make_run(), "sigma stayed 0 in all 4 rollouts in which the schedule has noise")


def test_the_class_check_matched_no_module(make_run, monkeypatch) -> None:
    """An isinstance of one library's RMSNorm, on another library's model."""
    monkeypatch.setattr("workers.treatments.aqn.targets", lambda *_: iter(()))
    refuted(make_run(), "AQN found no module to act on")


def test_the_layer_map_lay_under_a_key_that_nobody_read(make_run, monkeypatch) -> None:
    from experiment_specs.layers import LayerMultipliers

    monkeypatch.setattr("workers.verl.rollout_copy.layer_multipliers", lambda *_: LayerMultipliers())
    refuted(make_run({"aqn.multipliers": [1.5, 0.5]}), "layer 0 had multiplier 1, the plan has 1.5")


def test_the_noise_was_below_the_spacing_of_the_number_format(make_run) -> None:
    """bf16 weights near 1 are 2^-7 apart."""
    refuted(
        make_run({"compute": "bf16", "aqn.sigma_start": 1e-4, "aqn.sigma_end": 1e-5}),
        "the number format rounds all of it away",
    )


def test_the_quantiser_was_configured_after_the_workers_were_up(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.quantize.attach", lambda *_: [])
    refuted(make_run(), "no module was quantised to mxfp4")


def test_noisy_matmuls_were_patched_in_the_driver_only(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.held.NoisyOps", Silent)
    refuted(make_run({"hw_noise": "matmul-5pct"}), "in phase rollout the results of model.layers")


def test_noisy_matmuls_were_counted_and_had_scale_0(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.noisy_ops._Noisy.apply", lambda y, scale: y)
    refuted(make_run({"hw_noise": "matmul-5pct"}), "planned are 5 %")


class Silent:
    """Looks like the noise, and does nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def phase(self, *_: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def take(self) -> dict[str, Any]:
        return {}


# ---------------------------------------------------------------- the treatment is too wide


def test_the_output_layer_was_quantised_too(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.quantize.is_quantised", lambda dtype, name: True)
    refuted(make_run(), "quantised, and must not be: lm_head")


def test_the_adapters_were_quantised_too(make_run, monkeypatch) -> None:
    """784 hooks instead of 392 were the only sign."""
    wrap = f"{ENGINE}._build_lora_module"
    original = _of(wrap)

    def wrapped(self: Any, module: Any) -> Any:
        from workers.treatments import quantize

        module = original(self, module)
        for name, linear in quantize.linears(module):
            if "lora_" in name:
                linear.__class__ = quantize.QuantisedLinear
                linear.weight_dtype, linear.watch, linear.seen = Dtype(format="bf16"), False, None
        return module

    monkeypatch.setattr(wrap, wrapped)
    refuted(make_run({"lora": "r32"}), "quantised, and must not be: model.layers.0")


def test_noise_was_left_on_in_validation(make_run, monkeypatch) -> None:
    monkeypatch.setattr(f"{COPY}.lift_noise", lambda self: None)
    refuted(make_run(), "noise was on in the eval at step 2")


def test_noise_piled_up_where_a_sync_brings_adapters_only(make_run, monkeypatch) -> None:
    """Without lifting it first, the noisy weights are taken for clean ones: a random walk."""
    load = f"{COPY}.load"
    original = _of(load)

    def piling(self: Any, weights: Any, step: int) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self.noise, "lift", lambda: None)
            return original(self, weights, step)

    monkeypatch.setattr(load, piling)
    refuted(make_run({"lora": "r32"}), "the rollout holds other weights than the policy exported: ")


# ---------------------------------------------------------------- wrong gradients


def restored_by_swapping(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The same with ``.data =``: autograd keeps the tensor that was multiplied with, and gradients are right."""
    from workers.treatments.quantize import fingerprint, quantise

    saved = self.weight.data
    self.weight.data = quantise(saved, self.weight_dtype)
    if self.watch:
        self.watch, self.seen = False, fingerprint(self.weight)
    y = torch.nn.functional.linear(x, self.weight, self.bias)
    self.weight.data = saved
    return y


def test_weights_were_restored_before_backward_and_dx_used_the_unquantised_ones(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.quantize.QuantisedLinear.forward", restored_in_place)
    refuted(make_run(), "; it used the unquantised W")


def test_with_adapters_too_although_it_was_thought_that_they_are_spared(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.quantize.QuantisedLinear.forward", restored_in_place)
    refuted(make_run({"lora": "r32"}), "; it used the unquantised W")


def test_weights_restored_by_swapping_their_data_give_right_gradients_and_the_probe_can_tell(
    make_run, monkeypatch
) -> None:
    """The same bug by its description, and no bug by measurement: what may exempt a run from a rerun."""
    monkeypatch.setattr("workers.treatments.quantize.QuantisedLinear.forward", restored_by_swapping)
    run = make_run()
    assert run.train().status == PROVEN
    assert max(fact["input_error"] for fact in run.of("gradient_probe")) < 1e-5


def test_the_identity_was_missing_and_the_gradient_of_the_rounding_came_through(make_run, monkeypatch) -> None:
    monkeypatch.setattr(
        "workers.treatments.quantize._StraightThrough.backward", staticmethod(lambda ctx, g: (0.5 * g, None))
    )
    refuted(make_run(), "dL/dW is off dL/dyᵀ·x by 50 %")


# ---------------------------------------------------------------- mislabelled and void scores


def test_a_4_bit_model_was_scored_in_16_bit(make_run, monkeypatch) -> None:
    """The export sends W instead of Q(W): training and test are of two models."""
    monkeypatch.setattr(f"{ENGINE}._as_used", lambda self, name, value: value.detach().to(self._compute))
    refuted(make_run(), "of 8 watched linears are not mxfp4")


def test_other_modules_were_left_out_in_evals_than_in_training(make_run, monkeypatch) -> None:
    original = _of(f"{ENGINE}._as_used")

    def partly(self: Any, name: str, value: torch.Tensor) -> torch.Tensor:
        return value.detach().to(self._compute) if "layers.1.mlp.down" in name else original(self, name, value)

    monkeypatch.setattr(f"{ENGINE}._as_used", partly)
    refuted(make_run(), "used other weights than it exported: model.layers.1.mlp.down_proj")


def test_the_checkpoint_was_loaded_in_the_trainer_and_not_in_the_rollout(make_run, monkeypatch) -> None:
    """Every eval has the base model's score."""
    load = f"{COPY}.load"
    original = _of(load)
    first: list[Any] = []

    def stale(self: Any, weights: Any, step: int) -> Any:
        first.append(dict(weights))
        return original(self, first[0], step)

    monkeypatch.setattr(load, stale)
    refuted(make_run(), "used other weights than the policy exported")


def test_merging_the_adapters_was_a_no_op(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.lora.merged", lambda base, a, b, config, dtype: base.to(dtype))
    refuted(make_run({"lora": {"sync": "merged"}, "optimiser.lr": 1e-2}), "is off Q(W) + BA by")


def test_adapters_were_merged_before_the_sum_was_quantised(make_run, monkeypatch) -> None:
    """Q(W + BA) is another model than Q(W) + BA."""
    from workers.treatments import lora, quantize

    honest = lora.merged

    def requantised(base: Any, a: Any, b: Any, config: Any, dtype: Any) -> Any:
        return quantize.quantise(honest(base, a, b, config, dtype), Dtype(format="mxfp4", scale_rule="floor"))

    monkeypatch.setattr("workers.treatments.lora.merged", requantised)
    refuted(make_run({"lora": {"sync": "merged"}, "optimiser.lr": 1e-2}), "is off Q(W) + BA by")


def test_adapters_were_merged_into_16_bit_weights_and_rounded_away(make_run) -> None:
    """At a real learning rate the adapters' share of a weight is below the spacing of bfloat16."""
    run = make_run({"lora": {"sync": "merged"}, "compute": "bf16", "optimiser.lr": 1e-5})
    refuted(run, "the number format rounds the rest away, and the rollout is next to the base")


def test_most_kinds_of_linears_were_never_exported_in_4_bit(make_run, monkeypatch) -> None:
    """What a sample of the modules would not have seen."""
    original = _of(f"{ENGINE}._as_used")

    def partly(self: Any, name: str, value: torch.Tensor) -> torch.Tensor:
        skipped = any(kind in name for kind in ("k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"))
        return value.detach().to(self._compute) if skipped else original(self, name, value)

    monkeypatch.setattr(f"{ENGINE}._as_used", partly)
    refuted(make_run(), "the policy's forward used other weights than it exported: ")


def test_embeddings_were_never_updated_in_the_rollout(make_run, monkeypatch) -> None:
    load = f"{COPY}.load"
    original = _of(load)
    first: dict[str, Any] = {}

    def partly(self: Any, weights: Any, step: int) -> Any:
        first.setdefault("embeddings", weights["model.embed_tokens.weight"])
        return original(self, {**weights, "model.embed_tokens.weight": first["embeddings"]}, step)

    monkeypatch.setattr(load, partly)
    refuted(make_run(), "other weights than the policy exported: model.embed_tokens")


def test_noise_was_drawn_once_and_added_again_at_every_sync(make_run, monkeypatch) -> None:
    original = _of("workers.treatments.aqn._normal")
    monkeypatch.setattr(
        "workers.treatments.aqn._normal", lambda like, seed, step, index: original(like, seed, 0, index)
    )
    refuted(make_run(), "it was not drawn anew")


def test_noise_was_a_tenth_of_what_it_was_called(make_run, monkeypatch) -> None:
    original = _of("workers.treatments.aqn._normal")
    monkeypatch.setattr("workers.treatments.aqn._normal", lambda *where: 0.1 * original(*where))
    refuted(make_run(), "was simulated with sigma 0.00")


def test_noisy_matmuls_were_on_while_the_prompt_was_read_and_off_for_every_token(make_run, monkeypatch) -> None:
    apply = "workers.treatments.noisy_ops.NoisyOps.apply"
    original = _of(apply)

    def first_only(self: Any, op: str, function: Any, args: Any, kwargs: Any) -> Any:
        if args[0].shape[-2] == 1 and self.now != "train":
            return function(*args, **kwargs)
        return original(self, op, function, args, kwargs)

    monkeypatch.setattr(apply, first_only)
    refuted(make_run({"hw_noise": "matmul-5pct"}), "in phase rollout the results of model.layers")


def test_errors_of_the_backward_pass_were_planned_and_not_there(make_run, monkeypatch) -> None:
    monkeypatch.setattr("workers.treatments.noisy_ops._gradient_noise", lambda operand, scale: operand)
    refuted(make_run({"hw_noise": {"scale": 0.05, "backward": True}}), "dL/dx is off")


def test_the_reference_policy_was_not_quantised(make_run, monkeypatch) -> None:
    attach = "workers.treatments.quantize.attach"
    original = _of(attach)
    engines: list[Any] = []

    def first_only(module: Any, dtype: Any) -> Any:
        engines.append(module)
        return original(module, dtype) if len(engines) == 1 else []

    monkeypatch.setattr(attach, first_only)
    refuted(make_run({"algorithm.kl_loss": 0.01}), "no module was quantised to mxfp4")


def test_log_probabilities_were_computed_without_the_adapters(make_run, monkeypatch) -> None:
    forward = f"{ENGINE}.forward_step"
    original = _of(forward)

    def disabled(self: Any, micro_batch: Any, loss_function: Any, forward_only: bool) -> Any:
        if not forward_only:
            return original(self, micro_batch, loss_function, forward_only)
        with self.module.disable_adapter():
            return original(self, micro_batch, loss_function, forward_only)

    monkeypatch.setattr(forward, disabled)
    refuted(make_run({"lora": "r32"}), "the policy's forward used other weights than it exported: model.layers.0")


def test_the_base_was_trained_along_with_the_adapters(make_run, monkeypatch) -> None:
    wrap = f"{ENGINE}._build_lora_module"
    original = _of(wrap)

    def thawed(self: Any, module: Any) -> Any:
        module = original(self, module)
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        return module

    monkeypatch.setattr(wrap, thawed)
    refuted(make_run({"lora": "r32"}), "the base should be frozen, and moved by")


def test_two_scans_of_different_models_were_bit_identical() -> None:
    dtype = Dtype(format="nvfp4")
    scan = Scan(
        model=Model(path="m"), questions="q", prompts=8, max_prompt_tokens=9, compute="fp32", dtype=dtype
    )  # fmt: skip
    table = {"layer": [0, 1], "relative_error": [0.2, 0.3]}
    facts = {"model": "adapter merged", "dtype": dtype.model_dump(), "prompts": 8, "decoder_layers": 2, "layers": table}
    verdict = judge_scan(scan, [Measured("scan", facts)], ["scan of the base (r1)"])
    assert verdict.status == REFUTED
    assert "bit for bit that of scan of the base (r1)" in verdict.reasons[0]


# ---------------------------------------------------------------- missing evals, confounds, misread counters


def _without(facts: list[Measured], drop: Callable[[Measured], bool]) -> list[Measured]:
    return [fact for fact in facts if not drop(fact)]


def _with_steps(facts: list[Measured], change: Callable[[Any], dict[str, Any]]) -> list[Measured]:
    return [replace(f, data={**f.data, **change(f.data)}) if f.kind == "step" else f for f in facts]


def test_validation_was_skipped_at_the_last_step(make_run) -> None:
    run = make_run()
    run.train()
    facts = _without(run.facts(), lambda f: f.kind in ("eval", "eval_mode") and f.data["step"] == 4)
    verdict = judge(run.condition, run.plan, facts)
    assert verdict.status == REFUTED
    assert "the eval at the last step, 4, is missing; the last one is at step 2" in verdict.reasons


def test_the_data_ran_out_half_way_and_the_run_ended_with_exit_code_0(make_run) -> None:
    """117 of 234 steps, with sigma mid-way."""
    run = make_run()
    run.step()
    run.step()
    verdict = run.verdict()
    assert verdict.status == REFUTED
    assert "2 of 4 planned training steps were executed" in verdict.reasons


def test_the_schedule_counted_generation_batches_instead_of_training_steps(make_run, monkeypatch) -> None:
    """Dynamic sampling eats two of them a step: the schedule is over when the training is half done."""
    from experiment_specs.schedules import sigma_at

    monkeypatch.setattr(
        "workers.verl.rollout_copy.sigma_at", lambda aqn, step, total, per: sigma_at(aqn, 2 * step, total, per)
    )
    refuted(make_run(), "the worker aimed at sigma")


def test_an_epoch_aware_schedule_fell_to_0_at_the_end_of_every_epoch(make_run, monkeypatch) -> None:
    from experiment_specs.schedules import sigma_at

    def modulo(aqn: Any, step: int, total: int, per: int) -> float:
        return 0.0 if step % per == 0 else sigma_at(aqn, step, total, per)

    monkeypatch.setattr("workers.verl.rollout_copy.sigma_at", modulo)
    epochs = {"schedule": "epoch_aware", "sigma_start": 0.02, "sigma_end": 0.001, "stages_per_epoch": 2}
    refuted(
        make_run({"epochs": 2, "steps_per_epoch": 2, "aqn": epochs}), "the worker aimed at sigma 0, the schedule has"
    )


def test_turning_group_filtering_off_doubled_the_samples_of_a_step(make_run) -> None:
    run = make_run()
    run.train()
    doubled = _with_steps(
        run.facts(), lambda data: {"prompts": 2 * data["prompts"], "trajectories": 2 * data["trajectories"]}
    )
    verdict = judge(run.condition, run.plan, doubled)
    assert verdict.status == REFUTED
    assert "step 1 learnt from 16 answers to 4 prompts, planned are 8 to 2" in verdict.reasons


def test_a_counter_that_printed_0_is_no_proof_that_noise_was_off(make_run) -> None:
    """The false alarm: what counts is what the weights were, not what a counter says."""
    run = make_run()
    run.train()
    silent = _with_steps(run.facts(), lambda _: {"metrics": {"aqn/modules_noised": 0.0}})
    assert judge(run.condition, run.plan, silent).status == PROVEN


def _of(name: str) -> Any:
    """The function of that dotted name, as it is now."""
    from importlib import import_module

    module, _, rest = name.rpartition(".")
    try:
        return getattr(import_module(module), rest)
    except ModuleNotFoundError:
        return getattr(_of(module), rest)
