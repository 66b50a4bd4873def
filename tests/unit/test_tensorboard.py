"""TensorBoard folders, written by torch's own writer as verl uses it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from experiment_specs.errors import SpecError
from orchestrator.importers.curves import ImportedCurve
from orchestrator.importers.tensorboard import read

GSM8K = "val-core/openai/gsm8k/acc/mean@1"
NAME = "Q_MXFP4_DAPO_fullFT_1ep_73.77"
CURVE = {0: 0.0812, 20: 0.7, 40: 0.72, 58: 0.7377}


def write(folder: Path, evals: Mapping[int, float], steps: range = range(59), tag: str = GSM8K, **how: bool) -> Path:
    """One writer's life, step by step; returns its file."""
    from torch.utils.tensorboard import SummaryWriter

    before = set(folder.glob("*tfevents*"))
    with SummaryWriter(str(folder)) as writer:
        for step in steps:
            if step in evals:
                writer.add_scalar(tag, evals[step], step, **how)
            if step:
                writer.add_scalar("training/global_step", step, step, **how)
                writer.add_scalar("critic/rewards/mean", step / 100 - 1, step, **how)
    [file] = set(folder.glob("*tfevents*")) - before
    return file


def points(curve: ImportedCurve) -> list[tuple[int, float]]:
    return [(point.step, point.percent) for point in curve.points]


@pytest.mark.parametrize("how", [{}, {"new_style": True}, {"new_style": True, "double_precision": True}])
def test_a_run(tmp_path: Path, how: dict[str, bool]) -> None:
    write(tmp_path / NAME, CURVE, **how)
    [curve] = read(tmp_path / NAME)
    assert points(curve) == [(0, 8.12), (20, 70.0), (40, 72.0), (58, 73.77)]
    assert (curve.name, curve.source, curve.metric) == (NAME, str(tmp_path / NAME), GSM8K)
    assert (curve.last_step, curve.planned_steps, curve.ended, curve.notes) == (58, None, "unknown", ())


def test_every_folder_below_is_a_run(tmp_path: Path) -> None:
    for name in ("verl/b_0.7", "verl/a", "other/a"):
        write(tmp_path / name, {0: 0.5}, range(3))
    (tmp_path / "verl" / "notes").mkdir()
    curves = read(tmp_path)
    assert [c.name for c in curves] == ["other/a", "verl/a", "b_0.7"]
    assert {c.last_step for c in curves} == {2}


def test_a_restarted_run_is_one_curve_with_the_later_values(tmp_path: Path) -> None:
    write(tmp_path, {0: 0.1, 20: 0.5, 40: 0.6}, range(48))
    later = write(tmp_path, {40: 0.65, 58: 0.7}, range(40, 59))
    [curve] = read(tmp_path)
    assert points(curve) == [(0, 10.0), (20, 50.0), (40, 65.0), (58, 70.0)]
    assert curve.last_step == 58
    assert curve.notes[0].startswith("2 event files: the run was restarted")
    assert curve.notes[1] == f"{later.name} evaluates steps 40 again: its values are kept"


def test_the_text_of_answers_in_a_file_of_its_own_is_no_restart(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    write(tmp_path, CURVE)
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_text("val/generations", "**Input:** 2+2", 99)
        writer.add_histogram("val/lengths", np.array([1.0, 2.0]), 99)
    [curve] = read(tmp_path)
    assert (len(curve.points), curve.last_step, curve.notes) == (4, 58, ())


def test_a_cut_file_gives_what_is_whole(tmp_path: Path) -> None:
    file = write(tmp_path, CURVE)
    data = file.read_bytes()
    for end in (len(data) - 1, len(data) * 2 // 3, 60, 5, 0):
        file.write_bytes(data[:end])
        [curve] = read(tmp_path)
        assert points(curve) == [(0, 8.12), (20, 70.0), (40, 72.0), (58, 73.77)][: len(curve.points)]
        assert curve.notes[0].startswith(f"{file.name} is cut off after ")
    file.write_bytes(data[: len(data) * 2 // 3])
    [curve] = read(tmp_path)
    assert len(curve.points) == 2
    assert 20 <= curve.last_step < 40


def test_a_spoilt_record_ends_what_is_read(tmp_path: Path) -> None:
    file = write(tmp_path, CURVE)
    data = bytearray(file.read_bytes())
    data[len(data) * 2 // 3] ^= 0xFF
    file.write_bytes(data)
    [curve] = read(tmp_path)
    assert len(curve.points) == 2
    assert "is cut off after" in curve.notes[0]


def test_the_best_tag_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    for tag in ("val-core/dapo/reward/mean@1", "val-core/dapo/acc/maj@32/mean", "val-core/dapo/acc/mean@32"):
        write(tmp_path, {20: -0.5 if "reward" in tag else 0.25}, range(21), tag)
    [curve] = read(tmp_path)
    assert (curve.metric, points(curve)) == ("val-core/dapo/acc/mean@32", [(20, 25.0)])
    assert "not read: val-core/dapo/reward/mean@1, val-core/dapo/acc/maj@32/mean" in curve.notes


def test_a_reward_is_called_one(tmp_path: Path) -> None:
    write(tmp_path, {20: 0.25}, range(21), "val-core/dapo/reward/mean@1")
    [curve] = read(tmp_path)
    assert points(curve) == [(20, 25.0)]
    assert "is a reward" in curve.notes[0]


@pytest.mark.parametrize("value", [-0.5, 73.77, math.inf])
def test_what_is_no_share_is_refused(tmp_path: Path, value: float) -> None:
    file = write(tmp_path, {0: 0.1, 20: value}, range(21))
    with pytest.raises(SpecError, match="is not between 0 and 1") as error:
        read(tmp_path)
    assert (error.value.file, error.value.key) == (str(file), GSM8K)
    assert str(value) in str(error.value)


def test_an_eval_that_gave_no_number_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {0: 0.1, 20: math.nan}, range(21))
    [curve] = read(tmp_path)
    assert points(curve) == [(0, 10.0)]
    assert curve.notes == ("the eval of step 20 gave no number",)


def test_a_run_without_evals_is_a_curve_without_points(tmp_path: Path) -> None:
    write(tmp_path, {}, range(21))
    [curve] = read(tmp_path)
    assert (curve.points, curve.metric, curve.last_step) == ((), "", 20)


def test_what_holds_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SpecError, match="folder"):
            read(path)
