"""Rule and facts → match, clean or unknown, with the facts that decided. Pure.

Three-valued (Kleene): a fact that was never recorded is unknown and stays so unless the other facts decide without it.
A comparison on something that a run does not have (sigma of a run without noise) is simply false.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from experiment_specs.bug_rules import Answer, Combined, Comparison, Point, Predicate, Rule
from experiment_specs.language import NAMED_FIELDS, Condition, record_in
from experiment_specs.presets import preset_name, presets

CodeBefore = Callable[[Point, Mapping[str, Any]], bool | None]
"""Did a run's code come before a point? None where neither a commit nor a date tells."""


@dataclass(frozen=True)
class Finding:
    """An answer and the facts that decided it, as sentences."""

    answer: Answer
    facts: tuple[str, ...]


_ABSENT, _NEVER = object(), object()
_TRUTH: dict[Answer, bool | None] = {"match": True, "clean": False, "unknown": None}
_ANSWER: dict[bool | None, Answer] = {True: "match", False: "clean", None: "unknown"}


def evaluate(rule: Rule, facts: Mapping[str, Any], names: Sequence[str], code_before: CodeBefore) -> Finding:
    """What a rule says of a run. ``names``: its id, label and aliases, for the rule's lists of runs."""
    if rule.header.status == "retracted":
        return Finding("clean", ("the rule is retracted",))
    for entry in rule.header.except_:
        if entry.run in names:
            return Finding("clean", (f"excepted: {entry.because}",))
    for entry in rule.header.include:
        if entry.run in names:
            return Finding("match", (f"included: {entry.because}",))
    truth, why = _evaluate(rule.affects, facts, rule, code_before)
    return Finding(_ANSWER[truth], tuple(dict.fromkeys(why)))


def _evaluate(
    predicate: Predicate, facts: Mapping[str, Any], rule: Rule, code_before: CodeBefore
) -> tuple[bool | None, list[str]]:
    if isinstance(predicate, Comparison):
        return _test(predicate, facts, rule, code_before)
    found = [_evaluate(part, facts, rule, code_before) for part in predicate.parts]
    if predicate.how == "not":
        truth, why = found[0]
        return (None if truth is None else not truth), why
    decisive = predicate.how == "any"
    for wanted in (decisive, None):
        deciding = [why for truth, why in found if truth is wanted]
        if deciding:
            return wanted, [fact for why in deciding for fact in why]
    return not decisive, [fact for _, why in found for fact in why]


def _test(
    test: Comparison, facts: Mapping[str, Any], rule: Rule, code_before: CodeBefore
) -> tuple[bool | None, list[str]]:
    if (test.source, test.name) == ("field", "code"):
        return _code(test, facts, rule, code_before)
    value = _fact(test, facts)
    label = test.name if test.source == "field" else f"{test.source} {test.name}"
    if value is _NEVER:
        truth = _TRUTH[test.if_never_recorded]
        taken = "" if truth is None else f"; the rule takes that as {test.if_never_recorded}"
        return truth, [f"{label} was never recorded{taken}"]
    if value is _ABSENT:
        return False, [f"{label}: not applicable"]
    shown = _named(test.name, value) if test.source == "field" else _shown(value)
    return _compare(test, value), [f"{label} is {shown}"]


def _fact(test: Comparison, facts: Mapping[str, Any]) -> Any:
    """The value; ``_ABSENT`` where the run has no such thing, ``_NEVER`` where nobody wrote it down."""
    if test.source != "field":
        section = facts.get(test.source)
        return _NEVER if section is None else section.get(test.name, _NEVER)
    known = facts.get("seed") if test.name == "seed" else facts.get("condition")
    if known is None and test.name != "seed":
        return _told(facts.get("fields") or {}, test.name)
    if known is None or test.name == "seed":
        return _NEVER if known is None else known
    return _part(known, test.name)


def _told(fields: Mapping[str, Any], name: str) -> Any:
    """A field of a condition of which only some fields are known; ``_NEVER`` where the source does not tell it."""
    if name in fields:
        return fields[name]
    words = name.split(".")
    heads = (".".join(words[:end]) for end in range(1, len(words)))
    return _ABSENT if any(fields.get(head, _NEVER) is None for head in heads) else _NEVER


def _part(condition: Mapping[str, Any], name: str) -> Any:
    """A dotted field; ``_ABSENT`` where what it is a part of is none."""
    head, _, rest = name.partition(".")
    if head == "trainer" and rest:  # verl's keys have dots of their own
        return condition.get("trainer", {}).get(rest, _ABSENT)
    value: Any = condition
    for word in name.split("."):
        if not isinstance(value, Mapping) or word not in value:
            return _ABSENT
        value = value[word]
    return value


def _compare(test: Comparison, value: Any) -> bool:
    if test.operator in ("in", "not_in"):
        found = any(_same(test, value, wanted) for wanted in test.value)
        return found == (test.operator == "in")
    if test.operator in ("is", "is_not"):
        return _same(test, value, test.value) == (test.operator == "is")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return bool(_ORDER[test.operator](value, test.value))


_ORDER: dict[str, Callable[[float, float], bool]] = {
    "above": operator.gt, "below": operator.lt, "at_least": operator.ge, "at_most": operator.le,
}  # fmt: skip


def _same(test: Comparison, value: Any, wanted: Any) -> bool:
    """Equal in the words of the language: ``none``, presets' names; of a number format, its name alone."""
    if wanted in ("none", "missing"):
        return value is None
    if test.source == "field" and test.name in NAMED_FIELDS and isinstance(wanted, str):
        if value is None:
            return False
        if test.name == "dtype":
            return bool(value["format"] == wanted)
        meaning = presets()[test.name][wanted]
        return all(value.get(key) == inner for key, inner in meaning.items())
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return all(key in value and value[key] == inner for key, inner in wanted.items())
    return bool(value == wanted)


def _code(
    test: Comparison, facts: Mapping[str, Any], rule: Rule, code_before: CodeBefore
) -> tuple[bool | None, list[str]]:
    point = rule.header.fixed_in if test.value == "fixed_in" else rule.header.introduced_in
    code = facts.get("code") or {}
    shown = f"code {(code.get('commit') or code.get('id') or 'not recorded')[:12]}, {code.get('date') or 'no date'}"
    if point.commit is None and point.date is None:
        if test.value == "fixed_in":
            return test.operator == "before", ["no version has the fix yet"]
        return test.operator == "since", ["the bug was there from the first version on"]
    before = code_before(point, code)
    where = (point.commit or "")[:12] or point.date
    if before is None:
        return _TRUTH[test.if_never_recorded], [f"{shown}: cannot be placed before or after {where}"]
    truth = before if test.operator == "before" else not before
    return truth, [f"{shown}: {'before' if before else 'not before'} {test.value} ({where})"]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _named(name: str, value: Any) -> str:
    """A field as a spec would say it."""
    if name == "dtype":
        return str(value["format"])
    if name in NAMED_FIELDS and value is not None:
        return _preset(name, json.dumps(value, sort_keys=True))
    return _shown(value)


@cache
def _preset(name: str, dumped: str) -> str:
    kind = record_in(Condition.model_fields[name].annotation)
    return preset_name(name, kind.model_validate_json(dumped)) if kind is not None else dumped


def names_used(predicate: Predicate) -> set[tuple[str, str]]:
    """(source, name) of every fact that a predicate asks for."""
    if isinstance(predicate, Combined):
        return set().union(*(names_used(part) for part in predicate.parts))
    return {(predicate.source, predicate.name)}
