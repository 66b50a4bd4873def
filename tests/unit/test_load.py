"""Every error of the language names file, line, key, value, what is accepted, and the nearest name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from experiment_specs.errors import Problems, SpecError, SpecErrors
from experiment_specs.load import build_condition, load_sweep
from orchestrator.plan import make_plan
from tests.conftest import TINY

REPOSITORY = Path(__file__).resolve().parents[2]


def problem_of(write_spec, text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        make_plan(load_sweep(write_spec(text)))
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        (TINY.replace("axes:", "axis:"), 3, "axis", "did you mean 'axes'?"),
        (TINY.replace("mxfp4", "mxpf4"), 4, "axes.dtype[1]", "did you mean 'mxfp4'?"),
        (TINY.replace("[none, standard]", "[off, standard]"), 5, "axes.aqn[0]", "a boolean"),
        (TINY.replace("[none, standard]", "[~, standard]"), 5, "axes.aqn[0]", "empty stands where a name belongs"),
        (TINY.replace("[none, standard]", "[none, {schedule: kstge, sigma_start: 1e-2, sigma_end: 1e-4, num_stages: 3}]"),
         5, "axes.aqn[1].schedule", "did you mean 'kstage'?"),
        (TINY.replace("[none, standard]", "[none, {preset: standard, sigma_sart: 1e-2}]"),
         5, "axes.aqn[1].sigma_sart", "did you mean 'sigma_start'?"),
        (TINY.replace("[none, standard]", "[none, {preset: standard, num_stages: 2}]"),
         5, "axes.aqn[1].num_stages", "greater than or equal to 3"),
        (TINY.replace("[none, standard]", "[none, {preset: standard, sigma_end: 0.5}]"), 5, "axes.aqn[1]", "must not be above"),
        (TINY + "set: {epochs: two}\n", 6, "set.epochs", "two"),
        (TINY + "set: {epochs: 0}\n", 6, "set.epochs", "greater than 0"),
        (TINY + "set: {epoch: 2}\n", 6, "set.epoch", "did you mean 'epochs'?"),
        (TINY + "set: {batch: {prompts: 10, mini_batch: 4}}\n", 6, "set.batch", "multiple of mini_batch"),
        (TINY + "seeds: [1, 1]\n", 6, "seeds[1]", "written twice"),
        (TINY + "seeds: 3\n", 6, "seeds", "[1, 2, 3]"),
        (TINY + "score: {rule: last}\n", 6, "score.rule", "accepted: final, best"),
        (TINY + "labels: {A: {dtype: bf16}}\n", 6, "labels.A", "2 conditions"),
        (TINY + "labels: {A: {dtype: nvfp4}}\n", 6, "labels.A", "no condition"),
        (TINY + "labels: {A: {dytpe: bf16}}\n", 6, "labels.A.dytpe", "did you mean 'dtype'?"),
        (TINY + "exclude: [{when: {dtype: nvfp4}, because: x}]\n", 6, "exclude[0]", "excludes nothing"),
        (TINY + "exclude: [{when: {dtype: bf16}}]\n", 6, "exclude[0]", "because is missing"),
        (TINY + "sweep: again\n", 6, "sweep", "written twice"),
        (TINY + "resources: {gpus: '${nothing.here}'}\n", 6, "resources.gpus", "not found"),
        (TINY + "about: ${oc.env:HOME}\n", 6, "about", "the same everywhere"),
        (TINY.replace("tiny-cpu", "tiny-cup"), 2, "base", "did you mean 'bases/tiny-cpu.yaml'?"),
        (TINY + "set: {srdd: variable, lora: r32}\naxis: 1\n", 7, "axis", "unknown key"),
        (TINY + "set: {srdd: variable}\n", 6, "set.srdd", "nothing to aim"),
        (TINY + "trainer: {algorithm: {gamma: 1.0}}\n", 6, "trainer.algorithm", "write verl's keys dotted"),
        (TINY + "trainer: {data.val_files: x}\n", 6, "trainer.data.val_files", "is decided by data.test"),
        (TINY + "contrasts: {c: {vary: aqnn, from: none, to: high}}\n", 6, "contrasts.c.vary", "did you mean 'aqn'?"),
        (TINY + "contrasts: {c: {vary: aqn, from: nonne, to: high}}\n", 6, "contrasts.c.from", "did you mean 'none'?"),
        (TINY + "about: ${ oc.env:HOME}\n", 6, "about", "the same everywhere"),
        (TINY + "labels: {7: {dtype: bf16}}\n", 6, "7", "quote it"),
        (TINY + "set: {<<: {epochs: 2}}\n", 6, "", "merge keys"),
        (TINY + "about: a\x07b\n", None, "", "not valid YAML"),
        (TINY + "about: ${${x}.env:HOME}\n", 6, "about", "nothing else is computed"),
        (TINY + "about: \\${set.epochs}\n", 6, "about", "nothing else is computed"),
        (TINY + "about: [1]\n", 6, "about", "is not a text"),
        (TINY + "set:\n  # learning\n  optimizer.lr: 1e-5\n", 8, "set.optimizer", "did you mean 'optimiser'?"),
        (TINY + "set: {optimiser: 5, optimiser.lr: 1e-3}\n", 6, "set.optimiser", "5 stands where a mapping belongs"),
        (TINY + "set: {lr: 1e-5}\n", 6, "set.lr", "did you mean 'optimiser.lr'?"),
        (TINY + "set: {optimiser.lr: [1e-5, 1e-4]}\n", 6, "set.optimiser.lr", "several values of a field are an axis"),
        (TINY + "set:\n  epochs: 1\n  srdd: variable\n", 8, "set.srdd", "nothing to aim"),
        (TINY.replace("mxfp4", "mxpf4") + "exclude: [{when: {dtype: bf16, aqn: standard}, because: x}]\n", 4, "axes.dtype[1]", "did you mean 'mxfp4'?"),
        (TINY + 'about: "\\ud800"\n', 6, "", "half a character"),
        (TINY + "set: {epochs: 2020-13-45}\n", 6, "set.epochs", "'2020-13-45' is not a whole number"),
        (TINY + "set:\n  epochs: " + "9" * 5000 + "\n", 7, "", "digits"),
        (TINY + "set: {optimiser: {lr: 1e-5}, optimiser.lr: 1e-3}\n", 6, "set.optimiser.lr", "written twice"),
        (TINY + "set: {epochs: 1000000000}\n", 6, "set.epochs", "training steps are more than"),
        (TINY + "  batch.prompts: [16, 8000]\n", 6, "axes.batch.prompts[1]", "make no step"),
        (TINY + 'labels: {"a\\nrm -rf ~": {dtype: bf16, aqn: none}}\n', 6, None, "printable letters"),
        (TINY + "contrasts: {c: {vary: aqn, from: none, to: none}}\n", 6, "contrasts.c", "with itself"),
        (TINY + "set: {algorithm.overlong: {buffer: 50, penalty: 0.5}}\n", 6, None, "is longer than data.max_response_tokens"),
        (TINY + "epochs: 2\n", 6, "epochs", "write it under set"),
        (TINY + "set: {aqn: high}\n", 6, "set.aqn", "has no effect: the axis aqn decides it"),
        (TINY + "set: {dtype.format: mxfp4}\n", 6, "set.dtype.format", "has no effect"),
        (TINY + "set: {optimiser.lr: '1e-5'}\n", 6, "set.optimiser.lr", "'1e-5' is not a number; without quotes it would be one"),
        (TINY + "set: {model: some/where}\n", 6, "set.model", "stands where a mapping belongs; accepted: path"),
        (TINY + "  optimiser: {lr: [1e-5]}\n", 6, "axes.optimiser", "a part of a field is an axis of its own, optimiser.lr"),
        (TINY + "  aqn.sigma_strat: [0.1]\n", 6, "axes.aqn.sigma_strat", "did you mean 'sigma_start'?"),
        (TINY + "  aqn.sigma_start: [0.1]\n", 5, "axes.aqn[0]", "is none here, and aqn.sigma_start is set"),
        (TINY + "labels: {A: {dtype: bf16}}\n", 6, "labels.A", "2 conditions, which differ in aqn"),
        (TINY + "labels: {A: {optimiser.lrr: 1}}\n", 6, "labels.A.optimiser.lrr", "did you mean 'lr'?"),
        (TINY + "contrasts: {c: {vary: aqn, from: none, to: high}}\n", 6, "contrasts.c.to", "no condition has this aqn"),
        (TINY + "contrasts: {c: {vary: optimiser.lrr, from: 1, to: 2}}\n", 6, "contrasts.c.vary", "did you mean 'lr'?"),
        (TINY + "score: final\n", 6, "score", "must be a mapping of rule, mode"),
        (TINY + "set: {batch.mini_batch: 5}\n", 6, "set.batch", "must be a multiple of mini_batch (5)"),
        (TINY + "labels: {A: &a {dtype: bf16}, B: *a}\n", 6, "", "aliases"),
        (TINY + "about: " + "[" * 1200 + "]" * 1200 + "\n", 1, "", "nested too deeply"),
        (TINY + "about: !!python/object/apply:os.system [true]\n", 6, "", "not valid YAML"),
        (TINY.replace("sweep: tiny", "sweep: ../../tiny"), 1, "sweep", "no name for a sweep"),
        (TINY.replace("bases/tiny-cpu.yaml", "/etc/passwd"), 2, "base", "by a relative path"),
        (TINY.replace("bases/tiny-cpu.yaml", "../../../../../../../../etc/passwd"), 2, "base", "by a relative path"),
        (TINY + "checkpoints: {keep: first}\n", 6, "checkpoints.keep", "accepted: last, best, all, none"),
        (TINY + "contrasts: {c: {vary: aqn, from: none, to: high, detect: 0}}\n", 6, "contrasts.c.detect", "greater than 0"),
        (TINY + "  epochs: [" + ", ".join(map(str, range(1, 3000))) + "]\n", 3, "axes", "more than 10000 conditions"),
        (TINY + "exclude: [{when: {dtpe: bf16}, because: x}]\n", 6, "exclude[0].when.dtpe", "did you mean 'dtype'?"),
        (TINY + "resources: {gpus: 3}\n", 6, "resources.gpus", "cannot be shared out to 3 GPUs"),
        (TINY + "set: {data: {train_rows: 8}}\n", 6, "set.data.train_rows", "make no step"),
        ("sweep: x\naxes: [1]\n", 2, "axes", "must be a mapping"),
        ("axes: {dtype: [bf16]}\nbase: bases/tiny-cpu.yaml\n", 1, "sweep", "needs a name"),
    ],
)  # fmt: skip
def test_an_error_names_its_place(write_spec, text: str, line: int, key: str, words: str) -> None:
    error = problem_of(write_spec, text)
    assert words in str(error)
    if key is not None:
        assert error.key == key
    assert error.line == line
    assert re.match(r".*\.yaml(:\d+)?: ", str(error))


def test_yaml_that_is_none_is_named_with_its_line(write_spec) -> None:
    assert problem_of(write_spec, "sweep: x\naxes: {dtype: [bf16\n").line is not None


def test_a_missing_file_is_a_spec_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_sweep(tmp_path / "nowhere.yaml")


def test_exponents_without_a_dot_are_numbers(write_spec) -> None:
    sweep = load_sweep(write_spec(TINY + "set: {optimiser: {lr: 1e-4}}\n"))
    assert make_plan(sweep).conditions[0].condition.optimiser.lr == 1e-4


def test_later_keys_win_over_the_base_and_a_base_may_have_a_base(write_spec) -> None:
    write_spec("base: bases/tiny-cpu.yaml\nset: {epochs: 2, optimiser: {lr: 1e-3}}\n", "mine.yaml")
    sweep = load_sweep(write_spec(TINY.replace("bases/tiny-cpu.yaml", "mine.yaml") + "set: {epochs: 3}\n"))
    condition = make_plan(sweep).conditions[0].condition
    assert (condition.epochs, condition.optimiser.lr, condition.optimiser.grad_clip) == (3, 1e-3, 0.5)


def test_a_base_that_refers_to_itself_is_an_error(write_spec) -> None:
    with pytest.raises(SpecError, match="refers back to itself"):
        load_sweep(write_spec("sweep: x\nbase: sweep.yaml\n"))


def test_interpolation_reads_other_keys_of_the_spec(write_spec) -> None:
    text = TINY + "set: {epochs: 2, eval: {every: '${set.epochs}'}}\n"
    assert make_plan(load_sweep(write_spec(text))).conditions[0].condition.eval.every == 2


def test_result_neutral_overrides_do_not_enter_the_condition(write_spec) -> None:
    neutral = "actor_rollout_ref.rollout.gpu_memory_utilization"
    plain = make_plan(load_sweep(write_spec(TINY)))
    tuned = make_plan(load_sweep(write_spec(TINY + f"trainer: {{{neutral}: 0.7}}\n")))
    other = make_plan(load_sweep(write_spec(TINY + "trainer: {algorithm.gamma: 0.9}\n")))
    assert tuned.conditions[0].condition.id == plain.conditions[0].condition.id
    assert tuned.sweep.overrides == {neutral: 0.7}
    assert other.conditions[0].condition.id != plain.conditions[0].condition.id


def test_dotted_keys_mean_the_same_under_set_as_spelled_out(write_spec) -> None:
    dotted = TINY + "set: {optimiser.lr: 1e-4, lora: r32, lora.rank: 8}\n"
    spelled = TINY + "set: {optimiser: {lr: 1e-4}, lora: {preset: r32, rank: 8}}\n"
    one, other = (make_plan(load_sweep(write_spec(text))).conditions for text in (dotted, spelled))
    assert [c.condition.id for c in one] == [c.condition.id for c in other]
    assert one[0].condition.optimiser.lr == 1e-4
    error = problem_of(write_spec, TINY + "set:\n  optimiser.lr: fast\n")
    assert (error.line, error.key) == (7, "set.optimiser.lr")


def test_a_base_through_a_link_that_leaves_the_folder_is_refused(write_spec, tmp_path) -> None:
    spec = write_spec(TINY.replace("bases/tiny-cpu.yaml", "link.yaml"))
    spec.with_name("link.yaml").symlink_to("/etc/passwd")
    with pytest.raises(SpecError, match="by a relative path"):
        load_sweep(spec)


def test_a_message_is_one_line_whatever_the_file_holds(write_spec) -> None:
    text = str(problem_of(write_spec, TINY.replace("mxfp4", '"' + "a\\n" * 3000 + '"')))
    assert "\n" not in text
    assert len(text) < 1000


def test_none_is_written_wherever_a_field_may_be_absent(write_spec) -> None:
    text = (
        TINY.replace("tiny-cpu", "qwen2.5-1.5b-gsm8k-dapo") + "set: {steps_per_epoch: none, algorithm.overlong: none}\n"
    )
    condition = make_plan(load_sweep(write_spec(text))).conditions[0].condition
    assert (condition.steps_per_epoch, condition.algorithm.overlong) == (None, None)


def test_auto_is_vllm_where_it_is_installed(write_spec, monkeypatch) -> None:
    sweep = load_sweep(write_spec(TINY))
    for spec, rollout in ((None, "transformers"), (object(), "vllm")):
        monkeypatch.setattr("experiment_specs.language.find_spec", lambda _, spec=spec: spec)
        assert build_condition(sweep, {"rollout": "auto"}).rollout == rollout


@pytest.mark.parametrize(
    ("fields", "installed", "kernel"),
    [
        ({}, False, "sdpa"),
        ({"compute": "bf16"}, False, "sdpa"),
        ({"compute": "bf16"}, True, "flash_attention_2"),
        ({"compute": "fp32"}, True, "sdpa"),
        ({"compute": "bf16", "hw_noise": "matmul-5pct"}, True, "eager"),
        ({"compute": "bf16", "attention": "sdpa"}, True, "sdpa"),
    ],
)
def test_auto_attention_is_the_kernel_that_can_run_here(write_spec, monkeypatch, fields, installed, kernel) -> None:
    monkeypatch.setattr("experiment_specs.language.find_spec", lambda name: object() if installed else None)
    sweep = load_sweep(write_spec(TINY))
    assert build_condition(sweep, fields).attention == kernel
    if "attention" not in fields:  # left out is auto, and both are the same condition as the kernel by name
        assert build_condition(sweep, fields).id == build_condition(sweep, fields | {"attention": kernel}).id


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("set: {attention: flash_attention_2}", "computes in 16 bit only, and compute is fp32"),
        ("set: {attention: sdpa, hw_noise: {scale: 0.05}}", "bmm/matmul of hw_noise get no error: eager is needed"),
        (
            "set: {attention: flash_attention_3}",
            "accepted: auto, sdpa, flash_attention_2, eager; did you mean 'flash_attention_2'",
        ),
    ],
)
def test_an_attention_that_could_not_be_had_is_refused(write_spec, text, why) -> None:
    assert why in str(problem_of(write_spec, TINY + text + "\n"))


def test_a_name_that_two_begin_with_is_not_guessed(write_spec) -> None:
    """sigma_end is nearer to sigma than sigma_start, and a guess would be as likely wrong as right."""
    text = TINY.replace("none, standard", "none, {preset: standard, sigma: 0.02}")
    error = str(problem_of(write_spec, text))
    assert "unknown key" in error
    assert "sigma_start" in error
    assert "did you mean" not in error


def test_a_part_that_an_axis_begins_alone_is_told_at_the_axis(write_spec) -> None:
    text = "sweep: tiny\nbase: bases/tiny-cpu.yaml\naxes:\n  dtype: [mxfp4]\n  aqn.sigma_start: [0.02]\n"
    error = problem_of(write_spec, text)
    assert (error.line, error.key) == (5, "axes.aqn.sigma_start[0]")
    assert "schedule is missing" in str(error)


def test_a_base_without_its_folder_is_recognised(write_spec) -> None:
    error = problem_of(write_spec, TINY.replace("bases/tiny-cpu.yaml", "tiny-cpu"))
    assert "there is no base 'tiny-cpu'" in str(error)
    assert "did you mean 'bases/tiny-cpu.yaml'?" in str(error)


def problems_of(write_spec, text: str) -> list[tuple[int | None, str, str]]:
    """Line, key and words of everything that a plan of this spec tells."""
    problems = Problems()
    with problems.noted():
        make_plan(load_sweep(write_spec(text), problems), problems=problems)
    try:
        problems.raise_all()
    except SpecErrors as several:
        return [(one.line, one.key, one.problem) for one in several.problems]
    except SpecError as one:
        return [(one.line, one.key, one.problem)]
    return []


EVERYWHERE = """\
sweep: ../tiny
base: bases/tiny-cpu.yaml
axis: 1
set:
  optimizer: {lr: 1e-5}
  eval: {every: two, sampels: 3}
  optimiser.lr: 1e−5
axes:
  dtype: [bf16, mxpf4]
  aqn: [none, standard]
  hw: [none]
exclude:
  - {when: {dtpe: bf16}, because: x}
  - {when: {dtype: bf16}}
labels: {A: {optimiser.lrr: 1}, B: 3}
contrasts: {c: {vary: aqnn, from: none, to: high}}
seeds: [010, 1, 1]
resources: {gpus: 0, silence_minutes: 1:30}
priority: high
trainer:
  data.val_files: x
  trainer.nnodes: 2
"""


def test_everything_that_is_wrong_is_told_at_once_in_file_order(write_spec) -> None:
    found = problems_of(write_spec, EVERYWHERE)
    assert [(line, key) for line, key, _ in found] == [
        (1, "sweep"),
        (3, "axis"),
        (5, "set.optimizer"),
        (6, "set.eval.every"),
        (6, "set.eval.sampels"),
        (7, "set.optimiser.lr"),
        (9, "axes.dtype[1]"),
        (11, "axes.hw"),
        (13, "exclude[0].when.dtpe"),
        (14, "exclude[1]"),
        (15, "labels.B"),
        (15, "labels.A.optimiser.lrr"),
        (16, "contrasts.c.vary"),
        (17, "seeds[0]"),
        (17, "seeds[2]"),
        (18, "resources.silence_minutes"),
        (18, "resources.gpus"),
        (19, "priority"),
        (21, "trainer.data.val_files"),
        (22, "trainer.trainer.nnodes"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # a base that is not there: nothing is said of the fields that it would have had, nor of labels
        ("sweep: x\nbase: bases/tiny.yaml\naxis: 1\nlabels: {A: {dtype: bf16}}\n", [(2, "base"), (3, "axis")]),
        # a value that cannot be read keeps a condition out: labels and contrasts may then match nothing
        (TINY.replace("mxfp4", "mxpf4") + "labels: {A: {dtype: mxfp4, aqn: none}}\n", [(4, "axes.dtype[1]")]),
        (TINY + "set: {epochs: two}\ncontrasts: {c: {vary: aqn, from: none, to: high}}\n", [(6, "set.epochs")]),
        # a misspelt name is not missing as well, and fields that do not go together are not told of what is left out
        (TINY.replace("none, standard", "{preset: standard, num_stage: 3}"), [(5, "axes.aqn[0].num_stage")]),
        (TINY.replace("[none, standard]", "[standrad]") + "set: {srdd: variable}\n", [(5, "axes.aqn[0]")]),
        (TINY.replace("[none, standard]", "[standrad]") + "exclude: [{when: {aqn: standard}, because: x}]\n",
         [(5, "axes.aqn[0]")]),
        # an axis that lacks its brackets
        (TINY.replace("[bf16, mxfp4]", "mxfp4").replace("none, ", "") + "set: {srdd: variable}\n", [(4, "axes.dtype")]),
        # a reference to nothing, and one to that one
        (TINY + "set: {epochs: '${set.x}', eval.every: '${set.epochs}'}\n", [(6, "set.epochs")]),
        (TINY + "set: {epochs: '${set.eval.every}', eval.every: '${set.epochs}'}\n",
         [(6, "set.eval.every"), (6, "set.epochs")]),
        # what is true of every condition is told once
        (TINY + "set: {data.train_rows: 8}\n", [(6, "set.data.train_rows")]),
        (TINY + "checkpoints: {every: often}\n", [(6, "checkpoints.every")]),
    ],
)  # fmt: skip
def test_what_only_follows_from_another_problem_is_not_told(write_spec, text: str, told: list) -> None:
    assert [(line, key) for line, key, _ in problems_of(write_spec, text)] == told


def test_one_problem_is_told_as_it_is_and_several_with_their_number(write_spec) -> None:
    one = problem_of(write_spec, TINY + "axis: 1\n")
    assert not isinstance(one, SpecErrors)
    assert "\n" not in str(one)
    two = problem_of(write_spec, TINY + "axis: 1\nseed: [1]\n")
    assert isinstance(two, SpecErrors)
    assert str(two).splitlines() == [*map(str, two.problems), "2 problems"]
    assert (two.line, two.key) == (6, "axis")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0500", "0500 has leading zeros, which YAML 1.1 reads as octal (320) and YAML 1.2 does not: write 500"),
        ("-08", "write -8"),
        ("1:30", "1:30 is a number of base 60 in YAML 1.1 and a text in YAML 1.2"),
        ("0b101", "0b101 is a number in YAML 1.1"),
        ("-0x1F", "-0x1F is a number in YAML 1.1"),
        ("1_000", "write 1000; or '1_000' for the text"),
        ("yes", "yes is a boolean in YAML 1.1 and a text in YAML 1.2: write true or false"),
        ("n", "n is a boolean in YAML 1.1"),
        ("1e−5", "U+2212 MINUS SIGN where '-' belongs; write 1e-5"),
        ("1 000", "U+00A0 NO-BREAK SPACE where nothing belongs; write 1000"),
        ("１２", "U+FF11 FULLWIDTH DIGIT ONE where '1' belongs, U+FF12 FULLWIDTH DIGIT TWO where '2' belongs"),
        ("1,5", "U+002C COMMA where '.' belongs; thousands are not grouped"),
        ("'1e−5'", "U+2212 MINUS SIGN where '-' belongs"),
        ("'1 000'", "U+0020 SPACE where nothing belongs"),
        ("!!int 3", "tags, as !!int, are not part of the language"),
    ],
)  # fmt: skip
def test_a_number_that_could_mean_two_things_is_refused_with_its_letters(write_spec, text: str, words: str) -> None:
    for place in ("set:\n  epochs: {}\n", "set:\n  optimiser.lr: {}\n", "axes:\n  epochs:\n  - {}\n"):
        spec = "sweep: x\nbase: bases/tiny-cpu.yaml\n" + place.format(text)
        error = problem_of(write_spec, spec)
        assert error.line == len(spec.splitlines())
        assert words in str(error)
        assert not isinstance(error, SpecErrors)


def test_a_number_with_an_odd_letter_is_refused_where_no_type_says_what_belongs(write_spec) -> None:
    for place in (
        "trainer: {actor_rollout_ref.actor.entropy_coeff: 1e−5}\n",
        "trainer: {actor_rollout_ref.actor.entropy_coeff: '1e−5'}\n",
        "labels: {A: {optimiser.lr: 1e−5}}\n",
    ):
        assert "U+2212" in str(problem_of(write_spec, TINY + place))
    assert problems_of(write_spec, TINY + "about: '−5 points'\n") == []


def test_a_decimal_comma_in_a_flow_mapping_is_told(write_spec) -> None:
    assert "a decimal sign is a point" in str(problem_of(write_spec, TINY + "set: {optimiser.lr: 0,5}\n"))


def test_a_space_that_is_no_space_is_told_with_the_line(write_spec) -> None:
    error = problem_of(write_spec, TINY + "set:\n  epochs: 2\n  optimiser.lr: 1e-5\n")
    assert "line 7 has U+00A0 NO-BREAK SPACE for a space" in str(error)


def test_every_file_of_the_language_reads_the_same_numbers(tmp_path: Path) -> None:
    from experiment_specs.bug_rules import load_rule
    from experiment_specs.claims import load_history
    from experiment_specs.references import load_reference
    from experiment_specs.search import load_search

    path = tmp_path / "file.yaml"
    path.write_text("questions: 0500\nversion: 010\n")
    for load in (load_rule, load_history, load_reference, load_search, load_sweep):
        with pytest.raises(SpecError, match="has leading zeros"):
            load(path)


def test_paths_are_expanded_wherever_they_are_written(write_spec, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("DATA", "/data")
    paths = "set: {data.train: ~/train.parquet, data: {test: $DATA/test.parquet}}\n"
    text = TINY + paths + "trainer: {actor_rollout_ref.model.tokenizer_path: $HOME/tokenizer}\n"
    for planned in make_plan(load_sweep(write_spec(text))).conditions:
        assert planned.condition.data.train == "/home/ada/train.parquet"
        assert planned.condition.data.test == "/data/test.parquet"
        assert planned.condition.trainer == {"actor_rollout_ref.model.tokenizer_path": "/home/ada/tokenizer"}
    on_axis = "sweep: x\nbase: bases/tiny-cpu.yaml\naxes: {model.path: [~/a, /home/ada/b]}\n"
    labels = "labels: {A: {model.path: $HOME/a}, B: {model: {path: ~/b}}}\n"
    plan = make_plan(load_sweep(write_spec(on_axis + labels)))
    assert {c.label: c.condition.model.path for c in plan.conditions} == {"A": "/home/ada/a", "B": "/home/ada/b"}
    spelled = make_plan(load_sweep(write_spec(on_axis.replace("~", "/home/ada"))))
    assert [c.condition.id for c in plan.conditions] == [c.condition.id for c in spelled.conditions]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("set: {data.train: $NOWHERE/x}\n", "set.data.train", "$NOWHERE is not set in the environment"),
        ("set: {model.path: ~nobody-here/x}\n", "set.model.path", "~nobody-here is no home folder here"),
        ("set: {data.train: '${HOME}/x'}\n", "set.data.train", "the environment's is written $HOME, in a path only"),
        ("trainer: {actor_rollout_ref.model.tokenizer_path: $NOWHERE/x}\n",
         "trainer.actor_rollout_ref.model.tokenizer_path", "$NOWHERE is not set"),
    ],
)  # fmt: skip
def test_a_path_that_cannot_be_expanded_is_told(write_spec, text: str, key: str, words: str) -> None:
    error = problem_of(write_spec, TINY + text)
    assert (error.line, error.key) == (6, key)
    assert words in str(error)


def test_a_base_is_named_by_a_path_that_is_the_same_for_everyone(write_spec) -> None:
    for base in ("~/mine.yaml", "$HOME/mine.yaml"):
        error = problem_of(write_spec, TINY.replace("bases/tiny-cpu.yaml", base))
        assert "by a relative path" in str(error)


def test_a_dollar_in_what_is_no_path_stays(write_spec) -> None:
    text = TINY + "trainer: {data.prompt_key: 'costs $HOME or less', trainer.notes: '{{ $x }}'}\n"
    condition = make_plan(load_sweep(write_spec(text))).conditions[0].condition
    assert condition.trainer == {"data.prompt_key": "costs $HOME or less", "trainer.notes": "{{ $x }}"}
