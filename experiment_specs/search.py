"""YAML → :class:`Search`: a space of conditions, what is sought in it, and what may be spent. Checked as sweeps are.

A search shares its language with sweeps (``base``, ``set``, ``resources``, …); what it has of its own is listed in
:data:`SEARCH_KEYS`. Nothing here writes, and nothing here knows Optuna.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiment_specs.errors import Problems, SpecError
from experiment_specs.language import NAMED_FIELDS, Condition, Questions
from experiment_specs.load import (
    SWEEP_KEYS,
    Sweep,
    as_path,
    build_condition,
    read_merged,
    refuse_idle,
    sweep_of,
    top_name,
)
from experiment_specs.presets import presets, resolve_name
from experiment_specs.reader import MOST_LETTERS, Reader
from experiment_specs.search_language import (
    TEST,
    Confirm,
    Objective,
    Parameter,
    Pruner,
    Replicates,
    Requirement,
    Sampler,
    SearchBudget,
    SearchSettings,
)
from experiment_specs.yaml_source import KeyPath

_SHARED = ("about", "base", "set", "resources", "checkpoints", "priority", "trainer", "questions")
SEARCH_KEYS = {
    "search": "The name under which trials and their runs are recorded; the same name again goes on with it.",
    **{key: SWEEP_KEYS[key] for key in _SHARED},
    "space": "Field (or dotted part) to what it may be: choices, or low and high (log, step), where when holds.",
    "require": "What a point of the space must fulfil: at_most: [a, b], below: [a, b], or never: {field: value}.",
    "objective": "What is maximised: the score, or its difference to a baseline on the same seeds and questions.",
    "replicates": "Seeds of a trial: how many at first, and up to how many where it is promising.",
    "confirm": "How the best are confirmed: on other questions, with seeds that no trial had.",
    "budget": "What the search may spend, in runs or GPU-hours, its confirmation included.",
    "sampler": "What suggests the next trial: tpe, gp, random or grid, or a mapping with its options.",
    "pruner": "Whether runs are ended early that are behind at equal steps, beyond the noise.",
    "parallel": "How many trials may be under way at once.",
    "seed": "Of the sampler.",
}
"""What a search says, key by key."""


@dataclass(frozen=True)
class Search:
    """A search as written. ``sweep``: what all of its runs share, without axes."""

    sweep: Sweep
    settings: SearchSettings
    questions: dict[str, Questions]

    @property
    def name(self) -> str:
        return self.sweep.name

    def trial(self, point: Mapping[str, Any], questions: str) -> Condition:
        """The condition of a point. Raises SpecError where it cannot be."""
        return build_condition(self.sweep, dict(point) | self._data(questions), self.place_of)

    def place_of(self, loc: KeyPath) -> KeyPath:
        """The place in the spec that decided a place in a trial's condition."""
        return _origin(self.settings.space, loc)

    def baseline(self, questions: str) -> Condition:
        """What differences are taken to."""
        at: KeyPath = ("objective", "against")
        against = self.settings.objective.against
        return build_condition(self.sweep, against | self._data(questions), partial(_written_at, at, against))

    def beside(self) -> dict[str, Condition]:
        """Name → condition that the best are held against, on the questions of the confirmation."""
        data, found = self._data(self.settings.confirm.questions), {}
        for name, fields in (self.settings.confirm.beside or {}).items():
            at: KeyPath = ("confirm", "beside", name)
            found[name] = build_condition(self.sweep, fields | data, partial(_written_at, at, fields))
        if self.settings.confirm.beside is None:
            for field in dict.fromkeys(key.partition(".")[0] for key in self.settings.space):
                for name in presets().get(field, {}):
                    found[name] = build_condition(self.sweep, {field: name} | data, lambda loc: ("set", *loc))
        distinct = {condition.id: name for name, condition in reversed(found.items())}
        return {name: found[name] for name in found if distinct[found[name].id] == name}

    def _data(self, questions: str) -> dict[str, Any]:
        return {} if questions == TEST else self.questions[questions].fields


def _origin(space: Mapping[str, Parameter], loc: KeyPath) -> KeyPath:
    for key in sorted(space, key=lambda key: -key.count(".")):
        parts = as_path(key)
        if loc[: len(parts)] == parts:
            return ("space", key, *loc[len(parts) :])
    below = next((key for key in space if as_path(key)[: len(loc)] == loc), None)  # two parts that do not go together
    return ("space", below) if below is not None and loc else ("set", *loc)


def _written_at(at: KeyPath, fields: Mapping[str, Any], loc: KeyPath) -> KeyPath:
    for key in fields:
        parts = as_path(key)
        if loc[: len(parts)] == parts:
            return (*at, key, *loc[len(parts) :])
    return ("set", *loc)


def load_search(path: str | Path) -> Search:
    """Read a search and its bases. Raises :class:`SpecError` as :func:`experiment_specs.load.load_sweep` does."""
    path, problems = Path(path), Problems()
    top, reader = read_merged(path, SEARCH_KEYS, problems)
    settings = _settings(reader, str(path), problems)
    questions = reader.values_by_name("questions", Questions, problems)
    name = problems.value_of(lambda: top_name(top, "search"), "")
    sweep = sweep_of(name, _without_budget(reader), {}, problems)
    problems.raise_all()
    assert settings is not None  # noqa: S101 - what is wrong with them was raised
    search = Search(sweep, settings, questions)
    _check(search, reader)
    return search


def _settings(reader: Reader, own: str, problems: Problems) -> SearchSettings | None:
    """None where a part of them is wrong, which is noted."""
    before = len(problems.found)
    sampler = reader.data.get("sampler") or {}
    sampler = {"name": sampler} if isinstance(sampler, str) else sampler
    has_pruner = reader.data.get("pruner") not in (None, "none")
    parts: dict[str, Any] = {
        "space": _space(reader, own, problems),
        "require": reader.values("require", Requirement, problems),
    }
    reads: dict[str, Callable[[], Any]] = {
        "objective": lambda: reader.value("objective", Objective),
        "replicates": lambda: reader.value("replicates", Replicates),
        "confirm": lambda: reader.value("confirm", Confirm),
        "budget": lambda: reader.value("budget", SearchBudget),
        "sampler": lambda: reader.value_at(("sampler",), sampler, Sampler),
        "pruner": lambda: reader.value("pruner", Pruner) if has_pruner else None,
        "parallel": lambda: _parallel(reader),
        "seed": lambda: reader.integer("seed", 0),
    }
    for key, read in reads.items():
        with problems.noted():
            parts[key] = read()
    return SearchSettings(**parts) if len(problems.found) == before else None


def _parallel(reader: Reader) -> int:
    parallel = reader.integer("parallel", 1)
    if parallel < 1:
        raise reader.fail("is at least 1", ("parallel",), parallel)
    return parallel


def _without_budget(reader: Reader) -> Reader:
    """A sweep's budget has other keys than a search's."""
    return Reader({key: value for key, value in reader.data.items() if key != "budget"}, reader.marks, reader.path)


def _space(reader: Reader, own: str, problems: Problems) -> dict[str, Parameter]:
    space: dict[str, Parameter] = {}
    unsound: list[str] = []
    before = len(problems.found)
    for key, value in problems.value_of(lambda: reader.mapping("space"), dict[str, Any]()).items():
        try:
            parameter = _parameter(reader, key, value)
            refuse_idle(reader, own, key, "the space")
        except SpecError as problem:
            problems.add(problem)
            unsound.append(key)
            continue
        for other, wanted in parameter.when.items():
            if other not in unsound:
                with problems.noted():
                    _check_when(reader, space, ("space", key, "when", other), other, wanted)
        space[key] = parameter
    if not space and len(problems.found) == before:
        problems.add(reader.fail("a search needs a space: fields and what they may be", ("space",)))
    return space


def _parameter(reader: Reader, key: str, value: Any) -> Parameter:
    at: KeyPath = ("space", key)
    reader.known_field(key, at)
    if not isinstance(value, dict):
        raise reader.fail("is choices: […], or low and high", at, value)
    parameter = reader.value_at(at, value, Parameter)
    problems = Problems()
    for index, choice in enumerate(parameter.choices or ()):
        with problems.noted():
            _check_choice(reader, key, choice, (*at, "choices", index))
    problems.raise_all()
    return parameter


def _check_choice(reader: Reader, key: str, choice: Any, at: KeyPath) -> None:
    if not isinstance(choice, str | int | float | bool):
        raise reader.fail(f"{choice!r}: a choice is a name, a number, true or false", at)
    if key in NAMED_FIELDS:
        resolve_name(key, choice, lambda problem, value, accepted: reader.fail(problem, at, value, accepted))


def _check_when(reader: Reader, space: Mapping[str, Parameter], at: KeyPath, other: str, wanted: Any) -> None:
    if other not in space:
        raise reader.fail("is no field of the space that stands above this one", at, other, space)
    choices = space[other].choices
    if choices is None:
        raise reader.fail("is a range: when asks for choices", at)
    for value in wanted if isinstance(wanted, list) else [wanted]:
        if value not in choices:
            raise reader.fail(f"{other} is never {value!r}", at, value, map(str, choices))


def _check(search: Search, reader: Reader) -> None:
    settings = search.settings
    for role, name in (("objective", settings.objective.questions), ("confirm", settings.confirm.questions)):
        if name != TEST and name not in search.questions:
            known = [TEST, *search.questions]
            raise reader.fail("no questions are called so; questions: names them", (role, "questions"), name, known)
    _check_questions(search, reader)
    for name in search.settings.confirm.beside or {}:
        most = MOST_LETTERS - len(search.name) - 1
        if not 0 < len(name) <= most or not name.isprintable() or name != name.strip():
            raise reader.fail(f"a name is up to {most} printable letters", ("confirm", "beside", name))
        if name in ("baseline", "no noise") or name.startswith("trial "):
            raise reader.fail("is a name that the search gives itself", ("confirm", "beside", name))
    _check_requirements(search, reader)
    baseline = search.baseline(search.settings.objective.questions)
    search.beside()
    for point in corners(search):
        try:
            found = search.trial(point, search.settings.objective.questions)
        except SpecError as error:
            spelled = ", ".join(f"{key} {value}" for key, value in point.items())
            raise SpecError(
                f"{error.problem} (at {spelled}; require: can keep points out)", file=error.file, line=error.line,
                key=error.key, value=error.value, accepted=error.accepted,
            ) from error  # fmt: skip
        if found.id == baseline.id and search.settings.objective.maximise == "difference":
            raise reader.fail("holds the baseline itself: the difference to it is nothing", ("space",))
    _check_budget(search, reader)


def _check_requirements(search: Search, reader: Reader) -> None:
    for index, requirement in enumerate(search.settings.require):
        for field in requirement.fields:
            if field not in search.settings.space:
                raise reader.fail("is no field of the space", ("require", index), field, search.settings.space)
        for field, value in (requirement.never or {}).items():
            choices = search.settings.space[field].choices
            if isinstance(value, list | dict) or (choices is not None and value not in choices):
                known = map(str, choices or ())
                raise reader.fail(f"{field} is never {value!r}", ("require", index, "never", field), value, known)
        for side in requirement.at_most or requirement.below or ():
            if isinstance(side, str) and search.settings.space[side].choices is not None:
                raise reader.fail(f"{side} has choices: only ranges have an order", ("require", index))


def _check_questions(search: Search, reader: Reader) -> None:
    """Whoever is chosen for some answers is lucky on those questions: they may not be the ones that are reported."""
    both = (search.settings.objective.questions, search.settings.confirm.questions)
    asked = [search.baseline(name).data.test for name in both]
    if search.settings.objective.questions == TEST:
        raise reader.fail(
            "is the test set, which stays for what is reported; name other questions to select by, under questions",
            ("objective", "questions"),
        )
    if asked[0] == asked[1]:
        raise reader.fail(
            f"asks {asked[1]}, which trials are selected on: what is reported would be luck; name other questions",
            ("confirm", "questions"),
        )


def reserved(search: Search) -> int:
    """Runs of the confirmation."""
    confirm = search.settings.confirm
    beside = {condition.id for condition in search.beside().values()} | {search.baseline(confirm.questions).id}
    return confirm.fresh_seeds * (confirm.top + len(beside))


LEAST_TRIALS = 2


def _check_budget(search: Search, reader: Reader) -> None:
    settings = search.settings
    if settings.budget.runs is None:
        return
    aside = reserved(search)
    needs_baseline = settings.objective.maximise == "difference"
    trials = settings.replicates.first * (LEAST_TRIALS + needs_baseline)
    if settings.budget.runs < aside + trials:
        raise reader.fail(
            f"{settings.budget.runs} runs are too few: the confirmation takes {aside} (confirm.fresh_seeds × top and "
            f"what stands beside), and two trials{' with their baseline' * needs_baseline} {trials}",
            ("budget", "runs"),
        )


MOST_CORNERS = 512
TRIES = 2000


def corners(search: Search) -> list[dict[str, Any]]:
    """Allowed points at the edges of the space; some by chance where there are too many, or none that is allowed.
    Raises SpecError where nothing is allowed."""
    edges = {
        key: list(p.choices) if p.choices is not None else [p.low, p.high] for key, p in search.settings.space.items()
    }  # fmt: skip
    chance = random.Random(0)  # noqa: S311 - which points are looked at
    drawn = [point for _ in range(TRIES) if search.settings.allows(point := search.settings.draw(chance))]
    if not drawn:
        raise search.sweep.error(f"leaves no point of the space, or next to none: of {TRIES} none", ("require",))
    if math.prod(len(values) for values in edges.values()) <= MOST_CORNERS:
        every: Iterable[tuple[Any, ...]] = itertools.product(*edges.values())
        found = [point for values in every if search.settings.allows(point := search.settings.present(values))]
        if found:
            return list({repr(point): point for point in found}.values())
    return drawn[:MOST_CORNERS]


def covering(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of them, in which every value of every field occurs."""
    seen: set[str] = set()
    kept = []
    for point in points:
        if new := {repr(item) for item in point.items()} - seen:
            seen |= new
            kept.append(point)
    return kept
