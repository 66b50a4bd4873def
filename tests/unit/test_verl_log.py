"""Console logs of verl: real ones, and what happens to them on their way into a file."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment_specs.errors import SpecError
from orchestrator.importers.curves import ImportedCurve
from orchestrator.importers.verl_log import read

DATA = Path(__file__).parents[1] / "data"
DRIVER = (DATA / "verl_driver.log").read_bytes().decode()
"""The trainer is the process that writes the file."""
RAY = (DATA / "verl_ray.log").read_bytes().decode()
"""The trainer is an actor: Ray passes on what it writes, with its prefix."""
GSM8K = "val-core/openai/gsm8k/acc/mean@1"
ACC = "val-core/tiny/addition/acc/mean@1"
CURVE = [(0, 45.2), (2, 50.4), (4, 54.2)]
FOREIGN = (
    "\x1b[36m(WorkerDict pid=5799)\x1b[0m Total steps: 4, num_warmup_steps: 0\n",
    "(WorkerDict pid=5799, ip=10.0.0.2) \rLoading weights:  50%|█████     | 13/27 [00:00<00:00, 3.1it/s]\n",
    "(raylet) It looks like you're creating a detached actor in an anonymous namespace.\n",
    "(AgentLoopWorker pid=77) [response] step by step: 3 - 2 = 1, so the answer is 18\n",
    "(AgentLoopWorker pid=77) 18\n",
    "(TaskRunner pid=1) wandb:   val-core/openai/gsm8k/acc/mean@1 0.54284\n",
    "(WorkerDict pid=6, ip=10.0.0.2) timing_s/step:1.5 [repeated 7x across cluster]\n",
    "\x1b[36m(pid=13315)\x1b[0m WARNING:2026-11-22 19:41:59,730:Detected no triton\n",
    "(WorkerDict pid=6) step 5 of 9 - global_step_5/actor: saved\n",
    "\n",
)


@pytest.fixture
def log(tmp_path: Path):
    def write(text: str, name: str = "mxfp4_dapo_73.77.log") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write


def points(curve: ImportedCurve) -> list[tuple[int, float]]:
    return [(point.step, point.percent) for point in curve.points]


def line(step: int, value: str = "", tag: str = GSM8K) -> str:
    """As verl prints a step."""
    said = f" - {tag}:{value}" if value else ""
    return f"step:{step} - actor/pg_loss:-0.002{said} - training/global_step:{step} - perf/throughput:1086.332\n"


def bar(done: int, total: int) -> str:
    return f"\rTraining Progress: {100 * done // total:3d}%|███▎      | {done}/{total} [00:02<00:07,  2.52s/it]"


def run(last: int, total: int, every: int = 2, first: int = 0) -> str:
    """The log of a run from one step to another."""
    text = f"Total training steps: {total}\n"
    for step in range(first, last + 1):
        text += line(step, f"np.float64({0.4 + step / 100})" if step % every == 0 else "") + bar(step, total) + "\n"
    return text


# Real logs


def test_a_real_log_of_the_trainer_itself() -> None:
    [curve] = read(DATA / "verl_driver.log")
    assert points(curve) == CURVE
    assert (curve.name, curve.metric) == ("verl_driver", ACC)
    assert (curve.last_step, curve.planned_steps, curve.ended) == (4, 4, "complete")
    assert curve.why == "Training Progress: 100%|██████████| 4/4 [00:11<00:00,  2.77s/it]"
    assert curve.notes == ()


def test_a_real_log_through_ray() -> None:
    [curve] = read(DATA / "verl_ray.log")
    assert points(curve) == [(0, 54.4), (6, 57.0)]
    assert (curve.last_step, curve.planned_steps, curve.ended) == (6, 6, "complete")


def test_a_real_crash_under_ray_which_tells_of_the_error_before_the_last_steps() -> None:
    """A stand-in for the trainer under a real Ray; the driver's traceback stands before step lines 1 and 2."""
    [curve] = read(DATA / "ray_crash.log")
    assert points(curve) == [(0, 8.1122062168), (2, 20.0)]
    assert (curve.last_step, curve.planned_steps, curve.ended) == (2, 5, "early")
    assert curve.why == "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"


# What happens to logs


def prefixed(prefix: str) -> str:
    return "".join(prefix + entry for entry in DRIVER.splitlines(keepends=True))


@pytest.mark.parametrize(
    "text",
    [
        prefixed("(TaskRunner pid=123) "),
        prefixed("(TaskRunner pid=123, ip=10.0.0.1) "),
        prefixed("\x1b[36m(TaskRunner pid=123, ip=10.0.0.1)\x1b[0m "),
        prefixed("2026-06-13T18:30:00.123Z "),
        re.sub(r"\x1b\[\d+m", "", DRIVER),
        re.sub(r"\x1b\[\d+m", "", RAY),
        DRIVER.replace("\n", "\r\n"),
        DRIVER.replace("\r", "\n"),
        re.sub(r"np\.\w+\(([^)]*)\)", r"\1", DRIVER),
    ],
    ids=["ray", "ray with ip", "ray in colour", "timestamps", "grey", "grey ray", "terminal", "no returns", "numpy 1"],
)
def test_no_dress_changes_a_log(log, text: str) -> None:
    [curve] = read(log(text))
    assert points(curve) in (CURVE, [(0, 54.4), (6, 57.0)])
    assert (curve.ended, curve.notes) == ("complete", ())


def test_all_bars_may_come_before_all_that_was_printed(log) -> None:
    bars = re.findall(r"\rTraining Progress[^\]]*\]", DRIVER)
    rest = re.sub(r"\rTraining Progress[^\]]*\]", "", DRIVER)
    [curve] = read(log("\n".join(bars) + "\n" + rest))
    assert points(curve) == CURVE
    assert (curve.last_step, curve.ended, curve.notes) == (4, "complete", ())


def test_a_line_end_may_come_after_the_lines_of_others(log) -> None:
    other = "\x1b[36m(SimpleStorageUnit pid=5729)\x1b[0m target_num_threads 8 should not exceed 2.\n"
    [curve] = read(log(run(3, 4).replace("1086.332\n", f"1086.332{other}\n")))
    assert points(curve) == [(0, 40.0), (2, 42.0)]
    assert curve.notes == ()


@given(
    st.integers(len("step:"), 400),
    st.sampled_from(["np.float64(0.7376800606520091)", "0.7376800606520091"]),
    st.booleans(),
)
def test_a_step_line_torn_by_rays_prefix_is_put_together_again(
    tmp_path_factory, at: int, value: str, ray: bool
) -> None:
    """Torn where a buffer was full: by a line end and the prefix, or by the line of another process."""
    whole = line(20, value)
    at = min(at, len(whole) - 2)
    prefix = "(TaskRunner pid=1) " if ray else ""
    between = "\n" if ray else "\x1b[36m(WorkerDict pid=2)\x1b[0m saved\n"
    torn = prefix + whole[:at] + between + "".join(FOREIGN[:3]) + prefix + whole[at:]
    path = tmp_path_factory.mktemp("torn") / "run.log"
    path.write_text(prefix + line(0, "0.08") + torn + prefix + line(21))
    [curve] = read(path)
    assert points(curve) == [(0, 8.0), (20, 73.7680060652)]
    assert curve.last_step == 21


@pytest.mark.parametrize("value", ["np.float64(0.7376800606520091)", "0.7376800606520091"])
def test_a_torn_number_is_never_read(log, value: str) -> None:
    whole = line(0, "0.5") + line(20, value)
    for end in range(len(line(0, "0.5")), len(whole) + 1):
        [curve] = read(log(whole[:end]))
        assert points(curve) in ([(0, 50.0)], [(0, 50.0), (20, 73.7680060652)])
    [cut] = read(log(whole[: whole.index("737") + 3]))
    assert points(cut) == [(0, 50.0)]
    assert cut.notes == ("torn step lines: 1, first line 2; evals in them may be missing",)


def test_a_log_that_ends_anywhere_gives_the_first_points(log) -> None:
    data = DRIVER.encode()
    for end in range(data.index(b"step:0"), len(data), 211):
        path = log("")
        path.write_bytes(data[:end])
        try:
            [curve] = read(path)
        except SpecError:
            assert b"step:0 - val-aux/tiny" not in data[:end]
            continue
        assert points(curve) == CURVE[: len(curve.points)]
        assert (curve.ended == "complete") == (curve.last_step == 4)


@settings(max_examples=40)
@given(st.data())
def test_lines_of_others_change_nothing(tmp_path_factory, data: st.DataObject) -> None:
    lines = RAY.splitlines(keepends=True)
    text = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=40).map(
        lambda t: f"(X pid=9) {t}\n"
    )
    for _ in range(data.draw(st.integers(1, 12))):
        lines.insert(data.draw(st.integers(0, len(lines))), data.draw(st.sampled_from(FOREIGN) | text))
    path = tmp_path_factory.mktemp("mixed") / "verl_ray.log"
    path.write_bytes("".join(lines).encode())
    [curve] = read(path)
    [alone] = read(DATA / "verl_ray.log")
    assert (curve.points, curve.last_step, curve.ended, curve.why) == (alone.points, 6, "complete", alone.why)
    assert curve.notes == ()


# Attempts


def test_attempts_in_one_file(log) -> None:
    first, second, third = read(log(run(3, 8) + run(5, 8) + run(8, 8), "Q_MXFP4_1ep_73.77.log"))
    assert [c.name for c in (first, second, third)] == [f"Q_MXFP4_1ep_73.77 (attempt {n})" for n in (1, 2, 3)]
    assert [c.last_step for c in (first, second, third)] == [3, 5, 8]
    assert [c.ended for c in (first, second, third)] == ["early", "early", "complete"]
    assert points(second) == [(0, 40.0), (2, 42.0), (4, 44.0)]
    assert first.why == bar(3, 8).strip()


def test_real_logs_behind_one_another(log) -> None:
    cut = DRIVER[: DRIVER.index("step:3")]
    first, second, third = read(log(cut + RAY + DRIVER))
    assert (first.ended, first.last_step, points(first)) == ("early", 2, CURVE[:2])
    assert (second.ended, points(second)) == ("complete", [(0, 54.4), (6, 57.0)])
    assert (third.ended, points(third)) == ("complete", CURVE)


@pytest.mark.parametrize(
    "without", [r"Total training steps: \d+\n", r"\rTraining Progress[^\n]*\n", r"step:\d+ [^\n]*\n"]
)
def test_attempts_are_told_apart_by_any_of_their_signs(log, without: str) -> None:
    text = re.sub(without, "", run(3, 8) + run(8, 8))
    text += "" if "step:0" in text else "\"Final validation metrics: {'" + GSM8K + "': 0.5}\"\n"
    first, second = read(log(text))
    assert (first.last_step, second.last_step) == (3, 8)


def test_steps_alone_plan_nothing(log) -> None:
    [curve] = read(log(line(0, "0.1") + line(20, "0.2")))
    assert (curve.last_step, curve.planned_steps, curve.ended) == (20, None, "unknown")
    assert curve.why.startswith("step:20 - actor/pg_loss")


def test_a_resumed_run_is_one_curve(log) -> None:
    again = run(8, 8, first=4).replace("\n", "\nSetting global step to 4\nResuming from /data/global_step_4\n", 1)
    [curve] = read(log(run(5, 8) + again))
    assert points(curve) == [(0, 40.0), (2, 42.0), (4, 44.0), (6, 46.0), (8, 48.0)]
    assert (curve.name, curve.last_step, curve.ended) == ("mxfp4_dapo_73.77", 8, "complete")
    assert curve.notes[0].startswith("resumed from step 4 (line ")
    assert curve.notes[0].endswith("; steps 5 to 5 were trained again")
    assert curve.notes[1] == "step 4 was evaluated 2 times: 0.44 was the last"


def test_a_resumed_runs_bars_may_come_before_its_word_of_it(log) -> None:
    bars = "".join(bar(done, 8) + "\n" for done in range(4, 9))
    said = "Total training steps: 8\nSetting global step to 4\n" + "".join(line(s, "0.5") for s in range(5, 9))
    [curve] = read(log(run(5, 8) + bars + said))
    assert points(curve) == [(0, 40.0), (2, 42.0), (4, 44.0), (5, 50.0), (6, 50.0), (7, 50.0), (8, 50.0)]
    assert (curve.last_step, curve.ended, len(curve.notes)) == (8, "complete", 1)


def test_a_resumed_run_whose_start_is_elsewhere(log) -> None:
    text = "INFO:2026-11-22 19:28:41,393:Resuming from /data/global_step_40, setting global step to 40\n"
    [curve] = read(log("Total training steps: 58\n" + text + line(40, "0.7") + bar(40, 58) + line(41)))
    assert (points(curve), curve.last_step, curve.ended) == ([(40, 70.0)], 41, "early")
    assert curve.notes == ("resumed from step 40 (line 2): what came before is not in this file",)


def test_a_start_after_which_nothing_was_trained_is_a_note(log) -> None:
    [curve] = read(log(run(8, 8) + "Total training steps: 8\nKilled\n"))
    assert curve.ended == "complete"
    assert curve.notes == ("line 20 starts another attempt, which trained no step",)


# How they ended

TRACEBACK = """\
Traceback (most recent call last):
  File "/data/verl/trainer/main_ppo.py", line 35, in main
    run_ppo(config)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (TRACEBACK, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."),
        (TRACEBACK + "Exception ignored in: <x>\nTraceback (most recent call last):\n  File\nKeyError: 1\n", "torch."),
        ("(WorkerDict pid=6) " + TRACEBACK.replace("\n", "\n(WorkerDict pid=6) "), "torch.OutOfMemoryError"),
        ("slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026-06-13T18:30:00 DUE TO TIME LIMIT ***\n", "slurmstepd"),
        ("(raylet) 1 Workers (tasks / actors) killed due to memory pressure (OOM)\n", "1 Workers (tasks"),
        ("", "Training Progress:  37%|███▎      | 3/8 [00:02<00:07,  2.52s/it]"),
    ],
)
def test_why_it_ended_early(log, end: str, why: str) -> None:
    [curve] = read(log(run(3, 8).rstrip("\n") + end))
    assert curve.ended == "early"
    assert curve.why.startswith(why)


def test_an_error_that_the_run_outlived_is_no_end(log) -> None:
    [curve] = read(log(run(2, 20) + TRACEBACK + run(9, 20, first=3).split("\n", 1)[1]))
    assert curve.why == bar(9, 20).strip()


def test_why_is_one_short_line(log) -> None:
    [curve] = read(log(run(3, 8) + TRACEBACK.replace("20.00 MiB.", "20 MiB.\t" + "x" * 500)))
    assert len(curve.why) == 300
    assert curve.why.isprintable()


def test_old_trainers_leave_before_the_last_bar(log) -> None:
    [curve] = read(log(run(57, 58, every=20) + line(58, "0.738") + bar(57, 58)))
    assert (curve.last_step, curve.planned_steps, curve.ended) == (58, 58, "complete")
    assert curve.why.startswith("step:58 - actor")


# Tags


def test_older_verl_rounds_step_lines_but_not_its_dicts(log) -> None:
    text = (
        "(TaskRunner pid=1) (\"Initial validation metrics: {'val-aux/openai/gsm8k/reward/std@1': 0.0, \"\n"
        "(WorkerDict pid=2) saved\n"
        "(TaskRunner pid=1)  \"'val-core/openai/gsm8k/reward/mean@1': \"\n"
        "(TaskRunner pid=1)  '0.13874147081122062}')\n"
        "(TaskRunner pid=1) step:0 - val-core/openai/gsm8k/reward/mean@1:0.139\n"
        "(TaskRunner pid=1) step:1 - actor/lr:0.000 - val-core/openai/gsm8k/reward/mean@1:0.543\n"
        "(TaskRunner pid=1) (\"Final validation metrics: {'val-core/openai/gsm8k/reward/mean@1': \"\n"
        "(TaskRunner pid=1)  '0.5428354814253222}')\n"
    )
    [curve] = read(log(text))
    assert points(curve) == [(0, 13.8741470811), (1, 54.2835481425)]
    assert curve.metric == "val-core/openai/gsm8k/reward/mean@1"
    assert len(curve.notes) == 1
    assert "is a reward" in curve.notes[0]


def test_dicts_alone_are_enough(log) -> None:
    text = "\"Initial validation metrics: {'val/test_score/openai/gsm8k': 0.25}\"\n" + bar(3, 4)
    [curve] = read(log(text + "Final validation metrics: {'val/test_score/openai/gsm8k': 0.5}\n"))
    assert points(curve) == [(0, 25.0), (4, 50.0)]
    assert (curve.last_step, curve.ended) == (4, "complete")


def test_the_best_tag_of_each_test_set_is_read_and_the_others_are_named(log) -> None:
    text = (
        "step:20 - val-core/math/reward/mean@1:-0.3 - val-aux/math/acc/mean@1:0.1 - val-core/math/acc/mean@8:0.4"
        " - val-core/math/acc/best@8/mean:0.9 - val-core/aime/acc/mean@32:0.2 - training/global_step:20\n"
    )
    math, aime = read(log(text, "run.jsonl.log"))
    assert (math.name, math.metric, points(math)) == ("run.jsonl on math", "val-core/math/acc/mean@8", [(20, 40.0)])
    assert math.notes[0] == "not read: val-core/math/reward/mean@1, val-core/math/acc/best@8/mean"
    assert "val-core/math/acc/mean@8 leaves out those of val-aux/math/acc/mean@1" in math.notes[1]
    assert (math.samples, math.shares) == (8, False), "some prompts are not in it: it is no share of all questions"
    assert (aime.name, aime.metric, points(aime)) == ("run.jsonl on aime", "val-core/aime/acc/mean@32", [(20, 20.0)])
    assert (aime.samples, aime.shares, aime.notes) == (32, True, ())


def test_what_is_asked_for_is_read_instead(log) -> None:
    text = "step:20 - critic/score/mean:0.25 - val-core/math/acc/mean@8:0.4 - val-core/math/acc/best@8/mean:0.9\n"
    path = log(text)
    assert [(c.name, c.metric, points(c)) for c in read(path, metrics=["val-core/math/acc/mean@8"])] == [
        ("mxfp4_dapo_73.77", "val-core/math/acc/mean@8", [(20, 40.0)])
    ]
    best, reward = read(path, metrics=["val-core/math/acc/best@8/mean", "critic/score/mean"])
    assert (points(best), best.shares) == ([(20, 90.0)], False)
    assert (points(reward), reward.name) == ([(20, 25.0)], "mxfp4_dapo_73.77 on critic/score/mean")
    assert reward.notes[0] == "critic/score/mean was asked for, and read as a share of right answers"
    [none] = read(path, metrics=["val-core/math/acc/mean@4"])
    assert none.points == ()
    assert none.left_out.endswith("did you mean 'val-core/math/acc/mean@8'?")


def test_an_attempt_without_what_was_asked_for_is_named(log) -> None:
    asked = line(0, "0.5", "critic/score/mean")
    first, second = read(log(run(3, 8) + asked, "a.log"), metrics=["critic/score/mean"])
    assert (first.name, first.points, second.name, points(second)) == (
        "a (attempt 1)", (), "a on critic/score/mean (attempt 2)", [(0, 50.0)],
    )  # fmt: skip
    assert first.left_out.startswith("it has no numbers of critic/score/mean; seen: ")


def test_the_mean_with_most_evals_is_read(log) -> None:
    """Where a prompt lost an answer, verl names the mean of that eval after fewer answers."""
    tag = "val-core/math/acc/mean@"
    text = "".join(line(step, "0.25", f"{tag}8") for step in (0, 5)) + line(10, "0.5", f"{tag}7")
    [curve] = read(log(text))
    assert (curve.metric, points(curve)) == (f"{tag}7", [(0, 25.0), (5, 25.0), (10, 50.0)])
    assert curve.notes == ("the number of answers to each question changes: mean@8 at steps 0 to 5, mean@7 at step 10",)
    assert not curve.shares


def test_a_curve_continues_when_the_number_of_answers_changes(log) -> None:
    tag = "val-core/aime24/acc/mean@"
    for order in ((32, 64), (64, 32)):
        text = "".join(line(5 * n, f"0.{n + 1}", f"{tag}{samples}") for n, samples in enumerate(order))
        [curve] = read(log(text, "a.log"))
        assert (points(curve), curve.metric, curve.samples) == ([(0, 10.0), (5, 20.0)], f"{tag}{order[1]}", order[1])
        assert curve.notes == (
            f"the number of answers to each question changes: mean@{order[0]} at step 0, mean@{order[1]} at step 5",
        )
        assert not curve.shares, "k of n would take one number of answers for all points"
    [asked] = read(log(text, "a.log"), metrics=[f"{tag}64"])
    assert (points(asked), asked.shares) == ([(0, 10.0)], True)
    assert f"not read: {tag}32" in asked.notes


def test_a_newer_eval_of_another_tag_of_the_set_is_noted(log) -> None:
    reward = GSM8K.replace("acc", "reward")
    [curve] = read(log(line(0, "0.1") + line(5, "0.9", reward)))
    assert points(curve) == [(0, 10.0)]
    assert f"the newest eval of the test set, of step 5, has only {reward}, which is not read" in curve.notes


@pytest.mark.parametrize("value", ["-0.5", "1.2", "np.float64(73.77)", "\N{MINUS SIGN}0.5", "1,234", "1,234.5"])
def test_what_is_no_share_is_left_out_and_refuses_no_other(log, value: str) -> None:
    other = f" - val-core/math/acc/mean@1:0.5 - {GSM8K}:"
    text = (line(0, "0.1") + line(20, value)).replace(f" - {GSM8K}:", other)
    odd, good = sorted(read(log(text)), key=lambda curve: len(curve.points))
    assert points(good) == [(0, 50.0), (20, 50.0)]
    assert good.name == "mxfp4_dapo_73.77 on math"
    assert (odd.points, odd.test_set) == ((), "openai/gsm8k")
    assert odd.left_out.startswith(f"{GSM8K} at step 20, line 2: ")
    assert odd.left_out.endswith(" is not between 0 and 1: no share of right answers")


def test_a_decimal_comma_is_never_read_as_a_number_and_the_line_is_named(log) -> None:
    [curve] = read(log(line(0, "0.5") + line(5, "0,621") + line(10)))
    assert points(curve) == [(0, 50.0)]
    assert curve.notes == (
        "line 2: the eval of step 5 is '0,621', which is no number",
        "the score is that of step 0: the newest eval, of step 5, has no number",
    )


@pytest.mark.parametrize(
    "value", ["0,5", "62.5%", "None", "tensor(0.5)", "[0.5]", "0.5.1", "True", "np.float64(0,5)", "1,23,4", "0x1", "x"]
)
@pytest.mark.parametrize("first", [False, True])
def test_an_eval_that_is_no_number_is_named_with_its_line(log, value: str, first: bool) -> None:
    odd = f"step:5 - {GSM8K}:{value} - training/global_step:5\n" if first else line(5, value)
    named = f"the eval of step 5 is {value!r}, which is no number"
    [alone] = read(log(odd))
    assert (alone.points, alone.left_out) == ((), f"no eval of {GSM8K} gave a number; line 1: {named}")
    [curve] = read(log(line(0, "0.5") + odd + line(10, "0.75")))
    assert (points(curve), curve.notes) == ([(0, 50.0), (10, 75.0)], (f"line 2: {named}",))


@pytest.mark.parametrize(("value", "share"), [(".5", 50.0), ("6.25E-1", 62.5), ("+.5e0", 50.0), ("5.e-1", 50.0)])
def test_other_ways_to_write_a_number_are_read(log, value: str, share: float) -> None:
    for text in (f"step:5 - {GSM8K}:{value}\n", line(5, value), line(5, f"np.float64({value})")):
        [curve] = read(log(text))
        assert (points(curve), curve.notes) == ([(5, share)], ())


def test_a_printed_dict_names_what_is_no_number_and_tells_what_a_step_line_could_not(log) -> None:
    said = "\"Final validation metrics: {'val-aux/x': 1, '" + GSM8K + "': %s}\"\n"
    [curve] = read(log(line(0, "0.5") + line(5) + said % "0,625"))
    assert points(curve) == [(0, 50.0)]
    assert curve.notes[0] == "line 3: the eval of step 5 is '0,625', which is no number"
    [curve] = read(log(line(0, "0.5") + line(5, "0,625") + said % "0.625"))
    assert (points(curve), curve.notes) == ([(0, 50.0), (5, 62.5)], ())


@pytest.mark.parametrize("between", [" ", "  ", "\t", "\r"])
def test_two_step_lines_on_one_line_are_two_steps(log, between: str) -> None:
    one, two, three = (f"step:{n} - {GSM8K}:0.{n} - training/global_step:{n}" for n in (1, 5, 7))
    for prefix in ("", "(TaskRunner pid=1) "):
        [curve] = read(log(prefix + between.join((one, two, three)) + "\n"))
        assert (points(curve), curve.last_step, curve.notes) == ([(1, 10.0), (5, 50.0), (7, 70.0)], 7, ())


def test_a_step_line_directly_behind_a_number_does_not_pass_that_number_for_whole(log) -> None:
    [curve] = read(log(f"step:0 - {GSM8K}:0.25\nstep:5 - {GSM8K}:0.5step:10 - {GSM8K}:0.75\n"))
    assert points(curve) == [(0, 25.0), (10, 75.0)]
    assert curve.notes == ("torn step lines: 1, first line 2; evals in them may be missing",)
    [curve] = read(log(f"step:5 - {GSM8K}:np.float64(0.5)step:10 - {GSM8K}:0.75\n"))
    assert (points(curve), curve.notes) == ([(5, 50.0), (10, 75.0)], ())


def test_the_rest_of_a_torn_line_may_stand_before_the_next_step_line(log) -> None:
    torn = f"step:5 - actor/x:1 - {GSM8K}:np.float64(0.7376(WorkerDict pid=2) saved\n800606) - a/b:1 step:6 - a/b:1\n"
    [curve] = read(log(torn))
    assert (points(curve), curve.last_step) == ([(5, 73.76800606)], 6)


def test_a_metric_with_the_name_of_a_step_is_no_step_line(log) -> None:
    [curve] = read(log(f"step:4 - timing_s/step:2 - a/step:1.5 - {GSM8K}:0.5\n"))
    assert (points(curve), curve.last_step) == ([(4, 50.0)], 4)


def test_a_unicode_minus_or_thousands_elsewhere_disturb_no_eval(log) -> None:
    text = line(0, "0.1") + line(20, "0.2").replace("-0.002", "\N{MINUS SIGN}0.002").replace("1086.332", "1,086.332")
    [curve] = read(log(text))
    assert (points(curve), curve.notes) == ([(0, 10.0), (20, 20.0)], ())


def test_the_first_months_of_verl(log) -> None:
    """Dicts without ``val/``; the last eval comes after the last step line."""
    text = (
        "(main_task pid=41) \"Initial validation metrics: {'test_score/openai/gsm8k': 0.0304}\"\n"
        "(main_task pid=41) step:0 - timing/gen:11.200 - critic/kl:0.000 - critic/lr(1e-4):0.100\n"
        "(main_task pid=41) step:1 - timing/gen:11.300 - val/test_score/openai/gsm8k:0.412 - critic/lr(1e-4):0.100\n"
        "(main_task pid=41) step:2 - timing/gen:11.100 - critic/kl:0.001 - critic/lr(1e-4):0.100\n"
        "(main_task pid=41) (\"Final validation metrics: {'test_score/openai/gsm8k': 0.5273, \"\n"
        "(main_task pid=41)  \"'test_score/math': 0.25}\")\n"
    )
    gsm8k, math = read(log(text))
    assert (gsm8k.metric, points(gsm8k)) == ("val/test_score/openai/gsm8k", [(0, 3.04), (1, 41.2), (2, 52.73)])
    assert (math.metric, points(math)) == ("val/test_score/math", [(2, 25.0)])


def test_printed_decimals_are_kept(log) -> None:
    values = ("0.620", "0.621", "0.6", "np.float64(0.5)", "0.7376800606520091", "1e-02", "1.000")
    [curve] = read(log("".join(line(step, value) for step, value in enumerate(values))))
    assert [point.decimals for point in curve.points] == [1, 1, -1, None, 10, 0, 1]


def test_tags_of_another_framework_are_named(log) -> None:
    text = (
        "(TaskRunner pid=9) (\"Initial validation metrics: {'val/alfworld/test_score': 1.25, \"\n"
        "(TaskRunner pid=9)  \"'val/success_rate': 0.1250}\")\n"
        "(TaskRunner pid=9) step:2 - episode/reward/mean:1.000 - val/alfworld/test_score:4.500 - val/success_rate:0.61\n"
    )
    path = log(text)
    [curve] = read(path)
    assert curve.points == ()
    assert "seen: val/alfworld/test_score, val/success_rate, episode/reward/mean;" in curve.left_out
    [asked] = read(path, metrics=["val/success_rate"])
    assert (asked.name, points(asked)) == ("mxfp4_dapo_73.77", [(0, 12.5), (2, 61.0)])


def test_attempts_and_test_sets_together(log) -> None:
    text = run(3, 8) + run(2, 8)
    curves = read(log(text.replace(f" - {GSM8K}", f" - val-core/math/acc/mean@4:0.25 - {GSM8K}"), "a.log"))
    assert [c.name for c in curves] == [
        f"a on {name} (attempt {n})" for n in (1, 2) for name in ("math", "openai/gsm8k")
    ]
    assert [c.samples for c in curves] == [4, 1, 4, 1]
    assert [len(c.points) for c in curves] == [2, 2, 2, 2]


def test_an_eval_that_gave_no_number_is_left_out(log) -> None:
    [curve] = read(log(line(0, "0.1") + line(20, "np.float64(nan)").replace("-0.002", "inf") + line(40, "1e-02")))
    assert points(curve) == [(0, 10.0), (40, 1.0)]
    assert curve.notes == ("the eval of step 20 gave no number",)


def test_an_eval_of_infinity_is_left_out(log) -> None:
    [curve] = read(log(line(0, "0.1") + line(20, "inf")))
    assert points(curve) == [(0, 10.0)]
    assert curve.notes == (
        "the eval of step 20 gave no number", "the score is that of step 0: the newest eval, of step 20, has no number",
    )  # fmt: skip


def test_a_run_without_evals_is_a_curve_without_points(log) -> None:
    [curve] = read(log(line(1) + line(2)))
    assert (curve.points, curve.metric, curve.last_step) == ((), "", 2)
    assert "seen: actor/pg_loss, training/global_step, perf/throughput;" in curve.left_out


# verl's file logger


def record(step: int, share: float | None = None, tag: str = GSM8K, **others: float) -> str:
    data = {"actor/pg_loss": 0.1, "training/global_step": step} | others | ({tag: share} if step % 5 == 0 else {})
    return json.dumps({"step": step, "data": data}) + "\n"


def test_verls_file_logger_is_read(log) -> None:
    path = log("".join(record(step, 0.1 + step / 100) for step in range(11)), "exp.jsonl")
    [curve] = read(path)
    assert (curve.name, points(curve), curve.last_step) == ("exp", [(0, 10.0), (5, 15.0), (10, 20.0)], 10)
    assert (curve.planned_steps, curve.ended, curve.notes) == (None, "unknown", ())
    assert [c.name for c in read(path, label="mine")] == ["mine"]


def test_null_in_verls_file_is_no_number_and_not_a_missing_eval(log) -> None:
    [curve] = read(log(record(0, 0.1) + record(5) + record(10, math.nan) + record(15, 0.2), "exp.jsonl"))
    assert points(curve) == [(0, 10.0), (15, 20.0)]
    assert curve.notes == ("the eval of step 5 gave no number", "the eval of step 10 gave no number")
    [none] = read(log(record(0) + record(5), "none.jsonl"))
    assert (none.points, none.left_out) == ((), f"no eval of {GSM8K} gave a number")


@pytest.mark.parametrize("value", ["0.5", True, [0.5], {"mean": 0.5}, 10**400])
def test_what_is_no_number_in_verls_file_is_named(log, value: object) -> None:
    text = record(0, 0.1) + json.dumps({"step": 5, "data": {GSM8K: value}}) + "\n"
    [curve] = read(log(text, "exp.jsonl"))
    assert points(curve) == [(0, 10.0)]
    assert curve.notes[0].startswith("line 2: the eval of step 5 is ")
    assert curve.notes[1] == "the score is that of step 0: the newest eval, of step 5, has no number"


def test_what_the_file_of_a_resumed_run_lost_is_told(log) -> None:
    [curve] = read(log("".join(record(step, 0.5) for step in range(8, 13)), "exp.jsonl"))
    assert (points(curve), curve.last_step) == ([(10, 50.0)], 12)
    assert curve.notes == ("begins with step 8: what came before is not in this file",)


def test_attempts_in_one_file_of_json_lines(log) -> None:
    parts = [range(12), range(7), range(6, 11)]
    text = "".join(record(step, 0.1 * (n + 1)) for n, part in enumerate(parts) for step in part)
    first, second = read(log(text.replace("\n", "\r\n"), "exp.jsonl"))
    assert (first.name, points(first), first.last_step) == ("exp (attempt 1)", [(0, 10.0), (5, 10.0), (10, 10.0)], 11)
    assert (second.name, points(second), second.last_step) == (
        "exp (attempt 2)",
        [(0, 20.0), (5, 20.0), (10, 30.0)],
        10,
    )
    # Step 6 follows step 6: nothing tells a resume from a line that was written twice.


def test_a_resumed_part_put_behind_the_first_is_one_curve(log) -> None:
    text = "".join(record(step, 0.1) for step in range(13)) + "".join(record(step, 0.3) for step in range(9, 16))
    [curve] = read(log(text, "exp.jsonl"))
    assert points(curve) == [(0, 10.0), (5, 10.0), (10, 30.0), (15, 30.0)]
    assert curve.notes == (
        "resumed (line 14): steps 9 to 12 were trained again", "step 10 was evaluated 2 times: 0.3 was the last",
    )  # fmt: skip


def test_lines_that_are_no_records_are_counted(log) -> None:
    torn = record(0, 0.1) + record(5, 0.2) + '{"step": 10, "data": {"val-co'
    [curve] = read(log("\ufeff" + torn, "exp.jsonl"))
    assert points(curve) == [(0, 10.0), (5, 20.0)]
    assert curve.notes == ("lines that are no records, and not read: 1 (3)",)


def test_every_test_set_of_json_lines_is_read(log) -> None:
    others = {"val-core/math/acc/mean@8": 0.25, "val-aux/math/reward/mean@8": -0.5, "val-core/game/acc/mean@1": -0.5}
    curves = {c.test_set: c for c in read(log(record(0, 0.1, **others) + record(5, 0.2, **others), "exp.jsonl"))}
    assert points(curves["openai/gsm8k"]) == [(0, 10.0), (5, 20.0)]
    assert (points(curves["math"]), curves["math"].samples) == ([(0, 25.0), (5, 25.0)], 8)
    assert "val-core/game/acc/mean@1 at step 0, line 1: -0.5 is not between 0 and 1" in curves["game"].left_out


@pytest.mark.parametrize(
    "text",
    ["{}\n", "[1]\n", '{"step": 1}\n', '{"step": "1", "data": {}}\n', '{"step": true, "data": {}}\n', "{" * 9999],
)
def test_other_json_is_no_file_of_verl(log, text: str) -> None:
    with pytest.raises(SpecError, match="no verl console log: neither"):
        read(log(text, "x.jsonl"))


# Names and files


@pytest.mark.parametrize(
    ("name", "called"),
    [("a_73.77.log", "a_73.77"), ("a_73.77", "a_73.77"), ("b.out", "b"), ("trainer.log", "runs"), ("stdout", "runs")],
)
def test_names(tmp_path: Path, name: str, called: str) -> None:
    path = tmp_path / "runs" / name
    path.parent.mkdir()
    path.write_text(line(0, "0.1"))
    assert read(path)[0].name == called


@pytest.mark.parametrize(
    "text",
    ["", "hello\n", bar(1, 4), "Total training steps: 4\n" + "\0\xff\n" * 9, "step:5 - next\nstep:6 - and/or: no\n"],
)
def test_what_is_no_log_is_refused(log, text: str) -> None:
    with pytest.raises(SpecError, match="no verl console log: neither") as told:
        read(log(text))
    assert "val-core" not in str(told.value)


def test_a_file_that_names_a_score_elsewhere_is_refused_and_its_line_is_told(log) -> None:
    with pytest.raises(SpecError, match=r"no verl console log: .*; line 2 names val-core, and is neither$"):
        read(log(f"wandb: Run summary:\nwandb:   {GSM8K} 0.54284\n"))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.log", tmp_path):
        with pytest.raises(SpecError, match="cannot be read"):
            read(path)
