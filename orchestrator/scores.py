"""Which scores count: of every condition one a seed, valid, by the declared rule. What tables, comparisons, the best of
a category and exports ask. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from db.records import EvalPoint, Run
from orchestrator.runs_json import standing


@dataclass(frozen=True)
class Scored:
    """A score that counts, and the run whose it is: a training run, or the native evaluation that took its place."""

    trained: Run
    by: Run
    point: EvalPoint

    @property
    def seed(self) -> int:
        return self.trained.seed

    @property
    def rule(self) -> str:
        return str(self.trained.score_rule.get("rule", "final"))


@dataclass(frozen=True)
class LeftOut:
    """A run that does not count, and why."""

    run: Run
    why: str


@dataclass(frozen=True)
class Arm:
    """All that is recorded of one condition."""

    label: str
    condition_id: str
    condition: Mapping[str, Any]
    scored: tuple[Scored, ...]
    """One a seed, by seed."""
    left_out: tuple[LeftOut, ...]

    @property
    def rule(self) -> str | None:
        """Of all its scores."""
        return self.scored[0].rule if self.scored else None

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(s.seed for s in self.scored)

    @property
    def mean(self) -> float | None:
        """Over seeds, in percent."""
        return sum(s.point.percent for s in self.scored) / len(self.scored) if self.scored else None


def arms(runs: Iterable[Run], evaluations: Iterable[Run] = ()) -> dict[str, Arm]:
    """Condition id → arm, in the order of the runs. ``runs``: of training; the newest valid one of a seed counts.

    ``evaluations``: runs that evaluated checkpoints anew; a valid one in native mode counts in the place of the run
    that it superseded.
    """
    anew = {run.id: run for run in evaluations}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.kind == "train":
            groups.setdefault(run.condition_id, []).append(run)
    return {condition: _arm(group, anew) for condition, group in groups.items()}


def _arm(group: Sequence[Run], anew: Mapping[str, Run]) -> Arm:
    newest = sorted(group, key=lambda run: (-run.created_at, run.id))
    found = {run.id: score for run in newest if (score := _score_of(run, anew)) is not None}
    rules = {score.rule for score in found.values()}
    rule = "final" if "final" in rules else next(iter(rules), None)  # a best of several evals is another thing
    scored: dict[int, Scored] = {}
    left_out = []
    for run in newest:
        score = found.get(run.id)
        if score is None:
            left_out.append(LeftOut(run, standing(run) if run.score or run.verdict else run.state))
        elif score.rule != rule:
            left_out.append(LeftOut(run, f"scored by another rule, {score.rule}"))
        elif run.seed in scored:
            left_out.append(LeftOut(run, "a newer run has this seed"))
        else:
            scored[run.seed] = score
    first = newest[0]
    in_order = tuple(scored[seed] for seed in sorted(scored))
    return Arm(first.label, first.condition_id, first.condition, in_order, tuple(left_out))


def _score_of(run: Run, anew: Mapping[str, Run]) -> Scored | None:
    if run.valid and run.score is not None:
        return Scored(run, run, run.score)
    instead = anew.get(run.superseded_by or "")
    if instead is None or not instead.valid or instead.score is None or instead.score_rule.get("mode") != "native":
        return None
    own = run.score
    same_eval = own is None or instead.score.step == own.step
    return Scored(run, instead, instead.score) if same_eval else None
