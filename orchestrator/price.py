"""What a sweep would cost, from runs like it that the registry holds; unknown where there are none. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from experiment_specs.language import Condition
from orchestrator.steps import Steps

FEW = 3
"""With fewer runs than these there is a figure and no interval."""
SURE = 0.9


@dataclass(frozen=True)
class Past:
    """A finished run: what it was, its seconds before and after its first result, and the answers it made after."""

    kind: tuple[Any, ...]
    startup: float
    seconds: float
    answers: float


@dataclass(frozen=True)
class Price:
    """GPU-hours with a 90 % prediction interval (None: too few runs to say), from ``runs`` runs like these."""

    hours: float
    low: float | None
    high: float | None
    runs: int

    def __add__(self, other: Price) -> Price:
        """Of two sets of runs, whose errors go the same way: the prediction that is wrong for one is wrong for all."""
        low = None if self.low is None or other.low is None else self.low + other.low
        high = None if self.high is None or other.high is None else self.high + other.high
        return Price(self.hours + other.hours, low, high, min(self.runs, other.runs))


def kind_of(condition: Condition, gpus: int) -> tuple[Any, ...]:
    """Runs of one kind take as long an answer: same model and length, engine, GPUs, recipe, adapters or none."""
    c = condition
    return (
        c.model.path, c.data.max_prompt_tokens, c.data.max_response_tokens, c.rollout, c.compute, gpus,
        c.algorithm.dynamic_sampling, c.algorithm.kl_loss > 0, c.lora is not None, c.hw_noise is not None,
    )  # fmt: skip


def answers_of(condition: Condition, steps: Steps) -> float:
    """Answers that training keeps and evals ask for after the first result, an eval or a step, which ends the start."""
    a_step = condition.batch.prompts * condition.algorithm.samples_per_prompt
    an_eval = condition.data.test_rows * condition.eval.samples
    first = an_eval if condition.eval.before_training else a_step
    return steps.total * a_step + len(steps.evals) * an_eval - first


def price(condition: Condition, steps: Steps, seeds: int, gpus: int, history: Sequence[Past]) -> Price | None:
    """GPU-hours of the condition's runs; None where no run like it is recorded."""
    kind = kind_of(condition, gpus)
    like = [past for past in history if past.kind == kind and past.answers > 0 and past.seconds > 0]
    if not like:
        return None
    startup = median(past.startup for past in like)
    rates = [past.seconds / past.answers for past in like]
    work, share = answers_of(condition, steps), seeds * gpus / 3600
    if len(like) < FEW:
        return Price(share * (startup + work * median(rates)), None, None, len(like))
    from scipy.stats import t

    logs = [math.log(rate) for rate in rates]
    centre = sum(logs) / len(logs)
    spread = math.sqrt(sum((log - centre) ** 2 for log in logs) / (len(logs) - 1))
    half = float(t.ppf(0.5 + SURE / 2, len(logs) - 1)) * spread * math.sqrt(1 + 1 / len(logs))
    low, middle, high = (share * (startup + work * math.exp(centre + shift)) for shift in (-half, 0.0, half))
    return Price(middle, low, high, len(like))
