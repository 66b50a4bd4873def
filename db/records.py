"""What reads give and writes take, as plain frozen records, without SQLAlchemy: a list cannot wait for its import."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class NewFacts:
    """What bug rules may ask of one run or claim."""

    subject: str
    version: int
    body: dict[str, Any]
    answers: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True)
class Bug:
    """A bug rule as it was applied last."""

    bug: str
    version: int
    status: str
    disposition: str
    title: str
    text: str
    at: float
    by: str
    why: str


@dataclass(frozen=True)
class Mark:
    bug: str
    subject: str
    state: str
    effect: str
    disposition: str
    rule_version: int
    facts: tuple[str, ...]
    at: float
    by: str
    why: str
    replacement: str | None

    @property
    def open(self) -> bool:
        """Does it still want something done?"""
        return self.state in ("affected", "unknown")


@dataclass(frozen=True)
class Link:
    kind: str
    source: str
    target: str
    why: str


@dataclass(frozen=True)
class Claim:
    """What people wrote of a run, in its newest version."""

    id: str
    history: str
    label: str
    version: int
    condition_id: str | None
    recorded_at: float
    body: dict[str, Any]
    marks: tuple[Mark, ...] = ()
    links: tuple[Link, ...] = field(default=())

    @property
    def validity(self) -> str:
        return validity(None, self.marks, replaced=replacement_of(self.id, self.links) is not None)


def validity(verdict: str | None, marks: Iterable[Mark], *, replaced: bool) -> str:
    """valid: PROVEN, not marked, not replaced. affected: a bug is known to touch it. superseded: a PROVEN run stands in
    its place. unverified: everything else, what a rule could not decide included."""
    marks = list(marks)
    if any(mark.state == "affected" and mark.effect == "invalid" for mark in marks):
        return "affected"
    if replaced or any(mark.state == "resolved" and mark.effect != "none" for mark in marks):
        return "superseded"
    doubted = any(mark.open and mark.effect != "none" for mark in marks)
    return "valid" if verdict == "PROVEN" and not doubted else "unverified"


def replacement_of(subject: str, links: Iterable[Link]) -> str | None:
    """The run that stands in its place, where only links of PROVEN runs were read, as by
    :func:`db.listing.links_of`."""
    return next((link.source for link in links if link.kind == "supersedes" and link.target == subject), None)


@dataclass(frozen=True)
class EvalPoint:
    """One point of an eval curve."""

    seq: int
    step: int
    k: int
    n: int
    samples: int
    questions: str
    at: float

    @property
    def percent(self) -> float:
        return 100.0 * self.k / (self.n * self.samples)


@dataclass(frozen=True)
class Attempt:
    id: int
    run_id: str
    number: int
    token: str
    state: str
    run_dir: str
    node: str | None
    trainer_pid: int | None
    created_at: float
    ended_at: float | None
    exit_code: int | None
    retry: dict[str, Any] | None
    spool_offset: int
    spool_seq: int
    last_event_at: float | None
    last_step: int
    asked_to_stop: float | None = None
    """When its trainer was asked to save a checkpoint and end."""
    stuck_since: float | None = None
    """Its last sign of life, where it was found hung."""
    resumed_step: int | None = None
    """The step of the checkpoint that it went on from."""
    halvings: int = 0
    """How often its micro-batches were halved, after attempts that ran out of memory."""
    placed: str | None = None
    """The node that it was given GPUs of."""


@dataclass(frozen=True)
class Run:
    """A run with its condition, its sweeps, its attempts, and the eval curve of its last attempt."""

    id: str
    kind: str
    """train, or scan."""
    waits_for: str | None
    label: str
    condition_id: str
    condition: dict[str, Any]
    seed: int
    code_version: str
    state: str
    verdict: str | None
    reasons: tuple[str, ...]
    priority: int
    gpus: int
    plan: dict[str, Any]
    overrides: dict[str, Any]
    score_rule: dict[str, Any]
    created_at: float
    mlflow_run: str | None
    projected_seq: int
    projected_state: str | None
    mark_changes: int = 0
    cancel: str | None = None
    """Why somebody wants it ended."""
    cancel_at_once: bool | None = None
    """Without saving a checkpoint first."""
    not_before: float | None = None
    """When it may be tried again."""
    sweeps: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    curve: tuple[EvalPoint, ...] = field(default=())
    marks: tuple[Mark, ...] = ()
    links: tuple[Link, ...] = ()
    source_stands: bool = True
    """Of an evaluation: is the run that trained its checkpoint touched by no bug but those that a new evaluation mends?
    (That it was trained as planned is part of the evaluation's own verdict.)"""

    @property
    def validity(self) -> str:
        """valid, affected, superseded, or unverified: see :func:`validity`."""
        if not self.source_stands:
            return "affected"
        return validity(self.verdict, self.marks, replaced=self.superseded_by is not None)

    @property
    def valid(self) -> bool:
        """May its score be used? PROVEN, and no bug is known to touch it."""
        return self.validity == "valid"

    @property
    def supersedes(self) -> str | None:
        """The run or claim in whose place it stands."""
        return next((li.target for li in self.links if li.kind == "supersedes" and li.source == self.id), None)

    @property
    def superseded_by(self) -> str | None:
        """The run in whose favour this one no longer counts: a PROVEN rerun, or evaluation of its checkpoint."""
        again = next(
            (mark.replacement for mark in self.marks if mark.state == "resolved" and mark.effect != "none"), None
        )
        return replacement_of(self.id, self.links) or again

    @property
    def attempt(self) -> Attempt | None:
        """The last attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def total_steps(self) -> int:
        return int(self.plan["total_steps"])

    @property
    def score(self) -> EvalPoint | None:
        """The eval that the declared rule picks; None until it is there. ``final`` is the planned last step's."""
        if self.kind == "eval":
            return self.curve[-1] if self.curve else None
        if self.score_rule.get("rule") == "best":
            return self.peak if self.state == "succeeded" else None
        return next((p for p in self.curve if p.step == self.total_steps), None)

    @property
    def peak(self) -> EvalPoint | None:
        return max(self.curve, key=lambda p: (p.percent, -p.step), default=None)


@dataclass(frozen=True)
class Fact:
    """One recorded event of an attempt."""

    seq: int
    kind: str
    at: float
    data: dict[str, Any]


@dataclass(frozen=True)
class SearchArm:
    """A condition that a search looks at; see :class:`db.schema.SearchArmRow`."""

    number: int
    role: str
    label: str
    condition_id: str
    point: dict[str, Any]
    trial: int | None
    why: str
