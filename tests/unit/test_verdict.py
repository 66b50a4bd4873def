"""Every way to be refuted, one at a time, on a run that is proven otherwise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from experiment_specs.language import Aqn, Dtype, Model, Scan
from experiment_specs.load import build_condition, load_sweep
from experiment_specs.schedules import sigma_at
from orchestrator.verdict import Measured, PlannedSteps, inert_stages, judge, judge_scan
from orchestrator.verdict.settings import ATTENTION_FUNCTIONS
from tests.conftest import TINY

LINEARS = [f"model.layers.{i}.{n}" for i in range(2) for n in ("self_attn.q_proj", "mlp.up_proj")]
PLAN = PlannedSteps(total_steps=4, eval_steps=(0, 2, 4), steps_per_epoch=4, code_version="v1")
AQN = Aqn(schedule="kstage", sigma_start=0.01, sigma_end=0.0001, num_stages=4)
DTYPE = Dtype(format="mxfp4", scale_rule="floor")
NORMS = {"model.norm": "clean"}
Facts = dict[str, list[dict[str, Any]]]


def weights(step: int) -> dict[str, str]:
    return {name: f"{name}@{step}" for name in LINEARS}


def realised(std: float) -> dict[str, Any]:
    return {"modules": 5 if std else 0, "watched": 5, "std": std, "largest": 3 * std, "elements": 320}


def by_layer(sigma: float, multipliers: tuple[float, float] = (1.0, 1.0)) -> dict[str, list[Any]]:
    each = [*multipliers, 1.0]
    return {
        "layer": [0, 1, None], "multiplier": each, "modules": [2, 2, 1],
        "changed": [n if sigma * m else 0 for n, m in zip((2, 2, 1), each, strict=True)],
        "std": [sigma * m for m in each], "expected": [sigma * m for m in each],
        "error": [0.05 * sigma * m for m in each], "rounding": [0.0] * 3,
    }  # fmt: skip


def sync(step: int, sigma: float, replica: int = 0, replicas: int = 1) -> dict[str, Any]:
    return {
        "step": step, "serves": step + 1, "sigma_planned": sigma, "sigma_expected": sigma, "sigma_error": 0.05 * sigma,
        "modules_due": 5 if sigma else 0, "realised": realised(sigma), "linears": 4, "on_grid": 4, "watched": 4,
        "weights": weights(step) | NORMS, "replica": replica, "replicas": replicas, "correlation": 0.1,
        "layers": by_layer(sigma), "output": {"module": LINEARS[step % 4], "error": 1e-7, "n_eff": 400.0, "swell": 1.0},
    }  # fmt: skip


def probe(step: int) -> dict[str, Any]:
    return {
        "export": step, "module": LINEARS[step], "output_error": 1e-7, "n_eff": 400.0, "swell": 1.0,
        "input_error": 1e-7, "input_n_eff": 400.0, "weight_error": 1e-7, "weight_n_eff": 400.0,
        "input_error_unquantised": 0.1,
    }  # fmt: skip


def attention(role: str, function: str = "sdpa_attention_forward", masked: bool | None = True) -> dict[str, Any]:
    return {"role": role, "functions": {function: 2}, "masked": masked}


def good_facts(noise: bool, replicas: int = 1) -> Facts:
    sigmas = [sigma_at(AQN, step + 1, 4, 4) if noise else 0.0 for step in range(4)]
    everyone = range(replicas)
    return {
        "started": [
            {"fingerprints": {"model": "a", "train": "b", "test": "c"}, "plugins": [], "code": {"id": "v1"}}
        ],
        "planned": [{"total_steps": 4, "steps_per_epoch": 4, "train_rows": 4000, "test_rows": 500}],
        "quantised": [
            {
                "formats": [DTYPE.model_dump(mode="json")], "linears": [*LINEARS, "lm_head"],
                "quantised": list(LINEARS), "sqnr_db": 18.0, "mean_abs_ratio": 0.1, "adapted": [], "adapter_types": [],
                "role": "policy",
            }
        ],
        "attention": [attention("policy"), *(attention("rollout", masked=True) for _ in everyone)],
        "exported": [{"export": s, "weights": weights(s) | NORMS, "used": weights(s)} for s in range(5)],
        "forward_weights": [{"export": step, "weights": weights(step)} for step in range(4)],
        "gradient_probe": [probe(step) for step in range(4)],
        "sync": [sync(step, sigma, r, replicas) for step, sigma in enumerate(sigmas) for r in everyone],
        "eval_mode": [
            {**sync(step, 0.0, r, replicas), "realised": realised(0.0)} for step in (0, 2, 4) for r in everyone
        ],
        "eval": [{"step": s, "k": 300, "n": 500, "samples": 1, "questions": "q"} for s in (0, 2, 4)],
        "step": [{"step": s, "prompts": 16, "trajectories": 128} for s in range(1, 5)],
        "moved": [
            {"export": s, "optimiser_steps": s, "optimiser_updates": s, "block_linears": 1e-3 * s, "adapters": 0.0,
             "other": 1e-4 * s}
            for s in range(5)
        ],
    }  # fmt: skip


@pytest.fixture
def verdict_of(write_spec) -> Callable[..., tuple[str, str]]:
    sweep = load_sweep(write_spec(TINY))

    def judged(facts: Facts, aqn: str = "standard", plan: PlannedSteps = PLAN, **more: Any) -> tuple[str, str]:
        stages = {"aqn.num_stages": 4} if aqn != "none" else {}
        condition = build_condition(sweep, {"dtype": "mxfp4", "aqn": aqn} | stages | more)
        if condition.hw_noise is not None:  # errors inside attention need another kernel than good_facts has
            function = ATTENTION_FUNCTIONS[condition.attention]
            facts = facts | {"attention": [fact | {"functions": {function: 2}} for fact in facts["attention"]]}
        result = judge(condition, plan, [Measured(k, d) for k, many in facts.items() for d in many])
        return result.status, "; ".join(result.reasons)

    return judged


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("aqn", ["none", "standard"])
def test_a_run_that_did_what_it_should_is_proven(verdict_of, aqn, replicas) -> None:
    assert verdict_of(good_facts(noise=aqn != "none", replicas=replicas), aqn) == ("PROVEN", "")


def sigma_stays_zero(f: Facts) -> None:
    for fact in f["sync"]:
        fact["realised"] = realised(0.0)


def no_module_noised(f: Facts) -> None:
    for fact in f["sync"]:
        fact["realised"] = {"modules": 0, "watched": 0, "std": 0.0, "largest": 0.0, "elements": 0}


def one_norm_noised(f: Facts) -> None:
    for fact in f["sync"]:
        fact["realised"]["modules"] = min(1, fact["realised"]["modules"])


def sigma_of_another_step(f: Facts) -> None:
    f["sync"][2]["realised"] = realised(0.01)


def schedule_with_another_total(f: Facts) -> None:
    for step, fact in enumerate(f["sync"]):
        sigma = sigma_at(AQN, step + 1, 8, 8)
        fact |= {"sigma_planned": sigma, "sigma_expected": sigma, "realised": realised(sigma)}


def sigma_is_not_a_number(f: Facts) -> None:
    f["sync"][1]["realised"]["std"] = float("nan")


def eval_of_other_weights(f: Facts) -> None:
    f["eval_mode"][2]["weights"] = weights(0) | NORMS


def eval_with_another_norm(f: Facts) -> None:
    f["eval_mode"][2]["weights"] = weights(4) | {"model.norm": "other"}


def forward_without_quantisation(f: Facts) -> None:
    f["gradient_probe"][1]["output_error"] = 0.1


def no_gradient_ever(f: Facts) -> None:
    for fact in f["moved"]:
        fact["optimiser_updates"] = 0


def head_quantised(f: Facts) -> None:
    f["quantised"][0]["quantised"].append("lm_head")


def adapter_quantised(f: Facts) -> None:
    f["quantised"][0]["quantised"].append("model.layers.0.mlp.up_proj.lora_A.default")


def nothing_quantised(f: Facts) -> None:
    f["quantised"][0]["quantised"] = []


def a_linear_left_out(f: Facts) -> None:
    f["quantised"][0]["quantised"].pop()


def another_format(f: Facts) -> None:
    f["quantised"][0]["formats"] = [{"format": "nvfp4", "scale_rule": None}]


def rollout_off_the_grid(f: Facts) -> None:
    f["sync"][1]["on_grid"] = 3


def rollout_has_other_weights(f: Facts) -> None:
    f["sync"][1]["weights"] = weights(0) | NORMS


def last_eval_missing(f: Facts) -> None:
    f["eval"].pop()


def no_eval_at_all(f: Facts) -> None:
    f["eval"].clear()


def fewer_questions(f: Facts) -> None:
    f["eval"][1]["n"] = 499


def other_questions(f: Facts) -> None:
    f["eval"][1]["questions"] = "others"


def noise_on_in_an_eval(f: Facts) -> None:
    f["eval_mode"][1]["realised"] = realised(0.01)


def eval_in_16_bit(f: Facts) -> None:
    f["eval_mode"][2]["on_grid"] = 0


def fewer_steps(f: Facts) -> None:
    f["step"].pop()


def another_total(f: Facts) -> None:
    f["planned"][0]["total_steps"] = 8


def gradient_through_unquantised_weights(f: Facts) -> None:
    f["gradient_probe"][1] |= {"input_error": 0.09, "input_error_unquantised": 1e-7}


def weight_gradient_changed(f: Facts) -> None:
    f["gradient_probe"][1]["weight_error"] = 0.2


def gradient_is_not_a_number(f: Facts) -> None:
    f["gradient_probe"][1]["input_error"] = float("nan")


def nothing_learnt(f: Facts) -> None:
    for fact in f["moved"]:
        fact["block_linears"] = 0.0


def forward_of_other_weights(f: Facts) -> None:
    f["forward_weights"][2]["weights"] = weights(2) | {LINEARS[3]: "other"}


def twice_the_samples(f: Facts) -> None:
    f["step"][1] |= {"prompts": 32, "trajectories": 256}


def more_updates(f: Facts) -> None:
    for fact in f["moved"]:
        fact["optimiser_steps"] *= 2


def multiplier_that_nobody_read(f: Facts) -> None:
    f["sync"][1]["layers"] = by_layer(0.01, (1.0, 0.5))


def a_layer_without_its_noise(f: Facts) -> None:
    f["sync"][1]["layers"]["std"][1] = 0.0


def error_that_nobody_planned(f: Facts) -> None:
    f["eval_mode"][1]["output"] = {"module": LINEARS[1], "error": 0.05, "n_eff": 400.0, "swell": 1.0}


def adapters_that_nobody_planned(f: Facts) -> None:
    f["quantised"][0]["adapted"] = [LINEARS[1]]


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (sigma_stays_zero, "sigma stayed 0 in all 4 rollouts"),
        (no_module_noised, "found no module to act on"),
        (one_norm_noised, "1 of 5 modules were noised"),
        (sigma_of_another_step, "in the rollouts of step 3 the noise had sigma 0.01, 0.0001 was to be expected"),
        (schedule_with_another_total, "in the rollouts of step 1 the worker aimed at sigma 0, the schedule has 0.01"),
        (sigma_is_not_a_number, "the noise had sigma nan"),
        (eval_of_other_weights, "the eval at step 4 used other weights than the policy exported"),
        (eval_with_another_norm, "used other weights than the policy exported: model.norm"),
        (forward_without_quantisation, "its output is off x·Q(W)ᵀ + b by 10 %"),
        (no_gradient_ever, "no optimiser update had a gradient"),
        (head_quantised, "quantised, and must not be: lm_head"),
        (adapter_quantised, "must not be: model.layers.0.mlp.up_proj.lora_A.default"),
        (nothing_quantised, "no module was quantised to mxfp4"),
        (a_linear_left_out, "1 of 4 block linears were not quantised: model.layers.1.mlp.up_proj"),
        (another_format, "not to mxfp4"),
        (rollout_off_the_grid, "after the sync of step 1, 1 of 4 watched linears of the rollout are not mxfp4"),
        (rollout_has_other_weights, "the rollout holds other weights than the policy exported: model.layers.0"),
        (last_eval_missing, "the eval at the last step, 4, is missing; the last one is at step 2"),
        (no_eval_at_all, "there is none at all"),
        (fewer_questions, "the eval at step 2 asked 499 questions of 500"),
        (other_questions, "did not all ask the same questions"),
        (noise_on_in_an_eval, "noise was on in the eval at step 2: 5 modules"),
        (eval_in_16_bit, "the eval at step 4: 4 of 4 watched linears are not mxfp4"),
        (fewer_steps, "3 of 4 planned training steps were executed"),
        (another_total, "set out for 8 training steps, the plan says 4"),
        (gradient_through_unquantised_weights, "it used the unquantised W"),
        (weight_gradient_changed, "dL/dW is off"),
        (gradient_is_not_a_number, "dL/dx is off"),
        (nothing_learnt, "nothing was learnt"),
        (forward_of_other_weights, "the policy's forward used other weights than it exported: model.layers.1"),
        (twice_the_samples, "step 2 learnt from 256 answers to 32 prompts, planned are 128 to 16"),
        (more_updates, "the optimiser made 8 steps in 4 training steps, planned are 4"),
        (multiplier_that_nobody_read, "layer 1 had multiplier 0.5, the plan has 1"),
        (a_layer_without_its_noise, "the noise of layer 1 had sigma 0, 0.001 was to be expected"),
        (error_that_nobody_planned, "in phase eval the results of model.layers.0.mlp.up_proj are off by 5 %"),
        (adapters_that_nobody_planned, "adapters where none are planned: model.layers.0.mlp.up_proj"),
    ],
)
def test_a_contradiction_refutes(verdict_of, breakage, words) -> None:
    facts = good_facts(noise=True)
    breakage(facts)
    status, reasons = verdict_of(facts)
    assert status == "REFUTED"
    assert words in reasons


def test_noise_that_nobody_planned_refutes(verdict_of) -> None:
    facts = good_facts(noise=False)
    facts["sync"][2]["realised"] = realised(0.01)
    assert verdict_of(facts, "none")[0] == "REFUTED"


@pytest.mark.parametrize(
    "kind", ["started", "quantised", "gradient_probe", "eval_mode", "sync", "forward_weights", "moved"]
)
def test_a_kind_of_fact_that_is_missing_leaves_unproven(verdict_of, kind) -> None:
    facts = good_facts(noise=True)
    facts[kind] = []
    status, reasons = verdict_of(facts)
    assert status == "UNPROVEN"
    assert reasons


def test_one_replica_cannot_hide_another(verdict_of) -> None:
    facts = good_facts(noise=True, replicas=2)
    facts["eval_mode"][0]["realised"] = realised(0.01)
    assert verdict_of(facts)[0] == "REFUTED"
    facts = good_facts(noise=True, replicas=2)
    facts["sync"] = [fact for fact in facts["sync"] if fact["replica"] == 1]
    assert verdict_of(facts)[0] == "UNPROVEN"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plugins": ["my.plugin"]}, "plugins of the user's ran in every process: my.plugin"),
        ({"code": {"id": "v2"}}, "it ran code version v2 and was submitted for v1"),
        ({"fingerprints": {}}, "no fingerprint of the model"),
    ],
)
def test_other_code_than_submitted_leaves_unproven(verdict_of, change, words) -> None:
    facts = good_facts(noise=True)
    facts["started"][0] |= change
    status, reasons = verdict_of(facts)
    assert status == "UNPROVEN"
    assert words in reasons


def test_a_few_probes_and_an_early_end_of_measuring_leave_unproven(verdict_of) -> None:
    facts = good_facts(noise=True)
    facts["gradient_probe"] = facts["gradient_probe"][:1]
    facts["moved"] = facts["moved"][:3]
    status, reasons = verdict_of(facts)
    assert status == "UNPROVEN"
    assert "gradients were probed at 1 of 4 steps only" in reasons
    assert "last measured after step 2" in reasons


def test_a_gap_in_the_steps_and_a_remote_model_leave_unproven(verdict_of) -> None:
    facts = good_facts(noise=True)
    facts["step"].pop(1)
    facts["started"][0]["fingerprints"]["model"] = None
    status, reasons = verdict_of(facts)
    assert status == "UNPROVEN"
    assert "steps without a record: 2" in reasons
    assert "no fingerprint of the model" in reasons


def test_the_order_of_the_facts_does_not_matter(verdict_of) -> None:
    facts = good_facts(noise=True)
    backwards = {kind: copy.deepcopy(many)[::-1] for kind, many in reversed(facts.items())}
    assert verdict_of(backwards) == verdict_of(facts)


def test_stages_that_the_format_rounds_away_are_inert_and_not_refuted(verdict_of) -> None:
    facts = good_facts(noise=True)
    facts["sync"][3] |= {"sigma_expected": 0.0, "sigma_error": 0.0, "modules_due": 0, "realised": realised(0.0)}
    assert verdict_of(facts)[0] == "PROVEN"
    assert inert_stages(Measured("sync", fact) for fact in facts["sync"]) == [4]


ADAPTERS = [f"{name}.lora_{side}.default" for name in LINEARS for side in "AB"]


def with_adapters(sync: str = "adapter") -> Facts:
    """A proven run of adapters on a quantised base."""
    facts = good_facts(noise=True)
    base = {name: f"{name}@base" for name in LINEARS}
    for fact in facts["quantised"]:
        fact |= {"adapted": list(LINEARS), "adapter_types": ["torch.float32"]}
        fact["linears"] = [*fact["linears"], *ADAPTERS]
    for fact in facts["gradient_probe"]:
        fact["weight_error"] = None
    facts["gradient_probe"].append(probe(2) | {"module": ADAPTERS[2], "input_error_unquantised": 1e-7})
    for fact in facts["moved"]:
        fact |= {"block_linears": 0.0, "other": 0.0, "adapters": 1e-3 * fact["export"]}
    for fact in facts["forward_weights"]:
        fact["weights"] = base | {name: f"{name}@{fact['export']}" for name in ADAPTERS}
    for fact in facts["exported"]:
        used = base | {name: f"{name}@{fact['export']}" for name in ADAPTERS}
        fact["used"] = used
        if sync == "adapter":
            fact["weights"] = used | NORMS
        else:
            fact["merges"] = {name: {"error": 1e-8, "delta": 1e-3, "kept": 1.0} for name in LINEARS}
    for fact in (*facts["sync"], *facts["eval_mode"]):
        fact["weights"] = dict(next(e["weights"] for e in facts["exported"] if e["export"] == fact["step"]))
        fact["on_grid"] = 4 if sync == "adapter" else 0
    return facts


@pytest.mark.parametrize("sync", ["adapter", "merged"])
def test_adapters_on_a_quantised_base_are_proven(verdict_of, sync) -> None:
    assert verdict_of(with_adapters(sync), lora={"sync": sync}) == ("PROVEN", "")


def base_moved(f: Facts) -> None:
    f["moved"][-1]["block_linears"] = 1e-3


def adapters_stay(f: Facts) -> None:
    f["moved"][-1]["adapters"] = 0.0


def adapters_left_out(f: Facts) -> None:
    f["quantised"][0]["adapted"] = LINEARS[:3]


def base_was_trained(f: Facts) -> None:
    f["gradient_probe"][1]["weight_error"] = 1e-7


def adapter_is_quantised(f: Facts) -> None:
    f["quantised"][0]["quantised"].append(ADAPTERS[0])


def adapter_of_another_step(f: Facts) -> None:
    f["sync"][2]["weights"][ADAPTERS[0]] = f"{ADAPTERS[0]}@1"


def adapter_probe_is_off(f: Facts) -> None:
    f["gradient_probe"][-1]["input_error"] = 0.1


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (base_moved, "the base should be frozen, and moved by 0.1 % of its norm"),
        (adapters_stay, "the adapters are where they started"),
        (adapters_left_out, "1 of 4 block linears have no adapter: model.layers.1.mlp.up_proj"),
        (base_was_trained, "it belongs to the frozen base, and got a gradient"),
        (adapter_is_quantised, "quantised, and must not be: model.layers.0.self_attn.q_proj.lora_A.default"),
        (adapter_of_another_step, "the rollout holds other weights than the policy exported"),
        (adapter_probe_is_off, "lora_A.default: dL/dx is off"),
    ],
)
def test_adapters_that_are_not_what_they_should_be_refute(verdict_of, breakage, words) -> None:
    facts = with_adapters()
    breakage(facts)
    status, reasons = verdict_of(facts, lora="r32")
    assert status == "REFUTED"
    assert words in reasons


def test_a_merge_that_did_nothing_refutes(verdict_of) -> None:
    facts = with_adapters("merged")
    facts["exported"][2]["merges"][LINEARS[0]]["error"] = 1e-3
    status, reasons = verdict_of(facts, lora={"sync": "merged"})
    assert status == "REFUTED"
    assert "the merged weight of model.layers.0.self_attn.q_proj is off Q(W) + BA by 0.1 %" in reasons


SCANNED = replace(PLAN, scan_errors=(0.3, 0.1), scanned_model="a")


def aimed_at(multipliers: tuple[float, float]) -> Facts:
    facts = good_facts(noise=True)
    for fact in facts["sync"]:
        fact["layers"] = by_layer(fact["sigma_planned"], multipliers)
    return facts


def test_noise_aimed_by_a_scan_is_proven_layer_by_layer(verdict_of) -> None:
    aim = {"aim": "variable"}
    assert verdict_of(aimed_at((1.5, 0.5)), plan=SCANNED, srdd=aim) == ("PROVEN", "")
    status, reasons = verdict_of(aimed_at((1.0, 1.0)), plan=SCANNED, srdd=aim)
    assert (status, "layer 0 had multiplier 1, the plan has 1.5" in reasons) == ("REFUTED", True)
    targeted = {"aim": "targeted", "top_k": 1}
    assert verdict_of(aimed_at((1.0, 0.0)), plan=SCANNED, srdd=targeted)[0] == "PROVEN"
    noisy = aimed_at((1.0, 0.0))
    noisy["sync"][1]["layers"]["changed"][1] = 2
    assert "layer 1 was noised, and has multiplier 0" in verdict_of(noisy, plan=SCANNED, srdd=targeted)[1]


def test_a_scan_that_is_not_known_or_of_another_model_proves_nothing(verdict_of) -> None:
    aim = {"aim": "variable"}
    assert verdict_of(aimed_at((1.5, 0.5)), srdd=aim)[0] == "UNPROVEN"
    other = replace(SCANNED, scanned_model="b")
    status, reasons = verdict_of(aimed_at((1.5, 0.5)), plan=other, srdd=aim)
    assert (status, "of another model" in reasons) == ("REFUTED", True)


def with_errors(*phases: str, scale: float = 0.05, backward: float = 1e-7) -> Facts:
    """A proven run with errors on matrix products in these phases."""
    facts = good_facts(noise=False)
    for fact in facts["gradient_probe"]:
        fact |= {
            "output_error": scale if "train" in phases else 1e-7,
            "input_error": backward,
            "weight_error": backward,
        }
    for kind, phase in (("sync", "rollout"), ("eval_mode", "eval")):
        for fact in facts[kind]:
            fact["output"] = fact["output"] | {"error": scale if phase in phases else 1e-7}
    facts["noisy_ops"] = [
        {
            "phase": phase,
            "ops": {
                op: {"calls": 9, "due": 9, "sampled": 8, "relative_std": scale, "n_eff": 400.0}
                for op in ("linear", "matmul")
            },
        }
        for phase in phases
    ]
    return facts


@pytest.mark.parametrize("phases", [("train", "rollout", "eval"), ("train", "rollout"), ("rollout",)])
def test_errors_of_the_hardware_are_proven_in_their_phases_and_nowhere_else(verdict_of, phases) -> None:
    planned = {"scale": 0.05, "phases": list(phases)}
    assert verdict_of(with_errors(*phases), "none", hw_noise=planned) == ("PROVEN", "")
    for phase in phases:
        lacking = with_errors(*(p for p in phases if p != phase))
        status, reasons = verdict_of(lacking, "none", hw_noise=planned)
        assert (status, f"in phase {phase} the results of" in reasons) == ("REFUTED", True)


def test_errors_of_scale_0_or_of_another_scale_refute(verdict_of) -> None:
    planned = {"scale": 0.05}
    for scale in (0.0, 0.01, 0.1):
        facts = with_errors("train", "rollout", "eval", scale=scale)
        status, reasons = verdict_of(facts, "none", hw_noise=planned)
        assert (status, "planned are 5 %" in reasons) == ("REFUTED", True)


def test_errors_in_backward_are_judged_as_declared(verdict_of) -> None:
    everywhere = ("train", "rollout", "eval")
    planned = {"scale": 0.05, "backward": True}
    assert verdict_of(with_errors(*everywhere, backward=0.05), "none", hw_noise=planned)[0] == "PROVEN"
    status, reasons = verdict_of(with_errors(*everywhere, backward=0.05), "none", hw_noise={"scale": 0.05})
    assert (status, "dL/dx is off" in reasons) == ("REFUTED", True)


def test_errors_in_chosen_layers_are_looked_for_there(verdict_of) -> None:
    facts = with_errors("train", "rollout", "eval")
    status, reasons = verdict_of(facts, "none", hw_noise={"scale": 0.05, "layers": [1]})
    assert (status, "and no error is planned" in reasons) == ("REFUTED", True)


def test_a_scan_is_judged_too() -> None:
    table = {"layer": [0, 1], "relative_error": [0.2, 0.3]}
    facts = {
        "model": "m", "dtype": DTYPE.model_dump(mode="json"), "prompts": 8, "decoder_layers": 2, "layers": table,
    }  # fmt: skip

    def status(twins: tuple[str, ...] = (), **changes: Any) -> str:
        return judge_scan(SCAN, [Measured("scan", facts | changes)], twins).status

    assert status() == "PROVEN"
    assert judge_scan(SCAN, [], ()).status == "UNPROVEN"
    assert status(model=None) == "UNPROVEN"
    assert status(("scan of b (x)",)) == "REFUTED"
    assert status(dtype={"format": "nvfp4"}) == status(prompts=4) == status(decoder_layers=3) == "REFUTED"
    for errors in ([0.0, 0.0], [0.1, float("nan")]):
        assert status(layers={"layer": [0, 1], "relative_error": errors}) == "REFUTED"


SCAN = Scan(
    model=Model(path="m"), questions="q", prompts=8, max_prompt_tokens=16, compute="fp32", dtype=DTYPE
)  # fmt: skip


def test_ops_that_were_never_called_leave_unproven_and_calls_left_out_refute(verdict_of) -> None:
    everywhere = ("train", "rollout", "eval")
    facts = with_errors(*everywhere)
    for fact in facts["noisy_ops"]:
        fact["ops"].pop("matmul")
    status, reasons = verdict_of(facts, "none", hw_noise={"scale": 0.05})
    assert (status, "no product of kind matmul/bmm was made" in reasons) == ("UNPROVEN", True)
    assert verdict_of(facts, "none", hw_noise={"scale": 0.05, "ops": ["linear"]})[0] == "PROVEN"
    facts["noisy_ops"][1]["ops"]["linear"]["due"] = 200
    status, reasons = verdict_of(facts, "none", hw_noise={"scale": 0.05, "ops": ["linear"]})
    assert (status, "9 of at least 200 products of kind linear had the error" in reasons) == ("REFUTED", True)


def test_backward_errors_that_are_not_there_refute(verdict_of) -> None:
    facts = with_errors("train", "rollout", "eval", backward=1e-7)
    assert verdict_of(facts, "none", hw_noise={"scale": 0.05, "backward": True})[0] == "REFUTED"


def test_the_reference_policy_is_asked_for_where_there_is_one(verdict_of) -> None:
    facts = good_facts(noise=True)
    status, reasons = verdict_of(facts, **{"algorithm.kl_loss": 0.01})
    assert (status, "reference policy" in reasons) == ("UNPROVEN", True)
    facts["quantised"].append(facts["quantised"][0] | {"role": "reference"})
    facts["attention"].append(attention("reference"))
    assert verdict_of(facts, **{"algorithm.kl_loss": 0.01})[0] == "PROVEN"


def test_gradients_that_are_not_finite_refute(verdict_of) -> None:
    facts = good_facts(noise=True)
    facts["moved"][-1]["not_finite"] = 3
    status, reasons = verdict_of(facts)
    assert (status, "3 of 4 optimiser steps had a gradient that is not finite" in reasons) == ("REFUTED", True)


def test_noise_that_is_not_drawn_anew_or_simulated_at_another_sigma_refutes(verdict_of) -> None:
    facts = good_facts(noise=True)
    facts["sync"][2]["correlation"] = 0.99
    assert "it was not drawn anew" in verdict_of(facts)[1]
    facts = good_facts(noise=True)
    facts["sync"][1]["layers"] = by_layer(1e-4)
    assert "layer 0 was simulated with sigma 0.0001, the plan has 0.001" in verdict_of(facts)[1]


def test_merging_that_keeps_nothing_of_the_adapters_refutes(verdict_of) -> None:
    facts = with_adapters("merged")
    facts["exported"][2]["merges"][LINEARS[0]]["kept"] = 0.1
    status, reasons = verdict_of(facts, lora={"sync": "merged"})
    assert (status, "merging keeps 10 % of the adapters' share" in reasons) == ("REFUTED", True)


def test_a_weight_on_one_side_only_refutes(verdict_of) -> None:
    facts = good_facts(noise=True)
    for fact in facts["forward_weights"]:
        fact["weights"].pop(LINEARS[0])
    assert verdict_of(facts)[0] == "REFUTED"


def gone_on(again: dict[str, str] | None) -> Facts:
    """As after an attempt that went on from step 2: the export of that step is there once more."""
    facts = good_facts(noise=True)
    facts["resumed"] = [{"step": 2, "from": "/runs/r/1", "checkpoint": "/runs/r/1/checkpoints/global_step_2"}]
    if again is not None:
        facts["exported"].append({"export": 2, "weights": again | NORMS, "used": weights(2)})
    return facts


def test_a_run_that_went_on_with_the_weights_of_its_checkpoint_is_proven(verdict_of) -> None:
    assert verdict_of(gone_on(weights(2))) == ("PROVEN", "")


def test_a_run_that_went_on_with_other_weights_is_refuted(verdict_of) -> None:
    status, reasons = verdict_of(gone_on(weights(1)))
    assert status == "REFUTED"
    assert "went on from step 2 with other weights" in reasons


def test_a_run_that_does_not_show_what_it_went_on_with_is_unproven(verdict_of) -> None:
    assert verdict_of(gone_on(None))[0] == "UNPROVEN"


def test_a_run_that_went_on_with_another_model_or_data_is_refuted(verdict_of) -> None:
    facts = gone_on(weights(2))
    facts["started"].append(copy.deepcopy(facts["started"][0]))
    assert verdict_of(facts) == ("PROVEN", "")
    facts["started"][-1]["fingerprints"]["train"] = "another"
    status, reasons = verdict_of(facts)
    assert (status, "it went on with another train than it began with" in reasons) == ("REFUTED", True)


@pytest.mark.parametrize(
    ("role", "fact", "why"),
    [
        ("policy", attention("policy", "eager"), "the policy computed its attention by eager"),
        ("policy", attention("policy", masked=False), "tokens see earlier sequences"),
        ("rollout", attention("rollout", "flash_attention_forward"), "the rollout computed its attention by flash"),
    ],
)
def test_another_attention_than_the_conditions_refutes(verdict_of, role, fact, why) -> None:
    facts = good_facts(noise=True)
    facts["attention"] = [f for f in facts["attention"] if f["role"] != role] + [fact]
    status, reasons = verdict_of(facts)
    assert (status, why in reasons) == ("REFUTED", True), reasons


def test_flash_attention_is_to_pack_its_sequences(verdict_of) -> None:
    facts = good_facts(noise=True)
    packed = {"attention": "flash_attention_2", "compute": "bf16", "rollout": "vllm"}
    facts["attention"] = [attention("policy", "flash_attention_forward", masked=False)]
    assert verdict_of(facts, **packed)[0] == "PROVEN"
    facts["attention"] = [attention("policy", "flash_attention_forward", masked=True)]
    status, reasons = verdict_of(facts, **packed)
    assert (status, "got padded sequences" in reasons) == ("REFUTED", True)


@pytest.mark.parametrize("role", ["policy", "rollout"])
def test_attention_that_was_not_measured_is_missing(verdict_of, role) -> None:
    facts = good_facts(noise=True)
    facts["attention"] = [f for f in facts["attention"] if f["role"] != role]
    assert verdict_of(facts) == ("UNPROVEN", f"which attention the {role} used was not measured")


def test_a_key_of_verls_that_nothing_read_leaves_a_run_unproven(verdict_of) -> None:
    key = "actor_rollout_ref.actor.entropy_coeff"
    facts = good_facts(noise=True)
    assert verdict_of(facts, trainer={key: 0.1})[0] == "UNPROVEN"
    facts["setting_read"] = [{"key": key, "place": "verl/workers/utils/losses.py:1"}]
    assert verdict_of(facts, trainer={key: 0.1})[0] == "PROVEN"
