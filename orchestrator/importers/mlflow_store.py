"""An MLflow store → runs, by MLflow's own client.

The store is never written to, which takes care: MLflow 3 brings a database of an older version up to date as soon as
it is opened, and makes folders in a file store. So a SQLite file is copied first, and of a file store a folder of
links is read. Whole histories are read, because MLflow's "latest" value of a step written twice is the larger one.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from experiment_specs.errors import SpecError
from orchestrator.importers.curves import Ended, rank
from orchestrator.importers.tracked import GLOBAL_STEP, LeftOut, Tracked, TrackedRun
from orchestrator.mlflow_projector import RUN_TAG

PAGE = 1000
ENDED: dict[str, Ended] = {"FINISHED": "complete", "FAILED": "early", "KILLED": "early"}
ACCEPTED = "sqlite:///FILE, a database file, a folder mlruns, or http(s)://SERVER"

_WITH_PASSWORD = re.compile(r"[a-z+]*:/+.*@|[^/]+:.*@", re.IGNORECASE)
_SAMPLES = re.compile(r"(?<=/mean)_at_(?=\d+$)")


def read(uri: str, metrics: tuple[str, ...] = ()) -> Tracked:
    """Every run that was not deleted. ``metrics``: tags to read beside verl's scores.

    Runs that this platform projected into MLflow are left out: the registry has them. Raises :class:`SpecError` where
    there is no store, no run, or the store cannot be read.
    """
    with _opened(uri) as address:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a wrong address is told in seconds
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # importing MLflow sets them
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            client = MlflowClient(tracking_uri=address)
            found = _from_files(client, address) if address.startswith("file:") else _from_tables(client)
            return _sorted_out(client, found, _shown(uri), metrics)
        except SpecError:  # a ValueError too
            raise
        except _errors() as error:
            raise SpecError(f"MLflow cannot read this: {_first_line(error)}", file=_shown(uri)) from error


def _errors() -> tuple[type[Exception], ...]:
    """What MLflow's client raises for a store, or one run of it, that it cannot read."""
    from alembic.util.exc import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError
    from yaml import YAMLError

    damaged = (YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError)  # what a file store lets through
    return MlflowException, SQLAlchemyError, CommandError, *damaged


def _first_line(error: Exception) -> str:
    """Without the password of an address."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"(:/+)\S*@", r"\1", line)[:300]


def source_path(uri: str) -> Path | None:
    """The file or folder of a store on this machine; None for a server."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise SpecError(f"is no address: {error}; accepted: {ACCEPTED}", file=_without_password(uri)) from error
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "sqlite":
        return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in uri:
        raise SpecError(
            "is no store that is read directly: MLflow would change the tables of an older one. Start"
            f" `mlflow server --backend-store-uri …` and give its address; accepted: {ACCEPTED}",
            file=_shown(uri),
        )
    return Path(uri)


def _shown(uri: str) -> str:
    """The same from every folder, and without a password."""
    if "://" not in uri or uri.startswith(("sqlite:", "file:")):
        path = source_path(uri)
        return str(path.resolve()) if path else _without_password(uri)
    return _without_password(uri)


def _without_password(uri: str) -> str:
    """Also of an address that is written wrongly: with a ``/`` or ``#`` in its password, or without its ``http://``."""
    if _WITH_PASSWORD.match(uri) is None:
        return uri
    scheme = re.match(r"[a-z+]*:/+", uri, re.IGNORECASE)
    return (scheme[0] if scheme else "") + uri.rpartition("@")[2]


@contextmanager
def _opened(uri: str) -> Iterator[str]:
    """The address of something that MLflow may write to."""
    path = source_path(uri)
    if path is None:
        yield uri
        return
    if not path.exists():
        raise SpecError(f"no such file or folder; accepted: {ACCEPTED}", file=_without_password(str(path)))
    with tempfile.TemporaryDirectory(prefix="aqn-mlflow-") as folder:
        if path.is_dir():
            yield _links(path, Path(folder))
        else:
            yield _copy(path, Path(folder) / "mlflow.db")


def _copy(path: Path, copy: Path) -> str:
    """A consistent copy, also while another process writes. Raises SpecError for a file that is no store."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source:
            tables = {name for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"experiments", "runs", "metrics"} <= tables:
                raise SpecError("is no MLflow store: it has no tables experiments, runs and metrics", file=str(path))
            with closing(sqlite3.connect(copy)) as target:
                source.backup(target)
    except sqlite3.Error as error:
        raise SpecError(f"is no MLflow store: {error}", file=str(path)) from error
    return f"sqlite:///{copy}"


def _links(folder: Path, links: Path) -> str:
    """A folder of links to the experiments of a file store."""
    if (folder / "mlflow.db").is_file() and not any(folder.glob("*/meta.yaml")):
        return _copy(folder / "mlflow.db", links / "copy.db")
    experiments = [entry for entry in folder.iterdir() if (entry / "meta.yaml").is_file()]
    if not any(experiment.glob("*/meta.yaml") for experiment in experiments):
        what = "no MLflow run in this folder: looked for EXPERIMENT/RUN/meta.yaml, and for mlflow.db"
        raise SpecError(what, file=str(folder))
    for experiment in experiments:
        (links / experiment.name).symlink_to(experiment.resolve(), target_is_directory=True)
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # MLflow 3.17 reads file stores only where it is told to
    return links.as_uri()


def _from_tables(client: Any) -> Iterator[tuple[str, Any]]:
    """(experiment, run) of a database or a server."""
    from mlflow.entities import ViewType

    experiments = {
        found.experiment_id: found.name
        for found in _pages(lambda token: client.search_experiments(max_results=PAGE, page_token=token))
    }
    ids = list(experiments)
    for run in (
        _pages(lambda token: client.search_runs(ids, run_view_type=ViewType.ALL, max_results=PAGE, page_token=token))
        if ids
        else ()
    ):
        yield experiments[run.info.experiment_id], run


def _from_files(client: Any, address: str) -> Iterator[tuple[str, Any]]:
    """(experiment, run) of a file store, one by one: its search fails as a whole where one file is damaged."""
    bad = _errors()
    names: dict[str, str] = {}
    for file in sorted(Path(unquote(urlsplit(address).path)).glob("[!.]*/*/meta.yaml")):
        experiment, run_id = file.parent.parent.name, file.parent.name
        try:
            if experiment not in names:
                names[experiment] = client.get_experiment(experiment).name
            yield names[experiment], client.get_run(run_id)
        except bad as error:
            yield "", LeftOut(run_id, f"MLflow cannot read it: {_first_line(error)}")


def _sorted_out(client: Any, found: Iterator[tuple[str, Any]], uri: str, metrics: tuple[str, ...]) -> Tracked:
    bad = _errors()
    runs: list[TrackedRun] = []
    left_out: list[LeftOut] = []
    deleted = own = 0
    for experiment, run in found:
        if isinstance(run, LeftOut):
            left_out.append(run)
        elif run.info.lifecycle_stage == "deleted":
            deleted += 1
        elif RUN_TAG in run.data.tags:
            own += 1
        else:
            try:
                runs.append(_run(client, run, uri, experiment, metrics))
            except bad as error:
                left_out.append(LeftOut(run.info.run_name or run.info.run_id, _first_line(error)))
    if own:
        what = "this platform wrote them into MLflow: the registry that they come from has them, with their proof"
        left_out.append(LeftOut(_count(own, "run"), what))
    if deleted:
        left_out.append(LeftOut(_count(deleted, "run"), "deleted in MLflow"))
    if not runs and not left_out:
        raise SpecError("no run in this MLflow store", file=uri)
    return Tracked(uri, tuple(sorted(runs, key=lambda one: (one.started or 0.0, one.run_id))), tuple(left_out))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _pages(page: Any) -> Iterator[Any]:
    token = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return


def tag_of(key: str) -> str:
    """verl's tag: MLflow allows no ``@``, so verl writes ``mean_at_1``."""
    return _SAMPLES.sub("@", key) if key.startswith(("val-core/", "val-aux/")) else key


def _run(client: Any, run: Any, uri: str, experiment: str, wanted: tuple[str, ...]) -> TrackedRun:
    info, data = run.info, run.data
    metrics: dict[str, list[tuple[int, float]]] = {}
    notes: list[str] = []
    for key in sorted(data.metrics):
        tag = tag_of(key)
        metrics[tag] = []  # seen, whether or not its points are needed
        if rank(tag) is not None or tag == GLOBAL_STEP or {tag, key} & set(wanted):
            metrics[tag], unclear = _points(client.get_metric_history(info.run_id, key))
            notes += [f"{tag}: {one}" for one in unclear]
    parent = data.tags.get("mlflow.parentRunId")
    if parent:
        notes.append(f"a child of run {parent}")
    ended = ENDED.get(info.status, "unknown")
    why = f"MLflow has it as {info.status}"
    if ended == "unknown":
        notes.append(f"{why}: it was never ended, or is still running")
    return TrackedRun(
        name=info.run_name or data.tags.get("mlflow.runName", ""),
        run_id=info.run_id,
        source=f"{uri} run {info.run_id}",
        metrics=metrics,
        project=experiment,
        started=info.start_time / 1000 if info.start_time else None,
        config=dict(data.params),
        ended=ended,
        why=why,
        notes=tuple(notes),
    )


def _points(history: list[Any]) -> tuple[list[tuple[int, float]], list[str]]:
    """(step, value) in order of time, and which steps were left out.

    Two values of one step and one millisecond have no order: a database keeps none.
    """
    at: dict[tuple[int, int], list[float]] = {}
    for point in sorted(history, key=lambda point: (point.step, point.timestamp)):
        values = at.setdefault((point.step, point.timestamp), [])
        value = _finite_as_logged(point.value)
        if not any(value == other or (math.isnan(value) and math.isnan(other)) for other in values):
            values.append(value)
    last = dict(at.keys())
    unclear = [
        f"step {step} has {', '.join(f'{value:g}' for value in sorted(at[step, time]))} at one millisecond, and which"
        " came last is not kept: it is left out"
        for step, time in last.items() if len(at[step, time]) > 1
    ]  # fmt: skip
    sure = {step for step, time in last.items() if len(at[step, time]) == 1}
    return [(step, value) for (step, _), values in at.items() if step in sure for value in values], unclear


def _finite_as_logged(value: float) -> float:
    """A database store keeps infinity as the largest number there is."""
    return value * float("inf") if abs(value) >= sys.float_info.max else value
