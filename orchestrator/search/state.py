"""Registry → a search at one moment, as its decisions, its pictures and its report need it. Reads, never writes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from sqlalchemy import Engine

from db import reads
from db.records import EvalPoint, Run, SearchArm
from experiment_specs.search_language import SearchSettings
from orchestrator.comparison import evaluations_for
from orchestrator.history import equal_runs, history
from orchestrator.scores import Arm, arms
from orchestrator.search.decide import Trial
from orchestrator.search.estimate import Surface, replicate_sd, surface
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
    scan_hours: float = 0.0
    """GPU-hours of the layer scans that its runs waited for."""

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
        return bool(self.of_role("plain", "confirmed", "beside"))

    @property
    def over(self) -> bool:
        return all(run.state not in ("queued", "running") for run in self.runs)

    @property
    def compares(self) -> bool:
        return self.settings.objective.maximise == "difference"

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        return tuple(self._trial(arm) for arm in self.of_role("trial"))

    def _trial(self, arm: SearchArm) -> Trial:
        own, waiting = self.scores(arm), self._waiting(arm)
        asked = frozenset(run.seed for run in self.runs_of(arm))
        values = {seed: point.percent for seed, point in own.items()}
        orphaned = frozenset[int]()
        if self.compares and self.baseline is not None:
            plain = self.scores(self.baseline)
            values = {
                seed: point.percent - plain[seed].percent
                for seed, point in own.items()
                if seed in plain and _same_questions(point, plain[seed])
            }
            waiting |= frozenset(own) & self._waiting(self.baseline)
            orphaned = frozenset(own) - frozenset(values) - waiting
        ended_early = frozenset(
            run.seed
            for run in self.runs_of(arm)
            if run.state == "cancelled" and (run.cancel or "").startswith(PRUNED) and run.seed not in own
        )
        void = asked - frozenset(values) - waiting - ended_early
        return Trial(arm.number, arm.point, values, waiting, void, ended_early, orphaned, self._cost(arm, values))

    @cached_property
    def fallen_baseline(self) -> frozenset[int]:
        """Seeds of which the baseline's run is over and has no score that counts."""
        if not self.compares or self.baseline is None:
            return frozenset()
        asked = frozenset(run.seed for run in self.runs_of(self.baseline))
        return asked - frozenset(self.scores(self.baseline)) - self._waiting(self.baseline)

    def _waiting(self, arm: SearchArm) -> frozenset[int]:
        done = self.scores(arm)
        return frozenset(
            run.seed for run in self.runs_of(arm) if run.state in ("queued", "running") and run.seed not in done
        )

    @cached_property
    def sd(self) -> float:
        """Standard deviation between seeds of one run's score, in points: pooled over this search's own replicates,
        and what was known before beside them."""
        own = [[p.percent for p in self.scores(arm).values()] for arm in self.of_role("trial", "baseline")]
        return replicate_sd(own, self.known_sd)

    @cached_property
    def surface(self) -> Surface:
        return surface(
            {trial.number: trial.values for trial in self.trials},
            {trial.number: place(self.settings, trial.point) for trial in self.trials},
            self.sd,
            shared=self.compares,
        )

    def _cost(self, arm: SearchArm, seeds: Collection[int]) -> float | None:
        """The second objective, mean over these seeds."""
        if self.settings.objective.also is None:
            return None
        mine = [run for run in self.runs_of(arm) if run.seed in seeds and run.state == "succeeded"]
        if self.settings.objective.also == "response_length":
            found = [self.lengths[run.id] for run in mine if run.id in self.lengths]
        else:
            found = [hours for run in mine if (hours := gpu_hours(run)) is not None]
        return fmean(found) if found else None

    def told(self, trial: Trial) -> Told:
        """A trial in the words of Optuna's study."""
        values: tuple[float, ...] | None = None
        if trial.values:
            mean = self.surface.mean[trial.number]
            costs = [one.cost for one in self.trials if one.cost is not None]
            unknown = max(costs, default=0.0)  # a cost that was not measured is no reason to forget the value
            second = trial.cost if trial.cost is not None else unknown
            values = (mean,) if self.settings.objective.also is None else (mean, second)
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
    runs, known = reads.runs(engine, sweep=name), reads.search_arms(engine, name)
    found = arms(runs, evaluations_for(engine, runs))
    attempts = {run.attempt.id: run.id for run in runs if run.attempt is not None and run.state == "succeeded"}
    last = reads.last_steps(engine, list(attempts)) if used.objective.also == "response_length" else {}
    lengths = {attempts[a]: float(metrics[LENGTH]) for a, (_, metrics) in last.items() if LENGTH in metrics}
    return SearchState(
        name=name, about=reads.sweep_about(engine, name), settings=used,
        arms=tuple(known), runs=tuple(runs), scored=found, lengths=lengths,
        known_sd=_known_sd(engine, runs, known), scan_hours=_scan_hours(engine, runs),
    )  # fmt: skip


def _scan_hours(engine: Engine, runs: Sequence[Run]) -> float:
    scans = list(dict.fromkeys(run.waits_for for run in runs if run.waits_for))
    return math.fsum(gpu_hours(scan) or 0.0 for scan in reads.runs(engine, ids=scans)) if scans else 0.0


def _same_questions(one: EvalPoint, other: EvalPoint) -> bool:
    return (one.questions, one.n, one.samples) == (other.questions, other.n, other.samples)


def _known_sd(engine: Engine, runs: Sequence[Run], arms: Sequence[SearchArm]) -> float:
    """What runs that are not of this search tell of the model on these questions, with what is assumed (one point,
    and chance in the answers) beside it."""
    first = next((run for arm in arms for run in runs if run.condition_id == arm.condition_id), None)
    if first is None:
        return ASSUMED_SD
    share, answers = 0.5, int(first.condition["data"]["test_rows"]) * int(first.condition["eval"]["samples"])
    points = [run.score for run in runs if run.score is not None]
    if points:
        share, answers = fmean(p.percent for p in points) / 100, points[0].n
    assumed = math.hypot(ASSUMED_SD, 100 * math.sqrt(max(share * (1 - share), 0.01) / answers))
    own = {run.id for run in runs}
    others = [run for run in history(engine) if run.id not in own]
    groups = equal_runs(others, first.condition["model"]["path"], first.condition["data"]["test"])
    return replicate_sd(groups, assumed)
