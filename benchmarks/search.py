"""Searches on a simulated study whose truth is known: what is the chosen noise truly worth, at equal budget?

    PYTHONPATH=. python benchmarks/search.py [REPETITIONS]

The world: the score of a treatment is a smooth function of sigma_start (a bump in its logarithm), sigma_end and the
schedule, above or below that without noise. A checkpoint's own luck (its seed) and the choice of questions are added:
a run shows k of n, k binomial. Compared at equal numbers of runs, all of them counted: the product's own decisions
(:mod:`orchestrator.search`), and Optuna's random search and TPE as they come: one run a trial, the highest score.
The optimum's place and width are drawn anew in every repetition.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import optuna

from experiment_specs.search import Search, load_search, reserved
from orchestrator.search.answer import spoken_for
from orchestrator.search.decide import Confirm, NewTrial, Replicate, Rules, Trial, View, next_order
from orchestrator.search.estimate import Surface, replicate_sd, surface
from orchestrator.search.space import Told, place, startup
from orchestrator.search.suggest import asked, suggest
from orchestrator.statistics.treatments import difference_by_seed, family

SPEC = Path(__file__).resolve().parents[1] / "experiment_specs" / "searches" / "sigma.yaml"
PLAIN = 70.0
"""Percent without noise."""
CLOSE = 0.25
"""Points: a point of the space this near to the best that was tried counts as the best."""


@dataclass(frozen=True)
class World:
    questions: int
    seed_sd: float
    height: float
    """Points that the best noise gains."""
    at: float
    """Its log10 sigma_start."""
    width: float
    end: float
    """The best log10 sigma_end."""

    def truth(self, point: Mapping[str, Any]) -> float:
        """The mean score of a treatment, in percent."""
        start, end = math.log10(point["aqn.sigma_start"]), math.log10(point["aqn.sigma_end"])
        bump = math.exp(-(((start - self.at) / self.width) ** 2) / 2) * math.exp(-(((end - self.end) / 2) ** 2) / 2)
        harm = 6 * max(0.0, start + 1.5) ** 2
        return PLAIN + self.height * (bump - 0.1 * (point["aqn.schedule"] == "linear") * bump) - harm

    def run(self, truth: float, chance: np.random.Generator) -> float:
        share = min(0.999, max(0.001, (truth + self.seed_sd * chance.standard_normal()) / 100))
        return 100 * float(chance.binomial(self.questions, share)) / self.questions


def drawn(questions: int, height: float, chance: random.Random) -> World:
    return World(
        questions, 1.0, height, chance.uniform(-2.7, -1.4), chance.uniform(0.25, 0.6), chance.uniform(-4.5, -2.5)
    )


@dataclass(frozen=True)
class Outcome:
    """``gain``: true points of the choice over no noise. ``said``: those that are reported. ``wrong``: is one
    point named as the best alone, though another that was tried is truly better? ``claimed``: is it said that it gains
    over no noise?"""

    gain: float
    said: float
    wrong: bool
    claimed: bool


def ours(search: Search, world: World, seed: int) -> Outcome:
    """The decisions of the product, one run at a time."""
    chance, budget, aside = np.random.default_rng(seed), int(search.settings.budget.runs or 0), reserved(search)
    total = budget - aside
    replicates, top = search.settings.replicates, search.settings.confirm.top
    seeds = tuple(range(1, replicates.up_to + 1))
    rules = Rules(seeds, replicates.first, top, startup(search.settings, total), True, total)
    trials: list[Trial] = []
    baseline: dict[int, float] = {}
    spent = 0

    def run(point: Mapping[str, Any], s: int) -> float:
        nonlocal spent
        if s not in baseline:
            baseline[s] = world.run(PLAIN, chance)
            spent += 1
        spent += 1
        return world.run(world.truth(point), chance) - baseline[s]

    while True:
        seen = look(search, trials, baseline, world.questions)
        order = next_order(View(rules, tuple(trials), frozenset(baseline), total - spent, 1, rules.top), seen)
        if isinstance(order, NewTrial):
            told = [Told(t.point, (fmean(t.values.values()),)) for t in trials]
            point = suggest(search.settings, told, total)
            assert point is not None
            trials.append(Trial(len(trials), point, {s: run(point, s) for s in order.seeds}))
        elif isinstance(order, Replicate):
            old = trials[order.trial]
            trials[order.trial] = Trial(old.number, old.point, {**old.values, order.seed: run(old.point, order.seed)})
        else:
            assert isinstance(order, Confirm)
            break
    return confirmed(search, world, trials, seen, order, chance)


def confirmed(  # noqa: PLR0917 - one call site
    search: Search, world: World, trials: list[Trial], seen: Surface, order: Confirm, chance: np.random.Generator
) -> Outcome:
    seeds = search.settings.confirm.fresh_seeds
    plain = [world.run(PLAIN, chance) for _ in range(seeds)]
    fresh = {n: [world.run(world.truth(trials[n].point), chance) for _ in range(seeds)] for n in order.trials}
    step = 100 / world.questions
    gains = {n: [score - base for score, base in zip(fresh[n], plain, strict=True)] for n in order.trials}
    verdicts = family([difference_by_seed(gains[n], 1.0, step) for n in order.trials])
    mean = {n: fmean(fresh[n]) for n in order.trials}
    top = max(mean, key=lambda n: mean[n])
    others = [n for n in order.trials if n != top]
    pairs = len(order.trials) * (len(order.trials) - 1) // 2
    apart = family(
        [difference_by_seed([b - a for a, b in zip(fresh[top], fresh[n], strict=True)], 1.0, step) for n in others],
        pairs,
    )
    ties = {top, *(n for n, one in zip(others, apart, strict=True) if one.verdict != "lower")}
    numbers = list(order.trials)
    pick = numbers[
        spoken_for(
            [seen.smoothed[n] for n in numbers], [seen.smoothed_error(n) for n in numbers],
            [mean[n] for n in numbers], [seeds] * len(numbers), math.hypot(1.0, question_noise(world.questions)),
        )
    ]  # fmt: skip
    best = max(world.truth(t.point) for t in trials)
    return Outcome(
        gain=world.truth(trials[pick].point) - PLAIN,
        said=fmean(gains[pick]),
        wrong=len(ties) == 1 and world.truth(trials[top].point) < best - CLOSE,
        claimed=any(one.verdict == "higher" for one in verdicts),
    )


def question_noise(questions: int) -> float:
    return 100 * math.sqrt(PLAIN / 100 * (1 - PLAIN / 100) / questions)


def look(search: Search, trials: list[Trial], plain: Mapping[int, float], questions: int) -> Surface:
    """As the product sees it: the scatter is pooled over replicates, with the true one as what was known."""
    groups = [[value + plain[s] for s, value in t.values.items()] for t in trials] + [list(plain.values())]
    sd = replicate_sd(groups, math.hypot(1.0, question_noise(questions)))
    where = {t.number: place(search.settings, t.point) for t in trials}
    return surface({t.number: t.values for t in trials}, where, sd, shared=True)


def single(search: Search, world: World, seed: int) -> Outcome:
    """What people do: Optuna as it comes, one run a trial, and the highest score is the best; one run without noise
    says what is gained."""
    settings, chance = search.settings, np.random.default_rng(seed)
    kinds = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    study = optuna.create_study(direction="maximize", sampler=kinds[settings.sampler.name](seed=seed))
    plain, tried = world.run(PLAIN, chance), list[tuple[float, Mapping[str, Any]]]()
    while len(tried) < int(settings.budget.runs or 0) - 1:
        trial = study.ask()
        point = asked(trial, settings)
        if not settings.allows(point):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        tried.append((world.run(world.truth(point), chance), point))
        study.tell(trial, tried[-1][0])
    score, pick = max(tried, key=lambda one: one[0])
    best = max(world.truth(point) for _, point in tried)
    return Outcome(world.truth(pick) - PLAIN, score - plain, world.truth(pick) < best - CLOSE, score > plain)


def _with(search: Search, **settings: Any) -> Search:
    return replace(search, settings=search.settings.model_copy(update=settings))


@cache
def methods() -> dict[str, tuple[Search, Callable[[Search, World, int], Outcome]]]:
    search = load_search(SPEC)
    random_sampler = search.settings.sampler.model_copy(update={"name": "random"})
    return {
        "this search": (search, ours),
        "plain TPE, highest score": (search, single),
        "random, highest score": (_with(search, sampler=random_sampler), single),
    }


def repeat(job: tuple[str, int, float, int]) -> Outcome:
    name, questions, height, repetition = job
    search, method = methods()[name]
    world = drawn(questions, height, random.Random(f"world {repetition}"))  # noqa: S311
    return method(_with(search, seed=repetition), world, repetition)


def row(name: str, questions: int, height: float, found: list[Outcome]) -> str:
    gains = [outcome.gain for outcome in found]
    error = float(np.std(gains)) / math.sqrt(len(gains))
    claimed, wrong = (100 * fmean(getattr(o, what) for o in found) for what in ("claimed", "wrong"))
    said = fmean(outcome.said for outcome in found)
    return (
        f"| {questions:,} | {height:g} | {name} | {fmean(gains):.2f} ± {error:.2f} | {said:.2f} | {claimed:.0f} % "
        f"| {wrong:.0f} % |"
    )


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    budget = load_search(SPEC).settings.budget.runs
    print(f"{repetitions} repetitions, {budget} runs each; seeds scatter by 1 point, questions beside that\n")
    print(
        "| questions | best noise gains | method | true gain of its choice | gain that it reports | claims a gain |"
        " one best is named, wrongly |"
    )
    print("| ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    with ProcessPoolExecutor() as pool:
        for height, questions in product((3.0, 0.0), (1319, 500)):
            for name in methods():
                jobs = [(name, questions, height, repetition) for repetition in range(repetitions)]
                found = list(pool.map(repeat, jobs, chunksize=4))
                print(row(name, questions, height, found), flush=True)


if __name__ == "__main__":
    main()
