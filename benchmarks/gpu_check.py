"""What only a GPU can show: `make gpu-check`, on a machine with one (about 60 GB of its memory, reckoned; untried).

A model with Qwen2.5-1.5B's shapes and random weights is trained for a few steps by real verl with rollouts by vLLM: in
bf16; in mxfp4 with noise in the norms; and both without their measurements, which shows what those cost. No answer of
such a model earns anything, so what moves it is a bonus on entropy. Then what 4-bit weights cost on this device, beside
copying the same memory. Ends with 1 where a run is not PROVEN.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

SPEC = """\
sweep: gpu-check
set:
  model: {{path: {folder}/model}}
  data:
    train: {folder}/train.parquet
    test: {folder}/test.parquet
    train_rows: 1024
    test_rows: 64
    max_prompt_tokens: 64
    max_response_tokens: 512
  algorithm: {{preset: dapo, samples_per_prompt: 8, dynamic_sampling: false}}
  optimiser: {{lr: 1.0e-6}}
  batch: {{prompts: 32, mini_batch: 32}}
  compute: bf16
  steps_per_epoch: {steps}
  eval: {{every: {steps}}}
  rollout: vllm
  trainer: {{actor_rollout_ref.actor.entropy_coeff: 0.001}}
axes:
  dtype: [bf16, mxfp4]
  aqn: [none, {{preset: standard, num_stages: {steps}}}]
exclude:
  - when: {{dtype: bf16, aqn: {{preset: standard, num_stages: {steps}}}}}
    because: two runs show it
  - when: {{dtype: mxfp4, aqn: none}}
    because: two runs show it
labels: {{bf16: {{dtype: bf16}}, mxfp4-aqn: {{dtype: mxfp4}}}}
trainer: {{actor_rollout_ref.rollout.gpu_memory_utilization: 0.4}}
checkpoints: {{keep: none}}
resources: {{gpus: 1}}
"""
UNMEASURED = "benchmarks.without_measurements"
WARM_UP = 1
"""Steps that are not counted: kernels are chosen in them."""


def make_assets(folder: Path) -> None:
    """Random weights in the real shapes; a tokenizer with as many words as the model knows; additions as questions."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    from experiment_specs.architecture import FOLDER
    from workers.tiny import task

    config = json.loads((FOLDER / "qwen2.5-1.5b.json").read_text(encoding="utf-8"))["config"]
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {c: 3 + i for i, c in enumerate("0123456789+=?")}
    words |= {f"word{i}": i for i in range(len(words), config["vocab_size"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    rest = {k: v for k, v in config.items() if k != "model_type"} | {"pad_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **rest), dtype=torch.bfloat16)
    model.save_pretrained(folder / "model")
    split = task.split(1024, 64, 0)
    for name, pairs in (("train", split.train), ("test", split.test)):
        pq.write_table(pa.Table.from_pylist(task.rows(pairs, name)), folder / f"{name}.parquet")


def submit(folder: Path, home: str, spec: Path, **environment: str) -> int:
    """The exit code of `aqn submit`: 1 where a run is not PROVEN."""
    command = [sys.executable, "-m", "orchestrator.cli.main", "submit", str(spec)]
    own = {"AQN_HOME": str(folder / home), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=os.environ | own | environment, check=False)
    subprocess.run([*command[:3], "fleet", "down"], env=os.environ | own, check=False, stdout=subprocess.DEVNULL)
    return done.returncode


def measured(folder: Path, home: str) -> dict[str, dict[str, Any]]:
    """Label → verdict, and medians over the steps after the warm-up."""
    from db import reads
    from db.engine import open_registry

    engine = open_registry(f"sqlite:///{folder / home / 'registry.db'}", create=False)
    found: dict[str, dict[str, Any]] = {}
    for run in reads.runs(engine):
        steps = [metrics for *_, metrics in reads.steps(engine, run.attempts[-1].id)][WARM_UP:]
        row: dict[str, Any] = {"verdict": run.verdict, "reasons": list(run.reasons)}
        if steps:
            row["seconds a step"] = median(m["timing_s/step"] for m in steps)
            row["seconds of generating"] = median(m["timing_s/gen"] for m in steps)
            row["tokens a second"] = median(
                m["response_length/mean"] * m["aqn/trajectories"] / m["timing_s/gen"] for m in steps
            )
            row["seconds of syncing"] = median(m["timing_s/update_weights"] for m in steps)
        found[run.label] = row
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--out", type=Path, help="a Markdown file for the table")
    asked = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("no GPU here: nothing that this could show")
    with tempfile.TemporaryDirectory(prefix="aqn-gpu-") as name:
        folder = Path(name)
        make_assets(folder)
        spec = folder / "gpu-check.yaml"
        spec.write_text(SPEC.format(folder=folder, steps=asked.steps))
        code = submit(folder, "proven", spec)
        submit(folder, "unmeasured", spec, AQN_WORKER_PLUGINS=UNMEASURED)
        text = table(measured(folder, "proven"), measured(folder, "unmeasured"), torch.cuda.get_device_name(0))
    print(text)
    if asked.out:
        asked.out.write_text(text)
    subprocess.run([sys.executable, "benchmarks/fake_quantise.py"], check=False)
    return code


def table(proven: dict[str, dict[str, Any]], unmeasured: dict[str, dict[str, Any]], device: str) -> str:
    """By run; the last column is what the measurements add to a step, as a share."""
    columns = ("seconds a step", "seconds of generating", "seconds of syncing", "tokens a second")
    lines = [
        f"{device}; Qwen2.5-1.5B's shapes, random weights, 32 prompts x 8 answers of up to 512 tokens", "",
        f"| run | verdict | {' | '.join(columns)} | measurements |", "|---|---|" + "---:|" * (len(columns) + 1),
    ]  # fmt: skip
    for label, row in sorted(proven.items()):
        cells = [f"{row[c]:.2f}" if c in row else "–" for c in columns]
        bare = unmeasured.get(label, {}).get(columns[0])
        cost = f"{100 * (row[columns[0]] / bare - 1):.1f} %" if bare and columns[0] in row else "–"
        lines.append(f"| {label} | {row['verdict']} | {' | '.join(cells)} | {cost} |")
        lines += [f"| | {reason} |" + " |" * (len(columns) + 1) for reason in row["reasons"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
