"""Spec → checked plan, what `aqn plan` shows and `aqn submit` records. Reads the spec, model configurations, verl's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from experiment_specs.architecture import Architecture, from_json, shipped
from experiment_specs.load import Sweep, load_sweep
from orchestrator.composed import check_with_verl
from orchestrator.expand import expand
from orchestrator.plan import Plan, make_plan

TOO_LONG_SECONDS = 120


def prepare(spec: Path) -> Plan:
    """Raises SpecError for whatever is wrong with the spec, with the model in mind, or with verl's keys."""
    sweep = load_sweep(spec)
    plan = make_plan(sweep, _architectures(sweep))
    return replace(plan, warnings=(*plan.warnings, *check_with_verl(plan)))


def _architectures(sweep: Sweep) -> dict[str, Architecture]:
    """Those that are shipped, and those of local models, built by a process of its own: torch takes seconds."""
    known = dict(shipped())
    for path in {planned.condition.model.path for planned in expand(sweep).conditions} - set(known):
        if (Path(path) / "config.json").is_file() and (found := _built(path)) is not None:
            known[path] = found
    return known


def _built(folder: str) -> Architecture | None:
    """None where it cannot be built: no torch here, or a model that transformers does not know."""
    done = subprocess.run(
        [sys.executable, "-m", "workers.architecture", folder],
        capture_output=True, text=True, timeout=TOO_LONG_SECONDS, check=False,
    )  # fmt: skip
    return from_json(json.loads(done.stdout)) if done.returncode == 0 else None
