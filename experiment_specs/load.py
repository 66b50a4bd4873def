"""YAML → :class:`Sweep`: bases merged underneath, presets resolved, interpolation done, every error with file:line.

The public functions are :func:`load_sweep` and :func:`build_condition`. Nothing here writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from experiment_specs.errors import SpecError, nearest
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
from experiment_specs.presets import PACKAGE, resolve_name
from experiment_specs.reader import Reader, problem_with_verl_key, translated
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


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep and its bases. Raises :class:`SpecError` naming file, line, key, value and what is accepted."""
    top, reader = read_merged(Path(path), SWEEP_KEYS)
    reader.values_by_name("questions", Questions)
    return sweep_of(top_name(top, "sweep"), reader, axes=_decided_once(reader, str(path)))


def read_merged(path: Path, keys: Iterable[str]) -> tuple[Source, Reader]:
    """A spec with its bases underneath, interpolated. ``keys``: its own; a base has those of a sweep."""
    sources = _with_bases(path)
    marks: dict[KeyPath, Mark] = {}
    merged: dict[str, Any] = {}
    for source in sources:  # the deepest base first
        _check_keys(source, keys if source is sources[-1] else SWEEP_KEYS)
        _refuse_computed(source)
        layer = {k: v for k, v in source.data.items() if k not in ("base", "sweep")}
        marks |= source.marks
        if isinstance(layer.get("set"), dict):
            for at, mark in source.marks.items():
                if at[:1] == ("set",) and (parts := _parts(at)) != at:
                    if parts in source.marks:
                        raise SpecError("written twice", file=mark.file, line=mark.line, key=dotted(parts))
                    marks[parts] = mark
            layer["set"] = _nested(layer["set"])
        merged = _deep_merge(merged, layer)
    return sources[-1], Reader(_interpolate(merged, marks, path), marks, path)


def sweep_of(name: str, reader: Reader, axes: dict[str, list[Any]]) -> Sweep:
    """What a merged document says of all runs, and these axes."""
    path, marks = reader.path, reader.marks
    trainer = reader.trainer()
    semantic = {k: v for k, v in trainer.items() if k not in RESULT_NEUTRAL_OVERRIDES}
    fixed = reader.mapping("set")
    if semantic:
        own = fixed.get("trainer", {})
        if not isinstance(own, dict):
            raise reader.fail("must be a mapping of verl's keys to values", ("set", "trainer"), own)
        fixed = {**fixed, "trainer": {**own, **semantic}}
    return Sweep(
        name=name,
        about=reader.text_of("about"),
        source=path,
        text=path.read_text(encoding="utf-8"),
        fixed=fixed,
        axes=axes,
        exclude=reader.values("exclude", Exclusion),
        include=tuple(reader.mappings("include")),
        labels=reader.labels(),
        seeds=reader.seeds(),
        score=reader.value("score", ScoreRule),
        contrasts=reader.contrasts(),
        resources=reader.value("resources", Resources),
        checkpoints=reader.value("checkpoints", Checkpoints),
        budget=reader.value("budget", Budget),
        priority=reader.integer("priority", 0),
        overrides={k: v for k, v in trainer.items() if k in RESULT_NEUTRAL_OVERRIDES},
        marks=marks,
    )


def _decided_once(reader: Reader, own: str) -> dict[str, list[Any]]:
    """The axes. What the same file says under ``set`` too would silently have no effect."""
    axes = reader.axes()
    for key in axes:
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
    """A complete condition from (possibly dotted) fields on top of the sweep's ``set``.

    ``where`` maps a path inside the condition to the path in the spec that decided it, for error messages.
    """
    raw: dict[str, Any] = dict(sweep.fixed)
    for key, value in by_depth(fields):
        raw = assign(raw, key, value)
    resolved: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in Condition.model_fields:
            known = parts_by_name().get(key) or parts_by_name().get(nearest(key, parts_by_name()) or "", [])
            problem = "unknown field of a condition" + (f"; did you mean {known[0]!r}?" if known else "")
            raise sweep.error(problem, where((key,)), None, Condition.model_fields)
        resolved[key] = resolve_name(key, value, partial(_fail_at, sweep, where((key,))))
    resolved = nones(Condition, resolved)
    _check_trainer(sweep, resolved.get("trainer", {}), where)
    try:
        return Condition.model_validate(resolved)
    except ValidationError as error:
        raise translated(error, Condition, sweep.error, where) from error


def _check_trainer(sweep: Sweep, trainer: Any, where: Callable[[KeyPath], KeyPath]) -> None:
    """verl's keys of one condition, wherever they were written."""
    if not isinstance(trainer, Mapping):
        raise sweep.error("must be a mapping of verl's keys to values", where(("trainer",)), trainer)
    for key, value in trainer.items():
        problem = problem_with_verl_key(key, value)
        if problem is None and key in RESULT_NEUTRAL_OVERRIDES:
            problem = "does not change the result: write it under trainer, for all runs"
        if problem is not None:
            raise sweep.error(problem, where(("trainer", key)))


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


def _with_bases(path: Path) -> list[Source]:
    chain: list[Source] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        source = read_yaml(current)
        if current.resolve() in seen:
            mark = source.marks[("base",)]
            raise SpecError("a base refers back to itself", file=mark.file, line=mark.line, key="base")
        seen.append(current.resolve())
        chain.append(source)
        current = _base_of(source)
    return chain[::-1]


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
    if Path(base).is_absolute() or (found is not None and not _is_below(found, (*places, Path.cwd()))):
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


def _check_keys(source: Source, known: Iterable[str]) -> None:
    for key in source.data:
        if key not in known:
            mark = source.marks.get((key,), Mark(str(source.path), 1))
            other = {"search": "this is a search: aqn search runs it", "sweep": "this is a sweep: aqn submit runs it"}
            if key in other and key not in known:
                raise SpecError(other[key], file=mark.file, line=mark.line)
            if key.partition(".")[0] in Condition.model_fields:
                raise SpecError(
                    "is a field of a condition: write it under set", file=mark.file, line=mark.line, key=key
                )
            raise SpecError("unknown key", file=mark.file, line=mark.line, key=str(key), value=key, accepted=known)


_REFERENCE = re.compile(r"\$\{[A-Za-z_][\w-]*(?:\.[\w-]+|\[\d+\])*\}")


def _refuse_computed(source: Source) -> None:
    """A value may name another key of the spec, ``${set.epochs}``; nothing is called, and nothing is read from outside.

    OmegaConf's resolvers would (``${oc.env:…}``), and a nested reference could put the name of one together.
    """
    for path, mark in source.marks.items():
        value: Any = source.data
        for part in path:
            value = value[part]
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        for text in texts:
            if "${" in _REFERENCE.sub("", text) or "\\${" in text:
                raise SpecError(
                    "a spec must mean the same everywhere: ${other.key} names another key of it, and nothing else is"
                    " computed",
                    file=mark.file, line=mark.line, key=dotted(path),
                )  # fmt: skip


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


def _interpolate(data: dict[str, Any], marks: dict[KeyPath, Mark], path: Path) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(data), resolve=True)
    except OmegaConfBaseException as error:
        key = tuple(part for part in str(getattr(error, "full_key", "") or "").replace("[", ".[").split(".") if part)
        keys: KeyPath = tuple(int(p[1:-1]) if p.startswith("[") else p for p in key)
        mark = mark_of(marks, keys)
        problem = str(error).splitlines()[0]
        raise SpecError(
            problem, file=mark.file if mark else str(path), line=mark.line if mark else None, key=dotted(keys)
        ) from error
    assert isinstance(resolved, dict)  # noqa: S101 - the input was a mapping
    return {str(k): v for k, v in resolved.items()}
