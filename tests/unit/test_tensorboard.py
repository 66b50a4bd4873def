"""TensorBoard folders, written by torch's own writer as verl uses it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from experiment_specs.errors import SpecError
from orchestrator.importers.curve_claims import claimed_run
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
    for end in (len(data) - 1, len(data) * 2 // 3):
        file.write_bytes(data[:end])
        [curve] = read(tmp_path)
        assert points(curve) == [(0, 8.12), (20, 70.0), (40, 72.0), (58, 73.77)][: len(curve.points)]
        assert curve.notes[0].startswith(f"{file.name} is cut off after ")
    assert len(curve.points) == 2
    assert 20 <= curve.last_step < 40
    for end in (60, 5, 0):
        file.write_bytes(data[:end])
        [curve] = read(tmp_path)
        assert curve.points == ()
        assert curve.left_out.startswith(f"{file.name} is cut off after ")


def test_one_flipped_byte_costs_one_record_wherever_it_is(tmp_path: Path) -> None:
    evals = {step: step / 100 for step in range(0, 20, 5)}
    file = write(tmp_path / "exp", evals, range(20))
    data = file.read_bytes()
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        [curve] = read(tmp_path)
        lost = set(evals) - {step for step, _ in points(curve)}
        assert len(lost) <= 1
        assert {step: share / 100 for step, share in points(curve)} == {s: v for s, v in evals.items() if s not in lost}
        [note] = curve.notes
        assert note.startswith(f"{file.name} is damaged at byte ")
        start = int(note.split("at byte ")[1].split(":")[0])
        size = int(note.split(": ")[1].split(" bytes")[0])
        assert start <= at < start + size
        last = start + size == len(data)
        assert note.endswith("nothing behind them is a record" if last else "the records behind them were read")


def test_damage_and_a_cut_end_are_both_told(tmp_path: Path) -> None:
    file = write(tmp_path, CURVE)
    data = file.read_bytes()
    middle = len(data) // 2
    file.write_bytes(data[:middle] + bytes(5000) + data[middle:-1])
    [curve] = read(tmp_path)
    assert len(curve.points) >= 2
    assert "is damaged at byte " in curve.notes[0]
    assert "the records behind them were read" in curve.notes[0]
    assert "is cut off after " in curve.notes[1]


@pytest.mark.parametrize("content", [b"\xff" * 5000, b"some words of a person\n" * 99, bytes(100_000), b"a few words"])
def test_what_is_no_event_file_is_called_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.out.tfevents.1.host").write_bytes(content)
    [curve] = read(tmp_path)
    assert curve.left_out == "events.out.tfevents.1.host is no event file"


def write_tags(folder: Path, values: Mapping[str, Mapping[int, float]], at: float | None = None) -> None:
    """One writer, several tags, by step as verl writes them."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step in sorted({step for steps in values.values() for step in steps}):
            for tag, steps in values.items():
                if step in steps:
                    writer.add_scalar(tag, steps[step], step, walltime=at)


def test_the_best_tag_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    tags = ("val-core/dapo/reward/mean@1", "val-core/dapo/acc/maj@32/mean", "val-core/dapo/acc/mean@32")
    write_tags(tmp_path, {tag: {20: -0.5 if "reward" in tag else 0.25} for tag in tags})
    [curve] = read(tmp_path)
    assert (curve.metric, points(curve)) == ("val-core/dapo/acc/mean@32", [(20, 25.0)])
    assert (curve.samples, curve.test_set) == (32, "dapo")
    assert "not read: val-core/dapo/reward/mean@1, val-core/dapo/acc/maj@32/mean" in curve.notes


def test_what_has_no_mean_over_its_questions_is_named_and_read_only_when_asked_for(tmp_path: Path) -> None:
    best = "val-core/aime24/acc/best@4/mean"
    write_tags(tmp_path, {best: {20: 0.5}, GSM8K: {20: 0.25}})
    score, left = read(tmp_path)
    assert (score.metric, points(score)) == (GSM8K, [(20, 25.0)])
    assert (left.points, left.left_out) == (
        (), f"test set aime24 has no mean over its questions; seen: {best}; `--metric TAG` reads one as a share of right answers",
    )  # fmt: skip
    [asked] = read(tmp_path, [best])
    assert (asked.name, points(asked), asked.shares) == (f"{tmp_path.name} on {best}", [(20, 50.0)], False)


def test_a_reward_is_called_one(tmp_path: Path) -> None:
    write(tmp_path, {20: 0.25}, range(21), "val-core/dapo/reward/mean@1")
    [curve] = read(tmp_path)
    assert points(curve) == [(20, 25.0)]
    assert "is a reward" in curve.notes[0]


@pytest.mark.parametrize("value", [-0.5, 73.77])
def test_what_is_no_share_is_left_out_and_named(tmp_path: Path, value: float) -> None:
    write(tmp_path / "odd", {0: 0.1, 20: value}, range(21))
    write(tmp_path / "good", {0: 0.1, 20: 0.2}, range(21))
    good, odd = read(tmp_path)
    assert points(good) == [(0, 10.0), (20, 20.0)]
    assert (odd.name, odd.points) == ("odd", ())
    assert odd.left_out.startswith(f"{GSM8K} at step 20: {value}"[:50])
    assert "is not between 0 and 1" in odd.left_out


def test_an_eval_that_gave_no_number_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {0: 0.1, 20: math.nan, 30: math.inf}, range(31))
    [curve] = read(tmp_path)
    assert points(curve) == [(0, 10.0)]
    assert curve.notes == (
        "the eval of step 20 gave no number", "the eval of step 30 gave no number",
        "the score is that of step 0: the newest eval, of step 30, has no number",
    )  # fmt: skip


def test_a_run_whose_evals_all_gave_no_number_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {0: math.nan}, range(3))
    [curve] = read(tmp_path)
    assert (curve.points, curve.left_out) == ((), f"no eval of {GSM8K} gave a number")


def test_a_run_without_evals_is_a_curve_without_points(tmp_path: Path) -> None:
    write(tmp_path, {}, range(21))
    [curve] = read(tmp_path)
    assert (curve.points, curve.metric, curve.last_step) == ((), "", 20)
    assert curve.left_out.startswith("none of its tags is a score; seen: critic/rewards/mean, training/global_step;")


def test_tags_of_other_frameworks_are_named_and_read_when_asked_for(tmp_path: Path) -> None:
    write_tags(tmp_path / "sft", {"val/loss": {0: 1.7, 5: 0.9}, "train/lr": {0: 1e-5}})
    write_tags(tmp_path / "agent", {"val/success_rate": {0: 0.125, 5: 0.61}})
    write_tags(tmp_path / "late", {"eval/pass_rate": {0: 0.125, 5: 0.5}})
    agent, late, sft = read(tmp_path)
    assert [one.points for one in (agent, late, sft)] == [()] * 3
    assert "seen: val/success_rate;" in agent.left_out
    assert "seen: val/loss, train/lr;" in sft.left_out
    rows = {one.name: one for one in read(tmp_path, ["val/success_rate", "eval/pass_rate"]) if one.points}
    assert points(rows["agent"]) == [(0, 12.5), (5, 61.0)]
    assert points(rows["late"]) == [(0, 12.5), (5, 50.0)]
    assert set(rows) == {"agent", "late"}
    left = [one.left_out for one in read(tmp_path, ["val/succes_rate"])]
    assert left[0] == "it has no numbers of val/succes_rate; seen: val/success_rate; did you mean 'val/success_rate'?"


# Attempts


def test_a_rerun_in_the_same_folder_is_another_attempt(tmp_path: Path) -> None:
    """The second begins again at step 0, whatever the first had reached."""
    write(tmp_path / "exp", {0: 0.1, 5: 0.2, 10: 0.3, 15: 0.4}, range(16))
    write(tmp_path / "exp", {0: 0.11, 5: 0.55, 10: 0.66}, range(11))
    first, second = read(tmp_path)
    assert (first.name, points(first), first.last_step) == (
        "exp (attempt 1)", [(0, 10.0), (5, 20.0), (10, 30.0), (15, 40.0)], 15,
    )  # fmt: skip
    assert (second.name, points(second), second.last_step) == (
        "exp (attempt 2)", [(0, 11.0), (5, 55.0), (10, 66.0)], 10,
    )  # fmt: skip
    assert first.notes == second.notes == ()


def test_a_rerun_without_an_eval_before_training_is_another_attempt(tmp_path: Path) -> None:
    write(tmp_path, {5: 0.2, 10: 0.3}, range(1, 13))
    write(tmp_path, {5: 0.5}, range(1, 8))
    write(tmp_path, {10: 0.7}, range(6, 11))  # this one was resumed from step 5
    first, second = read(tmp_path)
    assert (points(first), first.last_step) == ([(5, 20.0), (10, 30.0)], 12)
    assert (points(second), second.last_step) == ([(5, 50.0), (10, 70.0)], 10)
    assert second.notes[0].startswith("2 event files: the run was restarted")


def test_an_attempt_that_ended_before_its_first_eval_is_left_out_and_named(tmp_path: Path) -> None:
    write(tmp_path / "exp", {}, range(1, 4))
    write(tmp_path / "exp", {5: 0.5}, range(1, 8))
    first, second = read(tmp_path)
    assert (first.name, first.points, first.last_step) == ("exp (attempt 1)", (), 3)
    assert "none of its tags is a score" in first.left_out
    assert (second.name, points(second)) == ("exp (attempt 2)", [(5, 50.0)])


def test_steps_that_begin_again_in_one_file_are_another_attempt(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for step, share in ((0, 0.1), (5, 0.2), (10, 0.3), (5, 0.25), (10, 0.35), (0, 0.11), (5, 0.5)):
            writer.add_scalar(GSM8K, share, step)
    first, second = read(tmp_path)
    assert points(first) == [(0, 10.0), (5, 25.0), (10, 35.0)], "from 10 back to 5 is a resume, back to 0 is not"
    assert points(second) == [(0, 11.0), (5, 50.0)]
    assert "step 5 was evaluated 2 times: 0.25 was the last" in first.notes


def test_two_processes_of_one_run_are_one_attempt(tmp_path: Path) -> None:
    write_tags(tmp_path, {"train/reward": {1: 0.1, 2: 0.2}})
    write_tags(tmp_path, {GSM8K: {0: 0.1, 2: 0.2}})
    [curve] = read(tmp_path)
    assert points(curve) == [(0, 10.0), (2, 20.0)]


# Test sets, and trees


def test_every_test_set_is_a_curve(tmp_path: Path) -> None:
    sets = {"aime24/acc/mean@32": 0.05, "amc23/acc/mean@32": 0.3, "openai/gsm8k/reward/mean@1": 0.5}
    write_tags(tmp_path / "exp", {f"val-core/{tag}": {0: share, 5: 2 * share} for tag, share in sets.items()})
    curves = read(tmp_path)
    assert [(c.name, c.test_set, c.samples, points(c)[-1]) for c in curves] == [
        ("exp on aime24", "aime24", 32, (5, 10.0)),
        ("exp on amc23", "amc23", 32, (5, 60.0)),
        ("exp on openai/gsm8k", "openai/gsm8k", 1, (5, 100.0)),
    ]
    assert ["is a reward" in "".join(c.notes) for c in curves] == [False, False, True]


def test_a_file_that_cannot_be_read_refuses_no_other(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    write(tmp_path / "good", CURVE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "events.out.tfevents.1.host").symlink_to(tmp_path / "gone")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "events.out.tfevents.2.host").write_text("these are no events, but some words of a person\n")
    (tmp_path / "other").mkdir()
    with (tmp_path / "other" / "events.out.tfevents.3.host").open("wb") as handle:
        RecordWriter(handle).write(b"\xff\xff\xff: a record of something else")
    broken, good, other, text = read(tmp_path)
    assert len(good.points) == 4
    assert (broken.points, other.points, text.points) == ((), (), ())
    assert "is no event file" in other.left_out
    assert "cannot be read: No such file" in broken.left_out
    assert "is no event file" in text.left_out


def test_steps_that_are_no_training_steps_are_left_out_and_refuse_no_other(tmp_path: Path) -> None:
    write_tags(tmp_path / "tokens", {GSM8K: {0: 0.1, 10**10: 0.2}})
    write_tags(tmp_path / "good", {GSM8K: {0: 0.1, 5: 0.2}, "perf/tokens": {10**10: 1.0}})
    good, tokens = read(tmp_path)
    assert points(good) == [(0, 10.0), (5, 20.0)]
    assert tokens.left_out == f"{GSM8K} has a value at step 10000000000: no number of training steps"
    assert claimed_run(good).said[0].executed_steps is None


def test_one_bad_file_beside_a_good_one_is_a_note(tmp_path: Path) -> None:
    write(tmp_path, CURVE)
    (tmp_path / "events.out.tfevents.1.host").symlink_to(tmp_path / "gone")
    [curve] = read(tmp_path)
    assert len(curve.points) == 4
    assert curve.notes[0].startswith("not read: events.out.tfevents.1.host: ")


def test_what_holds_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(SpecError, match="folder"):
            read(path)
