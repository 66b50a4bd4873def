"""Treatments on the modules that vLLM itself builds: names, counts, noise, products, and what is kept of a prompt."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)


def test_verls_own_nvfp4_training_does_not_go_with_this_vllm() -> None:
    """Why a spec cannot ask for it. vLLM 0.24, which verl 0.9.1's extra pins, requires the same compressed-tensors."""
    with pytest.raises(ModuleNotFoundError, match="quantized_compressors"):
        import_module("verl.utils.qat.quantizer")  # exports the weights
    from verl.utils.qat.vllm_patch import apply_qat_patches

    with pytest.raises((ModuleNotFoundError, AttributeError), match="w4a16_nvfp4"):
        apply_qat_patches()  # prepares vLLM to take them


def looked_at(what: str, folder: Path, *fault: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.with_vllm.engine", what, str(folder), *fault]
    done = subprocess.run(command, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return looked_at("tiny", tmp_path_factory.mktemp("engine"))


def near(one: list[float], other: list[float]) -> bool:
    return one == pytest.approx(other, abs=1e-4)


def test_noise_is_on_in_training_answers_and_lifted_in_evals(tiny) -> None:
    assert not near(tiny["noisy"], tiny["exact"])
    assert near(tiny["clean"], tiny["exact"]), "an eval answers with the clean weights, as a plain forward does"


def test_a_prompt_that_was_read_with_noise_must_be_read_anew(tiny) -> None:
    """Why the server empties vLLM's prefix cache around an eval: else noise stays in what it keeps of the prompt."""
    assert not near(tiny["stale"], tiny["clean"])


def test_what_is_told_is_what_generates(tiny) -> None:
    syncs = [event for event in tiny["events"] if event["kind"] == "sync"]
    modes = [event for event in tiny["events"] if event["kind"] == "eval_mode"]
    assert (len(syncs), len(modes)) == (1, 1)
    assert (syncs[0]["realised"]["modules"], modes[0]["realised"]["modules"]) == (5, 0)
    assert abs(syncs[0]["realised"]["std"] - syncs[0]["sigma_expected"]) < 5 * syncs[0]["sigma_error"]
    assert syncs[0]["weights"] == modes[0]["weights"] == tiny["weights"], "the checkpoint's, under its names"


def test_products_have_the_planned_error_in_rollouts_and_none_in_evals(tiny) -> None:
    outputs = {event["kind"]: event["output"] for event in tiny["events"] if "output" in event}
    assert 0.04 < outputs["sync"]["error"] < 0.06
    assert outputs["eval_mode"]["n_eff"] > 0
    assert outputs["eval_mode"]["error"] < 1e-5
    (told,) = (event for event in tiny["events"] if event["kind"] == "noisy_ops")
    seen = told["ops"]["linear"]
    assert (told["phase"], seen["calls"]) == ("rollout", seen["due"])
    assert 0.04 < seen["relative_std"] < 0.06


@pytest.mark.slow
def test_the_real_shapes_have_the_counts_that_are_known(tmp_path: Path) -> None:
    found = looked_at("shapes", tmp_path / "qwen")
    assert (len(found["norms"]), len(found["fused"]), len(found["linears"])) == (57, 112, 196)
    assert found["fused"][:2] == ["model.layers.0.self_attn.qkv_proj", "model.layers.0.self_attn.o_proj"]
    assert "model.layers.27.mlp.up_proj" in found["linears"]
