"""Differences between the arms of a sweep: what a contrast does not name, and what only the runs show. Pure.

Two things changed at once, a learning rate scaled with the batch, a filter whose absence doubled the samples of a
step: each once made a difference of scores that was read as another's effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiment_specs.errors import Problems
from experiment_specs.language import Condition, Contrast
from experiment_specs.load import Sweep
from orchestrator.expand import matches
from orchestrator.steps import plan_steps

MUCH_MORE = 1.5
"""From this ratio on, two arms that generated so many prompts for equally many steps are told apart."""


def differences(one: Condition, other: Condition) -> dict[str, tuple[Any, Any]]:
    """Dotted name → the two values, for every leaf in which two conditions differ."""
    return leaves_that_differ(one.model_dump(mode="json"), other.model_dump(mode="json"))


def leaves_that_differ(one: Any, other: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Of two nested mappings, as dumped conditions are."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found: dict[str, tuple[Any, Any]] = {}
        for key in (*one, *(k for k in other if k not in one)):
            found |= leaves_that_differ(one.get(key), other.get(key), f"{name}.{key}" if name else key)
        return found
    return {} if one == other else {name: (one, other)}


Arms = Sequence[tuple[str, Condition]]


def sides(sweep: Sweep, conditions: Arms, name: str) -> tuple[Arms, Arms]:
    """The arms on the two sides of a declared contrast."""
    contrast = sweep.contrasts[name]
    left, right = (
        [(label, c) for label, c in conditions if matches(sweep, c, {contrast.vary: value}, ("contrasts", name))]
        for value in (contrast.from_, contrast.to)
    )
    return left, right


def unmatched(sweep: Sweep, conditions: Sequence[tuple[str, Condition]]) -> list[str]:
    """Arms of declared contrasts that have no partner equal in all but what is varied, and what else differs.

    Raises SpecError for a contrast one side of which no condition is on.
    """
    problems, wrong = [], Problems()
    for name, contrast in sweep.contrasts.items():
        pair = sides(sweep, conditions, name)
        if not all(pair):
            for side in (side for side, arms in zip(("from", "to"), pair, strict=True) if not arms):
                wrong.add(sweep.error(f"no condition has this {contrast.vary}", ("contrasts", name, side)))
            continue
        by_label = dict(conditions)
        for label, partner, extra in _nearest(contrast.vary, pair):
            if extra and not _left_out(sweep, by_label[label], contrast):
                also = f"{partner}, the nearest, differs in {', '.join(extra)} too"
                problems.append(f"contrast {name}: {label} has no partner; {also}")
            elif not extra and (follows := _what_follows(contrast.vary, by_label[label], by_label[partner])):
                problems.append(f"contrast {name}: {label} and {partner} differ in {', '.join(follows)} too")
    wrong.raise_all()
    return problems


def _left_out(sweep: Sweep, arm: Condition, contrast: Contrast) -> bool:
    """Does the sweep exclude the partner, with a reason of its own?"""
    return any(
        rule.when.get(contrast.vary) == contrast.to
        and matches(sweep, arm, {k: v for k, v in rule.when.items() if k != contrast.vary}, ("exclude", nth, "when"))
        for nth, rule in enumerate(sweep.exclude)
    )


def _what_follows(vary: str, one: Condition, other: Condition) -> list[str]:
    """What nobody varied, and differs because of what was: steps, updates, answers per step, the attention."""
    pair = [
        {
            "training steps": steps.total,
            "optimiser updates": steps.optimiser_updates,
            "answers a step": c.batch.prompts * c.algorithm.samples_per_prompt,
            "attention": c.attention,
        }
        for c, steps in ((one, plan_steps(one)), (other, plan_steps(other)))
    ]
    return [
        f"{what} ({pair[0][what]}, {pair[1][what]})"
        for what in pair[0]
        if pair[0][what] != pair[1][what] and what != vary
    ]


def pairs(sweep: Sweep, conditions: Sequence[tuple[str, Condition]], name: str) -> list[tuple[str, str]]:
    """The comparisons that a declared contrast is: labels of arms that are equal in all but what it varies."""
    pair = sides(sweep, conditions, name)
    return [(label, partner) for label, partner, extra in _nearest(sweep.contrasts[name].vary, pair) if not extra]


def _nearest(vary: str, pair: tuple[Arms, Arms]) -> list[tuple[str, str, list[str]]]:
    """For each arm on the left: its nearest on the right, and the fields in which they differ beyond ``vary``."""
    right = [(partner, other.model_dump(mode="json")) for partner, other in pair[1]]
    by_rest: dict[str, list[str]] = {}
    for partner, dumped in right:
        by_rest.setdefault(_rest(vary, dumped), []).append(partner)
    found: list[tuple[str, str, list[str]]] = []
    for label, condition in pair[0]:
        dumped = condition.model_dump(mode="json")
        if equal := by_rest.get(_rest(vary, dumped)):
            found += [(label, partner, []) for partner in equal]
        else:
            others = [(_apart_from(vary, dumped, other), partner) for partner, other in right]
            extra, partner = min(others, key=lambda item: len(item[0]))
            found.append((label, partner, extra))
    return found


def _rest(vary: str, dumped: dict[str, Any]) -> str:
    """A condition without what is varied, as a text that is equal where it is."""
    return json.dumps([(k, v) for k, v in sorted(_leaves(dumped)) if not _is_of(vary, k)], sort_keys=True)


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [(name, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{name}.{key}" if name else key)]


def _apart_from(vary: str, one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [key for key in leaves_that_differ(one, other) if not _is_of(vary, key)]


FOLLOWS = {"hw_noise": "attention"}
"""Field → another that it decides: errors inside attention need a kernel that can have them."""


def _is_of(vary: str, key: str) -> bool:
    return key == vary or key.startswith(f"{vary}.") or key == FOLLOWS.get(vary.partition(".")[0])


@dataclass(frozen=True)
class Counts:
    """What one run did, by its own count; None where it was not counted."""

    training_steps: int
    optimiser_steps: int | None
    trajectories: float | None
    """Answers that a training step learnt from."""
    prompts_generated: float | None
    """In all; dynamic sampling generates more than it keeps."""
    prompts_kept: float | None


def undeclared(arms: Sequence[tuple[str, Condition, Counts]]) -> list[str]:
    """Sentences about arms whose plan is equal and whose runs were not."""
    groups: dict[tuple[int, int, int], list[tuple[str, Counts]]] = {}
    for label, condition, counts in arms:
        steps = plan_steps(condition)
        answers = condition.batch.prompts * condition.algorithm.samples_per_prompt
        groups.setdefault((steps.total, steps.optimiser_updates, answers), []).append((label, counts))
    found = []
    for group in groups.values():
        for what in ("training_steps", "optimiser_steps", "trajectories", "prompts_kept"):
            by_value: dict[float, list[str]] = {}
            for label, counts in group:
                if (value := getattr(counts, what)) is not None:
                    by_value.setdefault(value, []).append(label)
            if len(by_value) > 1:
                parts = [f"{value:g} in {', '.join(labels)}" for value, labels in sorted(by_value.items())]
                found.append(f"{what.replace('_', ' ')} differ and nobody declared it: {'; '.join(parts)}")
        found += _generated(group)
    return found


def _generated(group: Sequence[tuple[str, Counts]]) -> list[str]:
    known = [
        (c.prompts_generated / c.training_steps, label)
        for label, c in group
        if c.prompts_generated and c.training_steps
    ]
    if len(known) < 2:
        return []
    (least, few), (most, many) = min(known), max(known)
    if most < MUCH_MORE * least:
        return []
    return [
        f"{many} generated {most:.1f} prompts a step and {few} {least:.1f}: dynamic sampling dropped more of its groups"
    ]
