"""Registry → a search at one moment, as its decisions, its pictures and its report need it. Reads, never writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from sqlalchemy import Engine

from db import reads
from db.records import EvalPoint, Run, SearchArm
from experiment_specs.search_language import SearchSettings
from orchestrator.comparison import evaluations_for
from orchestrator.history import history, scatter
from orchestrator.scores import Arm, arms
from orchestrator.search.decide import Trial
from orchestrator.search.estimate import Surface, surface
from orchestrator.search.space import Told, place
from orchestrator.statistics.power import ASSUMED_SD

FRESH_FROM = 1001
"""First seed of the confirmation; those of trials are 1, 2, …, far below."""
PRUNED = "behind at equal steps"
"""What the wish to cancel a run begins with, where the pruner has it."""
LENGTH = "response_length/mean"
"""verl's metric: tokens of an answer."""


@dataclass(frozen=True)
class SearchState:
    """A search as recorded. ``runs``: of training, newest first. ``lengths``: run → tokens of its answers at the end.

    ``known_sd``: standard deviation of one run's score between seeds, in points, as far as other runs tell.
    """

    name: str
    about: str
    settings: SearchSettings
    arms: tuple[SearchArm, ...]
    runs: tuple[Run, ...]
    scored: Mapping[str, Arm]
    """Condition id → its scores that count."""
    lengths: Mapping[str, float]
    known_sd: float

    def of_role(self, *roles: str) -> list[SearchArm]:
        return [arm for arm in self.arms if arm.role in roles]

    def runs_of(self, arm: SearchArm) -> list[Run]:
        return [run for run in self.runs if run.condition_id == arm.condition_id]

    def scores(self, arm: SearchArm) -> dict[int, EvalPoint]:
        """Seed → the score that counts."""
        found = self.scored.get(arm.condition_id)
        return {score.seed: score.point for score in found.scored} if found is not None else {}

    @property
    def baseline(self) -> SearchArm | None:
        return next(iter(self.of_role("baseline")), None)

    @property
    def confirming(self) -> bool:
        return bool(self.of_role("confirmed", "beside"))

    @property
    def over(self) -> bool:
        return all(run.state not in ("queued", "running") for run in self.runs)

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        baseline = self.baseline
        compared = self.settings.objective.maximise == "difference" and baseline is not None
        plain = self.scores(baseline) if baseline is not None else {}
        plain_waits = self._waiting(baseline) if baseline is not None else frozenset()
        return tuple(self._trial(arm, compared, plain, plain_waits) for arm in self.of_role("trial"))

    def _trial(
        self, arm: SearchArm, compared: bool, plain: Mapping[int, EvalPoint], plain_waits: frozenset[int]
    ) -> Trial:
        own, waiting = self.scores(arm), self._waiting(arm)
        asked = {run.seed for run in self.runs_of(arm)}
        if compared:
            values = {seed: own[seed].percent - plain[seed].percent for seed in own if seed in plain}
            waiting |= frozenset(seed for seed in own if seed in plain_waits)
        else:
            values = {seed: point.percent for seed, point in own.items()}
        ended_early = frozenset(
            run.seed
            for run in self.runs_of(arm)
            if run.state == "cancelled" and (run.cancel or "").startswith(PRUNED) and run.seed not in own
        )
        rest = frozenset(asked) - frozenset(values) - waiting - ended_early
        return Trial(arm.number, arm.point, values, waiting, rest, ended_early)

    def _waiting(self, arm: SearchArm) -> frozenset[int]:
        done = self.scores(arm)
        return frozenset(
            run.seed for run in self.runs_of(arm) if run.state in ("queued", "running") and run.seed not in done
        )

    @cached_property
    def surface(self) -> Surface:
        of_one = self.known_sd
        known = of_one * math.sqrt(2) if self.settings.objective.maximise == "difference" else of_one
        return surface(
            {trial.number: list(trial.values.values()) for trial in self.trials},
            {trial.number: place(self.settings, trial.point) for trial in self.trials},
            known,
        )

    def cost(self, trial: Trial) -> float | None:
        """The second objective, mean over the seeds that have a value."""
        arm = next(arm for arm in self.arms if arm.number == trial.number)
        mine = [run for run in self.runs_of(arm) if run.seed in trial.values and run.state == "succeeded"]
        if self.settings.objective.also == "response_length":
            found = [self.lengths[run.id] for run in mine if run.id in self.lengths]
        else:
            found = [hours for run in mine if (hours := gpu_hours(run)) is not None]
        return fmean(found) if found else None

    def told(self, trial: Trial) -> Told:
        """A trial in the words of Optuna's study."""
        values: tuple[float, ...] | None = None
        if trial.values:
            mean, cost = self.surface.mean[trial.number], self.cost(trial)
            if self.settings.objective.also is None:
                values = (mean,)
            elif cost is not None:
                values = (mean, cost)
        running = values is None and bool(trial.waiting)
        about: dict[str, Any] = {"trial": trial.number, "seeds": sorted(trial.values)}
        if trial.values:
            about |= {
                "standard error": self.surface.error[trial.number],
                "smoothed": self.surface.smoothed[trial.number],
                "by seed": {str(seed): value for seed, value in sorted(trial.values.items())},
            }
        if trial.void:
            about["withheld"] = self.why_void(trial)
        pruned = values is None and not running and bool(trial.pruned)
        return Told(trial.point, values, running, pruned, self._curve(trial) if pruned else {}, about)

    def _curve(self, trial: Trial) -> dict[int, float]:
        arm = next(arm for arm in self.arms if arm.number == trial.number)
        run = next(run for run in self.runs_of(arm) if run.seed in trial.pruned)
        return {point.step: point.percent for point in run.curve}

    def why_void(self, trial: Trial) -> dict[str, str]:
        """Seed → why its run gives no value."""
        arm = next(arm for arm in self.arms if arm.number == trial.number)
        found = self.scored.get(arm.condition_id)
        left = {out.run.seed: out.why for out in found.left_out} if found is not None else {}
        baseline = self.baseline
        plain = self.scored.get(baseline.condition_id) if baseline is not None else None
        missing = {out.run.seed: f"the baseline's run: {out.why}" for out in plain.left_out} if plain else {}
        return {str(seed): left.get(seed) or missing.get(seed) or "no score" for seed in sorted(trial.void)}


def gpu_hours(run: Run) -> float | None:
    """Of all its attempts that ended; None where none did."""
    ended = [a.ended_at - a.created_at for a in run.attempts if a.ended_at is not None]
    return run.gpus * sum(ended) / 3600 if ended else None


def read_state(engine: Engine, name: str, settings: SearchSettings | None = None) -> SearchState | None:
    """A recorded search; None where the sweep of that name is none. ``settings``: those of a spec that goes on."""
    details = reads.sweep_details(engine, name) or {}
    if "search" not in details:
        return None
    used = settings or SearchSettings.model_validate(details["search"], strict=False)
    runs = reads.runs(engine, sweep=name)
    found = arms(runs, evaluations_for(engine, runs))
    attempts = {run.attempt.id: run.id for run in runs if run.attempt is not None and run.state == "succeeded"}
    last = reads.last_steps(engine, list(attempts)) if used.objective.also == "response_length" else {}
    lengths = {attempts[a]: float(metrics[LENGTH]) for a, (_, metrics) in last.items() if LENGTH in metrics}
    return SearchState(
        name=name, about=reads.sweep_about(engine, name), settings=used,
        arms=tuple(reads.search_arms(engine, name)), runs=tuple(runs), scored=found, lengths=lengths,
        known_sd=_known_sd(engine, runs, found),
    )  # fmt: skip


def _known_sd(engine: Engine, runs: Sequence[Run], found: Mapping[str, Arm]) -> float:
    """What other runs of the model on these questions scatter by; what is assumed, and chance in the answers, else."""
    if runs:
        condition = runs[0].condition
        known = scatter(history(engine), condition["model"]["path"], condition["data"]["test"])
        if known.runs:
            return known.sd
    points = [score.point for arm in found.values() for score in arm.scored]
    share = fmean(point.percent for point in points) / 100 if points else 0.5
    answers = points[0].n if points else 1000
    return math.hypot(ASSUMED_SD, 100 * math.sqrt(max(share * (1 - share), 0.01) / answers))
