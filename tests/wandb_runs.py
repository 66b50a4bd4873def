"""Real W&B runs in offline mode, for tests: no network, no account."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

GSM8K, MATH = "val-core/openai/gsm8k/acc/mean@1", "val-core/math/acc/mean@4"


def verl_config(**changes: Any) -> dict[str, Any]:
    """A small part of verl's configuration, nested as verl hands it to W&B."""
    return {
        "actor_rollout_ref": {
            "model": {"path": "Qwen/Qwen2.5-7B", "lora_rank": 0},
            "actor": {"optim": {"lr": 1e-6}, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28},
            "rollout": {"name": "vllm", "n": 8},
        },
        "algorithm": {"adv_estimator": "grpo", "filter_groups": {"enable": True}},
        "trainer": {"total_epochs": 2, "total_training_steps": None},
    } | changes


def write_run(
    folder: Path,
    evals: Mapping[int, Mapping[str, float]],
    steps: range = range(4),
    name: str = "exp",
    config: Mapping[str, Any] | None = None,
    exit_code: int = 0,
    also: Callable[[Any], None] | None = None,
    **how: Any,
) -> Path:
    """Log as verl does, finish, and return the run file. ``also``: what else is done with the run before its end."""
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_machine_info=True)
    run = wandb.init(
        project="study", name=name, config=dict(config or {}), mode="offline", dir=str(folder), settings=settings,
        reinit="create_new", **how,
    )  # fmt: skip
    file = Path(run.settings.sync_file)
    for step in steps:
        run.log({"critic/score/mean": step / 10, "training/global_step": step, **evals.get(step, {})}, step=step)
    if also is not None:
        also(run)
    run.finish(exit_code=exit_code)
    wandb.teardown()  # finish() returns before the last block is in the file; the end of its service process does not
    return file
