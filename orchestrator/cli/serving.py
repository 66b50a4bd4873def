"""What `aqn serve` does: lead, or wait to, and say what is done, a line each."""

from __future__ import annotations

import json
import signal
import time
from types import FrameType

import typer
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from db import reads, steering
from orchestrator.scheduler.decide import (
    Action,
    AskToStop,
    Cancel,
    Conclude,
    EndStopped,
    EndStuck,
    GiveUp,
    Launch,
    LetRun,
)
from orchestrator.scheduler.lead import AGAIN_SECONDS, TICK_SECONDS, Connect, lead
from orchestrator.scheduler.leadership import leadership
from orchestrator.settings import Settings

WORDS: dict[type[Action], str] = {
    Launch: "started", Conclude: "ended", GiveUp: "given up", Cancel: "cancelled",
    AskToStop: "asked to save a checkpoint and end", EndStopped: "ended, because it did not stop",
    EndStuck: "ended, because it is hung", LetRun: "goes on after all",
}  # fmt: skip


class Service:
    """One `aqn serve`."""

    def __init__(
        self, settings: Settings, engine: Engine, *, until_idle: bool, as_json: bool, connect: Connect | None = None
    ) -> None:
        self._settings, self._engine, self._connect = settings, engine, connect
        self._until_idle, self._as_json = until_idle, as_json
        self._said = ""

    def run(self) -> None:
        """Until interrupted, drained, or idle where that is asked for."""
        signal.signal(signal.SIGTERM, _told)
        try:
            while not self._over(""):
                try:
                    self._lead_or_wait()
                except OperationalError as error:  # a server that is restarted
                    self._say(f"the registry cannot be used just now ({str(error.orig).splitlines()[0]}); trying again")
                    time.sleep(AGAIN_SECONDS)
        except KeyboardInterrupt:
            self._say("told to end; what runs goes on, and the next `aqn serve` or `aqn submit` takes it up")

    def _lead_or_wait(self) -> None:
        with leadership(self._settings, self._engine) as leads:
            if leads:
                self._say("this process schedules now")
                lead(self._settings, self._engine, leads, self._over, acted=self._acted, connect=self._connect)
            else:
                self._say("another aqn process schedules; waiting to take over")
                time.sleep(TICK_SECONDS)

    def _over(self, note: str) -> bool:
        self._say(note)
        try:
            runs = steering.open_runs(self._engine)
            drained = steering.drained(self._engine)
        except OperationalError as error:
            self._say(f"the registry cannot be read just now ({str(error.orig).splitlines()[0]})")
            return False
        if any(run.state == "running" for run in runs):
            return False
        if drained is not None:
            self._say("drained, and nothing runs any more")
            return True
        return self._until_idle and not runs

    def _acted(self, actions: list[Action]) -> None:
        for action in actions:
            self._tell(action)

    def _tell(self, action: Action) -> None:
        if isinstance(action, Launch | Cancel | GiveUp):
            run = reads.runs(self._engine, ids=[action.run_id])[0]
        else:
            run = reads.run_of_attempt(self._engine, action.attempt_id)
        what = WORDS[type(action)]
        number = run.attempts[-1].number if run.attempts else 0
        if self._as_json:
            said = {"at": time.time(), "did": type(action).__name__, "run_id": run.id, "label": run.label,
                    "attempt": number, "status": run.state, "verdict": run.verdict}  # fmt: skip
            typer.echo(json.dumps(said))
            return
        outcome = "" if isinstance(action, Launch | AskToStop | LetRun) else f"; it is {run.state}"
        outcome += f", {run.verdict}" if run.verdict else ""
        which = f", attempt {number}" if number > 1 else ""
        self._line(f"{run.label} seed {run.seed} ({run.id}{which}): {what}{outcome}")

    def _say(self, note: str) -> None:
        if note and note != self._said and not self._as_json:
            self._line(note)
        self._said = note or self._said

    @staticmethod
    def _line(text: str) -> None:
        typer.echo(f"{time.strftime('%H:%M:%S')} {text}")


def _told(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
