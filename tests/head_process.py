"""Leading, as `aqn serve` does, while everything of the Ray head is killed under it: python -m tests.head_process RUN.

After the run's third step the head, its raylet and the supervisor die by SIGKILL, and the trainer, a process of its own,
lives. With a second argument, ``nodes`` or ``observe``, they die when the fleet is asked that, within a tick; else between
two ticks. Prints what was remarked, and which processes these were.
"""

from __future__ import annotations

import json
import sys

import psutil
from sqlalchemy import Engine

from db import reads
from db.engine import open_registry
from db.states import TERMINAL
from orchestrator.fleet import head
from orchestrator.scheduler.lead import lead
from orchestrator.scheduler.leadership import leadership
from orchestrator.settings import Settings, load_settings
from tests.light_worker import command

WITHIN = sys.argv[2] if len(sys.argv) > 2 else ""
"""What the fleet is asked when they die; nothing: they die between two ticks."""
killed: list[int] = []


def kill_the_head(settings: Settings, engine: Engine) -> None:
    """Once, after the run's third step."""
    run = reads.runs(engine, ids=[sys.argv[1]])[0]
    if not killed and run.attempts and run.attempts[-1].last_step == 3:
        running = head.current(settings)
        assert running is not None
        trainer = run.attempts[-1].trainer_pid
        for process in [*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)]:
            if process.pid != trainer:
                process.kill()
        killed.extend((running.pid, int(trainer or 0)))


def connect(settings: Settings) -> object:
    address = head.address(settings)
    from orchestrator.fleet.ray_fleet import RayFleet  # as production does: Ray reads its environment when imported

    fleet = RayFleet(address, command)
    if WITHIN:
        engine, ask = open_registry(settings.registry_url), getattr(fleet, WITHIN)

        def dying(*arguments: object) -> object:
            kill_the_head(settings, engine)
            return ask(*arguments)

        setattr(fleet, WITHIN, dying)
    return fleet


def main() -> None:
    settings = load_settings()
    engine = open_registry(settings.registry_url)
    notes: list[str] = []

    def over(note: str) -> bool:
        if note and note not in notes:
            notes.append(note)
        if not WITHIN:
            kill_the_head(settings, engine)
        return all(run.state in TERMINAL for run in reads.runs(engine, sweep="light"))

    try:
        with leadership(settings, engine) as leads:
            lead(settings, engine, leads, over, connect=connect)  # type: ignore[arg-type]
    finally:
        head.down(settings)
    print(json.dumps({"notes": notes, "killed": killed}))  # noqa: T201


if __name__ == "__main__":
    main()
