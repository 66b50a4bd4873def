"""The fleet as the scheduler sees it: launch an attempt, ask after it, end it. All by name, all repeatable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from db.records import Attempt
from orchestrator.fleet.head import FleetError
from orchestrator.fleet.interface import Observation
from orchestrator.fleet.supervisor import Supervisor, end_processes
from workers.launch import trainer_command

NAMESPACE = "aqn"
ANSWER_SECONDS = 5.0
"""A supervisor that takes longer (it may wait for its GPUs, or be ending processes) is unknown until the next tick."""


class RayFleet:
    """A Ray cluster at an address. Connecting again after a crash finds every supervisor where it was."""

    def __init__(self, address: str, command: Callable[[Path], list[str]] = trainer_command) -> None:
        self._command = command
        try:
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR,
                configure_logging=False,
            )  # fmt: skip
        except (ConnectionError, RayError, RuntimeError) as error:
            raise FleetError(f"no Ray cluster answers at {address}: {error}") from error

    def close(self) -> None:
        """Leave the cluster; supervisors stay."""
        ray.shutdown()

    def total_gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0))

    def launch(self, attempt: Attempt, gpus: int) -> None:
        """Ask for the attempt's placement group and supervisor, or find those that are there. Waits for neither: the
        GPUs may still be held by something that this registry does not know."""
        name = _name(attempt)
        group = _group(name) or placement_group(
            [{"CPU": 1, "GPU": gpus}], strategy="STRICT_PACK", name=name, lifetime="detached"
        )
        (
            ray.remote(Supervisor)
            .options(
                name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=1, num_gpus=gpus,
                max_restarts=0, scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=group),
            )
            .remote(attempt.run_dir, attempt.token, self._command(Path(attempt.run_dir)))
        )  # fmt: skip

    def observe(self, attempt: Attempt) -> Observation:
        try:
            supervisor = ray.get_actor(_name(attempt), namespace=NAMESPACE)
        except ValueError:
            return Observation("dead")
        try:
            return Observation("alive", ray.get(supervisor.status.remote(), timeout=ANSWER_SECONDS))
        except (GetTimeoutError, ActorUnavailableError):  # the latter passes, though it is a kind of actor error
            return Observation("unknown")
        except RayActorError:
            return Observation("dead")

    def release(self, attempt: Attempt) -> None:
        """End what is left of an attempt and give its GPUs back. The trainer's processes go first."""
        name = _name(attempt)
        try:
            supervisor = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            end_processes(attempt.token)  # nobody watches over them any more
        else:
            try:
                ray.get(supervisor.stop.remote(), timeout=60)
            except (GetTimeoutError, RayActorError):
                end_processes(attempt.token)
            ray.kill(supervisor)
        if (group := _group(name)) is not None:
            remove_placement_group(group)


def _name(attempt: Attempt) -> str:
    return f"{attempt.run_id}/{attempt.number}"


def _group(name: str) -> PlacementGroup | None:
    try:
        return ray.util.get_placement_group(name)
    except ValueError:
        return None
