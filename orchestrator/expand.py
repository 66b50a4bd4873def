"""Sweep → conditions: the product of the axes, less the exclusions, plus the inclusions, with their labels. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from experiment_specs.errors import Problems, SpecError
from experiment_specs.language import NAMED_FIELDS, Condition, Value, unknown_part
from experiment_specs.load import Sweep, as_path, assign, build_condition, by_depth
from experiment_specs.paths import expand_paths
from experiment_specs.presets import preset_name, resolve_name
from experiment_specs.reader import MOST_LETTERS, refuse_verl_key
from experiment_specs.yaml_source import KeyPath


@dataclass(frozen=True)
class Planned:
    """One condition of the sweep under the name that people use for it."""

    label: str
    condition: Condition
    where: Callable[[KeyPath], KeyPath]
    """Maps a path inside the condition to the place in the spec that decided it."""


@dataclass(frozen=True)
class Excluded:
    """A condition that the product holds and the sweep leaves out."""

    choice: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Expansion:
    conditions: tuple[Planned, ...]
    excluded: tuple[Excluded, ...]
    merged: int
    """How many duplicates were merged into one condition."""
    complete: bool = True
    """False where a problem was noted that keeps a condition out: what then matches nothing is no mistake."""


MAX_FAILURES = 200
"""After so many conditions that cannot be, the rest of the product is not tried: it would say the same again."""


def expand(sweep: Sweep, problems: Problems | None = None) -> Expansion:
    """Every condition once, in the order of the axes. Raises SpecError where the spec contradicts itself.

    ``problems``: what is wrong is noted there, and the expansion has the conditions that are sound.
    """
    noted = problems if problems is not None else Problems()
    axes = _sound_axes(sweep, noted)  # a misspelt name is told where it stands, not where an exclusion meets it
    rules = {i: e.when for i, e in enumerate(sweep.exclude) if _sound_pattern(sweep, e.when, _when(i), noted)}
    labels = {
        label: pattern
        for label, pattern in sweep.labels.items()
        if _sound_pattern(sweep, pattern, ("labels", label), noted)
    }
    found: dict[str, Planned] = {}
    excluded: list[Excluded] = []
    used = dict.fromkeys(rules, 0)
    merged = failed = 0
    for choice, origin, is_chosen in _all(sweep, axes, noted):
        hit = [i for i, when in rules.items() if is_chosen and _choice_matches(sweep, choice, when, i)]
        if hit:
            for rule in hit:
                used[rule] += 1
            excluded.append(Excluded(choice, "; ".join(sweep.exclude[rule].because for rule in hit)))
            continue
        where = partial(_origin, sweep, origin)
        try:
            condition = build_condition(sweep, choice, where)
        except SpecError as problem:
            noted.add(problem)
            failed += 1
            if failed >= MAX_FAILURES:
                break
            continue
        merged += condition.id in found
        found.setdefault(condition.id, Planned("", condition, where))
    complete = not failed and not noted.below("axes", "exclude", "include")
    if complete:
        for index in (index for index, count in used.items() if not count):
            noted.add(sweep.error("excludes nothing: no condition of the product matches", ("exclude", index)))
        if not found:
            noted.add(sweep.error("no condition is left", ("axes",)))
    names = _labels(sweep, labels, [p.condition for p in found.values()], noted if complete else Problems())
    planned = tuple(replace(p, label=names[key]) for key, p in found.items())
    if problems is None:
        noted.raise_all()
    return Expansion(planned, tuple(excluded), merged, complete)


def _when(index: int) -> KeyPath:
    return ("exclude", index, "when")


def _sound_axes(sweep: Sweep, problems: Problems) -> dict[str, list[tuple[int, Any]]]:
    """Axis → position and value of those values that can be read.

    An axis without any keeps its first one: without the field, others could be told that they do not go together.
    """
    sound: dict[str, list[tuple[int, Any]]] = {}
    for key, values in sweep.axes.items():
        for index, value in enumerate(values):
            with problems.noted():
                _resolved(sweep, key, value, ("axes", key, index))
                sound.setdefault(key, []).append((index, value))
        if key not in sound and not key.startswith("trainer."):
            sound[key] = [(0, values[0])]
    return sound


def _sound_pattern(sweep: Sweep, pattern: Mapping[str, Any], where: KeyPath, problems: Problems) -> bool:
    before = len(problems.found)
    for key, wanted in pattern.items():
        with problems.noted():
            if (unknown := unknown_part(key)) is not None:
                raise sweep.error("unknown field of a condition", (*where, key), *unknown)
            _resolved(sweep, key, wanted, (*where, key))
    return len(problems.found) == before


MOST_CONDITIONS = 10_000


def _all(
    sweep: Sweep, axes: Mapping[str, list[tuple[int, Any]]], problems: Problems
) -> Iterator[tuple[dict[str, Any], dict[str, KeyPath], bool]]:
    """Fields on top of ``set``, where each was written, and whether they are of the product (or beside it)."""
    if math.prod(len(values) for values in axes.values()) > MOST_CONDITIONS:
        problems.add(sweep.error(f"the product of the axes is more than {MOST_CONDITIONS} conditions", ("axes",)))
    else:
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            fields = {key: value for key, (_, value) in chosen.items()}
            yield fields, {key: ("axes", key, index) for key, (index, _) in chosen.items()}, True
    for nth, entry in enumerate(sweep.include):
        fields = {key: value for key, value in entry.items() if key != "because"}
        yield fields, {key: ("include", nth, key) for key in fields}, False


def _origin(sweep: Sweep, origin: Mapping[str, KeyPath], loc: KeyPath) -> KeyPath:
    """The place in the spec that decided a place in a condition."""
    for key, path in sorted(origin.items(), key=lambda item: -item[0].count(".")):
        parts = as_path(key)
        if loc[: len(parts)] == parts:
            return (*path, *loc[len(parts) :])
    if loc and loc[0] == "trainer" and ("trainer",) in sweep.marks:
        return loc
    if loc and ("set", *loc) not in sweep.marks:  # what lacks a part was begun by an axis, perhaps
        below = (path for key, path in origin.items() if as_path(key)[: len(loc)] == loc)
        return next(below, ("set", *loc))
    return ("set", *loc)


def _choice_matches(sweep: Sweep, choice: Mapping[str, Any], when: Mapping[str, Any], index: int) -> bool:
    """Does a choice on the axes match a sound pattern? Compared before a condition is built: what is excluded may be
    impossible."""
    raw: dict[str, Any] = dict(sweep.fixed)
    for key, value in by_depth(choice):
        raw = assign(raw, key, value)
    for key, wanted in when.items():
        where: KeyPath = (*_when(index), key)
        head = key.partition(".")[0]
        try:
            value = _resolved(sweep, head, raw[head], where) if head in raw else _ABSENT
        except SpecError:  # told where the value stands
            return False
        have = {head: _with_defaults(head, value)}
        if not _same(_lookup(have, key), _resolved(sweep, key, wanted, where)):
            return False
    return True


_ABSENT = object()


def _with_defaults(field: str, value: Any) -> Any:
    """A field's value as a condition would hold it; as it was written where it is not valid."""
    info = Condition.model_fields[field]
    if value is _ABSENT:
        value = info.get_default(call_default_factory=True)
    else:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(info.annotation)  # type: ignore[arg-type]
            value = adapter.validate_python(value)
        except ValidationError:
            return value
    return value.model_dump(mode="json") if isinstance(value, Value) else value


def matches(sweep: Sweep, condition: Condition, pattern: Mapping[str, Any], where: KeyPath) -> bool:
    """Does a condition have these values? A mapping matches when all that it names is equal."""
    dumped = condition.model_dump(mode="json")
    for key, wanted in pattern.items():
        if (unknown := unknown_part(key)) is not None:
            raise sweep.error("unknown field of a condition", (*where, key), *unknown)
        value = _resolved(sweep, key, wanted, (*where, key))
        if value == "auto" and key in dumped:  # what it means in this condition
            value = getattr(Condition.model_validate(dumped | {key: value}, strict=False), key)
        if not _same(_lookup(dumped, key), value):
            return False
    return True


def _resolved(sweep: Sweep, key: str, value: Any, where: KeyPath) -> Any:
    if key in NAMED_FIELDS:
        return resolve_name(key, value, lambda problem, v, accepted: sweep.error(problem, where, v, accepted))
    if key.startswith("trainer."):
        refuse_verl_key(key.removeprefix("trainer."), value, lambda problem, v: sweep.error(problem, where, v))
    if value == "none":
        return None
    return expand_paths(key, value, lambda _, problem, path: sweep.error(problem, where, path))


def _same(have: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(have, Mapping):
        return all(_same(have.get(k), v) for k, v in wanted.items())
    return bool(have == wanted)


def _lookup(data: Any, key: str) -> Any:
    for part in as_path(key):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _labels(
    sweep: Sweep, labels: Mapping[str, Mapping[str, Any]], conditions: list[Condition], problems: Problems
) -> dict[str, str]:
    """Declared labels first (each must match exactly one condition), generated ones for the rest."""
    names: dict[str, str] = {}
    for label, pattern in labels.items():
        where: KeyPath = ("labels", label)
        hits = [c for c in conditions if matches(sweep, c, pattern, where)]
        if len(hits) != 1:
            found = f"{len(hits)} conditions, which differ in {_apart(hits)}" if hits else "no condition"
            problems.add(sweep.error(f"must match exactly one condition, and matches {found}", where))
        elif hits[0].id in names:
            problems.add(sweep.error(f"the condition already has the label {names[hits[0].id]!r}", where))
        else:
            names[hits[0].id] = label
    for condition in conditions:
        if condition.id not in names:
            names[condition.id] = _generated_label(sweep, condition, set(names.values()))
    return names


def _apart(conditions: Sequence[Condition]) -> str:
    dumped = [c.model_dump(mode="json") for c in conditions]
    return ", ".join(key for key in dumped[0] if any(d[key] != dumped[0][key] for d in dumped))


def _spelled(key: str, value: Any) -> list[str]:
    """``batch.prompts=32 batch.mini_batch=16``."""
    if isinstance(value, Mapping):
        return [part for inner, child in value.items() for part in _spelled(f"{key}.{inner}", child)]
    return [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"]


def _generated_label(sweep: Sweep, condition: Condition, taken: set[str]) -> str:
    written = [*sweep.axes, *(key for entry in sweep.include for key in entry)]
    dumped = condition.model_dump(mode="json")
    parts = []
    for field in Condition.model_fields:
        keys = dict.fromkeys(key for key in written if key.partition(".")[0] == field)
        if keys and field in NAMED_FIELDS:
            parts.append(f"{field}={preset_name(field, getattr(condition, field))}")
        else:
            parts += [part for key in keys for part in _spelled(key, _lookup(dumped, key))]
    label = " ".join(parts) or sweep.name
    if len(label) <= MOST_LETTERS and label not in taken:
        return label
    return f"{label[: MOST_LETTERS - 7]} {condition.id[:6]}"
