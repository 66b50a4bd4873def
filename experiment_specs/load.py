"""YAML → :class:`Sweep`: bases merged underneath, presets resolved, interpolation done, every error with file:line.

The public functions are :func:`load_sweep` and :func:`build_condition`. Nothing here writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from experiment_specs.errors import SpecError
from experiment_specs.language import (
    DECIDED_BY,
    NAMED_FIELDS,
    OPTIONAL_FIELDS,
    RESULT_NEUTRAL_OVERRIDES,
    Budget,
    Condition,
    Contrast,
    Exclusion,
    Resources,
    ScoreRule,
    Value,
)
from experiment_specs.yaml_source import KeyPath, Mark, Source, mark_of, read_yaml

PACKAGE = Path(str(files("experiment_specs")))

SWEEP_KEYS = (
    "sweep", "about", "base", "set", "axes", "exclude", "include", "labels", "seeds", "score", "contrasts",
    "resources", "budget", "priority", "trainer",
)  # fmt: skip

V = TypeVar("V", bound=Value)


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
    budget: Budget
    priority: int
    overrides: dict[str, Any]
    """verl keys that cannot change the result; those that can are in ``fixed['trainer']``."""
    marks: dict[KeyPath, Mark] = field(default_factory=dict, repr=False)

    def error(self, problem: str, path: KeyPath, value: Any = None, accepted: Iterable[str] = ()) -> SpecError:
        """A :class:`SpecError` that points to the line where ``path`` was written."""
        mark = mark_of(self.marks, path)
        return SpecError(
            problem,
            file=mark.file if mark else str(self.source),
            line=mark.line if mark else None,
            key=dotted(path),
            value=value,
            accepted=accepted,
        )


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep and its bases. Raises :class:`SpecError` naming file, line, key, value and what is accepted."""
    path = Path(path)
    sources = _with_bases(path)
    marks: dict[KeyPath, Mark] = {}
    merged: dict[str, Any] = {}
    for source in sources:  # the deepest base first
        _check_keys(source, SWEEP_KEYS)
        _refuse_environment(source)
        layer = {k: v for k, v in source.data.items() if k not in ("base", "sweep")}
        merged = _deep_merge(merged, layer)
        for key, mark in source.marks.items():
            marks[key] = mark
    top = sources[-1]
    data = _interpolate(merged, marks, path)
    reader = _Reader(data, marks, path)
    name = top.data.get("sweep")
    if not isinstance(name, str) or not name.strip():
        raise SpecError("a sweep needs a name", file=str(path), line=1, key="sweep", accepted=["sweep: my-sweep"])
    trainer = reader.trainer()
    semantic = {k: v for k, v in trainer.items() if k not in RESULT_NEUTRAL_OVERRIDES}
    fixed = reader.mapping("set")
    if semantic:
        fixed = {**fixed, "trainer": {**fixed.get("trainer", {}), **semantic}}
    return Sweep(
        name=name.strip(),
        about=str(data.get("about", "")),
        source=path,
        text=path.read_text(encoding="utf-8"),
        fixed=fixed,
        axes=reader.axes(),
        exclude=reader.values("exclude", Exclusion),
        include=tuple(reader.mappings("include")),
        labels=reader.labels(),
        seeds=reader.seeds(),
        score=reader.value("score", ScoreRule),
        contrasts=reader.contrasts(),
        resources=reader.value("resources", Resources),
        budget=reader.value("budget", Budget),
        priority=reader.integer("priority", 0),
        overrides={k: v for k, v in trainer.items() if k in RESULT_NEUTRAL_OVERRIDES},
        marks=marks,
    )


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
            raise sweep.error("unknown field of a condition", where((key,)), key, Condition.model_fields)
        resolved[key] = resolve_name(key, value, partial(_fail_at, sweep, where((key,))))
    try:
        return Condition.model_validate(resolved)
    except ValidationError as error:
        raise _translated(error, Condition, sweep, where) from error


def _fail_at(sweep: Sweep, path: KeyPath, problem: str, value: Any, accepted: Iterable[str]) -> SpecError:
    return sweep.error(problem, path, value, accepted)


def resolve_name(key: str, value: Any, fail: Callable[[str, Any, Iterable[str]], SpecError]) -> Any:
    """Replace a preset's name (or ``none``) by its meaning; a mapping may start from one with ``preset:``."""
    if key not in NAMED_FIELDS:
        return value
    known = presets().get(key, {})
    names = [*(["none"] if key in OPTIONAL_FIELDS else []), *known]
    if isinstance(value, bool) or value is None:
        hint = "a boolean (YAML reads off, no, on and yes as booleans)" if isinstance(value, bool) else "empty"
        raise fail(f"{hint} stands where a name belongs", None, names)
    if isinstance(value, str):
        if value == "none" and key in OPTIONAL_FIELDS:
            return None
        if value not in known:
            raise fail(f"{value!r} is not a known {key}", value, names)
        return known[value]
    if isinstance(value, Mapping):
        if "preset" in value:
            if value["preset"] not in known:
                raise fail(f"{value['preset']!r} is not a known {key}", value["preset"], list(known))
            return {**known[value["preset"]], **{k: v for k, v in value.items() if k != "preset"}}
        return dict(value)
    raise fail(f"{value!r} is neither a name nor a mapping", None, names)


def preset_name(key: str, value: Value | None) -> str:
    """The name under which a value is known (``none``, a preset), or a short spelling of it."""
    if value is None:
        return "none"
    dumped = value.model_dump(mode="json")
    for name, meaning in presets().get(key, {}).items():
        if type(value).model_validate(meaning).model_dump(mode="json") == dumped:
            return name
    return ",".join(f"{k}={v}" for k, v in dumped.items() if v is not None)


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Field → name → meaning, from ``presets.yaml``."""
    return read_yaml(PACKAGE / "presets.yaml").data


def by_depth(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Whole fields before parts of them, in whatever order they were written: ``aqn`` before ``aqn.sigma_start``."""
    return sorted(fields.items(), key=lambda item: item[0].count("."))


def assign(target: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``target`` with the (possibly dotted) ``key`` replaced."""
    head, _, rest = key.partition(".")
    if not rest:
        return {**target, head: value}
    if head == "trainer":  # verl's keys have dots of their own
        return {**target, head: {**target.get(head, {}), rest: value}}
    inner = target.get(head)
    if isinstance(inner, str):
        inner = {"preset": inner}
    return {**target, head: assign(inner if isinstance(inner, Mapping) else {}, rest, value)}


def dotted(path: KeyPath) -> str:
    """``("axes", "dtype", 1)`` → ``axes.dtype[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


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
    available = sorted(f"bases/{p.name}" for p in (PACKAGE / "bases").glob("*.yaml"))
    if not isinstance(base, str):
        raise SpecError("is not a path", file=mark.file, line=mark.line, key="base", value=base, accepted=available)
    for folder in (source.path.parent, PACKAGE):
        if (folder / base).is_file():
            return folder / base
    raise SpecError("no such base", file=mark.file, line=mark.line, key="base", value=base, accepted=available)


def _check_keys(source: Source, known: Iterable[str]) -> None:
    for key in source.data:
        if key not in known:
            mark = source.marks.get((key,), Mark(str(source.path), 1))
            raise SpecError("unknown key", file=mark.file, line=mark.line, key=str(key), value=key, accepted=known)


def _refuse_environment(source: Source) -> None:
    for path, mark in source.marks.items():
        value: Any = source.data
        for part in path:
            value = value[part]
        if isinstance(value, str) and re.search(r"\$\{\s*oc\.", value):
            raise SpecError(
                "a spec must mean the same everywhere: ${oc.…} would read this machine",
                file=mark.file, line=mark.line, key=dotted(path),
            )  # fmt: skip


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


@dataclass(frozen=True)
class _Reader:
    """Typed access to the merged document; every failure points to its line."""

    data: dict[str, Any]
    marks: dict[KeyPath, Mark]
    path: Path

    def fail(self, problem: str, path: KeyPath, value: Any = None, accepted: Iterable[str] = ()) -> SpecError:
        mark = mark_of(self.marks, path)
        return SpecError(
            problem, file=mark.file if mark else str(self.path), line=mark.line if mark else None,
            key=dotted(path), value=value, accepted=accepted,
        )  # fmt: skip

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.data.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.fail("must be a mapping", (key,), value)
        return value

    def mappings(self, key: str) -> list[dict[str, Any]]:
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fail("must be a list of mappings", (key,), value)
        for index, item in enumerate(value):
            if not isinstance(item, dict):
                raise self.fail("must be a mapping of fields to values", (key, index), item)
        return value

    def integer(self, key: str, default: int) -> int:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(f"{value!r} is not a whole number", (key,), value)
        return value

    def value(self, key: str, kind: type[V]) -> V:
        return self.value_at((key,), self.mapping(key), kind)

    def values(self, key: str, kind: type[V]) -> tuple[V, ...]:
        return tuple(self.value_at((key, i), item, kind) for i, item in enumerate(self.mappings(key)))

    def value_at(self, at: KeyPath, item: Any, kind: type[V]) -> V:
        try:
            return kind.model_validate(_tuples(item, kind))
        except ValidationError as error:
            raise _translated(error, kind, self, lambda loc: (*at, *loc)) from error

    def trainer(self) -> dict[str, Any]:
        """verl keys, dotted. Those that a field of the condition decides are refused: a thing is said in one place."""
        trainer = self.mapping("trainer")
        for key, value in trainer.items():
            if isinstance(value, dict):
                raise self.fail("write verl's keys dotted, as algorithm.gamma: 1.0", ("trainer", key))
            decided = DECIDED_BY.get(key)
            if decided is not None:
                raise self.fail(f"is decided by {decided}; say it there", ("trainer", key))
        return trainer

    def contrasts(self) -> dict[str, Contrast]:
        found = {}
        for name, value in self.mapping("contrasts").items():
            where: KeyPath = ("contrasts", name)
            contrast = self.value_at(where, value, Contrast)
            for key in (contrast.vary, *contrast.within):
                head = key.partition(".")[0]
                if head not in Condition.model_fields:
                    raise self.fail("unknown field of a condition", (*where, "vary"), head, Condition.model_fields)
            for side, arm in (("from", contrast.from_), ("to", contrast.to)):
                resolve_name(contrast.vary, arm, partial(self._fail_at, (*where, side)))
            found[name] = contrast
        return found

    def _fail_at(self, path: KeyPath, problem: str, value: Any, accepted: Iterable[str]) -> SpecError:
        return self.fail(problem, path, value, accepted)

    def axes(self) -> dict[str, list[Any]]:
        axes = self.mapping("axes")
        for key, values in axes.items():
            if not isinstance(values, list) or not values:
                raise self.fail("an axis is a list of one value or more", ("axes", key), values)
            head = key.partition(".")[0]
            if head not in Condition.model_fields:
                raise self.fail("unknown field of a condition", ("axes", key), head, Condition.model_fields)
        return axes

    def labels(self) -> dict[str, dict[str, Any]]:
        labels = self.mapping("labels")
        for name, match in labels.items():
            if not isinstance(match, dict):
                raise self.fail("a label is a mapping of fields to values", ("labels", name), match)
        return labels

    def seeds(self) -> tuple[int, ...]:
        seeds = self.data.get("seeds", [1])
        if not isinstance(seeds, list) or not seeds:
            raise self.fail("must be a list of whole numbers, as [1, 2, 3]", ("seeds",), seeds)
        for index, seed in enumerate(seeds):
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
                raise self.fail(f"{seed!r} is not a whole number from 0 to 2147483647", ("seeds", index), seed)
            if seed in seeds[:index]:
                raise self.fail(f"seed {seed} is written twice", ("seeds", index), seed)
        return tuple(seeds)


def _tuples(item: Any, kind: type[Value]) -> Any:
    """Strict models want tuples where YAML gives lists."""
    if not isinstance(item, dict):
        return item
    return {k: tuple(v) if isinstance(v, list) and k in kind.model_fields else v for k, v in item.items()}


def _translated(
    error: ValidationError, kind: type[Value], owner: Sweep | _Reader, where: Callable[[KeyPath], KeyPath]
) -> SpecError:
    """pydantic's first complaint, in the words of the language and with the line it comes from."""
    first = error.errors()[0]
    loc: KeyPath = tuple(first["loc"])
    fail = owner.error if isinstance(owner, Sweep) else owner.fail
    context = first.get("ctx", {})
    value = first.get("input")
    if first["type"] == "extra_forbidden":
        parent = _fields_at(kind, loc[:-1])
        return fail("unknown key", where(loc), str(loc[-1]), parent)
    if first["type"] == "missing":
        return fail(f"{loc[-1]} is missing", where(loc[:-1]), None, [])
    if first["type"] == "literal_error":
        accepted = [part.strip(" '") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
        if isinstance(value, bool):
            return fail(
                "is a boolean (YAML reads off, no, on and yes so) where a name belongs", where(loc), None, accepted
            )
        return fail(f"{value!r} is not accepted", where(loc), value, accepted)
    message = str(context.get("error", first["msg"]))
    shown = f"{value!r}: " if not isinstance(value, dict | BaseModel) else ""
    return fail(f"{shown}{message[0].lower()}{message[1:]}", where(loc))


def _fields_at(kind: type[Value], loc: KeyPath) -> list[str]:
    current: Any = kind
    for part in loc:
        annotation = current.model_fields[part].annotation if part in getattr(current, "model_fields", {}) else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, Value)), None)
        if current is None:
            return []
    return [f.alias or n for n, f in current.model_fields.items()]
