"""Names of other packages that our source imports, subclasses, patches or reaches into. Reads source, imports nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("workers", "orchestrator", "db", "dashboards", "experiment_specs")
WATCHED = ("verl", "vllm", "ray", "transfer_queue")
"""Every name of these is a use."""
PATCHED_ONLY = ("transformers", "peft", "torch", "tensordict")
"""Of these only what is assigned to, or reached into by a name with an underscore; of the first two, subclasses too."""
SUBCLASSED = ("transformers", "peft")
READERS = {"RAY": "ray", "VERL": "verl", "VLLM": "vllm", "TRANSFER_QUEUE": "verl"}
"""Beginning of an environment variable → the package that reads it."""
VARIABLE = re.compile(rf"({'|'.join(READERS)})_(?:\w*[A-Za-z0-9])")
CONTAINERS = frozenset(dir(dict)) | frozenset(dir(list)) | frozenset(dir(str))

Kind = Literal["name", "maybe", "word"]


@dataclass(frozen=True, order=True)
class Use:
    name: str
    """Dotted, from the package on; of a word ``package:word``."""
    kind: Kind
    """``maybe``: a method of ours on a subclass of theirs, which is a use only where theirs has one of that name.
    ``word``: an environment variable or a key, which the package reads as text."""
    where: str
    how: str

    @property
    def said(self) -> str:
        return f"{self.where} {self.how} it"


def uses(root: Path = ROOT, folders: Iterable[str] = FOLDERS) -> set[Use]:
    """Everything that the source below ``root`` uses."""
    found: set[Use] = set()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            found |= in_source(path.read_text(encoding="utf-8"), path.relative_to(root).as_posix())
    return found


def in_source(text: str, where: str) -> set[Use]:
    """The uses of one file."""
    tree = ast.parse(text)
    aliases = dict(_imports(tree))
    found = {Use(name, "name", where, "imports") for name in aliases.values() if _watched(name)}
    patched = {id(target) for target in _targets(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and (name := _dotted(node, aliases)) is not None:
            how = (
                "patches"
                if id(node) in patched and (isinstance(node, ast.Attribute) or name in aliases.values())
                else "uses"
            )
            if _watched(name) or (_package(name) in PATCHED_ONLY and (how == "patches" or _private(name))):
                found.add(Use(name, "name", where, how))
        if isinstance(node, ast.ClassDef):
            found |= _of_class(node, aliases, where)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (m := VARIABLE.fullmatch(node.value)):
            found.add(Use(f"{READERS[m[1]]}:{node.value}", "word", where, "sets or reads"))
    longest = {use.name for use in found}
    return {use for use in found if use.how != "uses" or not any(other.startswith(f"{use.name}.") for other in longest)}


def _imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Name in the file → dotted name. Of ``import a.b`` the file has ``a``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                yield (one.asname, one.name) if one.asname else (one.name.split(".")[0], one.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                yield one.asname or one.name, f"{node.module}.{one.name}"


def _targets(tree: ast.AST) -> Iterator[ast.expr]:
    """What is assigned to, or whose entries are."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign | ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr" and node.args:
            targets = [node.args[0]]
        for target in targets:
            yield target.value if isinstance(target, ast.Subscript) else target


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """An attribute of an imported name, without what any mapping or list has."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in aliases:
        return None
    while parts and parts[0] in CONTAINERS and len(parts) > 1:
        parts.pop(0)
    return ".".join([aliases[node.id], *reversed(parts)])


def _of_class(node: ast.ClassDef, aliases: dict[str, str], where: str) -> set[Use]:
    """A base of theirs, the methods that stand in place of its own, and what is reached through ``self`` and ``super``."""
    bases = [name for base in node.bases if (name := _dotted(base, aliases)) is not None]
    bases = [name for name in bases if _watched(name) or _package(name) in SUBCLASSED]
    if not bases:
        return set()
    base = bases[0]
    found = {Use(base, "name", where, "subclasses")}
    own = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    own |= {
        one.id
        for line in node.body
        if isinstance(line, ast.Assign | ast.AnnAssign)
        for one in _targets(line)
        if isinstance(one, ast.Name)
    }
    found |= {Use(f"{base}.{name}", "maybe", where, "overrides") for name in own}
    stored = {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and _is_self(one.value)
    }
    found |= {Use(f"{base}.{name}", "maybe", where, "sets") for name in stored}
    for one in ast.walk(node):
        if not isinstance(one, ast.Attribute):
            continue
        if _is_super(one.value):
            found.add(Use(f"{base}.{one.attr}", "name", where, "calls"))
        elif _is_self(one.value) and one.attr not in own | stored and not one.attr.startswith("__"):
            found.add(Use(f"{base}.{one.attr}", "name", where, "uses"))
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _package(name: str) -> str:
    return name.split(".", 1)[0]


def _watched(name: str) -> bool:
    return _package(name) in WATCHED


def _private(name: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
