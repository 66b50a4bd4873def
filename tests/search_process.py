"""A process that goes on with a search on a real Ray with light workers, as `aqn search` does with verl.

python -m tests.search_process SPEC RAY_ADDRESS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from db.engine import open_registry
from experiment_specs.search import load_search
from orchestrator.fleet.ray_fleet import RayFleet
from orchestrator.prepare import look
from orchestrator.scheduler.loop import Scheduler
from orchestrator.search.decide import Finish
from orchestrator.search.owner import Owner, ownership
from orchestrator.settings import load_settings
from tests.light_worker import command


def main() -> None:
    settings = load_settings()
    engine = open_registry(settings.registry_url)
    search = load_search(Path(sys.argv[1]))
    with ownership(settings, search.name):
        owner = Owner(engine, search, look)
        owner.begin()
        scheduler = Scheduler(settings, engine, RayFleet(sys.argv[2], command))
        while not isinstance(owner.step()[1], Finish):
            if not scheduler.tick():
                time.sleep(0.05)


if __name__ == "__main__":
    main()
