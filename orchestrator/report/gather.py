"""Registry → everything that a report says, as values. The only part of a report that reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine

from db import bug_reads, reads
from db.records import Bug, Claim, Mark, Run
from experiment_specs.claims import Best as ClaimedBest
from experiment_specs.claims import ClaimedRun, Finding, Group
from orchestrator.arms import Counts
from orchestrator.audit import Contradiction
from orchestrator.claims import claimed_run, claims_as_json, comparisons, contradictions
from orchestrator.comparison import (
    Answers,
    Comparison,
    DeclaredContrast,
    compare,
    declared,
    evaluations_for,
    recorded_answers,
)
from orchestrator.counts import counts_of
from orchestrator.families import Best, batch_pairs, best_category, best_of, length_pairs, noise_pairs
from orchestrator.findings import Assessment, Side, assess
from orchestrator.scores import Arm, arms
from orchestrator.search.answer import Answer, answer
from orchestrator.search.state import SearchState, read_state

if TYPE_CHECKING:
    from orchestrator.search.importance import Importance

MOST_NOISE_CURVES = 6
"""Arms in one picture of sigma: more cannot be told apart."""


@dataclass(frozen=True)
class SweepMaterial:
    name: str
    about: str
    runs: tuple[Run, ...]
    contrasts: tuple[DeclaredContrast, ...]


@dataclass(frozen=True)
class SearchMaterial:
    """``answer``: None before anything is confirmed."""

    state: SearchState
    answer: Answer | None
    important: tuple[Importance, ...]


@dataclass(frozen=True)
class BugMaterial:
    """A bug with its marks and, by marked subject, the runs that were made to replace it: (id, state, verdict)."""

    bug: Bug
    marks: tuple[Mark, ...]
    reruns: Mapping[str, Sequence[tuple[str, str, str | None]]]


@dataclass(frozen=True)
class HistoryMaterial:
    """An imported history. ``rows``: its claims as `aqn runs --json` has them, in the same order."""

    name: str
    about: Mapping[str, Any]
    claims: tuple[Claim, ...]
    runs: tuple[ClaimedRun, ...]
    rows: tuple[dict[str, Any], ...]
    groups: Mapping[str, Group]
    best: tuple[ClaimedBest, ...]
    compared: Mapping[str, Sequence[dict[str, Any]]]
    """Label → differences that are said of it."""
    contradictions: tuple[Contradiction, ...]
    findings: tuple[Assessment, ...]


@dataclass(frozen=True)
class Material:
    """Of the whole registry, or of some sweeps; then without claims."""

    sweeps: tuple[SweepMaterial, ...]
    """Those that are no searches."""
    searches: tuple[SearchMaterial, ...]
    runs: tuple[Run, ...]
    arms: tuple[Arm, ...]
    selected_on: frozenset[str]
    """Conditions of trials, and their baselines: what their scores say was selected by, and is not to be reported."""
    noise: tuple[Comparison, ...]
    lengths: tuple[Comparison, ...]
    batches: tuple[Comparison, ...]
    best: tuple[Best, ...]
    counts: Mapping[str, Counts]
    started: Mapping[str, dict[str, Any]]
    """Run → what its last attempt said of code, machine and inputs."""
    sigma: tuple[tuple[str, Sequence[dict[str, Any]]], ...]
    """(label, what was measured after the syncs), an arm with noise."""
    scans: tuple[tuple[str, str, dict[str, Any]], ...]
    bugs: tuple[BugMaterial, ...]
    histories: tuple[HistoryMaterial, ...]
    names: Mapping[str, str]
    """Run or claim → label."""

    @property
    def reported(self) -> list[Arm]:
        """Arms whose scores nothing was selected by."""
        return [arm for arm in self.arms if arm.condition_id not in self.selected_on]


def gather(engine: Engine, sweeps: Sequence[str] | None = None) -> Material:
    """``sweeps``: names; all of the registry where None."""
    names = list(sweeps) if sweeps is not None else sorted(reads.sweep_names(engine))
    by_sweep = {name: tuple(reads.runs(engine, sweep=name)) for name in names}
    everything = reads.runs(engine) if sweeps is None else _distinct(by_sweep)
    oldest = sorted(everything, key=lambda run: (run.created_at, run.id))
    found = tuple(arms(oldest, evaluations_for(engine, oldest)).values())
    place = {arm.condition_id: index for index, arm in enumerate(found)}
    runs = sorted(oldest, key=lambda run: (place[run.condition_id], run.seed, run.created_at, run.id))
    answers = recorded_answers(engine)
    attempts = {run.attempt.id: run.id for run in runs if run.attempt is not None}
    started = reads.facts_of_kind(engine, list(attempts), "started")
    searches = tuple(made for name in names if (made := _search(engine, name, answers)) is not None)
    searched = {one.state.name for one in searches}
    selected_on = frozenset(arm.condition_id for one in searches for arm in one.state.of_role("trial", "baseline"))
    reported = [arm for arm in found if arm.condition_id not in selected_on]
    return Material(
        sweeps=tuple(
            SweepMaterial(name, reads.sweep_about(engine, name), own, tuple(declared(engine, name)))
            for name, own in by_sweep.items()
            if name not in searched
        ),
        searches=searches,
        runs=tuple(runs),
        arms=found,
        selected_on=selected_on,
        noise=_compared(noise_pairs(reported), answers),
        lengths=_compared(length_pairs(reported), answers),
        batches=_compared(batch_pairs(reported), answers),
        best=_best(reported, answers),
        counts=counts_of(engine, runs),
        started={attempts[attempt]: facts[-1] for attempt, facts in started.items()},
        sigma=_sigma(engine, reported),
        scans=tuple(_scans(engine, runs)),
        bugs=bug_materials(engine, None if sweeps is None else {run.id for run in runs}),
        histories=_histories(engine) if sweeps is None else (),
        names=bug_reads.names(engine),
    )


def _search(engine: Engine, name: str, answers: Answers) -> SearchMaterial | None:
    state = read_state(engine, name)
    if state is None:
        return None
    from orchestrator.search.importance import importances  # Optuna takes a second to import

    return SearchMaterial(state, answer(state, answers), tuple(importances(state)))


def _distinct(by_sweep: Mapping[str, Sequence[Run]]) -> list[Run]:
    return list({run.id: run for runs in by_sweep.values() for run in runs}.values())


def _compared(pairs: Sequence[tuple[Arm, Arm]], answers: Answers) -> tuple[Comparison, ...]:
    """One by one: nobody declared these together, and a report says that they are not corrected."""
    return tuple(compare(first, second, answers) for first, second in pairs)


def _best(found: Sequence[Arm], answers: Answers) -> tuple[Best, ...]:
    """Only what answered the same questions by the same rule is compared."""
    groups: dict[tuple[str, ...], list[Arm]] = {}
    for arm in found:
        if arm.scored:
            condition, point = arm.condition, arm.scored[0].point
            where = (str(condition["model"]["path"]), str(condition["data"]["test"]))
            asked = (str(arm.rule), point.questions, f"{point.n} questions")
            groups.setdefault((best_category(condition), *where, *asked), []).append(arm)
    parts = [{key[i] for key in groups} for i in range(6)]
    named = {key: f"{key[0]}{_apart([key[i] for i in (1, 2, 3, 5) if len(parts[i]) > 1])}" for key in sorted(groups)}
    best = (best_of(named[key], groups[key], answers) for key in sorted(groups))
    return tuple(one for one in best if one is not None)


def _apart(words: Sequence[str]) -> str:
    return f" ({', '.join(words)})" if words else ""


def _sigma(engine: Engine, found: Sequence[Arm]) -> tuple[tuple[str, Sequence[dict[str, Any]]], ...]:
    noisy = [arm for arm in found if arm.condition["aqn"] is not None and arm.scored][:MOST_NOISE_CURVES]
    attempts = [(arm.label, arm.scored[0].trained.attempt) for arm in noisy]
    syncs = reads.facts_of_kind(engine, [attempt.id for _, attempt in attempts if attempt is not None], "sync")
    return tuple((label, syncs[a.id]) for label, a in attempts if a is not None and a.id in syncs)


def _scans(engine: Engine, runs: Sequence[Run]) -> list[tuple[str, str, dict[str, Any]]]:
    """PROVEN scans that these runs waited for."""
    wanted = {run.waits_for for run in runs if run.waits_for}
    return [scan for scan in reads.scans(engine) if scan[0] in wanted]


def bug_materials(engine: Engine, among: set[str] | None) -> tuple[BugMaterial, ...]:
    """Applied bugs; ``among``: only with marks of these runs and claims."""
    found = []
    for bug in bug_reads.bugs(engine):
        marks = [m for m in bug_reads.marks(engine, bug.bug).values() if m.state != "withdrawn"]
        own = sorted((m for m in marks if among is None or m.subject in among), key=lambda m: m.subject)
        if among is None or own:
            found.append(BugMaterial(bug, tuple(own), bug_reads.reruns(engine, [m.subject for m in own])))
    return tuple(found)


def _histories(engine: Engine) -> tuple[HistoryMaterial, ...]:
    return tuple(_history(engine, name, about) for name, about in bug_reads.histories(engine).items())


def _history(engine: Engine, name: str, about: Mapping[str, Any]) -> HistoryMaterial:
    claims = bug_reads.claims(engine, history=name)
    rows = claims_as_json(engine, claims)
    by_label = {claim.label: claim for claim in claims}
    runs = {claim.label: claimed_run(claim) for claim in claims}
    sides = {
        claim.label: Side(
            claim.label, runs[claim.label], row["condition"], claim.body.get("questions"), claim.validity,
        )
        for claim, row in zip(claims, rows, strict=True)
    }  # fmt: skip
    findings = [Finding.model_validate(one, strict=False) for one in about.get("findings", ())]
    known = [f for f in findings if all(c.run in sides and c.than in sides for c in f.compares)]
    return HistoryMaterial(
        name=name,
        about=about,
        claims=tuple(claims),
        runs=tuple(runs.values()),
        rows=tuple(rows),
        groups={key: Group.model_validate(group, strict=False) for key, group in about.get("groups", {}).items()},
        best=tuple(ClaimedBest.model_validate(one, strict=False) for one in about.get("best", ())),
        compared={claim.label: comparisons(claim, by_label) for claim in claims},
        contradictions=tuple(contradictions(engine, name)),
        findings=tuple(assess(finding, sides) for finding in known),
    )
