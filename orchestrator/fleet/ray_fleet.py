"""The fleet as the scheduler sees it: launch an attempt, ask after it, end it. All by name, all repeatable."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from db.records import Attempt
from experiment_specs.faults import fault_point
from orchestrator.fleet.head import START_SECONDS, FleetError
from orchestrator.fleet.interface import Observation
from orchestrator.fleet.supervisor import Supervisor, end_processes
from orchestrator.scheduler.decide import Node
from workers.launch import ray_on_loopback, trainer_command

NAMESPACE = "aqn"
ANSWER_SECONDS = 5.0
"""A supervisor that takes longer (it may wait for its GPUs, or be ending processes) is unknown until the next tick."""
CAPTURE_SECONDS = 300.0
"""For the stacks of a few dozen processes."""


LOOKS = 3
"""At the head's port, before a call is left behind."""
P = ParamSpec("P")
T = TypeVar("T")


def _while_it_lives(
    ask: Callable[Concatenate[RayFleet, P], T],
) -> Callable[Concatenate[RayFleet, P], T]:
    """Ray waits for a head that died while it was asked, in calls that nothing ends: they are made in a thread of their
    own, which is left behind when the head listens no more. Raises :class:`FleetError` then."""

    @wraps(ask)
    def guarded(fleet: RayFleet, /, *arguments: P.args, **named: P.kwargs) -> T:
        answer: futures.Future[T] = futures.Future()

        def run() -> None:
            try:
                answer.set_result(ask(fleet, *arguments, **named))
            except BaseException as error:  # noqa: BLE001 - raised where it was asked
                answer.set_exception(error)

        threading.Thread(target=run, name=f"fleet-{ask.__name__}", daemon=True).start()
        while not futures.wait([answer], timeout=ANSWER_SECONDS).done:
            if fleet.gone():
                fleet._left = True
                raise FleetError("the fleet's head died while it was asked")
        return answer.result()

    return guarded


class RayFleet:
    """A Ray cluster at an address. Connecting again after a crash finds every supervisor where it was.

    ``own``: it is the head that :mod:`orchestrator.fleet.head` started, which listens on the loopback interface alone;
    a cluster of the user's listens where the user said.
    """

    def __init__(
        self, address: str, command: Callable[[Path], list[str]] = trainer_command, *, own: bool = True
    ) -> None:
        self._command = command
        if own:
            ray_on_loopback()
        _connect(address, time.monotonic() + (START_SECONDS if own else 0.0))
        host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
        self._control_store = (host, int(port))
        self._left = False
        """Was a call left behind? It must not go on where its answer comes after all: others have gone on by then."""

    def close(self) -> None:
        """Leave the cluster; supervisors stay."""
        self._left = True
        ray.shutdown()

    def _stay(self) -> None:
        if self._left:
            raise FleetError("this call was left behind")

    def gone(self) -> bool:
        """Does it not listen, however often one looks?"""
        for _ in range(LOOKS):
            if self.alive():
                return False
            time.sleep(1.0)
        return True

    def alive(self) -> bool:
        """Does the cluster's control store listen? Asked of its port, because Ray itself would wait for it."""
        try:
            with socket.create_connection(self._control_store, timeout=ANSWER_SECONDS):
                return True
        except OSError:
            return False

    @_while_it_lives
    def nodes(self) -> list[Node]:
        return [
            Node(str(node["NodeID"]), int(node["Resources"].get("GPU", 0))) for node in ray.nodes() if node["Alive"]
        ]

    @_while_it_lives
    def launch(self, attempt: Attempt, gpus: int) -> None:
        """Ask for the attempt's placement group and supervisor, or find those that are there. Waits for neither: the
        GPUs may still be held by something that this registry does not know."""
        name = _name(attempt)
        found = _group(name)
        self._stay()
        group = found or placement_group(
            [{"CPU": 1, "GPU": gpus}], strategy="STRICT_PACK", name=name, lifetime="detached",
            _soft_target_node_id=attempt.placed,
        )  # fmt: skip
        fault_point("fleet.group-made")
        self._stay()
        (
            ray.remote(Supervisor)
            .options(
                name=name, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, num_cpus=1, num_gpus=gpus,
                max_restarts=0, scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=group),
            )
            .remote(attempt.run_dir, attempt.token, self._command(Path(attempt.run_dir)))
        )  # fmt: skip
        fault_point("fleet.supervisor-asked")

    @_while_it_lives
    def observe(self, attempts: Sequence[Attempt]) -> dict[int, Observation]:
        """All supervisors are asked at once."""
        found: dict[int, Observation] = {}
        asked = {}
        for attempt in attempts:
            try:
                supervisor = ray.get_actor(_name(attempt), namespace=NAMESPACE)
            except ValueError:
                found[attempt.id] = Observation("dead")
            else:
                asked[supervisor.status.remote()] = attempt.id
        if asked:
            ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
            found |= {asked[answer]: _answer(answer) for answer in ready}
            found |= {asked[answer]: Observation("unknown") for answer in late}
        return found

    @_while_it_lives
    def capture(self, attempt: Attempt) -> None:
        with suppress(ValueError, GetTimeoutError, RayActorError):  # what cannot be asked is ended without
            supervisor = ray.get_actor(_name(attempt), namespace=NAMESPACE)
            ray.get(supervisor.capture.remote(), timeout=CAPTURE_SECONDS)

    @_while_it_lives
    def release(self, attempt: Attempt) -> None:
        """End what is left of an attempt and give its GPUs back. The trainer's processes go first."""
        name = _name(attempt)
        try:
            supervisor = ray.get_actor(name, namespace=NAMESPACE)
        except ValueError:
            _end_orphans(attempt)  # nobody watches over them any more
        else:
            try:
                ray.get(supervisor.stop.remote(), timeout=60)
            except (GetTimeoutError, RayActorError):
                _end_orphans(attempt)
            fault_point("fleet.supervisor-stopped")
            self._stay()
            ray.kill(supervisor)
        fault_point("fleet.supervisor-killed")
        self._stay()
        if (group := _group(name)) is not None:
            remove_placement_group(group)


def _connect(address: str, deadline: float) -> None:
    """Until the ``deadline``: our own head listens before its node has come up."""
    while True:
        try:
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR,
                configure_logging=False,
            )  # fmt: skip
        except (ConnectionError, RayError, RuntimeError) as error:
            if time.monotonic() < deadline:
                time.sleep(1.0)
                continue
            why = " ".join(str(error.__cause__ or error).split())  # Ray says what is wrong one exception deeper
            raise FleetError(f"no Ray cluster answers at {address}: {why}") from error
        return


def _answer(answer: Any) -> Observation:
    try:
        return Observation("alive", ray.get(answer))
    except (GetTimeoutError, ActorUnavailableError):  # the latter passes, though it is a kind of actor error
        return Observation("unknown")
    except RayActorError:
        return Observation("dead")
    except RayError:  # it could not say: a process that it asked after is being made, perhaps
        return Observation("unknown")


def _end_orphans(attempt: Attempt) -> None:
    """End what an attempt left running, on the machine where it ran; one that is gone took its processes along."""
    here = ray.get_runtime_context().get_node_id()
    if attempt.placed is None or attempt.placed == here:
        end_processes(attempt.token)
        return
    there = {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
    if attempt.placed not in there:
        end_processes(attempt.token)  # a raylet alone may have died, and this machine is one that can be looked at
        return
    strategy = NodeAffinitySchedulingStrategy(attempt.placed, soft=False)
    with suppress(GetTimeoutError, RayError):
        task = ray.remote(end_processes).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)
        ray.get(task.remote(attempt.token), timeout=60)


def _name(attempt: Attempt) -> str:
    return f"{attempt.run_id}/{attempt.number}"


def _group(name: str) -> PlacementGroup | None:
    try:
        return ray.util.get_placement_group(name)
    except ValueError:
        return None
