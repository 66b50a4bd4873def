"""Exports of trackers in the layouts that they have."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from experiment_specs.errors import SpecError
from orchestrator.importers.curves import ImportedCurve
from orchestrator.importers.metric_tables import read
from orchestrator.importers.tracked import Tracked, curves_of

ACC = "val-core/openai/gsm8k/acc/mean@1"


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path


def trackio(tmp_path: Path, metrics: str, configs: str) -> Path:
    """The columns that Trackio 0.43 writes; a row per call of log, an ISO time, NaN as null."""
    rows = [
        {"id": n, "run_id": run, "timestamp": f"2026-01-0{1 + n}T00:00:00+00:00", "run_name": name, "step": step,
         "log_id": f"l{n}", "space_id": None, "critic/loss": 0.1 * n, "training/global_step": step, ACC: value}
        for n, (run, name, step, value) in enumerate(
            [("1" * 32, "a", 0, 0.1), ("1" * 32, "a", 1, None), ("1" * 32, "a", 2, 0.5), ("2" * 32, "a", 0, 0.2)]
        )
    ]  # fmt: skip
    write(tmp_path / configs, [
        {"id": 1, "run_id": "1" * 32, "run_name": "a", "created_at": "2026-01-01", "_Username": None,
         "trainer": {"total_epochs": 2, "only_other": None}},
        {"id": 2, "run_id": "2" * 32, "run_name": "a", "created_at": "2026-01-01", "_Username": None,
         "trainer": {"total_epochs": None, "only_other": 1}},
    ])  # fmt: skip
    return write(tmp_path / metrics, rows)


@pytest.mark.parametrize(
    ("metrics", "configs"), [("p.parquet", "p_configs.parquet"), ("metrics.parquet", "aux/configs.parquet")]
)
def test_trackio(tmp_path: Path, metrics: str, configs: str) -> None:
    file = trackio(tmp_path, metrics, configs)
    one, other = read(file).runs
    assert (one.label, other.label) == ("a (11111111)", "a (22222222)")
    assert (one.metrics[ACC], other.metrics[ACC]) == ([(0, 0.1), (2, 0.5)], [(0, 0.2)])
    assert set(one.metrics) == {ACC, "critic/loss", "training/global_step"}
    assert (one.config, other.config) == ({"trainer": {"total_epochs": 2}}, {"trainer": {"only_other": 1}})
    assert one.started == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert [run.metrics for run in read(tmp_path).runs] == [one.metrics, other.metrics]


def test_the_history_that_wandb_exports_is_one_run_with_the_name_of_its_folder(tmp_path: Path) -> None:
    rows = [{"_step": s, "_runtime": 1.0, "_timestamp": 1.76e9 + s, ACC: v} for s, v in ((0, 0.1), (1, None), (2, 0.3))]
    [run] = read(write(tmp_path / "run-abc-history" / "0000.parquet", rows)).runs
    assert (run.label, run.metrics, run.started) == ("run-abc-history", {ACC: [(0, 0.1), (2, 0.3)]}, 1.76e9)


def test_wandbs_chart(tmp_path: Path) -> None:
    file = tmp_path / "chart.csv"
    file.write_text(
        f'"Step","a - 1 - {ACC}","a - 1 - {ACC}__MIN","a - 1 - {ACC}__MAX","b - _step","b - {ACC}"\n'
        '"0","0.1","0.1","0.1","0",""\n"20","0.5","0.5","0.5","20","0.25"\n'
    )
    one, other = read(file).runs
    assert (one.label, one.metrics) == ("a - 1", {ACC: [(0, 0.1), (20, 0.5)]})
    assert (other.label, other.metrics) == ("b", {ACC: [(20, 0.25)]})


def test_neptunes_exporter_in_parts(tmp_path: Path) -> None:
    schema = pa.schema(
        [("project_id", pa.string()), ("run_id", pa.string()), ("attribute_path", pa.string()),
         ("attribute_type", pa.string()), ("step", pa.decimal128(18, 6)), ("timestamp", pa.timestamp("ms", tz="UTC")),
         ("int_value", pa.int64()), ("float_value", pa.float64()), ("string_value", pa.string())]
    )  # fmt: skip
    common = {"project_id": "w/p", "run_id": "R-1"}
    at = datetime(2026, 1, 5, tzinfo=UTC)

    def point(step: str, value: float) -> dict[str, Any]:
        return common | {"attribute_path": ACC, "attribute_type": "float_series", "step": Decimal(step), "timestamp": at,
                         "float_value": value}  # fmt: skip

    write(tmp_path / "R-1_part_0.parquet", [
        common | {"attribute_path": "sys/name", "attribute_type": "string", "string_value": "exp"},
        common | {"attribute_path": "actor_rollout_ref/rollout/n", "attribute_type": "int", "int_value": 8},
        point("0", 0.1), point("0.5", 0.2),
    ], schema)  # fmt: skip
    write(tmp_path / "R-1_part_1.parquet", [point("20", 0.5), point("40", math.nan)], schema)
    [run] = read(tmp_path).runs
    assert (run.label, run.project, run.started) == ("exp (R-1)", "w/p", at.timestamp())
    assert run.metrics[ACC][:2] == [(0, 0.1), (20, 0.5)]
    assert run.config == {"sys/name": "exp", "actor_rollout_ref/rollout/n": 8}
    assert run.notes == ("1 values stand at no whole step, and are left out",)


def test_long_csv_and_words_for_numbers(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text(f"run,step,metric,value\na,0,{ACC},0.1\na,1.0,{ACC},NaN\nb,0,{ACC},Infinity\n,0,{ACC},0.5\n")
    runs = read(file).runs
    assert [run.label for run in runs] == ["a", "b", "unnamed"]
    assert runs[0].metrics[ACC][0] == (0, 0.1)
    assert math.isnan(runs[0].metrics[ACC][1][1])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.parquet", "PAR1", "is no Parquet file"),
        ("a.parquet", "", "is no Parquet file"),
        ("a.csv", "", "is no CSV file"),
        ("a.csv", "epoch,loss\n1,2\n", "no column for the step; its columns are epoch, loss; accepted: wide"),
        ("a.csv", "step,loss\n", "no row"),
    ],
)
def test_what_is_no_export_is_told(tmp_path: Path, name: str, content: str, problem: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=problem):
        read(tmp_path / name)


def test_one_bad_part_does_not_refuse_the_others(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet", [{"step": 0, "run": "a", ACC: 0.5}])
    (tmp_path / "bad.parquet").write_text("x")
    tracked = read(tmp_path)
    assert [run.label for run in tracked.runs] == ["a"]
    assert [one.name for one in tracked.left_out] == ["bad.parquet"]
    with pytest.raises(SpecError, match="no Parquet file"):
        read(_empty(tmp_path))


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


# Cells that are no number


def _curves(tracked: Tracked, *metrics: str) -> list[ImportedCurve]:
    return [one.curve for one in curves_of(tracked, metrics)[0]]


@pytest.mark.parametrize("cell", ["62.5%", "0,625", "x", "0_625", "true", '"0.5 (best)"', "-"])
def test_a_cell_that_is_no_number_is_named_and_its_step_is_not_passed_over(tmp_path: Path, cell: str) -> None:
    file = tmp_path / "exp.csv"
    quoted = f'"{cell}"' if "," in cell else cell
    file.write_text(f"step,{ACC}\n0,0.5\n5,{quoted}\n")
    [curve] = _curves(read(file))
    assert [(point.step, point.percent) for point in curve.points] == [(0, 50.0)]
    text = cell.strip('"')
    assert curve.notes[0] == (
        f"no number in row 2, column {ACC}: {text!r}; the newest value of {ACC}, of step 5, is among them:"
        " its score is an older one"
    )
    file.write_text(f"step,{ACC}\n0,0.5\n5,{quoted}\n10,0.75\n")
    [curve] = _curves(read(file))
    assert [(point.step, point.percent) for point in curve.points] == [(0, 50.0), (10, 75.0)]
    assert curve.notes[0] == f"no number in row 2, column {ACC}: {text!r}"


def test_words_in_every_layout_are_named(tmp_path: Path) -> None:
    wide = read(write(tmp_path / "w.parquet", [{"step": 0, ACC: "0.5"}, {"step": 5, ACC: "x"}])).runs[0]
    assert wide.notes[0].startswith(f"no number in row 2, column {ACC}: 'x'; the newest value")
    (tmp_path / "long.csv").write_text(f"run,step,metric,value\na,0,{ACC},0.5\na,5,{ACC},50 %\n")
    [long] = read(tmp_path / "long.csv").runs
    assert long.notes[0].startswith(f"no number in row 2, column value ({ACC}): '50 %'; the newest value")
    (tmp_path / "chart.csv").write_text(f"Step,a - {ACC}\n0,0.5\n5,n/a\n")
    [chart] = read(tmp_path / "chart.csv").runs
    assert chart.notes[0].startswith(f"no number in row 2, column a - {ACC}: 'n/a'; the newest value")


def test_a_cell_of_one_part_names_its_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [{"step": 0, "run": "r", ACC: 0.5}])
    write(tmp_path / "b.parquet", [{"step": 5, "run": "r", ACC: "x"}])
    [run] = read(tmp_path).runs
    assert run.notes[0].startswith(f"no number in row 1, column {ACC} of b.parquet: 'x'; the newest value")


def test_words_far_behind_the_first_block_refuse_no_file(tmp_path: Path) -> None:
    rows = "".join(f"{step},0.5\n" for step in range(200_000))
    (tmp_path / "long.csv").write_text(f"step,{ACC}\n{rows}200000,62.5%\n")
    [run] = read(tmp_path / "long.csv").runs
    assert len(run.metrics[ACC]) == 200_001
    assert "row 200001" in run.notes[0]


def test_many_odd_cells_are_counted_and_columns_of_words_are_no_metric(tmp_path: Path) -> None:
    file = tmp_path / "exp.csv"
    rows = "".join(f"{step},{'x' if step else 0.5},fine,{'-' if step else 1}\n" for step in range(9))
    file.write_text(f"step,{ACC},remark,speed\n{rows}")
    tracked = read(file)
    [run] = tracked.runs
    assert "row 4" in run.notes[0]
    assert " and 5 more cells; the newest value" in run.notes[0]
    assert run.notes[1:] == ("columns with cells that are no number: speed",)
    with pytest.raises(SpecError, match="remark has no number at any step"):
        curves_of(tracked, ("remark",))


def test_a_score_without_any_number_is_left_out_and_its_cells_are_named(tmp_path: Path) -> None:
    other = "val-core/math/acc/mean@1"
    file = tmp_path / "exp.csv"
    file.write_text(f"step,{ACC},{other}\n0,50%,0.5\n5,60%,0.6\n")
    curves, left_out = curves_of(read(file), ())
    assert [one.curve.metric for one in curves] == [other]
    assert f"no number in row 1, column {ACC}: '50%'; row 2, column {ACC}: '60%'" in {one.why for one in left_out}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "exp.csv"
    file.write_text(f"step,{ACC},x,{ACC}\n0,0.5,1,0.1\n")
    with pytest.raises(SpecError, match=f"columns 2, 4 are all called '{ACC}'"):
        read(file)
    table = pa.Table.from_arrays([pa.array([0]), pa.array([0.5]), pa.array([0.1])], names=["step", ACC, ACC])
    parquet.write_table(table, tmp_path / "exp.parquet")
    with pytest.raises(SpecError, match="columns 2, 3 are all called"):
        read(tmp_path / "exp.parquet")
    file.write_text(f"step,{ACC},,\n0,0.5,,\n5,0.6,,\n")
    assert read(file).runs[0].metrics == {ACC: [(0, 0.5), (5, 0.6)]}
