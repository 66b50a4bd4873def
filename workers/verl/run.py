"""verl's own task runner, in this process: one process and one round of imports less than as an actor of its own."""

from __future__ import annotations

from typing import Any

from verl.trainer import main_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

import workers.verl.trainer  # noqa: F401 - registers the trainer
from workers.verl.plugins import load_worker_plugins


def run(config: Any) -> None:
    """Train to the end of ``config``; every error of any process of the run comes out of here."""
    load_worker_plugins()
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    runner: Any = main_ppo.TaskRunnerV1.__ray_metadata__.modified_class
    runner().run(config)
