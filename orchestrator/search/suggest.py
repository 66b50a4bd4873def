"""Optuna's part: a study is built anew from what is recorded, whenever a point is asked for or looked at.

The study holds nothing that the registry does not have: it cannot disagree with it, and cannot be lost.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState, create_trial

from experiment_specs.errors import AqnError
from experiment_specs.search_language import Parameter, SearchSettings
from orchestrator.search.space import Point, Told, directions, startup

optuna.logging.set_verbosity(optuna.logging.ERROR)

TRIES = {"tpe": 300, "random": 300, "gp": 5}
"""Suggestions that ``require`` may refuse, by sampler: then TPE is asked instead of GP, which repeats itself and takes
seconds, and in the end chance."""
DRAWS = 10_000
"""Points by chance that ``require`` may refuse before the space counts as exhausted."""


def distribution(parameter: Parameter) -> BaseDistribution:
    """A parameter in Optuna's words."""
    if parameter.choices is not None:
        return CategoricalDistribution(parameter.choices)
    assert parameter.low is not None and parameter.high is not None  # noqa: S101, PT018 - checked when it was made
    if parameter.whole:
        step = int(parameter.step or 1)
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.log, step=parameter.step)


def fill(study: optuna.Study, settings: SearchSettings, trials: Sequence[Told]) -> None:
    """Tell a study all trials, in their order."""
    for told in trials:
        state = TrialState.COMPLETE if told.values is not None else TrialState.FAIL
        if told.values is None and (told.running or told.pruned):
            state = TrialState.RUNNING if told.running else TrialState.PRUNED
        if state == TrialState.PRUNED and len(study.directions) > 1:
            state = TrialState.FAIL  # Optuna prunes for one objective only
        point = {key: value for key, value in told.point.items() if key in settings.space}
        study.add_trial(
            create_trial(
                state=state,
                params=point,
                distributions={key: distribution(settings.space[key]) for key in point},
                values=list(told.values) if state == TrialState.COMPLETE and told.values is not None else None,
                intermediate_values={int(k): v for k, v in told.curve.items()} if len(study.directions) == 1 else None,
                user_attrs=dict(told.about),
            )
        )


def suggest(settings: SearchSettings, trials: Sequence[Told], total: int, attempt: int = 0) -> Point | None:
    """The next point; None where a grid is exhausted. Depends on the trials and the spec's seed alone.

    ``total``: runs of the selection. ``attempt``: another one gives another suggestion.
    """
    if settings.sampler.name == "grid":
        return _from_grid(settings, trials, attempt)
    seed = random.Random(f"{settings.seed}/{len(trials)}/{attempt}").randrange(2**31)  # noqa: S311 - repeatable
    name: str = settings.sampler.name
    while True:
        study = optuna.create_study(directions=directions(settings), sampler=_sampler(settings, name, seed, total))
        fill(study, settings, trials)
        for _ in range(TRIES[name]):
            trial = study.ask()
            point = asked(trial, settings)
            if settings.allows(point):
                return point
            study.tell(trial, state=TrialState.FAIL)
        if name != "gp":
            break
        name = "tpe"
    chance = random.Random(seed)  # noqa: S311
    points = (settings.draw(chance) for _ in range(DRAWS))
    return next((point for point in points if settings.allows(point)), None)


def _sampler(settings: SearchSettings, name: str, seed: int, total: int) -> optuna.samplers.BaseSampler:
    begin = startup(settings, total)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "gp":
        try:
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=begin, deterministic_objective=False)
        except ImportError as error:
            raise AqnError(f"sampler: gp needs PyTorch ({error})") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the options that we name
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=begin, multivariate=True, group=True, constant_liar=True
        )


def asked(trial: optuna.Trial, settings: SearchSettings) -> Point:
    """What a trial of Optuna's suggests for every field that exists."""
    point: Point = {}
    for key, parameter in settings.space.items():
        if not settings.active(point, key):
            continue
        kind = distribution(parameter)
        if isinstance(kind, CategoricalDistribution):
            point[key] = trial.suggest_categorical(key, kind.choices)
        elif isinstance(kind, IntDistribution):
            point[key] = trial.suggest_int(key, kind.low, kind.high, log=kind.log, step=kind.step)
        elif isinstance(kind, FloatDistribution):
            point[key] = trial.suggest_float(key, kind.low, kind.high, log=kind.log, step=kind.step)
    return point


def _from_grid(settings: SearchSettings, trials: Sequence[Told], attempt: int) -> Point | None:
    """Points of the grid in a repeatable order by chance: a budget that ends early has seen all corners of it."""
    every = itertools.product(*(parameter.grid() for parameter in settings.space.values()))
    points = {repr(point): point for values in every if settings.allows(point := settings.present(values))}
    random.Random(settings.seed).shuffle(order := list(points.values()))  # noqa: S311
    tried = {repr(dict(told.point)) for told in trials}
    untried = [point for point in order if repr(point) not in tried]
    return untried[attempt] if attempt < len(untried) else None
