"""A scheduler on a cluster of several raylets, one of which is killed under a run.

python -m tests.cluster_process VICTIM GO [--verl]: when the victim has come to its third step, the raylet of its node is
killed, with SIGKILL; once it is queued again, the file GO lets the others go on. Workers are light ones, or verl's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from db import reads
from db.engine import open_registry
from db.states import TERMINAL
from orchestrator.fleet.ray_fleet import RayFleet
from orchestrator.scheduler.loop import Scheduler
from orchestrator.settings import load_settings
from tests.light_worker import command
from workers.launch import trainer_command


def main() -> None:
    victim, go = sys.argv[1], Path(sys.argv[2])
    worker = trainer_command if "--verl" in sys.argv else command
    settings = load_settings()
    engine = open_registry(settings.registry_url)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    nodes = [cluster.add_node(num_cpus=2, num_gpus=1) for _ in range(2)]
    fleet = RayFleet(cluster.address, worker, own=False)
    scheduler = Scheduler(settings, engine, fleet)
    killed = False
    (sweep,) = reads.runs(engine, ids=[victim])[0].sweeps
    while any(run.state not in TERMINAL for run in reads.runs(engine, sweep=sweep)):
        acted = scheduler.tick()
        run = reads.runs(engine, ids=[victim])[0]
        other_started = all(r.state == "running" for r in reads.runs(engine, sweep=sweep))
        if not killed and other_started and run.attempt is not None and run.attempt.last_step >= 3:
            node = next(node for node in nodes if node.node_id == run.attempt.placed)
            node.kill_raylet()
            killed = True
        if killed and len(run.attempts) == 2:
            go.touch()
        if killed and run.state == "queued":
            go.touch()  # the other node is wanted
        if not acted:
            time.sleep(0.1)
    fleet.close()
    cluster.shutdown()


if __name__ == "__main__":
    main()
