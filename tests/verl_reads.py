"""Makes the table of what verl reads (``workers/verl_reads.json``) from whole tiny runs: ``make verl-reads``.

``python -m tests.verl_reads [KIND …]`` runs the kinds that this environment can (those with vLLM in its own), about a
minute each on two quiet cores, and writes what they read beside what the table has of the others.
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

import yaml

from orchestrator.composed import order_of
from orchestrator.prepare import prepare
from workers.launch import write_order
from workers.verl_config import ADDED_KEYS, known_keys
from workers.verl_reads import ANYTHING_BELOW, BASES, EXTRAS, TABLE, TRACE_VARIABLE, RunKind, taken_from

DECLARES_KEYS = ("verl/trainer/config/", "verl/workers/config/", "verl/utils/config.py", "verl/utils/profiler/config.py")
"""Code that names keys in order to declare or check them."""

EARLIER_TRAINER = "verl/trainer/ppo/ray_trainer.py"
"""The trainer of earlier versions: verl's present one takes functions from it, and leaves the trainer itself alone."""


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
        said = {"sweep": "trace", "base": "bases/tiny-cpu.yaml", "set": fields, "trainer": kind.fields.get("trainer", {})}
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
    """Word → the first place that takes an attribute or an item of that name, in code that acts on configurations."""
    found: dict[str, str] = {}
    for module in sorted(modules):
        spec = find_spec(module)
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        name = spec.origin.rpartition("site-packages/")[2]
        if not name.startswith((*DECLARES_KEYS, EARLIER_TRAINER)):
            for word, line in _words(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
                found.setdefault(word, f"{name}:{line}")
    return found


def _words(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value, node.lineno


def make(traced: dict[str, Traced]) -> dict[str, object]:
    """The table: of kinds that were not traced now, what the old one has."""
    old = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {"read": {}, "mentioned": {}}
    names = [kind.name for kind in (*BASES, *EXTRAS)]
    plain = traced.get("transformers")
    read: dict[str, list[str]] = {}
    for key in leaves():
        kinds = {name for name in old["read"].get(key, ()) if name not in traced}
        for name, run in traced.items():
            extra = name not in {base.name for base in BASES}
            if run.has(key) and not (extra and plain is not None and plain.has(key)):
                kinds.add(name)
        if kinds:
            read[key] = [name for name in names if name in kinds]
    given = set().union(*(run.reads for run in traced.values()))
    words = mentions(set().union(*(run.modules for run in traced.values())))
    mentioned = {} if plain is not None else dict(old["mentioned"])
    for key in leaves():
        section, _, word = key.rpartition(".")
        if section in given and word in words:
            mentioned.setdefault(key, words[word])
    mentioned = {key: place.rpartition(":")[0] for key, place in sorted(mentioned.items()) if key not in read}
    through = {key: names for key, names in taken_from(known_keys()).items() if key in set(leaves())}
    for key, users in through.items():  # who takes the value of another key reads that one
        kinds = {kind for name in (key, *users) for kind in read.get(name, ())}
        if kinds:
            read[key] = [name for name in names if name in kinds]
            mentioned.pop(key, None)
    return {
        "verl": metadata.version("verl"), "read": dict(sorted(read.items())), "mentioned": mentioned, "through": through,
    }  # fmt: skip


def main(asked: list[str]) -> None:
    vllm = find_spec("vllm") is not None
    kinds = [kind for kind in (*BASES, *EXTRAS) if (kind.name == "vllm") == vllm]
    assets = Path(os.environ.get("AQN_HOME", ".aqn")).resolve() / "assets"
    traced = {kind.name: trace(kind, assets) for kind in kinds if not asked or kind.name in asked}
    TABLE.write_text(json.dumps(make(traced), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
