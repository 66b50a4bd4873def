"""Sweeps whose truth is known: answers of two arms, seed by seed, question by question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class World:
    """How scores come about. A question's chance to be answered right is a logistic function of its own ease, of how
    good the checkpoint became (its seed's luck), and of the checkpoint's own taste for the question."""

    questions: int = 1319
    accuracy: float = 0.7
    seed_sd: float = 1.0
    """Points by which checkpoints of equal treatment truly differ."""
    ease_sd: float = 2.0
    """Of questions, in logits: most are answered right by all checkpoints, or by none."""
    taste_sd: float = 0.5


def answers(world: World, effect: float, sweeps: int, seeds: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(sweeps, 2 arms, seeds, questions): was it answered right. ``effect``: points that arm 2 truly has above arm 1."""
    ease = rng.normal(size=(sweeps, 1, 1, world.questions)) * world.ease_sd
    spread = np.sqrt(world.ease_sd**2 + world.taste_sd**2)
    # slope of the mean accuracy in the logit, by simulation: points → logits
    probe = rng.normal(size=200_000) * spread
    level = _level(world.accuracy, probe)
    chance = 1 / (1 + np.exp(-(probe + level)))
    slope = 100 * float((chance * (1 - chance)).mean())
    goodness = rng.normal(size=(sweeps, 2, seeds, 1)) * world.seed_sd / slope
    goodness[:, 1] += effect / slope
    taste = rng.normal(size=(sweeps, 2, seeds, world.questions)) * world.taste_sd
    chance = 1 / (1 + np.exp(-(level + ease + goodness + taste)))
    return rng.random(chance.shape) < chance


def _level(accuracy: float, probe: NDArray[np.float64]) -> float:
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-(probe + middle)))).mean() < accuracy else (low, middle)
    return low


def differences(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(sweeps, seeds): points, arm 2 minus arm 1."""
    scores = 100 * right.mean(axis=-1)
    return scores[:, 1] - scores[:, 0]
