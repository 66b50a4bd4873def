"""Runs of real trackers as claims: W&B in offline mode and MLflow stores, written by their own clients."""

from __future__ import annotations

import math
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from db import bug_reads
from db.bug_writes import Imported
from db.records import Claim
from experiment_specs.bug_rules import Rule, rule_from_text
from experiment_specs.errors import SpecError
from orchestrator.bugs import engine as bugs
from orchestrator.importers import mlflow_store, wandb_files
from orchestrator.importers.tracked import Tracked, TrackedRun, curves_of
from orchestrator.importers.tracked_claims import record_tracked
from orchestrator.mlflow_projector import RUN_TAG, Projector
from tests.wandb_runs import GSM8K, MATH, verl_config, write_run

EVALS: Mapping[int, Mapping[str, float]] = {0: {GSM8K: 0.0812}, 2: {GSM8K: 0.5}, 3: {GSM8K: 0.7377}}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_MODE", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(name, raising=False)


def record(engine: Engine, tracked: Tracked, *metrics: str) -> Imported:
    curves, _ = curves_of(tracked, metrics)
    return record_tracked(engine, "old", curves, "W&B", None, "2026-01-01", None)


def claims(engine: Engine) -> dict[str, Claim]:
    return {claim.label: claim for claim in bug_reads.claims(engine, history="old")}


def points(claim: Claim) -> list[tuple[int, float]]:
    return [(point["step"], point["percent"]) for point in claim.body["claim"]["curve"]]


# ------------------------------------------------------------------------------------------------------------- W&B


def test_an_offline_run(tmp_path: Path) -> None:
    file = write_run(tmp_path, EVALS, config=verl_config())
    [run] = wandb_files.read(tmp_path).runs  # latest-run, a link to it, is not a second one
    assert (run.name, run.run_id, run.project) == ("exp", file.stem.removeprefix("run-"), "study")
    assert run.metrics[GSM8K] == [(0, 0.0812), (2, 0.5), (3, 0.7377)]
    assert set(run.metrics) == {GSM8K, "critic/score/mean", "training/global_step"}
    assert run.config == verl_config()
    assert (run.ended, run.notes) == ("complete", ())
    assert run.started is not None
    assert abs(run.started - file.stat().st_mtime) < 600


def test_numbers_that_are_none_nested_tags_and_later_configurations(tmp_path: Path) -> None:
    def more(run: Any) -> None:
        run.log({"val": {"acc": 0.5}, "text": "x", "flag": True, "huge": math.inf, "sky": -math.inf}, step=4)
        run.config.update({"late": 3, "trainer": {"total_epochs": 5}}, allow_val_change=True)

    write_run(tmp_path, {0: {GSM8K: math.nan}}, config=verl_config(odd=math.nan), also=more, exit_code=3)
    [run] = wandb_files.read(tmp_path).runs
    assert math.isnan(run.metrics[GSM8K][0][1])
    assert run.metrics["val.acc"] == [(4, 0.5)]
    assert (run.metrics["huge"], run.metrics["sky"]) == ([(4, math.inf)], [(4, -math.inf)])
    assert not {"text", "flag"} & set(run.metrics)
    assert (run.config["late"], run.config["trainer"], run.config["odd"]) == (3, {"total_epochs": 5}, None)
    assert (run.ended, run.why) == ("early", "W&B recorded exit code 3")


def test_a_long_run_spans_many_blocks_and_every_cut_of_it_is_a_shorter_run(tmp_path: Path) -> None:
    evals = {step: {GSM8K: step / 1000} for step in range(0, 400, 10)}
    file = write_run(tmp_path, evals, steps=range(400))
    data = file.read_bytes()
    assert len(data) > 3 * wandb_files.BLOCK
    whole = wandb_files.run_file(file)
    assert whole.damage == []
    wanted = [(step, step / 1000) for step in range(0, 400, 10)]
    assert whole.metrics[GSM8K] == wanted
    cut = tmp_path / "run-cut.wandb"
    for size in range(4000, len(data), 9973):
        cut.write_bytes(data[:size])
        found = wandb_files.run_file(cut)
        got = found.metrics.get(GSM8K, [])
        assert got == wanted[: len(got)]
        assert found.exit_code is None
        assert len(found.damage) <= 1


def test_a_resumed_run_is_one_run_and_no_step_is_doubled(tmp_path: Path, engine: Engine) -> None:
    first = write_run(tmp_path / "a", {0: {GSM8K: 0.1}, 2: {GSM8K: 0.5}}, exit_code=1, id="same1", resume="allow")
    later = {2: {GSM8K: 0.4}, 5: {GSM8K: 0.6}}
    write_run(tmp_path / "b", later, steps=range(2, 6), config=verl_config(), id="same1", resume="allow")
    write_run(tmp_path / "c", EVALS, id="other")
    os.utime(first, (1, 1))  # the order is that of the runs, not of the files
    tracked = wandb_files.read(tmp_path)
    assert {run.run_id for run in tracked.runs} == {"same1", "other"}
    assert record(engine, tracked).created == ("exp (same1)", "exp (other)")
    claim = claims(engine)["exp (same1)"]
    assert points(claim) == [(0, 10.0), (2, 40.0), (5, 60.0)]
    [said] = claim.body["claim"]["said"]
    assert (said["status"], said["executed_steps"]) == ("came to its end", 5)
    assert "2 files of this run id" in said["notes"]
    assert "step 2 was written again: 0.4 in the place of 0.5" in said["notes"]
    assert claim.body["config"]["fields"]["model.path"] == "Qwen/Qwen2.5-7B"


def test_resumed_without_steps_offline_counts_from_0_again_and_is_kept_apart(tmp_path: Path, engine: Engine) -> None:
    def counted(*values: float) -> Callable[[Any], None]:
        def log(run: Any) -> None:
            for value in values:
                run.log({GSM8K: value})

        return log

    write_run(tmp_path / "a", {}, steps=range(0), also=counted(0.1, 0.2, 0.3), id="same2", resume="allow")
    one = wandb_files.read(tmp_path)
    assert record(engine, one).created == ("exp (same2)",)
    write_run(tmp_path / "b", {}, steps=range(0), also=counted(0.4, 0.5), id="same2", resume="allow")
    third = record(engine, wandb_files.read(tmp_path))
    assert (third.created, third.changed) == (("exp (same2) part 2",), ("exp (same2)",))  # its notes tell of the other
    found = claims(engine)
    assert points(found["exp (same2)"]) == [(0, 10.0), (1, 20.0), (2, 30.0)]
    assert points(found["exp (same2) part 2"]) == [(0, 40.0), (1, 50.0)]
    assert "file 2 of 2 of this run id" in found["exp (same2) part 2"].body["claim"]["said"][0]["notes"]


def test_importing_again_changes_nothing_and_other_runs_change_no_claim(tmp_path: Path, engine: Engine) -> None:
    write_run(tmp_path, {3: {GSM8K: 0.5, MATH: 0.25}}, config=verl_config(), id="zz")
    labels = ("exp (zz) math", "exp (zz) openai/gsm8k")
    assert record(engine, wandb_files.read(tmp_path)).created == labels
    again = record(engine, wandb_files.read(tmp_path))
    assert (again.created, again.changed, again.same) == ((), (), labels)
    write_run(tmp_path, EVALS, id="aa")  # of the same name, and before the other in the folder's order or after it
    third = record(engine, wandb_files.read(tmp_path))
    assert (third.created, third.changed, set(third.same)) == (("exp (aa)",), (), set(labels))
    assert record(engine, wandb_files.read(tmp_path), MATH).same == (labels[0],)


def tracked_run(project: str, run_id: str = "id1", started: float = 1.0, **how: Any) -> TrackedRun:
    metrics = {GSM8K: [(3, 0.5)]}
    return TrackedRun("a", run_id, f"{project}/{run_id}", how.pop("metrics", metrics), project, started, **how)


def test_a_second_project_with_the_same_run_id_changes_and_doubles_no_claim(engine: Engine) -> None:
    p, q = tracked_run("p"), tracked_run("q")
    assert record(engine, Tracked("s", (p,))).created == ("a (id1)",)
    before = claims(engine)
    for runs in ((p, q), (q, p), (p,), (q,)):
        told = record(engine, Tracked("s", runs))
        assert told.changed == ()
        assert {*told.created, *told.same} == {{"p": "a (id1)", "q": "q: a (id1)"}[run.project] for run in runs}
    found = claims(engine)
    assert set(found) == {"a (id1)", "q: a (id1)"}
    assert found["a (id1)"] == before["a (id1)"]
    assert [found[label].body["tracker"]["project"] for label in ("a (id1)", "q: a (id1)")] == ["p", "q"]


def test_a_run_that_gets_a_second_test_set_or_another_name_is_the_same_claim(engine: Engine) -> None:
    record(engine, Tracked("s", (tracked_run("p"),)))
    more = tracked_run("p", metrics={GSM8K: [(3, 0.5)], MATH: [(3, 0.25)]})
    told = record(engine, Tracked("s", (more,)))
    assert (told.created, told.changed, told.same) == (("a (id1) math",), (), ("a (id1)",))
    renamed = record(engine, Tracked("s", (replace(more, name="b"),)))
    assert (renamed.created, set(renamed.changed)) == ((), {"a (id1)", "a (id1) math"})
    assert claims(engine)["a (id1)"].body["tracker"]["name"] == "b"


def test_two_tags_of_a_long_common_beginning_are_two_claims(engine: Engine) -> None:
    tags = [f"val-core/{'x' * 150}{end}/acc/mean@1" for end in ("a", "b", "\0", "\t")]
    odd = TrackedRun("n" * 119, "i" * 59, "s", {tag: [(0, 0.5)] for tag in tags}, "p\0")
    told = record(engine, Tracked("s", (odd, tracked_run("p", started=86_400.0))))
    assert len(told.created) == len(claims(engine)) == 5
    assert len(record(engine, Tracked("s", (odd,))).same) == 4


def test_runs_of_several_days_are_recorded_all_or_none(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER stop BEFORE INSERT ON claims WHEN NEW.label = 'a (late)'"
            " BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    early, late = tracked_run("p", "early", 86_400.0), tracked_run("p", "late", 5 * 86_400.0)
    with pytest.raises(IntegrityError, match="no room"):
        record(engine, Tracked("s", (late, early)))
    assert claims(engine) == {}
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER stop")
    assert record(engine, Tracked("s", (late, early))).created == ("a (early)", "a (late)")
    days = {label: (claim.body["recorded"], claim.recorded_at) for label, claim in claims(engine).items()}
    assert days == {"a (early)": ("1970-01-02", 86_400.0), "a (late)": ("1970-01-06", 5 * 86_400.0)}
    assert len(record(engine, Tracked("s", (late, early))).same) == 2


def test_bug_rules_know_the_fields_that_a_configuration_tells_and_no_others(tmp_path: Path, engine: Engine) -> None:
    write_run(tmp_path, EVALS, config=verl_config(), id="r1")
    record(engine, wandb_files.read(tmp_path))
    subject = claims(engine)["exp (r1)"].id

    def answer(affects: str) -> str:
        checked = bugs.check(engine, _rule(tmp_path, affects))
        return next(one.finding.answer for one in checked.found if one.subject == subject)

    assert answer("{field: algorithm.name, is: dapo}") == "match"
    assert answer("{field: algorithm.name, is: grpo}") == "clean"
    assert answer("{field: lora, is: none}") == "match"
    assert answer("{field: lora.rank, above: 8}") == "clean"
    for unknown in ("{field: dtype, is: mxfp4}", "{field: aqn, is: none}", "{field: optimiser.weight_decay, above: 0}",
                    "{field: algorithm, is: grpo}"):  # fmt: skip
        assert answer(unknown) == "unknown", unknown


def _rule(tmp_path: Path, affects: str) -> Rule:
    text = (
        "bug: x\nversion: 1\ntitle: t\nfound: 2026-01-12\nstatus: confirmed\ndisposition: rerun\n"
        f"introduced_in: {{date: 2020-01-01}}\nfixed_in: {{date: 2030-01-01}}\naffects: {affects}\n"
    )
    return rule_from_text(text, tmp_path / "rule.yaml")


# ---------------------------------------------------------------------------------------------------------- MLflow


TAG = "val-core/openai/gsm8k/acc/mean_at_1"
WriteRun = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def client(store: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{store}")


@pytest.fixture
def logged(client: MlflowClient) -> WriteRun:
    def write(values: Mapping[int, float], status: str = "FINISHED", tag: str = TAG, **how: Any) -> str:
        found = client.get_experiment_by_name("study")
        experiment = found.experiment_id if found else client.create_experiment("study")
        run_id: str = client.create_run(experiment, run_name="exp", start_time=1_760_000_000_000, **how).info.run_id
        metrics = [Metric(tag, value, 1_000 + step, step) for step, value in values.items()]
        metrics += [Metric("training/global_step", step, 1_000 + step, step) for step in values]
        client.log_batch(run_id, metrics=metrics)
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        return run_id

    return write


def of(tracked: Tracked, run_id: str) -> TrackedRun:
    return next(run for run in tracked.runs if run.run_id == run_id)


def test_runs_of_a_store(store: Path, client: MlflowClient, logged: WriteRun, engine: Engine) -> None:
    done = logged({0: 0.0812, 58: 0.7377})
    params = {"actor_rollout_ref/actor/optim/lr": "1e-06", "trainer/total_training_steps": "58", "data/x/list_len": "0"}
    client.log_batch(done, params=[Param(key, value) for key, value in params.items()])
    failed, running, deleted = logged({0: 0.1}, "FAILED"), logged({0: 0.2}, "RUNNING"), logged({0: 0.3})
    client.delete_run(deleted)
    child = logged({0: 0.4}, tags={"mlflow.parentRunId": done})
    other = logged({0: 0.5}, tag="loss")
    tracked = mlflow_store.read(f"sqlite:///{store}")
    assert {run.run_id for run in tracked.runs} == {done, failed, running, child, other}
    assert [(one.name, one.why) for one in tracked.left_out] == [("1 run", "deleted in MLflow")]
    assert of(tracked, child).notes == (f"a child of run {done}",)
    curves, left_out = curves_of(tracked, ())
    assert [one.name for one in left_out] == ["1 run", f"exp ({other[:8]})"]
    assert "its tags are loss" in left_out[1].why
    imported = record_tracked(engine, "old", curves, "MLflow", None, "2026-01-01", 1319)
    assert len(imported.created) == 4
    claim = claims(engine)[f"exp ({done[:8]})"]
    assert points(claim) == [(0, 8.12), (58, 73.77)]
    [said] = claim.body["claim"]["said"]
    assert (said["status"], said["planned_steps"], said["executed_steps"]) == ("came to its end", 58, 58)
    assert (claim.body["recorded"], claim.body["claim"]["category"]) == ("2025-10-09", "study")
    assert claim.body["config"]["fields"] == {"optimiser.lr": 1e-6}
    assert (
        claims(engine)[f"exp ({failed[:8]})"].body["claim"]["said"][0]["status"]
        == "ended early: MLflow has it as FAILED"
    )
    assert claims(engine)[f"exp ({running[:8]})"].body["claim"]["said"][0]["status"] is None
    again = record_tracked(
        engine, "old", curves_of(mlflow_store.read(str(store)), ())[0], "MLflow", None, "2026-02-02", 1319
    )
    assert (again.created, again.changed, len(again.same)) == ((), (), 4)


def test_a_step_that_was_written_twice(store: Path, client: MlflowClient, logged: WriteRun) -> None:
    run_id = logged({0: 0.1, 20: 0.9, 40: math.nan, 60: math.inf})
    client.log_metric(run_id, TAG, 0.6, timestamp=5_000, step=20)  # later, and lower
    for value in (0.8, 0.7):
        client.log_metric(run_id, TAG, value, timestamp=6_000, step=50)
    client.log_metric(run_id, TAG, 0.5, timestamp=1_010, step=10)
    client.log_metric(run_id, TAG, 0.5, timestamp=1_010, step=10)
    [one], _ = curves_of(mlflow_store.read(str(store)), ())
    assert [(p.step, p.percent) for p in one.curve.points] == [(0, 10.0), (10, 50.0), (20, 60.0)]
    assert set(one.curve.notes) == {
        "step 20 was written again: 0.6 in the place of 0.9",
        "the eval of step 40 gave no number",
        "the eval of step 60 gave no number",
        "val-core/openai/gsm8k/acc/mean@1: step 50 has 0.7, 0.8 at one millisecond, and which came last is not kept:"
        " it is left out",
    }


def test_a_chosen_tag_is_read_whatever_it_is_called(store: Path, logged: WriteRun) -> None:
    logged({0: 0.1, 20: 0.5}, tag="eval/accuracy")
    with pytest.raises(SpecError, match="its tags are eval/accuracy"):
        curves_of(mlflow_store.read(str(store)), ())
    [one], _ = curves_of(mlflow_store.read(str(store), ("eval/accuracy",)), ("eval/accuracy",))
    assert [(p.step, p.percent) for p in one.curve.points] == [(0, 10.0), (20, 50.0)]


def test_this_platforms_own_projection_is_recognised(
    settings: Any, engine: Engine, submit: Any, empty_store: Path
) -> None:
    from db import writes

    settings.home.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_store, settings.home / "mlflow.db")
    assert writes.begin_attempt(engine, submit().created[0], settings.home) is not None
    assert Projector(settings, engine).project_all() == 1
    tracked = mlflow_store.read(settings.mlflow_url)
    assert tracked.runs == ()
    [one] = tracked.left_out
    assert (one.name, "this platform wrote them" in one.why) == ("1 run", True)
    with pytest.raises(SpecError, match="this platform wrote them"):
        curves_of(tracked, ())


def test_a_run_of_ours_beside_anothers(store: Path, logged: WriteRun) -> None:
    logged({0: 0.1}, tags={RUN_TAG: "r1"})
    theirs = logged({0: 0.2})
    tracked = mlflow_store.read(str(store))
    assert [run.run_id for run in tracked.runs] == [theirs]


def test_the_store_is_not_changed(store: Path, logged: WriteRun) -> None:
    logged({0: 0.1})
    with closing(sqlite3.connect(store)) as database:
        database.execute("DROP TABLE tags")  # MLflow makes what an older store lacks as soon as it opens it
        database.commit()
    before = (store.read_bytes(), sorted(path.name for path in store.parent.iterdir()))
    assert len(mlflow_store.read(f"sqlite:///{store}").runs) == 1
    assert (store.read_bytes(), sorted(path.name for path in store.parent.iterdir())) == before
    opened = Path(shutil.copy(store, store.parent / "opened.db"))
    assert MlflowClient(tracking_uri=f"sqlite:///{opened}").search_experiments()
    assert opened.read_bytes() != before[0]


def test_a_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "mlruns"
    client = MlflowClient(tracking_uri=folder.as_uri())
    run_id = client.create_run(client.create_experiment("study"), run_name="exp").info.run_id
    for step, value in ((0, 0.1), (20, math.nan), (40, 0.5)):
        client.log_metric(run_id, TAG, value, step=step)
    client.log_param(run_id, "actor_rollout_ref/actor/optim/lr", "1e-06")
    shutil.rmtree(folder / ".trash")
    before = sorted(folder.rglob("*"))
    [run] = mlflow_store.read(str(folder)).runs
    assert [step for step, _ in run.metrics["val-core/openai/gsm8k/acc/mean@1"]] == [0, 20, 40]
    assert (run.project, run.config) == ("study", {"actor_rollout_ref/actor/optim/lr": "1e-06"})
    assert sorted(folder.rglob("*")) == before
    assert mlflow_store.read(folder.as_uri()).runs[0].run_id == run_id


def test_one_damaged_run_of_a_file_store_does_not_refuse_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.create_experiment("study")
    ids = [client.create_run(experiment, run_name=f"run {n}").info.run_id for n in range(4)]
    for run_id in ids:
        client.log_metric(run_id, TAG, 0.5, step=1)
    folders = [tmp_path / "mlruns" / experiment / run_id for run_id in ids]
    (folders[0] / "meta.yaml").write_text("x: [")
    (folders[1] / "meta.yaml").write_text("")
    (folders[2] / "metrics" / TAG).write_text("17 0.5 1\n17 not-a-number 2\n")
    tracked = mlflow_store.read(str(tmp_path / "mlruns"))
    assert [run.run_id for run in tracked.runs] == [ids[3]]
    assert {one.name for one in tracked.left_out} == set(ids[:3])
    assert all("MLflow cannot read it" in one.why for one in tracked.left_out)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("nothing.db", "no such file or folder"),
        ("sqlite:///nothing.db", "no such file or folder"),
        ("text.db", "is no MLflow store"),
        ("other.db", "it has no tables experiments"),
        ("empty", "no MLflow run in this folder"),
        ("postgresql://me:secret@host/db", "mlflow server"),
        ("http://me:secret@127.0.0.1:9", "MLflow cannot read this"),
        ("http://me:p@secret@127.0.0.1:9", "MLflow cannot read this"),
        ("http://me:secret/more#1@127.0.0.1:9", "MLflow cannot read this"),
        ("http:/me:secret@127.0.0.1:9", "MLflow cannot read this"),
        ("http://me:sec[ret@127.0.0.1:9", "is no address"),
        ("me:secret@127.0.0.1:9", "no such file or folder"),
        ("sqlite://me:secret@host/db", "no such file or folder"),
    ],
)
def test_what_is_no_store_is_told_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one" * 20)
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE metrics (x)")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SpecError, match=problem) as told:
        mlflow_store.read(uri)
    assert not re.search("secret|sec.ret|more", str(told.value))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_without_a_run(store: Path) -> None:
    with pytest.raises(SpecError, match=r"mlflow\.db: no run in this MLflow store"):
        mlflow_store.read(str(store))
