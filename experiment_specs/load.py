"""YAML → :class:`Sweep`: bases merged underneath, presets resolved, interpolation done, every error with file:line.

The public functions are :func:`load_sweep` and :func:`build_condition`. Nothing here writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from experiment_specs.errors import Problems, SpecError, nearest
from experiment_specs.language import (
    NAMED_FIELDS,
    Budget,
    Checkpoints,
    Condition,
    Contrast,
    Exclusion,
    Questions,
    Resources,
    ScoreRule,
    Value,
    parts_by_name,
    record_in,
)
from experiment_specs.paths import depends_on_user, expand_paths
from experiment_specs.presets import PACKAGE, resolve_name
from experiment_specs.reader import Reader, refuse_verl_key, translated
from experiment_specs.verl_keys import RESULT_NEUTRAL_OVERRIDES
from experiment_specs.yaml_source import KeyPath, Mark, Source, dotted, mark_of, read_yaml

SWEEP_KEYS = {
    "sweep": "The name under which the runs are recorded; the same name again adds to them.",
    "about": "The question that the sweep asks, in a sentence.",
    "base": "A spec that lies underneath: one of the shipped ones, or a file beside this one. Later keys win.",
    "set": "Fields of the condition that all runs share. A dotted key, as optimiser.lr, sets a part of one.",
    "axes": "Field (or dotted part) to the values that it takes: the sweep is the product of all axes.",
    "exclude": "Conditions of the product that are left out, each with its reason.",
    "include": "Conditions beside the product: fields on top of set, and why.",
    "labels": "Name to the fields that pick its condition; each must match exactly one.",
    "seeds": "Every condition is run once with each of them; seeds are what differences are judged by.",
    "score": "Which eval is the score, and in which numeric mode: declared before the run.",
    "contrasts": "What the sweep wants to know: what varying one field does, all else equal.",
    "resources": "What one run holds.",
    "checkpoints": "Which checkpoints a run leaves on disk, and how often one is saved to go on from.",
    "budget": "What the sweep may spend: no run starts, or goes on, past it.",
    "priority": "Runs of a higher one start first.",
    "trainer": "Keys of verl's own, dotted, that no field decides.",
    "questions": "Name to the data of another set of questions than the test set's: a search selects on one of them.",
}
"""What a sweep says, key by key."""


@dataclass(frozen=True)
class Sweep:
    """A sweep as written, checked as far as one can without expanding it."""

    name: str
    about: str
    source: Path
    text: str
    fixed: dict[str, Any]
    axes: dict[str, list[Any]]
    exclude: tuple[Exclusion, ...]
    include: tuple[dict[str, Any], ...]
    labels: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    score: ScoreRule
    contrasts: dict[str, Contrast]
    resources: Resources
    checkpoints: Checkpoints
    budget: Budget
    priority: int
    overrides: dict[str, Any]
    """verl keys that cannot change the result; those that can are in ``fixed['trainer']``."""
    marks: dict[KeyPath, Mark] = field(default_factory=dict, repr=False)

    def error(self, problem: str, path: KeyPath, value: Any = None, accepted: Iterable[str] = ()) -> SpecError:
        """A :class:`SpecError` that points to the line where ``path`` was written."""
        mark = self._mark(path)
        return SpecError(
            problem,
            file=mark.file if mark else str(self.source),
            line=mark.line if mark else None,
            key=dotted(path),
            value=value,
            accepted=accepted,
        )

    def says(self, path: KeyPath) -> bool:
        """Is it this sweep's own file that decides the path, not a base?"""
        return any(at[: len(path)] == path and mark.file == str(self.source) for at, mark in self.marks.items())

    def _mark(self, path: KeyPath) -> Mark | None:
        """Of the path, or, where that is a base's, of the part of it that this sweep itself says otherwise."""
        own = str(self.source)
        if (exact := self.marks.get(path)) is not None and exact.file == own:
            return exact
        below = (m for p, m in self.marks.items() if m.file == own and p[: len(path)] == path)
        return next(below, None) or mark_of(self.marks, path)


def load_sweep(path: str | Path, problems: Problems | None = None) -> Sweep:
    """Read a sweep and its bases. Raises :class:`SpecError` naming file, line, key, value and what is accepted.

    ``problems``: what is wrong is noted there and left out of the sweep, so that the rest can be checked too. Raised
    all the same is what leaves nothing to check: a file or a base that cannot be read.
    """
    noted = problems if problems is not None else Problems()
    top, reader = read_merged(Path(path), SWEEP_KEYS, noted)
    reader.values_by_name("questions", Questions, noted)
    name = noted.value_of(lambda: top_name(top, "sweep"), "")
    sweep = sweep_of(name, reader, _decided_once(reader, str(path), noted), noted)
    if problems is None or not reader.complete:
        noted.raise_all()
    return sweep


def read_merged(path: Path, keys: Iterable[str], problems: Problems) -> tuple[Source, Reader]:
    """A spec with its bases underneath, interpolated. ``keys``: its own; a base has those of a sweep."""
    sources, complete = _with_bases(path, problems)
    marks: dict[KeyPath, Mark] = {}
    merged: dict[str, Any] = {}
    for source in sources:  # the deepest base first
        _check_keys(source, keys if source is sources[-1] else SWEEP_KEYS, problems)
        data = _without_computed(source, problems)
        layer = {k: v for k, v in data.items() if k not in ("base", "sweep")}
        marks |= source.marks
        if isinstance(layer.get("set"), dict):
            for at, mark in source.marks.items():
                if at[:1] == ("set",) and (parts := _parts(at)) != at:
                    if parts in source.marks:
                        problems.add(SpecError("written twice", file=mark.file, line=mark.line, key=dotted(parts)))
                    marks[parts] = mark
            layer["set"] = _nested(layer["set"])
        elif layer.get("set") is not None:
            mark = source.marks[("set",)]
            problems.add(SpecError("must be a mapping", file=mark.file, line=mark.line, key="set"))
            del layer["set"]
        merged = _deep_merge(merged, layer)
    return sources[-1], Reader(_interpolate(merged, marks, path, problems), marks, path, complete)


def sweep_of(name: str, reader: Reader, axes: dict[str, list[Any]], problems: Problems) -> Sweep:
    """What a merged document says of all runs, and these axes. What is wrong is noted and left out."""
    path, marks = reader.path, reader.marks
    trainer = reader.trainer(problems)
    semantic = {k: v for k, v in trainer.items() if k not in RESULT_NEUTRAL_OVERRIDES}
    fixed = reader.mapping("set")
    own = fixed.get("trainer", {})
    if isinstance(own, dict):
        own = reader.verl_keys(own.items(), ("set", "trainer"), problems)
    else:
        problems.add(reader.fail("must be a mapping of verl's keys to values", ("set", "trainer"), own))
        own = {}
    if semantic or own or "trainer" in fixed:
        fixed = {**fixed, "trainer": {**own, **semantic}}
    return Sweep(
        name=name,
        about=problems.value_of(lambda: reader.text_of("about"), ""),
        source=path,
        text=path.read_text(encoding="utf-8"),
        fixed=fixed,
        axes=axes,
        exclude=reader.values("exclude", Exclusion, problems),
        include=tuple(problems.value_of(lambda: reader.mappings("include"), [])),
        labels=reader.labels(problems),
        seeds=problems.value_of(reader.seeds, (1,)),
        score=problems.value_of(lambda: reader.value("score", ScoreRule), ScoreRule()),
        contrasts=reader.contrasts(problems),
        resources=problems.value_of(lambda: reader.value("resources", Resources), Resources()),
        checkpoints=problems.value_of(lambda: reader.value("checkpoints", Checkpoints), Checkpoints()),
        budget=problems.value_of(lambda: reader.value("budget", Budget), Budget()),
        priority=problems.value_of(lambda: reader.integer("priority", 0), 0),
        overrides={k: v for k, v in trainer.items() if k in RESULT_NEUTRAL_OVERRIDES},
        marks=marks,
    )


def _decided_once(reader: Reader, own: str, problems: Problems) -> dict[str, list[Any]]:
    """The axes. What the same file says under ``set`` too would silently have no effect."""
    axes = reader.axes(problems)
    for key in axes:
        with problems.noted():
            refuse_idle(reader, own, key, "the axis")
    return axes


def refuse_idle(reader: Reader, own: str, key: str, by: str) -> None:
    """An error where the file itself also says under ``set`` what something else decides."""
    at = ("set", *as_path(key))
    said = (path for path, mark in reader.marks.items() if path[: len(at)] == at and mark.file == own)
    if (idle := next(said, None)) is not None:
        raise reader.fail(f"has no effect: {by} {key} decides it", idle)


def build_condition(
    sweep: Sweep, fields: Mapping[str, Any], where: Callable[[KeyPath], KeyPath] = lambda loc: ("set", *loc)
) -> Condition:
    """A complete condition from (possibly dotted) fields on top of the sweep's ``set``. Raises all that is wrong with
    it at once.

    ``where`` maps a path inside the condition to the path in the spec that decided it, for error messages.
    """
    raw: dict[str, Any] = dict(sweep.fixed)
    for key, value in by_depth(fields):
        raw = assign(raw, key, value)
    problems, wrong = Problems(), set[str]()
    resolved: dict[str, Any] = {}
    for key, value in raw.items():
        try:
            resolved[key] = _resolved_field(sweep, key, value, where)
        except SpecError as problem:
            problems.add(problem)
            wrong |= {key, nearest(key, Condition.model_fields) or key}
    resolved = nones(Condition, resolved)
    try:
        condition: Condition | None = Condition.model_validate(resolved)
    except ValidationError as error:
        condition = None
        for told in translated(error, Condition, resolved, sweep.error, where, without=wrong):
            problems.add(told)
    problems.raise_all()
    assert condition is not None  # noqa: S101 - what is wrong with it was raised
    return condition


def _resolved_field(sweep: Sweep, key: str, value: Any, where: Callable[[KeyPath], KeyPath]) -> Any:
    """A field's value with presets, paths and verl's keys checked."""
    if key not in Condition.model_fields:
        known = parts_by_name().get(key) or parts_by_name().get(nearest(key, parts_by_name()) or "", [])
        problem = "unknown field of a condition" + (f"; did you mean {known[0]!r}?" if known else "")
        raise sweep.error(problem, where((key,)), None, Condition.model_fields)
    if key == "trainer":
        _check_trainer(sweep, value, where)
    meaning = resolve_name(key, value, partial(_fail_at, sweep, where((key,))))
    return expand_paths(key, meaning, lambda part, problem, path: sweep.error(problem, where(as_path(part)), path))


def _check_trainer(sweep: Sweep, trainer: Any, where: Callable[[KeyPath], KeyPath]) -> None:
    """verl's keys of one condition, wherever they were written."""
    if not isinstance(trainer, Mapping):
        raise sweep.error("must be a mapping of verl's keys to values", where(("trainer",)), trainer)
    problems = Problems()
    for key, value in trainer.items():
        at = where(("trainer", key))
        with problems.noted():
            refuse_verl_key(key, value, partial(_error_at, sweep, at))
            if key in RESULT_NEUTRAL_OVERRIDES:
                raise sweep.error("does not change the result: write it under trainer, for all runs", at)
    problems.raise_all()


def _error_at(sweep: Sweep, path: KeyPath, problem: str, value: Any) -> SpecError:
    return sweep.error(problem, path, value)


def nones(kind: type[Value], raw: Any) -> Any:
    """A mapping with the word ``none`` replaced by None wherever a field may be absent."""
    if not isinstance(raw, Mapping):
        return raw
    found = {}
    for key, value in raw.items():
        annotation = kind.model_fields[key].annotation if key in kind.model_fields else None
        inner = record_in(annotation)
        absent = value == "none" and type(None) in getattr(annotation, "__args__", ())
        found[key] = None if absent else nones(inner, value) if inner is not None else value
    return found


def _fail_at(sweep: Sweep, path: KeyPath, problem: str, value: Any, accepted: Iterable[str]) -> SpecError:
    return sweep.error(problem, path, value, accepted)


def by_depth(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Whole fields before parts of them, in whatever order they were written: ``aqn`` before ``aqn.sigma_start``."""
    return sorted(fields.items(), key=lambda item: item[0].count("."))


def as_path(key: str) -> tuple[str, ...]:
    """``optimiser.lr`` → two words; of ``trainer.algorithm.gamma`` the rest is one, because verl's keys have dots."""
    head, _, rest = key.partition(".")
    return (head, rest) if head == "trainer" and rest else tuple(key.split("."))


def assign(target: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``target`` with the (possibly dotted) ``key`` replaced; what has no parts stays, for validation."""
    head, _, rest = key.partition(".")
    if not rest:
        return {**target, head: value}
    inner = target.get(head)
    if isinstance(inner, str) and head in NAMED_FIELDS:
        inner = {"preset": inner}
    if not isinstance(inner, Mapping | None):
        return dict(target)
    inner = inner or {}
    if head == "trainer":  # verl's keys have dots of their own
        return {**target, head: {**inner, rest: value}}
    return {**target, head: assign(inner, rest, value)}


def _with_bases(path: Path, problems: Problems) -> tuple[list[Source], bool]:
    """The spec and what lies underneath, the deepest first, and whether all of them could be read."""
    chain: list[Source] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        try:
            source = read_yaml(current, problems=problems)
        except SpecError as problem:
            if not chain:
                raise
            problems.add(problem)
            return chain[::-1], False
        if current.resolve() in seen:
            mark = source.marks[("base",)]
            problems.add(SpecError("a base refers back to itself", file=mark.file, line=mark.line, key="base"))
            return chain[::-1], False
        seen.append(current.resolve())
        chain.append(source)
        try:
            current = _base_of(source)
        except SpecError as problem:
            problems.add(problem)
            return chain[::-1], False
    return chain[::-1], True


def _base_of(source: Source) -> Path | None:
    base = source.data.get("base")
    if base is None:
        return None
    mark = source.marks[("base",)]
    available = shipped_bases()
    if not isinstance(base, str) or "\0" in base:
        raise SpecError("is not a path", file=mark.file, line=mark.line, key="base", value=base, accepted=available)
    places = (source.path.parent, PACKAGE)
    found = next((folder / base for folder in places if _is_file(folder / base)), None)
    if (
        Path(base).is_absolute()
        or depends_on_user(base)
        or (found is not None and not _is_below(found, (*places, Path.cwd())))
    ):
        raise SpecError(
            "a base lies beside the spec, below the current folder, or among the shipped ones, by a relative path",
            file=mark.file, line=mark.line, key="base", value=base,
        )  # fmt: skip
    if found is None:
        meant = next((name for name in available if Path(name).stem == Path(base).stem), base)
        problem = f"there is no base {base!r}"
        raise SpecError(problem, file=mark.file, line=mark.line, key="base", value=meant, accepted=available)
    return found


def shipped_bases() -> list[str]:
    """As a spec names them."""
    return sorted(f"bases/{p.name}" for p in (PACKAGE / "bases").glob("*.yaml"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system, for one
        return False


def _is_below(path: Path, folders: Iterable[Path]) -> bool:
    """Followed through links: what a spec reads lies where it seems to lie."""
    return any(path.resolve().is_relative_to(folder.resolve()) for folder in folders)


def _check_keys(source: Source, known: Iterable[str], problems: Problems) -> None:
    other = {"search": "this is a search: aqn search runs it", "sweep": "this is a sweep: aqn submit runs it"}
    for key in source.data:
        if key in known:
            continue
        mark = source.marks.get((key,), Mark(str(source.path), 1))
        if key in other:
            raise SpecError(other[key], file=mark.file, line=mark.line)
        if key.partition(".")[0] in Condition.model_fields:
            problem = "is a field of a condition: write it under set"
            problems.add(SpecError(problem, file=mark.file, line=mark.line, key=key))
        else:
            told = SpecError("unknown key", file=mark.file, line=mark.line, key=str(key), value=key, accepted=known)
            problems.add(told)


_REFERENCE = re.compile(r"\$\{[A-Za-z_][\w-]*(?:\.[\w-]+|\[\d+\])*\}")


def _without_computed(source: Source, problems: Problems) -> dict[str, Any]:
    """The data without values that something else than a reference to a key would have to make, which are noted.

    A value may name another key of the spec, ``${set.epochs}``; nothing is called, and nothing is read from outside.
    OmegaConf's resolvers would (``${oc.env:…}``), and a nested reference could put the name of one together.
    """
    data = source.data
    for path, mark in source.marks.items():
        value: Any = source.data
        for part in path:
            value = value[part]
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        if any("${" in _REFERENCE.sub("", text) or "\\${" in text for text in texts):
            problem = SpecError(
                "a spec must mean the same everywhere: ${other.key} names another key of it, and nothing else is"
                " computed (a path may begin with ~ or $NAME)",
                file=mark.file, line=mark.line, key=dotted(path),
            )  # fmt: skip
            problems.add(problem, hides=True)
            data = _replaced(data, path, "" if isinstance(value, str) else {})
    return data


def _replaced(data: Any, path: KeyPath, value: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return value
    head, *rest = path
    if isinstance(data, list):
        return [_replaced(old, tuple(rest), value) if index == head else old for index, old in enumerate(data)]
    return {**data, head: _replaced(data[head], tuple(rest), value)} if head in data else data


_NAME = re.compile(r"\w[\w .+-]{0,99}")


def top_name(top: Source, kind: str) -> str:
    """What the spec calls itself. ``kind``: the key that says so, sweep or search."""
    mark = top.marks.get((kind,), Mark(str(top.path), 1))
    name = top.data.get(kind)
    if name is None:
        raise SpecError(f"a {kind} needs a name, as {kind}: my-{kind}", file=mark.file, line=mark.line, key=kind)
    if not isinstance(name, str) or not _NAME.fullmatch(name.strip()):
        raise SpecError(
            f"{name!r} is no name for a {kind}: up to 100 letters, digits, blanks and . _ + -",
            file=mark.file, line=mark.line, key=kind,
        )  # fmt: skip
    return name.strip()


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """``optimiser.lr: 1e-5`` is ``optimiser: {lr: 1e-5}``."""
    nested: dict[str, Any] = {}
    for key, value in by_depth(fields):
        nested = assign(nested, key, value)
    return nested


def _parts(path: KeyPath) -> KeyPath:
    """A path below ``set`` with a dotted key taken apart."""
    if len(path) < 2:
        return path
    return (path[0], *as_path(str(path[1])), *path[2:])


def _deep_merge(under: dict[str, Any], over: dict[str, Any], *, top: bool = True) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, str) and isinstance(value, dict) and key in NAMED_FIELDS and "preset" not in value:
            below = {"preset": below} if below != "none" else None
        keeps = top and key in ("axes", "labels", "contrasts")  # a sweep's own; a base's are replaced whole
        if isinstance(below, dict) and isinstance(value, dict) and not keeps and "preset" not in value:
            merged[key] = _deep_merge(below, value, top=False)
        else:
            merged[key] = value
    return merged


def _interpolate(data: dict[str, Any], marks: dict[KeyPath, Mark], path: Path, problems: Problems) -> dict[str, Any]:
    """References replaced by what they name; those that name nothing are noted, and empty."""
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(data), resolve=True)
    except OmegaConfBaseException as error:
        failing = dict(_failing(OmegaConf.create(data), data, ()))
        if not failing:
            raise SpecError(str(error).splitlines()[0], file=str(path)) from error
        named = {at: set(_named(data, at)) for at in failing}
        first = [at for at in failing if not named[at] & {dotted(other) for other in failing}]
        for at, why in failing.items():
            mark = mark_of(marks, at)
            file, line = (mark.file, mark.line) if mark else (str(path), None)
            problem = SpecError(why, file=file, line=line, key=dotted(at))
            if at in (first or failing):
                problems.add(problem)
            problems.hide(problem)
            data = _replaced(data, at, "")
        return _interpolate(data, marks, path, problems)
    assert isinstance(resolved, dict)  # noqa: S101 - the input was a mapping
    return {str(k): v for k, v in resolved.items()}


def _failing(node: Any, data: Any, at: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Place → why, of every reference that cannot be followed. ``node``: OmegaConf's for ``data``."""
    if isinstance(data, str):
        return
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        try:
            below = node[key]
        except OmegaConfBaseException as error:
            yield (*at, key), str(error).splitlines()[0] + _environment(value)
        else:
            yield from _failing(below, value, (*at, key))


def _named(data: Any, at: KeyPath) -> list[str]:
    for part in at:
        data = data[part]
    return [found[2:-1] for found in _REFERENCE.findall(data)] if isinstance(data, str) else []


def _environment(value: Any) -> str:
    names = [name for name in map(str, _REFERENCE.findall(value)) if name[2:-1] in os.environ]
    return f"; the environment's is written ${names[0][2:-1]}, in a path only" if names else ""
