"""MLflow as a projection: a real store in SQLite, filled once however often one tries, and told the end."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from db import bug_writes, reads, writes
from experiment_specs.bug_rules import load_rule, shipped_rules
from experiment_specs.errors import AqnError
from orchestrator.bugs import engine as bugs
from orchestrator.mlflow_projector import Projector, catch_up, rebuild
from orchestrator.scheduler.leadership import leadership
from tests.registry_tools import finish, probe


@pytest.fixture(autouse=True)
def _store(settings, empty_store) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, settings.home / "mlflow.db")


OUTCOMES = base64.b64encode(b"\x00").decode()


@pytest.fixture
def finished(submit, engine, tmp_path) -> str:
    """A run with two evals and three steps."""
    run_id = submit().created[0]
    attempt = writes.begin_attempt(engine, run_id, tmp_path)
    assert attempt is not None
    new = writes.Ingested(
        since=0,
        offset=1, seq=9, last_event_at=5.0, last_step=3,
        evals=[
            {"seq": s, "at": 1.0, "step": 2 * s, "k": 250 + s, "n": 500, "samples": 1, "questions": "q",
             "outcomes": OUTCOMES}
            for s in (0, 2)
        ],
        steps=[
            {"seq": 2 + s, "at": 2.0, "step": s, "metrics": {"critic/score/mean": s / 10, "val/acc/mean@1": 0.5}}
            for s in (1, 2, 3)
        ],
    )  # fmt: skip
    assert writes.record_events(engine, attempt.id, attempt.token, run_id, new)
    return run_id


def test_a_run_is_projected_once_and_ends(settings, engine, finished) -> None:
    Projector(settings, engine).project_all()
    client = MlflowClient(tracking_uri=settings.mlflow_url)
    run = reads.run(engine, finished)
    assert run is not None
    assert run.mlflow_run is not None
    found = client.get_run(run.mlflow_run)
    assert found.info.status == "RUNNING"
    attempt = run.attempt
    assert attempt is not None
    ending = writes.Ending("succeeded", "succeeded", "done", 0, None, "REFUTED", ["sigma stayed 0"])
    assert writes.end_attempt(engine, attempt.id, attempt.token, finished, ending)

    assert Projector(settings, engine).project_all() == 1  # a new projector, as after a restart
    found = client.get_run(run.mlflow_run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "[REFUTED] a seed 1"
    assert found.data.tags["verdict"] == "REFUTED"
    assert found.data.tags["verdict.reasons"] == "sigma stayed 0"
    assert (found.data.tags["label"], found.data.tags["dtype"], found.data.tags["aqn"]) == ("a", "bf16", "none")
    assert found.data.params["condition.optimiser.lr"] == "5e-05"
    history = client.get_metric_history(run.mlflow_run, "critic/score/mean")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [m.step for m in client.get_metric_history(run.mlflow_run, "eval/percent")] == [0, 4]
    assert Projector(settings, engine).project_all() == 0


def test_marks_reach_mlflow_with_the_next_projection(settings, engine, submit) -> None:
    run_id = submit().all[1]
    finish(engine, run_id, facts=[("gradient_probe", probe(0.2, 1e-7))])
    Projector(settings, engine).project_all()
    client = MlflowClient(tracking_uri=settings.mlflow_url)

    def tags() -> dict[str, str]:
        return dict(client.get_run(reads.runs(engine, ids=[run_id])[0].mlflow_run).data.tags)

    def name() -> str:
        return str(client.get_run(reads.runs(engine, ids=[run_id])[0].mlflow_run).info.run_name)

    assert (tags()["validity"], tags()["score.valid"], tags()["bugs"]) == ("valid", "true", "none")
    assert not name().startswith("[")
    bugs.apply(engine, load_rule(shipped_rules()["ste-backward"]), "")
    assert reads.needing_projection(engine) == [run_id]
    assert Projector(settings, engine).project_all() == 1
    assert (tags()["validity"], tags()["score.valid"], tags()["bugs"]) == ("affected", "false", "ste-backward")
    assert name().startswith("[affected] ")
    bug_writes.waive(engine, "ste-backward", [run_id], "x", "y")
    Projector(settings, engine).project_all()
    assert (tags()["validity"], tags()["score.valid"], tags()["bugs"]) == ("valid", "true", "none")
    assert not name().startswith("[")
    assert Projector(settings, engine).project_all() == 0


def test_a_crash_before_the_cursor_is_saved_makes_no_second_run(settings, engine, finished) -> None:
    projector = Projector(settings, engine)
    projector.project_all()
    run = reads.run(engine, finished)
    assert run is not None
    writes.record_projection(engine, finished, "", -1, "", 1)  # as if the cursor had never been written
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE runs SET mlflow_run = NULL, projected_state = NULL")
    Projector(settings, engine).project_all()
    client = MlflowClient(tracking_uri=settings.mlflow_url)
    experiment = client.get_experiment_by_name("light")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`aqn.run_id` = '{finished}'")
    assert [r.info.run_id for r in runs] == [run.mlflow_run]


def test_what_a_killed_scheduler_left_behind_is_caught_up(settings, engine, finished) -> None:
    run = reads.run(engine, finished)
    assert run is not None
    attempt = run.attempts[-1]
    ending = writes.Ending("failed", "failed", "lost", None, None, "UNPROVEN", ["it was lost"])
    assert writes.end_attempt(engine, attempt.id, attempt.token, finished, ending)
    with leadership(settings, engine):
        catch_up(settings, engine)  # somebody schedules: not our business
        assert reads.needing_projection(engine) == [finished]
    catch_up(settings, engine)
    assert reads.needing_projection(engine) == []
    run = reads.run(engine, finished)
    assert run is not None
    assert MlflowClient(tracking_uri=settings.mlflow_url).get_run(run.mlflow_run).info.status == "FAILED"


@pytest.mark.slow  # MLflow itself tries for a minute and a half
def test_an_mlflow_that_is_down_loses_nothing(settings, engine, finished) -> None:
    store = settings.home / "mlflow.db"
    store.rename(store.with_suffix(".away"))
    store.mkdir()  # cannot be opened
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever MLflow says
        Projector(settings, engine).project_all()
    store.rmdir()
    store.with_suffix(".away").rename(store)
    assert Projector(settings, engine).project_all() == 1


def test_a_run_that_was_tried_again_has_the_points_of_its_last_attempt_alone(
    settings, engine, finished, tmp_path
) -> None:
    Projector(settings, engine).project_all()
    first = reads.runs(engine, ids=[finished])[0]
    lost = first.attempts[-1]
    assert writes.end_attempt(engine, lost.id, lost.token, finished, writes.Ending("lost", "queued", "killed"))
    again = writes.begin_attempt(engine, finished, tmp_path)
    assert again is not None
    step = {"seq": 3, "at": 2.0, "step": 1, "metrics": {"critic/score/mean": 0.1}}
    new = writes.Ingested(since=0, offset=1, seq=3, last_event_at=2.0, last_step=1, steps=[step])
    assert writes.record_events(engine, again.id, again.token, finished, new)
    Projector(settings, engine).project_all()
    client = MlflowClient(tracking_uri=settings.mlflow_url)
    shown = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert [run.data.tags["aqn.run_id"] for run in shown] == [finished]
    assert len(client.get_metric_history(shown[0].info.run_id, "critic/score/mean")) == 1
    assert shown[0].info.run_id != first.mlflow_run


def test_a_run_that_is_over_has_its_configuration_evidence_and_page_as_artifacts(settings, engine, submit) -> None:
    run_id = submit().created[0]
    finish(engine, run_id, facts=[("gradient_probe", probe(1e-7))])
    Projector(settings, engine).project_all()
    run = reads.runs(engine, ids=[run_id])[0]
    client = MlflowClient(tracking_uri=settings.mlflow_url)
    found = {file.path for file in client.list_artifacts(run.mlflow_run)}
    assert found == {"condition.yaml", "plan.yaml", "evidence.json", "run.md"}
    folder = Path(client.download_artifacts(run.mlflow_run, ""))
    assert yaml.safe_load((folder / "condition.yaml").read_text()) == run.condition
    evidence = json.loads((folder / "evidence.json").read_text())["evidence"]
    assert [fact["kind"] for fact in evidence] == ["eval", "eval", "gradient_probe"]
    page = (folder / "run.md").read_text()
    assert "**PROVEN**" in page
    assert "9/16 = 56.2 % [33.2, 76.9] at step 4 (final): counts" in page
    note = client.get_run(run.mlflow_run).data.tags["mlflow.note.content"]
    assert f"aqn show {run_id}" in note


def test_it_is_made_anew_from_the_registry_alone(settings, engine, submit, empty_store) -> None:
    """Runs, tags, curves and artifacts are those of before; the old store is put aside, with what people wrote in it."""
    ids = submit().all
    for run_id in ids:
        finish(engine, run_id)
    Projector(settings, engine).project_all()

    def told() -> list[tuple[object, ...]]:
        client = MlflowClient(tracking_uri=settings.mlflow_url)
        found = []
        for run in reads.runs(engine, ids=ids):
            one = client.get_run(run.mlflow_run)
            tags = {k: v for k, v in one.data.tags.items() if k != "mlflow.user"}
            files = sorted(file.path for file in client.list_artifacts(run.mlflow_run))
            curve = [(m.step, m.value) for m in client.get_metric_history(run.mlflow_run, "eval/percent")]
            found.append((one.info.status, tags, one.data.params, curve, files))
        return found

    before = told()
    assert rebuild(settings, engine) == len(ids)
    assert told() == before
    assert len(list(settings.home.glob("mlflow-2*.db"))) == 1
    with leadership(settings, engine), pytest.raises(AqnError, match="a scheduler is running"):
        rebuild(settings, engine)
