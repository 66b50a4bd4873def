"""Tables of the registry, the same on SQLite and PostgreSQL.

Times are UTC seconds since the epoch. Rows that record what happened (transitions, evals, evidence, verdicts) are only
ever added; what a run *is now* (its state, its verdict) stands on the run and can be rebuilt from them.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

VERDICTS = ("PROVEN", "REFUTED", "UNPROVEN")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's hook


class SweepRow(Base):
    """A submitted sweep. Submitting the same name again adds runs to it and keeps every text."""

    __tablename__ = "sweeps"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    about: Mapped[str] = mapped_column(Text)
    spec: Mapped[str] = mapped_column(Text)
    details: Mapped[dict[str, Any]]
    """Score rule, contrasts, budget: what the spec declared and no run carries."""
    submitted_at: Mapped[float] = mapped_column(Float)
    paused: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """``why`` nothing of it starts; ``now``: what runs saves a checkpoint and waits too."""


class ControlRow(Base):
    """What somebody wants of the scheduler as a whole; ``drain``: that it starts nothing."""

    __tablename__ = "controls"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    body: Mapped[dict[str, Any]]
    at: Mapped[float] = mapped_column(Float)


class ConditionRow(Base):
    """A complete condition under its hash."""

    __tablename__ = "conditions"
    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    schema_version: Mapped[int] = mapped_column(Integer)
    body: Mapped[dict[str, Any]]


class RunRow(Base):
    """One condition, one seed, one code version."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    condition_id: Mapped[str] = mapped_column(ForeignKey("conditions.id"))
    seed: Mapped[int] = mapped_column(Integer)
    code_version: Mapped[str] = mapped_column(String(12))
    kind: Mapped[str] = mapped_column(String(8), default="train", server_default="train")
    """train, or scan: a layer scan that training runs wait for."""
    waits_for: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    """The run whose result this one needs before it can start."""
    label: Mapped[str] = mapped_column(String(200), index=True)
    state: Mapped[str] = mapped_column(String(12))
    created_at: Mapped[float] = mapped_column(Float)
    priority: Mapped[int] = mapped_column(Integer, default=0)
    gpus: Mapped[int] = mapped_column(Integer)
    plan: Mapped[dict[str, Any]]
    """total_steps, steps_per_epoch, eval_steps."""
    overrides: Mapped[dict[str, Any]]
    score_rule: Mapped[dict[str, Any]]
    verdict: Mapped[str | None] = mapped_column(String(12))
    reasons: Mapped[list[Any]]
    mlflow_run: Mapped[str | None] = mapped_column(String(64))
    projected_seq: Mapped[int] = mapped_column(Integer, default=-1)
    """Last event of the current attempt that MLflow has."""
    projected_state: Mapped[str | None] = mapped_column(String(40))
    mark_changes: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How often a mark of this run changed: MLflow is told of each."""
    cancel: Mapped[str | None] = mapped_column(Text)
    """Why somebody wants it ended; the scheduler ends it."""
    cancel_at_once: Mapped[bool | None] = mapped_column(Boolean)
    """Without saving a checkpoint first."""
    not_before: Mapped[float | None] = mapped_column(Float)
    """When it may be tried again."""
    __table_args__ = (
        Index("ix_runs_state_priority", "state", "priority", "created_at"),
        Index("ix_runs_condition_seed", "condition_id", "seed"),
        Index("ix_runs_created_at", "created_at"),
    )


class SweepRunRow(Base):
    """Which runs a sweep wants; one run can serve several sweeps."""

    __tablename__ = "sweep_runs"
    sweep_id: Mapped[int] = mapped_column(ForeignKey("sweeps.id"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    __table_args__ = (Index("ix_sweep_runs_run_id", "run_id"),)


SEARCH_ROLES = ("baseline", "trial", "plain", "beside", "confirmed")
"""baseline and trial: on the questions that are selected on. plain (the baseline), beside (presets) and confirmed
(trials): on the questions of the confirmation."""


class SearchArmRow(Base):
    """A condition that a search (a sweep that grows) looks at, in the order in which it was decided."""

    __tablename__ = "search_arms"
    sweep_id: Mapped[int] = mapped_column(ForeignKey("sweeps.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    role: Mapped[str] = mapped_column(String(12))
    label: Mapped[str] = mapped_column(String(200))
    condition_id: Mapped[str] = mapped_column(ForeignKey("conditions.id"))
    point: Mapped[dict[str, Any]]
    """Field → value, of the space."""
    trial: Mapped[int | None] = mapped_column(Integer)
    """Of what is confirmed: the number of its trial."""
    why: Mapped[str] = mapped_column(Text)
    """What suggested it."""
    at: Mapped[float] = mapped_column(Float)


class AttemptRow(Base):
    """One try at executing a run. The token is what its processes carry and what every update is fenced by."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    number: Mapped[int] = mapped_column(Integer)
    token: Mapped[str] = mapped_column(String(32), unique=True)
    state: Mapped[str] = mapped_column(String(12))
    run_dir: Mapped[str] = mapped_column(Text)
    node: Mapped[str | None] = mapped_column(String(200))
    trainer_pid: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    exit_code: Mapped[int | None] = mapped_column(Integer)
    retry: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """The retry decision: rule, line of the log that decided, and what it decided."""
    spool_offset: Mapped[int] = mapped_column(Integer, default=0)
    spool_seq: Mapped[int] = mapped_column(Integer, default=-1)
    last_event_at: Mapped[float | None] = mapped_column(Float)
    last_step: Mapped[int] = mapped_column(Integer, default=0)
    asked_to_stop: Mapped[float | None] = mapped_column(Float)
    """When its trainer was asked to save a checkpoint and end."""
    stuck_since: Mapped[float | None] = mapped_column(Float)
    """Its last sign of life, once it was found hung: it is ended for that."""
    resumed_step: Mapped[int | None] = mapped_column(Integer)
    """The step of the checkpoint that it went on from."""
    halvings: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How often its micro-batches were halved, after attempts that ran out of memory."""
    placed: Mapped[str | None] = mapped_column(String(64))
    """The fleet's id of the node that it was given GPUs of."""
    __table_args__ = (UniqueConstraint("run_id", "number"), Index("ix_attempts_state", "state"))


class TransitionRow(Base):
    """Append-only history of states."""

    __tablename__ = "transitions"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    attempt_id: Mapped[int | None] = mapped_column(ForeignKey("attempts.id"))
    before: Mapped[str | None] = mapped_column(String(12))
    after: Mapped[str] = mapped_column(String(12))
    why: Mapped[str] = mapped_column(Text)
    at: Mapped[float] = mapped_column(Float)


class EvalRow(Base):
    """One evaluation: k of n·samples answers right, every outcome packed into a blob, bit by bit in order of ids."""

    __tablename__ = "evals"
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    step: Mapped[int] = mapped_column(Integer)
    k: Mapped[int] = mapped_column(Integer)
    n: Mapped[int] = mapped_column(Integer)
    samples: Mapped[int] = mapped_column(Integer)
    questions: Mapped[str] = mapped_column(String(16))
    outcomes: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[float] = mapped_column(Float)


class StepRow(Base):
    """Metrics of one training step."""

    __tablename__ = "steps"
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    step: Mapped[int] = mapped_column(Integer)
    metrics: Mapped[dict[str, Any]]
    at: Mapped[float] = mapped_column(Float)


class EvidenceRow(Base):
    """Everything else that a run measured about itself."""

    __tablename__ = "evidence"
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]
    at: Mapped[float] = mapped_column(Float)


class VerdictRow(Base):
    """A judgement; a run that is judged anew keeps the old ones."""

    __tablename__ = "verdicts"
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id"))
    verdict: Mapped[str] = mapped_column(String(12))
    reasons: Mapped[list[Any]]
    at: Mapped[float] = mapped_column(Float)


CLAIM_STATUS = "imported"
MARK_STATES = ("affected", "unknown", "waived", "resolved", "withdrawn")
"""affected: the rule matches. unknown: a fact that it asks for was never recorded. waived: somebody said why it does
not count here. resolved: a PROVEN run replaces this one. withdrawn: a later version of the rule, or none, matches."""
EFFECTS = ("invalid", "unverified", "none")
"""What an open mark does to the validity of what it marks; follows from the rule's status and disposition."""
LINK_KINDS = ("supersedes", "re-evaluation-of", "attempt-of", "extends", "depends-on")


class HistoryRow(Base):
    """What a file of claims says beside its runs: groups, bests, questions. A changed one is a new version."""

    __tablename__ = "histories"
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    body: Mapped[dict[str, Any]]
    imported_at: Mapped[float] = mapped_column(Float)


class ClaimRow(Base):
    """What people wrote of a run that this registry did not see, as its newest version says it."""

    __tablename__ = "claims"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    history: Mapped[str] = mapped_column(String(200))
    label: Mapped[str] = mapped_column(String(200))
    version: Mapped[int] = mapped_column(Integer)
    condition_id: Mapped[str | None] = mapped_column(ForeignKey("conditions.id"))
    recorded_at: Mapped[float] = mapped_column(Float)
    position: Mapped[int] = mapped_column(Integer)
    """Its place in its file."""
    body: Mapped[dict[str, Any]]
    __table_args__ = (Index("ix_claims_history_label", "history", "label"), Index("ix_claims_label", "label"))


class ClaimVersionRow(Base):
    """Every version of a claim."""

    __tablename__ = "claim_versions"
    claim_id: Mapped[str] = mapped_column(ForeignKey("claims.id"), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    body: Mapped[dict[str, Any]]
    imported_at: Mapped[float] = mapped_column(Float)


class FactsRow(Base):
    """What bug rules ask of a run that ended, or of a claim, in one row. Derived: it can be made anew from evidence.

    ``subject`` is the id of a run or of a claim, as everywhere in the tables of bugs.
    """

    __tablename__ = "facts"
    subject: Mapped[str] = mapped_column(String(32), primary_key=True)
    version: Mapped[int] = mapped_column(Integer)
    """Of the code that made it."""
    revision: Mapped[int] = mapped_column(Integer, default=1)
    """How often it was made anew."""
    body: Mapped[dict[str, Any]]
    answers: Mapped[str | None] = mapped_column(String(16))
    """Hash of the outcomes of the score's eval; None where all or none of them are right."""
    checkpoint: Mapped[str | None] = mapped_column(String(16))
    """Hash of the last checkpoint's weights."""
    __table_args__ = (Index("ix_facts_answers", "answers"), Index("ix_facts_checkpoint", "checkpoint"))


class BugRow(Base):
    """A bug rule as it was applied; every version stays."""

    __tablename__ = "bugs"
    bug: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    status: Mapped[str] = mapped_column(String(12))
    disposition: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    at: Mapped[float] = mapped_column(Float)
    by: Mapped[str] = mapped_column(String(200))
    why: Mapped[str] = mapped_column(Text)


class MarkRow(Base):
    """What a bug is to a run or a claim, now. Laid over it: the run itself is never edited."""

    __tablename__ = "marks"
    bug: Mapped[str] = mapped_column(String(100), primary_key=True)
    subject: Mapped[str] = mapped_column(String(32), primary_key=True)
    state: Mapped[str] = mapped_column(String(12))
    effect: Mapped[str] = mapped_column(String(12))
    disposition: Mapped[str] = mapped_column(String(20))
    rule_version: Mapped[int] = mapped_column(Integer)
    facts: Mapped[list[Any]]
    """The facts that decided, as sentences."""
    at: Mapped[float] = mapped_column(Float)
    by: Mapped[str] = mapped_column(String(200))
    why: Mapped[str] = mapped_column(Text)
    replacement: Mapped[str | None] = mapped_column(String(32))
    __table_args__ = (Index("ix_marks_subject", "subject"),)


class MarkChangeRow(Base):
    """Append-only history of marks."""

    __tablename__ = "mark_changes"
    id: Mapped[int] = mapped_column(primary_key=True)
    bug: Mapped[str] = mapped_column(String(100))
    subject: Mapped[str] = mapped_column(String(32))
    before: Mapped[str | None] = mapped_column(String(12))
    after: Mapped[str] = mapped_column(String(12))
    effect: Mapped[str] = mapped_column(String(12))
    rule_version: Mapped[int] = mapped_column(Integer)
    at: Mapped[float] = mapped_column(Float)
    by: Mapped[str] = mapped_column(String(200))
    why: Mapped[str] = mapped_column(Text)
    __table_args__ = (Index("ix_mark_changes_subject", "subject"),)


class LinkRow(Base):
    """``source`` supersedes, extends, … ``target``."""

    __tablename__ = "links"
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    source: Mapped[str] = mapped_column(String(32), primary_key=True)
    target: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[float] = mapped_column(Float)
    why: Mapped[str] = mapped_column(Text)
    __table_args__ = (
        Index("ix_links_target", "target"),
        Index("ix_links_source", "source"),
        Index("ix_links_kind_target", "kind", "target"),
        Index("ix_links_kind_source", "kind", "source"),
    )
