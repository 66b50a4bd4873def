"""Which fields of a space matter, by Optuna's fANOVA, and how sure that is: values drawn anew within their errors."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from statistics import quantiles

import optuna

from orchestrator.search.estimate import FEWEST
from orchestrator.search.space import directions
from orchestrator.search.state import SearchState
from orchestrator.search.suggest import fill

DRAWS = 20
TREES = 24


@dataclass(frozen=True)
class Importance:
    """Share of the values' variance that a field explains, with the middle 80 % of what it is under other noise."""

    field: str
    share: float
    low: float
    high: float


def importances(state: SearchState) -> list[Importance]:
    """The largest first; of fields that all trials have. Nothing with too few trials, or values that are all equal."""
    trials = [trial for trial in state.trials if trial.values]
    if len(trials) < FEWEST:
        return []
    told = [state.told(trial) for trial in trials]
    chance = random.Random(0)  # noqa: S311 - the same registry gives the same picture
    found = _shares(state, told)
    drawn = []
    for _ in range(DRAWS):
        other = [
            replace(one, values=(one.values[0] + chance.gauss(0, state.surface.error[trial.number]), *one.values[1:]))
            for one, trial in zip(told, trials, strict=True)
            if one.values is not None
        ]
        drawn.append(_shares(state, other))
    result = []
    for field, share in found.items():
        deciles = quantiles([draw.get(field, 0.0) for draw in drawn], n=10)
        result.append(Importance(field, share, deciles[0], deciles[-1]))
    return sorted(result, key=lambda one: -one.share)


def _shares(state: SearchState, told: list) -> dict[str, float]:  # type: ignore[type-arg]
    study = optuna.create_study(directions=directions(state.settings))
    fill(study, state.settings, told)
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=0)
    several = len(study.directions) > 1
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, target=(lambda trial: trial.values[0]) if several else None
        )
    except (RuntimeError, ValueError):  # values without any variance
        return {}
    return {field: float(share) for field, share in found.items()}
