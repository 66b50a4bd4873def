"""Live progress: a row a run in a terminal, a line a change elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from db.records import Run
from orchestrator.cli.render import console, names_of, progress_table
from orchestrator.numbers import percent_with_interval


class Pace:
    """Remembers when which step was seen, for the time that is left."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, int]] = {}

    def seconds_left(self, run: Run, now: float) -> float | None:
        """Remaining seconds by the pace seen since the first step; None before there is one."""
        attempt = run.attempt
        if run.state != "running" or attempt is None or attempt.last_step < 1 or attempt.last_event_at is None:
            return None
        key = f"{run.id}/{attempt.number}"
        since, step = self._first.setdefault(key, (attempt.last_event_at, attempt.last_step))
        done = attempt.last_step - step
        if done < 1:
            return None
        pace = (attempt.last_event_at - since) / done
        return max(0.0, pace * (run.total_steps - attempt.last_step) - (now - attempt.last_event_at))


class Progress:
    """Context manager; ``show`` the runs as often as you like."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._pace = Pace()
        self._said: dict[str, str] = {}
        self._live: object = None
        self._last: list[Run] = []

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(console=console(), refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from rich.live import Live

        if isinstance(self._live, Live):
            self._live.stop()

    def show(self, runs: list[Run], note: str) -> None:
        from rich.live import Live

        self._last = runs
        if isinstance(self._live, Live):
            now = time.time()
            self._live.update(progress_table(runs, {r.id: self._pace.seconds_left(r, now) for r in runs}, note))
        elif not self._quiet:
            self._say(runs, note)

    def note(self, text: str) -> None:
        """A remark beside what was shown last."""
        self.show(self._last, text)

    def _say(self, runs: list[Run], note: str) -> None:
        for run, name in zip(runs, names_of(runs), strict=True):
            text = self._line(run, name)
            if self._said.get(run.id) != text:
                self._said[run.id] = text
                print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)  # noqa: T201 - this is the output
        if note and self._said.get("note") != note:
            print(f"{time.strftime('%H:%M:%S')} {note}", flush=True)  # noqa: T201
        self._said["note"] = note

    @staticmethod
    def _line(run: Run, name: str) -> str:
        if run.state == "running":
            if not run.curve:
                return f"{name}: {'starting' if run.kind == 'train' else 'running'}"
            last = run.curve[-1]
            return f"{name}: step {last.step} of {run.total_steps}, {percent_with_interval(last)}"
        return f"{name}: {run.state}" + (f", {run.verdict}" if run.verdict else "")
