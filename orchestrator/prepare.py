"""Spec → checked plan, what `aqn plan` shows and `aqn submit` records. Reads the spec, model configurations, verl's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from experiment_specs.architecture import Architecture, from_json, shipped
from experiment_specs.errors import Problems, one_line, raise_all
from experiment_specs.load import load_sweep
from orchestrator.composed import check_with_verl
from orchestrator.decided import with_what_holds
from orchestrator.plan import NOT_HERE, Plan, make_plan

TOO_LONG_SECONDS = 120


def prepare(spec: Path) -> Plan:
    """Raises SpecError for all that is wrong with the spec, with the model in mind, or with verl's keys."""
    problems = Problems()
    sweep = load_sweep(spec, problems)
    plan = make_plan(sweep, look, problems)
    warnings = problems.value_of(lambda: check_with_verl(plan), list[str]())
    raise_all(with_what_holds(problems.found, plan))
    return replace(plan, warnings=(*plan.warnings, *warnings))


def look(path: str) -> Architecture | str:
    """That which is shipped, or a local model's, built by a process of its own, because torch takes seconds."""
    if (known := shipped().get(path)) is not None:
        return known
    try:
        if not (Path(path) / "config.json").is_file():
            return NOT_HERE
    except (OSError, ValueError):  # what no file system has as a name
        return NOT_HERE
    try:
        done = subprocess.run(
            [sys.executable, "-m", "workers.architecture", path],
            capture_output=True, text=True, timeout=TOO_LONG_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"could not be built from its configuration within {TOO_LONG_SECONDS} s"
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"cannot be built from its configuration: {one_line(why)}"
    return from_json(json.loads(done.stdout))
