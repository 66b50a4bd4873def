"""One attempt at one run, from its directory alone: ``python -m workers.train RUN_DIR``.

Reads ``order.json``, starts verl on a private Ray, and says everything it does in ``events.jsonl``. The exit code is 0
when verl trained to its end; whether the run can be believed is not decided here.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import platform
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiment_specs.language import TINY_DATA, TINY_MODEL, TINY_PREFIX, TINY_SELECTION, HwNoise
from workers.events import Spool, read_events
from workers.launch import (
    RUN_DIR_VARIABLE,
    TOKEN_VARIABLE,
    TOLD_TO_GO,
    Order,
    code_version,
    has_successor,
    noisy_ops_contradiction,
    process_environment,
    ray_on_loopback,
    read_order,
    trainer_environment,
    unsupported,
    vllm_without_gpu,
)
from workers.resume import ResumePoint, changed_files, find_point, take_over

SUCCESSOR_SECONDS = 10.0
MODEL_FILES = (".safetensors", ".bin", ".pt", ".json", ".model", ".txt", ".jinja")


def main(run_dir: Path) -> int:
    """Run the attempt; every outcome of its own, an exception included, ends in a ``finished`` event."""
    order = read_order(run_dir)
    token = os.environ.get(TOKEN_VARIABLE, order.token)
    inherited = dict(os.environ)
    os.environ.clear()
    os.environ.update(trainer_environment(run_dir, token, inherited))
    spool = Spool(run_dir)
    if TOKEN_VARIABLE in inherited:
        threading.Thread(target=_end_when_succeeded, args=(run_dir, order), daemon=True).start()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    scratch = Path(tempfile.mkdtemp(prefix="aqn-"))  # short: socket paths end at 107 bytes
    try:
        _refuse_other_code(order, inherited)
        if order.kind == "scan":
            _scan(order, spool)
        else:
            _refuse(order, inherited)
            _find_source(order, spool)
            point = _go_on(run_dir, order, spool)
            if point is None or point.step < order.total_steps:  # else the earlier attempt died after its last step
                _train(run_dir, order, spool, scratch, point)
    except (SystemExit, KeyboardInterrupt):
        return TOLD_TO_GO  # not this run's own error, and no last word
    except BaseException as error:  # noqa: BLE001 - the last word must be written whatever happened
        traceback.print_exc()
        spool.append("finished", {"ok": False, "error": _cause(error)}, durable=True)
        return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    stopped = any(event.kind == "stopped" for event in read_events(run_dir)[0])
    spool.append("finished", {"ok": not stopped, "error": None}, durable=True)
    return 0


def _end_when_succeeded(run_dir: Path, order: Order) -> None:
    """An attempt that was given up while it lived (its machine was cut off) ends as soon as it sees the next one."""
    while not has_successor(run_dir, order):
        time.sleep(SUCCESSOR_SECONDS)
    _say(f"attempt {order.attempt + 1} is there: this one was given up, and ends")
    os.kill(os.getpid(), signal.SIGTERM)


def _refuse_other_code(order: Order, environment: dict[str, str]) -> None:
    ran = code_version(order.plugins).id
    if order.code and TOKEN_VARIABLE in environment and ran != order.code:  # by hand, other code may be the point
        raise RuntimeError(
            f"the code has changed since the run was submitted ({order.code}, now {ran}); submit it anew"
        )


def _refuse(order: Order, environment: dict[str, str]) -> None:
    """What this run cannot be: asked for what is not there, or told two things at once."""
    if missing := unsupported(order.typed_condition):
        raise RuntimeError("; ".join(missing))
    if problem := vllm_without_gpu(order.typed_condition, gpu=_has_gpu()):
        raise RuntimeError(problem)
    if problem := noisy_ops_contradiction(order.typed_condition.hw_noise, environment):
        raise RuntimeError(problem)


def _find_source(order: Order, spool: Spool) -> None:
    """An eval's checkpoint, file by file as the training run left it. Raises RuntimeError where it is not."""
    if order.source is None:
        return
    folder, files = Path(order.source["checkpoint"]), order.source["files"]
    missing = [name for name in files if not (folder / name).is_file()]
    changed = [name for name in changed_files(folder, files) if name not in missing]
    facts = {"run": order.source["run"], "step": order.source["step"], "checkpoint": str(folder)}
    spool.append("source", facts | {"files": len(files), "missing": missing, "changed": changed}, durable=True)
    if missing or changed:
        what = f"{len(missing)} files are missing" if missing else f"{changed[0]} is not the file that was saved"
        raise RuntimeError(f"{folder} is not the checkpoint that run {order.source['run']} left: {what}")


def _go_on(run_dir: Path, order: Order, spool: Spool) -> ResumePoint | None:
    """Take over an earlier attempt's past, where one left a checkpoint."""
    point = find_point(order) if order.kind == "train" else None
    if point is not None:
        take_over(run_dir, point, spool)
        _remove_left_behind(run_dir, order, spool)
        _say(f"going on from step {point.step}, saved in {point.checkpoint}")
    return point


def _scan(order: Order, spool: Spool) -> None:
    from workers.scan import scan

    asked = {"model": order.condition["model"]["path"], "questions": order.condition["questions"]}
    files = _assets(asked, order)
    spool.append("phase", {"name": "assets ready"})
    spool.append("started", _identity(order, files), durable=True)
    scan(order, files, _fingerprint(Path(files["model"])), spool)


def _remove_left_behind(run_dir: Path, order: Order, spool: Spool) -> None:
    """Checkpoints of this run's earlier attempts that are in nobody's past: saved, and ended before their step was."""
    known = {event.data["path"] for event in read_events(spool.path.parent)[0] if event.kind == "checkpoint"}
    for number in range(1, order.attempt):
        for folder in (run_dir.parent / str(number) / "checkpoints").glob("global_step_*"):
            if str(folder) not in known:
                shutil.rmtree(folder, ignore_errors=True)


def _train(run_dir: Path, order: Order, spool: Spool, scratch: Path, point: ResumePoint | None) -> None:
    from omegaconf import OmegaConf

    from workers.overrides import overrides
    from workers.verl_config import compose

    c = order.typed_condition
    files = _assets({"model": c.model.path, "train": c.data.train, "test": c.data.test}, order)
    spool.append("phase", {"name": "assets ready"})
    _check_scan(order, files)
    cpu = not _has_gpu()
    config = compose(
        overrides(order, run_dir, files, cpu=cpu, resume_from=point.checkpoint if point is not None else None)
    )
    OmegaConf.save(config, run_dir / "verl.yaml")
    _check_rows(order, files)
    _set_environment(order.plugins, c.hw_noise, cpu=cpu, vllm=c.rollout == "vllm")
    os.environ.setdefault("WANDB_DIR", str(run_dir))  # where a spec switches W&B on: what it writes stays with the run
    import ray

    ray_on_loopback()
    ray.init(**_private_ray(order.gpus, scratch, cpu=cpu))
    spool.append("phase", {"name": "private Ray up"})
    try:
        config_hash = hashlib.sha256((run_dir / "verl.yaml").read_bytes()).hexdigest()
        spool.append("started", _identity(order, files) | {"verl_config": config_hash}, durable=True)
        if order.condition["rollout"] == "transformers":
            from workers.verl.server import start_servers

            start_servers(config)
        from workers.verl.run import run

        spool.append("phase", {"name": "verl imported"})
        run(config)
    finally:
        ray.shutdown()


def _has_gpu() -> bool:
    """Asked of the driver, because asking torch costs its import before Ray is even starting."""
    return shutil.which("nvidia-smi") is not None and os.environ.get("CUDA_VISIBLE_DEVICES", "0") != ""


def _set_environment(plugins: list[str], noise: HwNoise | None, *, cpu: bool, vllm: bool) -> None:
    """What every process of the private Ray inherits; set here and not per actor, so that Ray's ready workers fit."""
    os.environ |= process_environment(plugins, noise, cpu=cpu, vllm=vllm) | {
        "RAY_AUTH_MODE": "token",  # an open Ray port runs anybody's code
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    if cpu:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(2, os.cpu_count() or 1))))
    else:
        from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

        os.environ |= get_ppo_ray_runtime_env()["env_vars"]


def _private_ray(gpus: int, scratch: Path, *, cpu: bool) -> dict[str, Any]:
    """A Ray of the run's own: what crashes in it takes nothing else down."""
    common = {"address": "local", "_temp_dir": str(scratch), "include_dashboard": False, "log_to_driver": True}
    if not cpu:
        return common | {"num_cpus": max(8, os.cpu_count() or 8), "num_gpus": gpus}
    # logical GPUs and CPUs: verl asks for 3 CPUs a worker group, its queue for 2
    return common | {"num_cpus": 3 * gpus + 2, "num_gpus": gpus, "object_store_memory": 300_000_000}


def _assets(asked: dict[str, str], order: Order) -> dict[str, str]:
    """Where things really lie; the embedded model and data are made when they are missing."""
    files = {name: _found(path, order) for name, path in asked.items()}
    if any(path.startswith(TINY_PREFIX) for path in files.values()):
        from workers.tiny.make import prepare

        tiny = prepare(Path(order.assets), _say)
        tiny["questions"] = tiny["train"]
        files = {k: _tiny(k, v, tiny) if v.startswith(TINY_PREFIX) else v for k, v in files.items()}
    return files


def _tiny(role: str, path: str, made: dict[str, str]) -> str:
    if path == TINY_SELECTION and role == "test":
        return made["selection"]
    if path != (TINY_MODEL if role == "model" else TINY_DATA):
        raise RuntimeError(f"{path} is nothing that is made locally as {role}")
    return made[role]


def _found(path: str, order: Order) -> str:
    """A path as the submitter meant it: relative to where the command was given, if it is there; else as written."""
    here = Path(order.workdir) / path
    return str(here) if order.workdir and here.exists() else path


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 - the attempt's log


def _check_rows(order: Order, files: dict[str, str]) -> None:
    """The step plan follows from declared row counts: they must be the files'."""
    import pyarrow.parquet as pq

    data = order.typed_condition.data
    for name, declared in (("train", data.train_rows), ("test", data.test_rows)):
        rows = pq.read_metadata(files[name]).num_rows
        if rows != declared:
            raise RuntimeError(f"data.{name}_rows says {declared}, and {files[name]} has {rows} rows")


def _check_scan(order: Order, files: dict[str, str]) -> None:
    """Noise aimed by the layers of another model is aimed at nothing."""
    if order.scan is not None and order.scan["model"] != _fingerprint(Path(files["model"])):
        raise RuntimeError(
            f"{files['model']} is not the model that was scanned (run {order.scan['run']}): "
            f"it was changed since; `aqn scan --again {order.scan['run']}` scans it anew"
        )


def _identity(order: Order, files: dict[str, str]) -> dict[str, Any]:
    return {
        "run_id": order.run_id,
        "attempt": order.attempt,
        "condition_id": order.condition_id,
        "seed": order.seed,
        "code": asdict(code_version()),
        "python": platform.python_version(),
        "host": platform.node(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpus": _gpu_names(),
        "plugins": order.plugins,
        "fingerprints": {name: _fingerprint(Path(path)) for name, path in files.items()},
    }


def _gpu_names() -> list[str]:
    if not _has_gpu():
        return []
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _fingerprint(path: Path) -> str | None:
    """Hash of a file, or of the weight, tokenizer and configuration files of a folder; None for a remote id.

    Others, a README for example, say nothing about what a model is.
    """
    inside = sorted(p for p in path.rglob("*") if p.suffix in MODEL_FILES and p.is_file()) if path.is_dir() else []
    paths = [path] if path.is_file() else inside
    if not paths:
        return None
    digest = hashlib.sha256()
    for item in paths:
        with item.open("rb") as handle:
            digest.update(item.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def _cause(error: BaseException) -> str:
    """The innermost error of a Ray traceback, in one line."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else ''}"[:2000]


if __name__ == "__main__":
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "order.json").is_file():
        sys.exit("usage: python -m workers.train RUN_DIR   (a directory with an order.json)")
    directory = Path(sys.argv[1]).resolve()
    os.environ[RUN_DIR_VARIABLE] = str(directory)
    sys.exit(main(directory))
