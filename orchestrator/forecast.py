"""What a plan would cost and what it could show: GPU-hours, disk, memory, and the differences it can find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from db.records import Run
from orchestrator.arms import pairs
from orchestrator.history import scatter
from orchestrator.plan import Plan
from orchestrator.price import Past, Price, price
from orchestrator.statistics.power import WISHED_FOR, Power, power


@dataclass(frozen=True)
class Question:
    """A contrast, or the plain comparison of two conditions: what its seeds can show, and what more would take."""

    name: str
    power: Power
    more_runs: int
    """Beyond those planned, for the wished-for difference."""
    more: Price | None


@dataclass(frozen=True)
class Forecast:
    """``price``: None where no run like some of these is recorded."""

    runs: int
    price: Price | None
    unknown: tuple[str, ...]
    """Labels of the conditions without a price."""
    disk_bytes: int | None
    """Of the checkpoints that stay; None where a model is not known here."""
    gpu_bytes: int | None
    """The most that one GPU needs before activations and the KV cache."""
    questions: tuple[Question, ...]


def forecast(plan: Plan, past: Sequence[Past], finished: Sequence[Run]) -> Forecast:
    """``past`` and ``finished``: the registry's, empty where there is none."""
    gpus = plan.sweep.resources.gpus
    prices = {c.label: price(c.condition, c.steps, len(c.seeds), gpus, past) for c in plan.conditions}
    unknown = tuple(label for label, found in prices.items() if found is None)
    known = [found for found in prices.values() if found is not None]
    touched = [(c, c.touched) for c in plan.conditions if c.touched is not None]
    complete = len(touched) == len(plan.conditions)
    return Forecast(
        runs=plan.runs,
        price=_sum(known) if not unknown else None,
        unknown=unknown,
        disk_bytes=sum(len(c.seeds) * _kept(plan, c.steps.evals) * t.checkpoint_bytes for c, t in touched)
        if complete
        else None,
        gpu_bytes=max((t.bytes_per_gpu(c.condition, gpus) for c, t in touched), default=None),
        questions=tuple(_questions(plan, prices, finished)),
    )


def _sum(prices: Sequence[Price]) -> Price:
    total = prices[0]
    for one in prices[1:]:
        total += one
    return total


def _kept(plan: Plan, evals: Sequence[int]) -> int:
    after_training = len([step for step in evals if step > 0])
    return {"none": 0, "last": 1, "best": 1, "all": after_training}[plan.sweep.checkpoints.keep]


def _questions(plan: Plan, prices: dict[str, Price | None], finished: Sequence[Run]) -> list[Question]:
    sweep, conditions = plan.sweep, plan.conditions
    if len(conditions) < 2:
        return []
    first = conditions[0].condition
    spread = scatter(finished, first.model.path, first.data.test)
    arms = [(c.label, c.condition) for c in conditions]
    asked = {
        name: (contrast.detect or WISHED_FOR, pairs(sweep, arms, name)) for name, contrast in sweep.contrasts.items()
    }
    comparisons = sum(len(compared) for _, compared in asked.values())
    if not asked:  # nobody said which two will be compared
        asked = {"any two conditions": (WISHED_FOR, [(arms[0][0], arms[1][0])])}
        comparisons = len(arms) * (len(arms) - 1) // 2
    found = []
    for name, (wished, compared) in asked.items():
        if not compared:
            continue  # and a warning says why
        labels = dict.fromkeys(label for pair in compared for label in pair)
        result = power(len(sweep.seeds), comparisons, wished, spread)
        seeds = max(0, result.seeds - len(sweep.seeds)) if result.seeds is not None else 0
        each = [prices[label] for label in labels]
        scaled = [_scaled(p, seeds / len(sweep.seeds)) for p in each if p is not None]
        found.append(Question(name, result, seeds * len(labels), _sum(scaled) if len(scaled) == len(each) else None))
    return found


def _scaled(one: Price, factor: float) -> Price:
    low = None if one.low is None else factor * one.low
    high = None if one.high is None else factor * one.high
    return Price(factor * one.hours, low, high, one.runs)
