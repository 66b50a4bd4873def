"""What quantisation, noise, probes and evidence cost of a training step, side by side with plain verl.

Several runs of the embedded size live in one process and make a step by turns: verl's own worker around our engine, our
rollout server, no Ray (see tests/one_process.py). Each lacks one part; the plain one lacks them all. A part's cost is
what the whole takes longer than the run without it, the median over rounds of the difference within a round.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from experiment_specs.load import build_condition, load_sweep
from tests.one_process import OneProcess, prepare_process

SPEC = """\
sweep: shares
base: bases/tiny-cpu.yaml
set:
  data: {test_rows: 8, max_prompt_tokens: 16, max_response_tokens: 24}
  steps_per_epoch: 64
  eval: {every: 64}
  dtype: mxfp4
  aqn: {preset: standard, num_stages: 64}
"""
ROUNDS, WARM_UP = 12, 2
Patches = dict[str, Any]


def parts() -> dict[str, Patches]:
    """Part → what to put in the place of the functions that are it."""
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    engine, copy, quantize = (
        "workers.verl.engine",
        "workers.verl.rollout_copy.RolloutCopy",
        "workers.treatments.quantize",
    )
    plain_forward = FSDPEngineWithLMHead.forward_step
    found: dict[str, Patches] = {
        "quantisation": {
            f"{quantize}.QuantisedLinear.forward": lambda self, x: torch.nn.functional.linear(
                x, self.weight, self.bias
            ),
            f"{engine}.TreatedEngine._as_used": lambda self, name, value: value.detach(),
        },
        "noise (AQN)": {f"{copy}.apply_noise": lambda self: None},
        "gradient probe": {f"{engine}.TreatedEngine._arm_probes": lambda self, modules: None},
        "fingerprints, movement, measures": {
            f"{engine}.quantize.fingerprint": lambda tensor: "",
            f"{engine}._ExportReport.moved": lambda *_: None,
            f"{copy}.evidence_before_generating": lambda self: None,
        },
    }
    everything = {key: value for patches in found.values() for key, value in patches.items()}
    return (
        {"": {}}
        | found
        | {"all of them: plain verl": everything | {f"{engine}.TreatedEngine.forward_step": plain_forward}}
    )


def main() -> None:
    logging.disable(logging.INFO)
    prepare_process()
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "shares.yaml"
        spec.write_text(SPEC)
        condition = build_condition(load_sweep(spec), {})
        runs = {name: OneProcess(condition, Path(folder) / str(i)) for i, name in enumerate(parts())}
        rounds = [
            {name: timed(runs[name].step, patches) for name, patches in parts().items()}
            for _ in range(WARM_UP + ROUNDS)
        ][WARM_UP:]
    report(rounds)


def timed(step: Callable[[], Any], patches: Patches) -> float:
    with ExitStack() as stack:
        for name, replacement in patches.items():
            stack.enter_context(patch(name, replacement))
        start = time.perf_counter()
        step()
        return time.perf_counter() - start


def report(rounds: list[dict[str, float]]) -> None:
    whole = median(r[""] for r in rounds)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, one thread; no Ray")
    print(f"a training step of 16 prompts x 8 answers, {ROUNDS} rounds: {1000 * whole:.0f} ms")
    print(f"{'part':<36}{'ms a step':>10}{'share':>8}")
    for name in rounds[0]:
        if name:
            cost = median(r[""] - r[name] for r in rounds)
            print(f"{name:<36}{1000 * cost:>10.1f}{100 * cost / whole:>7.1f}%")


if __name__ == "__main__":
    sys.exit(main())
