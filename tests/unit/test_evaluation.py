"""Re-evaluation: what a mode makes of a condition, and what its proof consists of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from experiment_specs.errors import SpecError
from experiment_specs.language import Condition
from experiment_specs.load import build_condition, load_sweep
from experiment_specs.schedules import sigma_at
from orchestrator.evaluation import evaluated
from orchestrator.verdict import Measured, PlannedSteps, Verdict
from orchestrator.verdict.evaluation import Saved, judge_eval
from tests.conftest import TINY

LINEARS = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"]
PLAN = {"total_steps": 24, "steps_per_epoch": 24}
EXPORTED = {name: f"{name}@24" for name in LINEARS}


@pytest.fixture
def condition(write_spec):
    def made(**fields: Any) -> Condition:
        return build_condition(load_sweep(write_spec(TINY)), {"dtype": "mxfp4", "aqn": "standard", **fields})

    return made


def test_a_mode_changes_what_it_names_and_nothing_else(condition) -> None:
    own = condition()
    native = evaluated(own, "native", PLAN, 24)
    assert native == own.model_copy(update={"aqn": None})
    plain = evaluated(own, "unquantised", PLAN, 24)
    assert plain.dtype.format == "bf16"
    assert plain.model_copy(update={"dtype": own.dtype}) == native
    assert evaluated(own, "nvfp4", PLAN, 24).dtype.format == "nvfp4"
    noisy = condition(hw_noise="matmul-5pct")
    assert evaluated(noisy, "native", PLAN, 24).hw_noise is not None
    assert evaluated(noisy, "exact", PLAN, 24).hw_noise is None


def test_the_patterns_of_a_partly_quantised_run_stay(condition) -> None:
    own = condition(dtype={"preset": "mxfp4", "exclude": ["*.layers.0.*"]})
    assert evaluated(own, "unquantised", PLAN, 24).dtype.exclude == ("*.layers.0.*",)


def test_noise_is_that_of_the_checkpoints_own_step_or_as_told(condition) -> None:
    own = condition()
    assert own.aqn is not None
    for step in (12, 24):
        noise = evaluated(own, "noised", PLAN, step).aqn
        assert noise is not None
        assert (noise.sigma_start, noise.sigma_end) == (sigma_at(own.aqn, step, 24, 24),) * 2
        assert noise.during_eval
        # what the rollout copy plans for the answers: it serves the step after the checkpoint's
        assert sigma_at(noise, step + 1, step + 1, step) == noise.sigma_start
    told = evaluated(own, "noised=0.02,unquantised", PLAN, 24)
    assert told.aqn is not None
    assert (told.aqn.sigma_start, told.dtype.format) == (0.02, "bf16")
    assert evaluated(condition(aqn="none"), "noised=0.02", PLAN, 24).aqn is not None


def test_adapters_are_merged_or_not(condition) -> None:
    own = condition(lora="r32")
    merged = evaluated(own, "merged", PLAN, 24)
    assert merged.lora is not None
    assert merged.lora.sync == "merged"
    assert evaluated(merged, "adapters", PLAN, 24).lora == own.lora


@pytest.mark.parametrize(
    ("mode", "fields", "message"),
    [
        ("quantized", {}, "is no mode.*did you mean 'unquantised'"),
        ("native=1", {}, "is no mode"),
        ("noised=much", {}, "is no sigma"),
        ("noised=-1", {}, "between 0 and 10"),
        ("noised", {"aqn": "none"}, "say how much"),
        ("merged", {}, "needs a run with adapters"),
        ("", {}, "is no mode"),
        ("mxfp4,nvfp4", {}, "says twice what the number format should be"),
        ("native,unquantised", {}, "says twice"),
        ("exact,exact", {}, "says twice"),
    ],
)
def test_a_mode_that_does_not_fit_is_told(condition, mode: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        evaluated(condition(**fields), mode, PLAN, 24)


def facts(c: Condition, **changes: dict[str, Any]) -> list[Measured]:
    """What an evaluation records, as it should be."""
    sigma = c.aqn.sigma_start if c.aqn is not None else 0.0
    realised = {"modules": 5 if sigma else 0, "watched": 5, "std": sigma, "largest": sigma}
    found: dict[str, dict[str, Any]] = {
        "source": {"missing": [], "changed": []},
        "started": {"fingerprints": {"model": "m", "train": "t", "test": "e"}, "plugins": [], "code": {"id": "c"}},
        "quantised": {
            "role": "policy", "formats": [c.dtype.model_dump(mode="json")], "linears": [*LINEARS, "lm_head"],
            "quantised": LINEARS, "adapted": [], "adapter_types": [],
        },
        "attention": {"role": "rollout", "functions": {"sdpa_attention_forward": 2}, "masked": True},
        "loaded": {"weights": EXPORTED, "used": {}},
        "exported": {"export": 0, "weights": {n: f"{n} as sent" for n in LINEARS}, "used": {}},
        "eval_mode": {
            "step": 24, "weights": {n: f"{n} as sent" for n in LINEARS}, "realised": realised, "watched": 2, "on_grid": 2,
            "sigma_planned": sigma, "sigma_expected": sigma, "sigma_error": 0.05 * sigma, "modules_due": realised["modules"],
            "output": {"module": LINEARS[0], "error": 0.0, "n_eff": 100.0, "swell": 1.0}, "replica": 0, "replicas": 1,
            "correlation": None,
            "layers": {
                "layer": [0, 1, None], "multiplier": [1.0] * 3, "std": [sigma] * 3, "expected": [sigma] * 3,
                "error": [0.05 * sigma] * 3, "changed": [realised["modules"]] * 3, "rounding": [0.0] * 3,
            },
        },
        "eval": {"step": 24, "n": 500, "samples": 1, "questions": "q"},
    }  # fmt: skip
    for kind, change in changes.items():
        found[kind] |= change
    return [Measured(kind, data) for kind, data in found.items()]


SAVED = Saved(24, merged=False, exported=EXPORTED, fingerprints={"model": "m", "test": "e"}, questions="q")
STEPS = PlannedSteps(24, (24,), 1, "c")


@pytest.mark.parametrize("mode", ["native", "unquantised", "noised=0.02"])
def test_the_right_checkpoint_in_the_right_mode_is_proven(condition, mode: str) -> None:
    c = evaluated(condition(), mode, PLAN, 24)
    assert judge_eval(c, STEPS, SAVED, facts(c)).reasons == ()
    assert judge_eval(c, STEPS, SAVED, facts(c)).status == "PROVEN"


SILENT = {"modules": 0, "watched": 5, "std": 0.0, "largest": 0.0}
LOUD = {"modules": 5, "watched": 5, "std": 0.01, "largest": 0.01}


@pytest.mark.parametrize(
    ("mode", "kind", "change", "reason"),
    [
        ("native", "source", {"changed": ["model.pt"]}, "1 files are not those that were saved"),
        ("native", "loaded", {"weights": EXPORTED | {LINEARS[0]: "the base's"}}, "other weights were loaded"),
        ("native", "eval_mode", {"weights": dict.fromkeys(LINEARS, "others")}, "used other weights than the policy exported"),
        ("native", "eval_mode", {"realised": LOUD}, "noise was on in the eval"),
        ("noised=0.02", "eval_mode", {"realised": SILENT}, "sigma stayed 0"),
        ("noised=0.02", "eval_mode", {"realised": LOUD}, "the noise had sigma 0.01, 0.02 was to be expected"),
        ("noised=0.02", "eval_mode", {"sigma_planned": 0.0, "sigma_expected": 0.0, "realised": SILENT, "modules_due": 0}, "sigma stayed 0"),
        ("noised=0.02", "eval_mode", {"sigma_planned": 0.01}, "the worker aimed at sigma 0.01, the schedule has 0.02"),
        ("native", "started", {"fingerprints": {"model": "m", "train": "t", "test": "other"}}, "its test is not that of the training run"),
        ("native", "eval", {"questions": "others"}, "asked other questions"),
        ("unquantised", "quantised", {"formats": [{"format": "mxfp4"}]}, "not to bf16"),
        ("native", "eval_mode", {"on_grid": 0}, "watched linears are not"),
        ("native", "eval", {"n": 499}, "asked 499 questions of 500"),
        ("native", "eval", {"step": 22}, "the eval at the last step, 24, is missing"),
        ("native", "eval_mode", {"output": {"module": LINEARS[0], "error": 0.05, "n_eff": 1e4, "swell": 1.0}}, "are off by 5"),
    ],
)  # fmt: skip
def test_another_checkpoint_or_mode_is_refuted(
    condition, mode: str, kind: str, change: dict[str, Any], reason: str
) -> None:
    c = evaluated(condition(), mode, PLAN, 24)
    verdict = judge_eval(c, STEPS, SAVED, facts(c, **{kind: change}))
    assert verdict.status == "REFUTED"
    assert any(reason in text for text in verdict.reasons), verdict.reasons


@pytest.mark.parametrize("kind", ["source", "started", "quantised", "loaded", "exported", "eval_mode"])
def test_a_fact_that_is_missing_leaves_it_unproven(condition, kind: str) -> None:
    c = evaluated(condition(), "native", PLAN, 24)
    verdict = judge_eval(c, STEPS, SAVED, [fact for fact in facts(c) if fact.kind != kind])
    assert verdict.status == "UNPROVEN", verdict.reasons
    assert judge_eval(c, STEPS, None, facts(c)).status == "UNPROVEN"


def test_a_checkpoint_of_a_training_that_is_not_proven_has_no_proven_score(condition) -> None:
    c = evaluated(condition(), "native", PLAN, 24)
    bad = replace(SAVED, training=Verdict("REFUTED", ("sigma stayed 0",)))
    verdict = judge_eval(c, STEPS, bad, facts(c))
    assert (verdict.status, verdict.reasons) == ("UNPROVEN", ("the training behind it is not proven: sigma stayed 0",))


def test_merged_weights_that_lost_their_adapters_are_refuted(condition) -> None:
    c = evaluated(condition(lora="r32"), "merged", PLAN, 24)
    adapted = {"quantised": {"adapted": LINEARS}}
    kept = {"exported": {"merges": {"a": {"error": 0.0, "delta": 1.0, "kept": 1.0}}}}
    lost = {"exported": {"merges": {"a": {"error": 0.0, "delta": 1.0, "kept": 0.1}}}}
    assert judge_eval(c, STEPS, SAVED, facts(c, **adapted, **kept)).reasons == ()
    assert judge_eval(c, STEPS, SAVED, facts(c, **adapted, **lost)).status == "REFUTED"
    assert judge_eval(c, STEPS, SAVED, facts(c, **adapted)).status == "REFUTED"


def test_a_merged_run_is_known_by_its_bases_and_adapters(condition) -> None:
    c = evaluated(condition(), "native", PLAN, 24)
    merged = Saved(24, merged=True, exported={"base": "b"})
    assert judge_eval(c, STEPS, merged, facts(c, loaded={"used": {"base": "b"}})).status == "PROVEN"
    assert judge_eval(c, STEPS, merged, facts(c, loaded={"used": {"base": "x"}})).status == "REFUTED"
