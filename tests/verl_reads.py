"""Makes the table of what verl reads (``workers/verl_reads.json``) from whole tiny runs: ``make verl-reads``.

``python -m tests.verl_reads [KIND …]`` runs the kinds that this environment can (vLLM's in its own), about a minute each
on two quiet cores, and writes what each read beside what the table has of the others; the plain kind begins a new one.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from orchestrator.composed import order_of
from orchestrator.prepare import prepare
from workers.launch import write_order
from workers.verl_config import ADDED_KEYS, known_keys
from workers.verl_reads import ANYTHING_BELOW, BASES, EXTRAS, TABLE, TRACE_VARIABLE, RunKind, taken_from

ACTS_ON_NOTHING = (
    "verl/trainer/config/", "verl/workers/config/", "verl/utils/config.py", "verl/utils/profiler/config.py",
    "verl/trainer/ppo/ray_trainer.py",
)  # fmt: skip
"""Code that names keys in order to declare or check them, and the trainer of earlier versions: verl's present one takes
functions from that file, and never makes that trainer."""


Table = dict[str, Any]
"""As :class:`workers.verl_reads.ReadTable` is written."""


@dataclass
class Traced:
    """What one run read: names of keys and of mappings, and the modules that were loaded in any of its processes."""

    reads: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        parts = key.split(".")
        wholes = (".".join(parts[:end]) + ANYTHING_BELOW for end in range(1, len(parts) + 1))
        return key in self.reads or any(name in self.reads for name in wholes)


def trace(kind: RunKind, assets: Path) -> Traced:
    """One whole tiny run of a kind: two steps, evals, checkpoints. Raises CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory(prefix="aqn-") as scratch:
        spec = Path(scratch) / "trace.yaml"
        fields = {"steps_per_epoch": 2, "eval.every": 1, "algorithm": {"preset": "grpo", "kl_loss": 0.0}}
        fields |= {key: value for key, value in kind.fields.items() if key != "trainer"}
        said = {
            "sweep": "trace",
            "base": "bases/tiny-cpu.yaml",
            "set": fields,
            "trainer": kind.fields.get("trainer", {}),
        }
        spec.write_text(yaml.safe_dump(said))
        plan = prepare(spec)
        order = replace(order_of(plan.sweep, plan.conditions[0], 1), assets=str(assets), save_every=1)
        run_dir, out = Path(scratch) / "run", Path(scratch) / "reads"
        out.mkdir()
        write_order(run_dir, order)
        environment = os.environ | {TRACE_VARIABLE: str(out)}
        subprocess.run([sys.executable, "-m", "workers.train", str(run_dir)], env=environment, check=True)
        return read_traces(out)


def read_traces(folder: Path) -> Traced:
    """What all processes of a run wrote."""
    found = Traced()
    for file in folder.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, more = json.loads(line)
            if name is None:
                found.modules.update(more)
            else:
                found.reads.add(name)
    return found


def leaves() -> list[str]:
    """verl's keys that hold a value, and those that it reads without listing them."""
    plain = [key for key, value in known_keys().items() if not (isinstance(value, dict) and value)]
    return sorted({*(key for key in plain if not key.endswith("_target_")), *ADDED_KEYS})


def mentions(modules: Iterable[str]) -> dict[str, str]:
    """Word → the first file that takes an attribute or an item of that name, in code that acts on configurations."""
    found: dict[str, str] = {}
    for module in sorted(modules):
        file = _file(module)
        if file is None or (name := str(file).rpartition("site-packages/")[2]).startswith(ACTS_ON_NOTHING):
            continue
        for word in _words(ast.parse(file.read_text(encoding="utf-8"))):
            found.setdefault(word, name)
    return found


def _file(module: str) -> Path | None:
    """Where a module's source lies, found without importing it."""
    package, *parts = module.split(".")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0], *parts)
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def make(old: Table, kind: RunKind, run: Traced) -> Table:
    """The table with what a run of a kind read in the place of what was known of that kind."""
    bases = {base.name for base in BASES}
    names = [known.name for known in (*BASES, *EXTRAS)]
    values = set(leaves())
    through = {key: users for key, users in taken_from(known_keys()).items() if key in values}
    read: dict[str, list[str]] = {}
    for key in sorted(values):
        kinds = {name for name in old["read"].get(key, ()) if name != kind.name}
        taken = any(run.has(name) for name in (key, *through.get(key, ())))  # who takes its value reads it
        if taken and (kind.name in bases or BASES[0].name not in kinds):  # of the extras: what their base does not read
            kinds.add(kind.name)
        if kinds:
            read[key] = [name for name in names if name in kinds]
    words = mentions(run.modules)
    mentioned = dict(old["mentioned"])
    for key in values:
        section, _, word = key.rpartition(".")
        if section in run.reads and word in words:
            mentioned.setdefault(key, words[word])
    mentioned = {key: file for key, file in sorted(mentioned.items()) if key not in read}
    return {"verl": metadata.version("verl"), "read": read, "mentioned": mentioned, "through": through}


def main(asked: list[str]) -> None:
    vllm = find_spec("vllm") is not None
    kinds = [kind for kind in (*BASES, *EXTRAS) if (kind.name == "vllm") == vllm and (not asked or kind.name in asked)]
    assets = Path(os.environ.get("AQN_HOME", ".aqn")).resolve() / "assets"
    empty = {"read": {}, "mentioned": {}}
    for kind in kinds:  # the plain one first
        run = trace(kind, assets)
        begin_afresh = kind is BASES[0] or not TABLE.exists()
        old = empty if begin_afresh else json.loads(TABLE.read_text(encoding="utf-8"))
        TABLE.write_text(json.dumps(make(old, kind, run), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
