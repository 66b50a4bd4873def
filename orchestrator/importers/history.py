"""History file → claims in the registry: what people wrote, never mixed with what was proven."""

from __future__ import annotations

import calendar
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db import bug_writes
from db.bug_writes import Imported, MovedOnError, NewClaim
from db.records import NewFacts
from experiment_specs.claims import ClaimedRun, Loaded, load_history
from experiment_specs.language import CONDITION_SCHEMA, Condition
from experiment_specs.load import load_sweep
from experiment_specs.presets import PACKAGE
from orchestrator.bugs.engine import TRIES, judge_one, rules, versions_of
from orchestrator.bugs.facts import facts_of_claim
from orchestrator.expand import expand


def claim_id(history: str, identity: str) -> str:
    """The same claim keeps its id, whatever it says. ``identity``: its label, or what makes it the same one instead."""
    return "c" + hashlib.sha256(f"{history}\0{identity}".encode()).hexdigest()[:9]


def at_midnight(day: str) -> float:
    """Seconds since 1970 at which a day begins, in UTC."""
    return float(calendar.timegm(time.strptime(day, "%Y-%m-%d")))


def import_history(engine: Engine, path: Path) -> Imported:
    """Record a history file. Again: nothing where nothing changed, a new version of a claim that did.

    Raises :class:`SpecError` for what is wrong with the file; see :func:`claims_of` to find that out before.
    """
    loaded = load_history(path)
    history = loaded.history
    about = history.model_dump(mode="json", exclude={"runs"}) | {"file": path.name}
    return record(engine, history.history, about, claims_of(loaded), history.recorded)


def claims_of(loaded: Loaded) -> list[NewClaim]:
    """The claims of a history as they enter the registry. Raises :class:`SpecError` for a condition without a sweep."""
    history = loaded.history
    ids = {run.label: claim_id(history.history, run.label) for run in history.runs}
    found = []
    sweeps: dict[Path, _Family] = {}
    for index, run in enumerate(history.runs):
        condition = _condition(loaded, run, index, sweeps) if run.condition is not None else None
        group = history.groups.get(run.group) if run.group else None
        links = [("extends", ids[run.extends])] if run.extends else []
        links += [("depends-on", ids[better.than]) for said in run.said for better in said.better]
        body = {
            "claim": run.model_dump(mode="json"), "questions": history.questions,
            "recorded": history.recorded, "document": history.document or loaded.reader.path.name,
            "resources": sweeps[_file(loaded, run, index)].resources if run.condition is not None else {},
        }  # fmt: skip
        facts = facts_of_claim(ids[run.label], run, condition, group, history.recorded, history.questions)
        found.append(new_claim(run.label, index, body, condition, facts, list(dict.fromkeys(links))))
    return found


def new_claim(  # noqa: PLR0917 - the parts of a claim
    label: str, position: int, body: dict[str, Any], condition: Condition | None, facts: NewFacts,
    links: Sequence[tuple[str, str]] = (),
) -> NewClaim:  # fmt: skip
    own = condition.id if condition is not None else None
    dumped = condition.model_dump(mode="json") if condition is not None else None
    return NewClaim(facts.subject, label, body, own, dumped, facts, position, links)


@dataclass(frozen=True)
class _Family:
    """A sweep that claims are filed under: its conditions by label, and what a run of it needs."""

    conditions: dict[str, Condition]
    resources: dict[str, Any]


def _condition(loaded: Loaded, run: ClaimedRun, index: int, sweeps: dict[Path, _Family]) -> Condition:
    """The condition of a claim's label in the sweep that it names."""
    file = _file(loaded, run, index)
    if file not in sweeps:
        sweep = load_sweep(file)
        conditions = {planned.label: planned.condition for planned in expand(sweep).conditions}
        needs = {"gpus": sweep.resources.gpus, "keep": sweep.checkpoints.keep, "overrides": sweep.overrides}
        sweeps[file] = _Family(conditions, needs)
    known = sweeps[file].conditions
    if run.label not in known:
        problem = f"{run.condition} has no condition with the label {run.label!r}"
        raise loaded.reader.fail(problem, ("runs", index, "condition"), run.label, known)
    return known[run.label]


def _file(loaded: Loaded, run: ClaimedRun, index: int) -> Path:
    """Beside the history file, or a shipped one."""
    name = str(run.condition)
    places = (loaded.reader.path.parent, PACKAGE)
    file = next((folder / name for folder in places if _is_file(folder / name)), None)
    if file is None or Path(name).is_absolute():
        problem = "no such sweep beside this file or among the shipped ones"
        raise loaded.reader.fail(problem, ("runs", index, "condition"), name)
    return file


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system, for one
        return False


def _names(claim: NewClaim) -> tuple[str, ...]:
    return (claim.id, claim.label, *claim.body["claim"].get("aliases", ()))


def record(
    engine: Engine,
    name: str,
    about: dict[str, Any],
    claims: Sequence[NewClaim],
    recorded: str,
    *,
    partial: bool = False,
) -> Imported:
    """Record claims of a history; what the applied bug rules say of them is recorded with them.

    ``recorded``: a day; a claim may have its own. ``partial``: these are not all claims of it.
    """
    at = at_midnight(recorded)
    for _ in range(TRIES):
        applied = rules(engine)
        judged = [one for claim in claims for one in judge_one(engine, applied, claim.facts, _names(claim))]
        try:
            return bug_writes.import_claims(
                engine, name, about, claims, at, CONDITION_SCHEMA, judged, versions_of(applied), partial=partial
            )
        except MovedOnError:
            continue
    raise RuntimeError("bug rules change faster than claims can be judged")  # pragma: no cover - twenty in a row
