"""What recorded claims contradict: themselves, their names, arithmetic, other places. Pure.

A finding names both places and the rule that they break. Nothing here says which of the two is right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from experiment_specs.claims import COMPARED, Best, ClaimedRun, Group, Statement
from experiment_specs.language import Condition
from orchestrator.claimed_counts import TABLE_DECIMALS, agree, claimed_counts, decimals_of, decimals_shown, half_unit


@dataclass(frozen=True)
class Claimed:
    """One claim with what it needs to be audited."""

    id: str
    run: ClaimedRun
    condition: Condition | None
    questions: int | None


@dataclass(frozen=True)
class Audited:
    """The claims of one history, and what its file says beside them."""

    name: str
    claims: Sequence[Claimed]
    groups: Mapping[str, Group]
    best: Sequence[Best]


@dataclass(frozen=True)
class Contradiction:
    """``runs``: labels. ``claimed`` and ``expected``: what the two sides say. ``text``: a sentence with both places."""

    check: str
    runs: tuple[str, ...]
    fields: tuple[str, ...]
    claimed: Any
    expected: Any
    text: str
    history: str = field(default="", compare=False)


CHECKS: dict[str, str] = {
    "not-k-of-n": "A percentage is a whole number of the answers to the stated questions, to the decimals written.",
    "name-against-fields": "What a run's name says is what its row says.",
    "row-against-condition": "What a row says is what the condition that the claim is filed under says.",
    "benefit-arithmetic": "A stated difference is the difference of the two scores.",
    "peak-below-score": "The best of all evaluations is not below one of them.",
    "two-scores-at-one-step": "A run has one score at a step.",
    "step-beyond-plan": "No evaluation is later than the last step that was planned, or done.",
    "eval-not-planned": "A score is of a step at which an evaluation was planned.",
    "executed-not-planned": "As many training steps were done as were planned.",
    "last-eval-before-end": "The last evaluation is at the last step.",
    "steps-arithmetic": "Steps an epoch are the rows divided by the batch, rounded down.",
    "one-number-in-several-rows": "Two runs seldom have the same number: one may have been copied.",
    "places-disagree": "Two places that speak of the same thing say the same.",
    "best-is-not-best": "What is called the best of some runs is not below another of them.",
}
"""Check → the rule that it holds claims to."""


def audit(audited: Audited) -> list[Contradiction]:
    """Every contradiction, check by check, in the order of the claims."""
    found = [c for check in _OF_ONE for claim in audited.claims for c in check(claim)]
    found += [c for check in _OF_ALL for c in check(audited)]
    order = list(CHECKS)
    ordered = sorted(found, key=lambda c: order.index(c.check))
    return [Contradiction(**{**vars(c), "history": audited.name}) for c in ordered]


def _percent(value: float) -> str:
    return f"{value:.2f} %"


# ------------------------------------------------------------------------------------------------ of one claim


def _not_k_of_n(claim: Claimed) -> Iterator[Contradiction]:
    if claim.questions is None:
        return
    answers = claim.questions * claim.run.answers
    asked = f"{claim.questions} questions" + f" with {claim.run.answers} answers each" * (claim.run.answers > 1)
    seen: set[float] = set()
    for said in claim.run.said:
        for name in ("score", "peak"):
            value = getattr(said, name)
            if value is None or value in seen:
                continue
            seen.add(value)
            if not claimed_counts(claim.run, value, claim.questions):
                digits = max(decimals_of(claim.run, value), TABLE_DECIMALS)
                k = math.floor(Fraction(str(value)) * answers / 100)
                near = ", ".join(f"{n}/{answers} = {100 * n / answers:.{digits}f} %" for n in (k, k + 1))
                yield Contradiction(
                    "not-k-of-n", (claim.run.label,), (name,), value, near,
                    f"{claim.run.label}: {name} {value:.{digits}f} % ({said.place}) is no whole number of {asked}:"
                    f" {near}",
                )  # fmt: skip


_DTYPE = re.compile(r"(?<![A-Za-z0-9])(BF16|MXFP4|NVFP4)(?![A-Za-z0-9])", re.IGNORECASE)
_ALGORITHM = re.compile(r"(?<![A-Za-z])(GRPO|DAPO)(?![A-Za-z])", re.IGNORECASE)
_EPOCHS = re.compile(r"(?<![A-Za-z0-9])(\d+)ep(?![A-Za-z])")
_SIGMA = re.compile(r"sigma_?([0-9.]+\d)")
_NOISE = re.compile(r"(?<![A-Za-z0-9])(\d+(?:\.\d+)?)pct(?![A-Za-z])")
_SCORE = re.compile(r"(?<![\w.])(\d{1,2}\.\d{2})(?![\d.])")
_SRDD = re.compile(r"SRDD-(targeted|variable)")


def named(name: str) -> dict[str, Any]:
    """What a run's name says, in the words of a statement: ``Q_MXFP4_DAPO_fullFT_AQN_1ep_74.37``."""
    words = name.replace("_", " ")
    found: dict[str, Any] = {}
    for key, pattern, read in (
        ("dtype", _DTYPE, str.lower), ("algorithm", _ALGORITHM, str.lower), ("epochs", _EPOCHS, int),
        ("sigma_start", _SIGMA, float), ("hw_noise", _NOISE, lambda t: float(t) / 100), ("score", _SCORE, float),
        ("srdd", _SRDD, str),
    ):  # fmt: skip
        if (match := pattern.search(words)) is not None:
            found[key] = read(match[1])
    if re.search(r"(?<![A-Za-z])AQN(?![A-Za-z])", words):
        found["aqn"] = True
    if re.search(r"noise only", words):
        found["aqn"] = False
    if re.search(r"(?<![A-Za-z])LoRA(?![A-Za-z])", words):
        found["lora"] = True
    if re.search(r"full-?FT", words):
        found["lora"] = False
    if "epoch-aware" in words:
        found["epoch_aware"] = True
    return found


def _same(key: str, one: Any, other: Any) -> bool:
    """Whether two places say the same of a field; percentages to the decimals that both have."""
    return agree(one, other) if key in ("score", "peak") else bool(one == other)


def _first_saying(run: ClaimedRun, key: str) -> Statement | None:
    return next((said for said in run.said if getattr(said, key) is not None), None)


def _name_against_fields(claim: Claimed) -> Iterator[Contradiction]:
    if claim.run.tensorboard is None:
        return
    for key, value in named(claim.run.tensorboard).items():
        if (said := _first_saying(claim.run, key)) is not None and not _same(key, row := getattr(said, key), value):
            yield Contradiction(
                "name-against-fields", (claim.run.label,), (key,), value, row,
                f"{claim.run.label}: its name {claim.run.tensorboard} says {key} {_shown(value)}, {said.place} says"
                f" {_shown(row)}",
            )  # fmt: skip


def _row_against_condition(claim: Claimed) -> Iterator[Contradiction]:
    c = claim.condition
    if c is None:
        return
    have: dict[str, Any] = {
        "dtype": c.dtype.format, "algorithm": c.algorithm.name, "epochs": c.epochs, "lora": c.lora is not None,
        "aqn": c.aqn is not None, "srdd": c.srdd.aim if c.srdd else "none",
        "hw_noise": c.hw_noise.scale if c.hw_noise else 0.0,
    }  # fmt: skip
    if c.aqn is not None:
        have |= {
            "sigma_start": c.aqn.sigma_start, "sigma_end": c.aqn.sigma_end,
            "epoch_aware": c.aqn.schedule == "epoch_aware",
        }  # fmt: skip
    for key, value in have.items():
        if (said := _first_saying(claim.run, key)) is not None and (row := getattr(said, key)) != value:
            yield Contradiction(
                "row-against-condition", (claim.run.label,), (key,), row, value,
                f"{claim.run.label}: {said.place} says {key} {_shown(row)}, its condition in {claim.run.condition} has"
                f" {_shown(value)}",
            )  # fmt: skip


def _peak_below_score(claim: Claimed) -> Iterator[Contradiction]:
    for said in claim.run.said:
        if said.peak is None or said.score is None or agree(said.peak, said.score):
            continue
        if said.peak < said.score:
            yield Contradiction(
                "peak-below-score", (claim.run.label,), ("peak", "score"), said.peak, said.score,
                f"{claim.run.label}: peak {_percent(said.peak)} is below the score {_percent(said.score)}"
                f" ({said.place})",
            )  # fmt: skip


def _two_scores_at_one_step(claim: Claimed) -> Iterator[Contradiction]:
    at_step: dict[int, dict[float, str]] = {}
    for said in claim.run.said:
        for value, step in ((said.score, said.score_step), (said.peak, said.peak_step)):
            if value is not None and step is not None:
                at_this = at_step.setdefault(step, {})
                if not any(agree(value, other) for other in at_this):
                    at_this[value] = said.place
    for step, values in at_step.items():
        if len(values) > 1:
            parts = " and ".join(f"{_percent(v)} ({place})" for v, place in values.items())
            yield Contradiction(
                "two-scores-at-one-step", (claim.run.label,), ("score", "peak"), list(values), 1,
                f"{claim.run.label}: at step {step} it has {parts}",
            )  # fmt: skip


def _places_disagree(claim: Claimed) -> Iterator[Contradiction]:
    for key in COMPARED:
        values: dict[Any, Statement] = {}
        for said in claim.run.said:
            if (value := getattr(said, key)) is not None and not any(_same(key, value, other) for other in values):
                values[value] = said
        if len(values) > 1:
            first, *others = values.items()
            for value, said in others:
                yield Contradiction(
                    "places-disagree", (claim.run.label,), (key,), value, first[0],
                    f"{claim.run.label}: {key} is {_shown(first[0])} in {first[1].place} and {_shown(value)} in"
                    f" {said.place}",
                )  # fmt: skip


_OF_ONE: tuple[Callable[[Claimed], Iterator[Contradiction]], ...] = (
    _not_k_of_n, _name_against_fields, _row_against_condition, _peak_below_score, _two_scores_at_one_step,
    _places_disagree,
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ of all claims


def _benefits(audited: Audited) -> Iterator[Contradiction]:
    scores = {claim.run.label: claim.run.first("score") for claim in audited.claims}
    for claim in audited.claims:
        for said in claim.run.said:
            for better in said.better:
                own = getattr(said, better.of)
                own = claim.run.first(better.of) if own is None else own
                other = scores.get(better.than)
                if not isinstance(own, float | int) or not isinstance(other, float | int):
                    continue
                difference = round(own - other, 2)
                # What shows two decimals is taken as it is written; what shows fewer may be rounded.
                rounded = [number for number in (own, other, better.points) if decimals_shown(number) < TABLE_DECIMALS]
                if abs(difference - better.points) > 0.0051 + sum(half_unit(decimals_shown(n)) for n in rounded):
                    label = claim.run.label
                    yield Contradiction(
                        "benefit-arithmetic", (label, better.than), (better.of,), better.points, difference,
                        f"{label}: {said.place} says {better.points:+.2f} over {better.than};"
                        f" {own:.2f} - {other:.2f} is {difference:+.2f}",
                    )  # fmt: skip


def _steps(audited: Audited) -> Iterator[Contradiction]:
    for claim in audited.claims:
        group = audited.groups.get(claim.run.group or "")
        yield from _steps_of(claim.run, group)
    for name, group in audited.groups.items():
        members = tuple(c.run.label for c in audited.claims if c.run.group == name)
        yield from _steps_of_group(group, members)


def _steps_of(run: ClaimedRun, group: Group | None) -> Iterator[Contradiction]:
    planned = run.first("planned_steps") or (group.planned_steps if group else None)
    source = group.place if group is not None else run.said[0].place if run.said else ""
    most = max(group.executed_steps) if group is not None and group.executed_steps else None
    for said in run.said:
        for key in ("score", "peak"):
            step = getattr(said, f"{key}_step")
            if step is None:
                continue
            for limit, what in ((planned, "planned"), (most, "done")):
                if isinstance(limit, int) and step > limit:
                    yield Contradiction(
                        "step-beyond-plan", (run.label,), (f"{key}_step",), step, limit,
                        f"{run.label}: {said.place} has its {key} at step {step}; {limit} steps at most were {what}"
                        f" ({source})",
                    )  # fmt: skip
            if group is not None and group.eval_steps and step not in group.eval_steps:
                yield Contradiction(
                    "eval-not-planned", (run.label,), (f"{key}_step",), step, list(group.eval_steps),
                    f"{run.label}: {said.place} has its {key} at step {step}; evaluations were planned at"
                    f" {', '.join(map(str, group.eval_steps))} ({source})",
                )  # fmt: skip
        done = said.executed_steps
        if done is not None and isinstance(planned, int) and done != planned:
            status = f", and its status is {said.status}" if said.status else ""
            yield Contradiction(
                "executed-not-planned", (run.label,), ("executed_steps",), done, planned,
                f"{run.label}: {said.place} has {done} steps{status}; {planned} were planned ({source})",
            )  # fmt: skip


def _steps_of_group(group: Group, members: tuple[str, ...]) -> Iterator[Contradiction]:
    planned = group.planned_steps
    if group.executed_steps and planned is not None and set(group.executed_steps) != {planned}:
        shown = " to ".join(str(s) for s in sorted(set(group.executed_steps)))
        yield Contradiction(
            "executed-not-planned", members, ("executed_steps",), list(group.executed_steps), planned,
            f"{', '.join(members)}: {shown} steps were done of {planned} planned ({group.place})",
        )  # fmt: skip
    if group.eval_steps and planned is not None and max(group.eval_steps) != planned:
        yield Contradiction(
            "last-eval-before-end", members, ("eval_steps",), max(group.eval_steps), planned,
            f"{', '.join(members)}: the last evaluation is at step {max(group.eval_steps)} of {planned}"
            f" ({group.place})",
        )  # fmt: skip
    if group.rows and group.generation_batch and group.steps_per_epoch:
        expected = group.rows // group.generation_batch
        if expected != group.steps_per_epoch:
            yield Contradiction(
                "steps-arithmetic", members, ("steps_per_epoch",), group.steps_per_epoch, expected,
                f"{', '.join(members)}: {group.rows} rows in batches of {group.generation_batch} are {expected} steps"
                f" an epoch, not {group.steps_per_epoch} ({group.place})",
            )  # fmt: skip


def _groups_disagree(audited: Audited) -> Iterator[Contradiction]:
    """Two places that divide the same rows by the same batch."""
    seen: dict[tuple[int, int], tuple[int, str]] = {}
    for name, group in audited.groups.items():
        if group.rows and group.generation_batch and group.steps_per_epoch:
            key = (group.rows, group.generation_batch)
            first = seen.setdefault(key, (group.steps_per_epoch, group.place))
            if first[0] != group.steps_per_epoch:
                members = tuple(c.run.label for c in audited.claims if c.run.group == name)
                yield Contradiction(
                    "places-disagree", members, ("steps_per_epoch",), group.steps_per_epoch, first[0],
                    f"steps_per_epoch of {key[0]} rows in batches of {key[1]} is {first[0]} in {first[1]} and"
                    f" {group.steps_per_epoch} in {group.place}",
                )  # fmt: skip


def _one_number(audited: Audited) -> Iterator[Contradiction]:
    rows: dict[float, dict[str, str]] = {}
    for claim in audited.claims:
        if claim.run.curve:  # read from what the run itself wrote: nobody copied it
            continue
        for key in ("score", "peak"):
            for said in claim.run.said:
                if (value := getattr(said, key)) is not None:
                    rows.setdefault(value, {}).setdefault(claim.run.label, f"{key}, {said.place}")
    for value, places in rows.items():
        if len(places) > 1:
            shown = "; ".join(f"{label} ({place})" for label, place in places.items())
            yield Contradiction(
                "one-number-in-several-rows", tuple(places), ("score", "peak"), value, None,
                f"{_percent(value)} stands for {len(places)} runs: {shown}",
            )  # fmt: skip


def _best(audited: Audited) -> Iterator[Contradiction]:
    scores = {c.run.label: (c.run.first("score"), c.run.said[0].place) for c in audited.claims if c.run.said}
    for best in audited.best:
        better = {
            label: scores[label]
            for label in best.among
            if label in scores
            and isinstance(scores[label][0], float | int)
            and scores[label][0] > best.score  # type: ignore[operator]
            and not agree(float(str(scores[label][0])), best.score)
        }
        if better:
            shown = "; ".join(
                f"{label} has {_percent(float(str(v)))} ({place})" for label, (v, place) in better.items()
            )
            yield Contradiction(
                "best-is-not-best", (best.run, *better), ("score",), best.score,
                max(float(str(v)) for v, _ in better.values()),
                f"{best.place} calls {best.run}, {_percent(best.score)}, the best of {best.category}; {shown}",
            )  # fmt: skip


_OF_ALL: tuple[Callable[[Audited], Iterator[Contradiction]], ...] = (
    _benefits, _steps, _groups_disagree, _one_number, _best,
)  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
