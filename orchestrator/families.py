"""Which arms belong together: equal in all but the noise, the epochs, the batch; and the best of a category. Pure."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.comparison import Answers, Comparison, compare_family
from orchestrator.scores import Arm
from orchestrator.statistics.treatments import EQUAL_WITHIN

NOISE = ("aqn", "srdd")
LENGTH = ("epochs", "steps_per_epoch", "eval.every")
BATCH = ("batch", "steps_per_epoch", "eval.every")
Pair = tuple[Arm, Arm]


def alike(arms: Iterable[Arm], apart_from: Sequence[str]) -> list[list[Arm]]:
    """Groups of two arms or more whose conditions are equal in all but some dotted fields, in the order of the arms."""
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        rest: dict[str, Any] = copy.deepcopy(dict(arm.condition))
        for key in apart_from:
            *outer, last = key.split(".")
            inner = rest
            for word in outer:
                inner = inner[word]
            inner.pop(last, None)
        groups.setdefault(json.dumps(rest, sort_keys=True), []).append(arm)
    return [group for group in groups.values() if len(group) > 1]


def noise_pairs(arms: Sequence[Arm]) -> list[Pair]:
    """(without noise, with it), equal in everything else."""
    return [
        (base, arm)
        for group in alike(arms, NOISE)
        for base in group
        if base.condition["aqn"] is None
        for arm in group
        if arm.condition["aqn"] is not None
    ]


def length_pairs(arms: Sequence[Arm]) -> list[Pair]:
    """(fewest epochs, more), equal in everything else."""
    return _from_the_least(alike(arms, LENGTH), lambda arm: (arm.condition["epochs"],))


def batch_pairs(arms: Sequence[Arm]) -> list[Pair]:
    """(largest batch, smaller), equal in everything else: a smaller batch takes more steps."""
    return _from_the_least(alike(arms, BATCH), lambda arm: (-arm.condition["batch"]["prompts"],))


def _from_the_least(groups: Sequence[Sequence[Arm]], key: Any) -> list[Pair]:
    found = []
    for group in groups:
        first, *rest = sorted(group, key=key)
        found += [(first, other) for other in rest if key(other) > key(first)]
    return found


def best_category(condition: Any) -> str:
    """The group in which a best is named: hardware noise, adapters or full fine-tuning, quantised or not."""
    if condition["hw_noise"] is not None:
        return "HW"
    tuned = "LoRA" if condition["lora"] is not None else "Full fine-tuning"
    return tuned if condition["dtype"]["format"] == "bf16" else f"{tuned} + Quant"


@dataclass(frozen=True)
class Best:
    """The arm of the highest mean, and how each of the others compares with it, seed by seed."""

    category: str
    leader: Arm
    comparisons: tuple[Comparison, ...]

    def others(self, *verdicts: str) -> list[Arm]:
        return [one.second for one in self.comparisons if one.verdict in verdicts]

    @property
    def alone(self) -> bool:
        """Is every other surely lower?"""
        return bool(self.comparisons) and all(one.verdict == "lower" for one in self.comparisons)


def best_of(category: str, arms: Sequence[Arm], answers: Answers) -> Best | None:
    """None where no arm has a score that counts.

    The leader was chosen for its score, so a plain test against each other would favour it: the correction is over
    all pairs of the category, whichever of them had come out first.
    """
    scored = [arm for arm in arms if arm.scored]
    if not scored:
        return None
    leader = max(scored, key=lambda arm: (arm.mean or 0.0, arm.label))
    others = [arm for arm in scored if arm is not leader]
    pairs = len(scored) * (len(scored) - 1) // 2
    compared = compare_family([(leader, other, EQUAL_WITHIN) for other in others], answers, pairs)
    return Best(category, leader, tuple(compared))
