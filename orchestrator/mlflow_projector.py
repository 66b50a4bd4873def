"""MLflow as a projection of the registry: one experiment a sweep, one run a run, filled in batches from a cursor.

The registry never waits for MLflow: the projector runs in a thread of its own, an error is noted and tried again at
the next round, and what MLflow already has is found again by the run's id. Only the leading scheduler projects, so the
schema of MLflow's database is made once, by one process.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from db import reads, writes
from db.records import Run
from experiment_specs.errors import AqnError
from experiment_specs.faults import fault_point
from experiment_specs.language import NAMED_FIELDS
from experiment_specs.presets import preset_name
from experiment_specs.telemetry import turn_telemetry_off
from orchestrator.mlflow_pages import dashboard_path
from orchestrator.run_page import run_page, summary
from orchestrator.scheduler.leadership import leadership
from orchestrator.settings import Settings
from orchestrator.words import readable

ROUND_SECONDS = 5.0
METRICS_A_BATCH = 1000
PARAMS_A_BATCH = 100
RUN_TAG = "aqn.run_id"
ATTEMPT_TAG = "aqn.attempt"

_log = logging.getLogger(__name__)

_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


class Projector:
    """Fills one MLflow store from one registry."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings, self._engine = settings, engine
        self._client: Any = None
        self._experiments: dict[str, str] = {}

    def project_all(self) -> int:
        """Bring every run that has news up to date; returns how many had."""
        ids = reads.needing_projection(self._engine)
        failed: list[Exception] = []
        for run_id in ids:
            try:
                self.project(reads.runs(self._engine, ids=[run_id])[0])
            except (KeyError, TypeError, ValueError) as error:  # of this run alone: the others' turn comes all the same
                failed.append(error)
        if failed:
            raise failed[0]
        return len(ids)

    def project(self, run: Run) -> None:
        """Send what MLflow does not have of one run yet."""
        client = self._connect()
        from mlflow.entities import Metric, Param, RunTag

        mlflow_run = run.mlflow_run or self._find_or_create(run)
        if run.projected_state is None:
            for batch in _batched(_params(run).items(), PARAMS_A_BATCH):
                client.log_batch(mlflow_run, params=[Param(key, value) for key, value in batch])
        attempt = run.attempt
        if attempt is not None:
            points = (
                Metric(_metric_name(name), value, int(1000 * at), step)
                for name, value, at, step in _points(self._engine, run, attempt.id)
            )
            for batch in _batched(points, METRICS_A_BATCH):
                fault_point("mlflow.before-batch")
                client.log_batch(mlflow_run, metrics=batch)
        client.log_batch(mlflow_run, tags=[RunTag(key, value) for key, value in _tags(run).items()])
        if run.state in _STATUS:
            self._keep_artifacts(run, mlflow_run)
            client.set_terminated(mlflow_run, _STATUS[run.state], end_time=_end(run))
            client.update_run(mlflow_run, name=_name(run))
        else:
            client.update_run(mlflow_run, "RUNNING" if run.state == "running" else "SCHEDULED", name=_name(run))
        seq = attempt.spool_seq if attempt is not None else -1
        fault_point("mlflow.before-cursor")
        writes.record_projection(self._engine, run.id, mlflow_run, seq, reads.projection_state(run), len(run.attempts))
        fault_point("mlflow.projected")

    def _keep_artifacts(self, run: Run, mlflow_run: str) -> None:
        """What a run that is over was to be, what it measured, both in words; again where marks change."""
        facts = reads.evidence(self._engine, run.attempt.id) if run.attempt is not None else []
        client = self._client
        client.log_dict(mlflow_run, run.condition, "condition.yaml")
        client.log_dict(mlflow_run, {"plan": run.plan, "score_rule": run.score_rule, "seed": run.seed}, "plan.yaml")
        client.log_dict(mlflow_run, {"evidence": [asdict(fact) for fact in facts]}, "evidence.json")
        client.log_text(mlflow_run, run_page(run, facts), "run.md")
        if run.attempt is not None and (resolved := Path(run.attempt.run_dir) / "verl.yaml").is_file():
            client.log_artifact(mlflow_run, str(resolved))

    def _connect(self) -> Any:
        if self._client is None:
            turn_telemetry_off()
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            self._client = MlflowClient(tracking_uri=self._settings.mlflow_url)
        return self._client

    def _find_or_create(self, run: Run) -> str:
        experiment = self._experiment(run.sweeps[0] if run.sweeps else "runs without a sweep")
        attempt = str(run.attempts[-1].number)
        for found in self._client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run.id}'"):
            if found.data.tags.get(ATTEMPT_TAG) == attempt:
                return str(found.info.run_id)
            self._client.delete_run(found.info.run_id)  # a lost attempt's: its points are no part of the run's curve
        created = self._client.create_run(
            experiment, start_time=int(1000 * run.attempts[0].created_at), run_name=_name(run),
            tags={RUN_TAG: run.id, ATTEMPT_TAG: attempt},
        )  # fmt: skip
        fault_point("mlflow.run-made")
        return str(created.info.run_id)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            self._experiments[name] = (
                found.experiment_id
                if found is not None
                else self._client.create_experiment(
                    name,
                    self._settings.mlflow_artifacts.as_uri(),
                    tags={"mlflow.experimentKind": "custom_model_development"} | self._about(name),
                )
            )
        return self._experiments[name]

    def _about(self, sweep: str) -> dict[str, str]:
        """What the sweep asks, as the experiment's description."""
        about = reads.sweep_about(self._engine, sweep)
        return {"mlflow.note.content": about} if about else {}


def rebuild(settings: Settings, engine: Engine) -> int:
    """Fill a new store from the registry alone, and put the old one aside; how many runs that were.

    Raises AqnError where a scheduler is running, whose own projector would go on with the old one.
    """
    with leadership(settings, engine) as leads:
        if not leads:
            raise AqnError("a scheduler is running, and fills MLflow: end it first")
        writes.forget_projections(engine)  # first: killed here, the next round fills the old store again
        aside = time.strftime("%Y%m%d-%H%M%S")
        for old in (settings.home / "mlflow.db", settings.mlflow_artifacts):
            if old.exists():
                old.rename(old.with_name(f"{old.stem}-{aside}{old.suffix}"))
        return Projector(settings, engine).project_all()


def catch_up(settings: Settings, engine: Engine) -> None:
    """Project what a scheduler that was killed left behind; nothing to do where one is running."""
    if reads.needing_projection(engine):
        with leadership(settings, engine) as leads:
            if leads:
                Projector(settings, engine).project_all()


class ProjectorThread:
    """Projects every few seconds until it is closed, then once more."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-projector", daemon=True)
        self.error: str | None = None
        """Why the last round failed; None when it did not."""

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout: float = 120.0) -> None:
        self._closing.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.wait(ROUND_SECONDS):
            self._round()
        self._round()

    def _round(self) -> None:
        try:
            self._projector.project_all()
            self.error = None
        except Exception as error:  # noqa: BLE001 - MLflow down or broken must not reach the scheduler
            self.error = f"{type(error).__name__}: {error}"
            _log.debug("MLflow projection failed, trying again", exc_info=True)


def _points(engine: Engine, run: Run, attempt_id: int) -> Iterator[tuple[str, float, float, int]]:
    """(name, value, time, step) after the cursor, up to where it will be put: later ones are the next round's."""
    until = run.attempts[-1].spool_seq
    for seq, step, at, metrics in reads.steps(engine, attempt_id, run.projected_seq):
        for name, value in metrics.items() if seq <= until else ():
            yield name, value, at, step
    for point in run.curve:
        if point.seq > run.projected_seq:
            yield "eval/percent", point.percent, point.at, point.step
            yield "eval/correct", float(point.k), point.at, point.step
    for fact in reads.evidence(engine, attempt_id, kinds=("sync",)):
        if run.projected_seq < fact.seq <= until:
            yield "aqn/sigma_planned", fact.data["sigma_planned"], fact.at, fact.data["serves"]
            yield "aqn/sigma_realised", fact.data["realised"]["std"], fact.at, fact.data["serves"]


def _metric_name(name: str) -> str:
    """MLflow allows letters, digits and ``_-. /:``; verl writes ``mean@1``."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)


def _params(run: Run) -> dict[str, str]:
    flat = {f"condition.{key}": value for key, value in _flatten(run.condition)}
    plan = {f"plan.{key}": json.dumps(value) for key, value in run.plan.items()}
    return {"seed": str(run.seed)} | flat | plan


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else str(value)[:6000]


def _name(run: Run) -> str:
    """A score that does not count says so first: MLflow cuts names off, and this is the column that people look at."""
    name = f"{run.label} seed {run.seed}"
    if run.valid or run.verdict is None:
        return name
    why = run.verdict if run.validity == "unverified" and run.verdict != "PROVEN" else run.validity
    return f"[{why}] {name}"


def _tags(run: Run) -> dict[str, str]:
    """What to filter by. An empty tag cannot be asked for, so what there is not is ``none``."""
    condition = readable(run.condition)
    named = {} if condition is None else {key: preset_name(key, getattr(condition, key)) for key in NAMED_FIELDS}
    score = run.score
    tags = {
        "label": run.label,
        "kind": run.kind,
        "re_evaluates": run.plan["source"]["run"] if run.kind == "eval" else "",
        "condition": run.condition_id,
        "seed": str(run.seed),
        "epochs": str(run.condition.get("epochs", "")),
        "verdict": run.verdict or "not judged",
        "validity": run.validity if run.verdict else "",
        "bugs": ", ".join(m.bug for m in run.marks if m.open and m.effect != "none"),
        "superseded_by": run.superseded_by or "",
        "supersedes": run.supersedes or "",
        "verdict.reasons": "; ".join(run.reasons)[:4900],
        "state": run.state,
        "attempts": str(len(run.attempts)),
        "code_version": run.code_version,
        "sweeps": ", ".join(run.sweeps),
        "score": f"{score.k}/{score.n * score.samples} at step {score.step}" if score else "",
        "score.valid": str(run.valid).lower(),
        "score.rule": run.score_rule.get("rule", ""),
        "run_dir": run.attempt.run_dir if run.attempt else "",
        "mlflow.note.content": summary(run, dashboard_path(run.id)),
        **named,
    }
    return {key: value or "none" for key, value in tags.items()}


def _end(run: Run) -> int:
    ended = run.attempt.ended_at if run.attempt else None
    return int(1000 * (ended or time.time()))


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
