"""Every condition against verl's own configuration: misspelt, mistyped and ignored keys, and what a node would run."""

from __future__ import annotations

import pytest

from experiment_specs.errors import SpecError, SpecErrors
from experiment_specs.load import load_sweep
from orchestrator.composed import check_with_verl, show
from orchestrator.plan import make_plan
from orchestrator.prepare import prepare
from tests.conftest import TINY
from workers.checkpoints import due, unneeded
from workers.launch import Order
from workers.verl_config import known_keys, problem_with
from workers.verl_reads import never_read


def checked(write_spec, text: str) -> list[str]:
    return check_with_verl(make_plan(load_sweep(write_spec(text))))


@pytest.mark.parametrize(
    ("fields", "line", "key", "words"),
    [
        ("trainer: {algorithm.gama: 1.0}", 6, "trainer.algorithm.gama", "did you mean 'algorithm.gamma'?"),
        ("trainer: {clip_ratio_c: 3.0}", 6, "trainer.clip_ratio_c", "did you mean 'actor_rollout_ref.actor.clip_ratio_c'?"),
        ("trainer: {actor_rollout_ref.actor.clip_ratio_c: high}", 6, "trainer.actor_rollout_ref.actor.clip_ratio_c", "'high' is a text, and verl's own is the number 3.0"),
        ("trainer: {actor_rollout_ref.actor.policy_loss: 3}", 6, "trainer.actor_rollout_ref.actor.policy_loss", "is a mapping in verl"),
        ("include: [{because: x, trainer.data.shufle: true}]", 6, "include[0].trainer.data.shufle", "did you mean 'data.shuffle'?"),
        ("set: {trainer.data.shuffle: 7}", 6, "set.trainer.data.shuffle", "7 is a number, and verl's own is the boolean True"),
    ],
)  # fmt: skip
def test_what_verl_does_not_have_is_an_error_at_its_line(write_spec, fields, line, key, words) -> None:
    with pytest.raises(SpecError) as caught:
        checked(write_spec, f"{TINY}{fields}\n")
    assert words in str(caught.value)
    assert (caught.value.line, caught.value.key) == (line, key)


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ("set: {trainer.data.train_batch_size: 999}", "set.trainer.data.train_batch_size"),
        ("set: {trainer: {data.train_batch_size: 999}}", "set.trainer.data.train_batch_size"),
        ("include: [{because: x, trainer.data.seed: 1}]", "include[0].trainer.data.seed"),
        ("  trainer.actor_rollout_ref.actor.optim.lr: [0.5]", "axes.trainer.actor_rollout_ref.actor.optim.lr[0]"),
        ("trainer: {trainer.val_only: true}", "trainer.trainer.val_only"),
        ("trainer: {actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype: bf16}",
         "trainer.actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype"),
        ("trainer: {data.train_max_samples: 32}", "trainer.data.train_max_samples"),
    ],
)  # fmt: skip
def test_what_a_field_decides_cannot_be_set_a_second_time_anywhere(write_spec, fields, key) -> None:
    with pytest.raises(SpecError, match="is decided by") as caught:
        checked(write_spec, f"{TINY}{fields}\n")
    assert (caught.value.line, caught.value.key) == (6, key)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("set: {trainer: {algorithm: {gamma: 0.5}}}", "write verl's keys dotted"),
        ("set: {trainer: 5}\ntrainer: {algorithm.lam: 0.9}", "must be a mapping"),
        ("set: {trainer: 5}", "must be a mapping"),
        ("set: {trainer: [1], trainer.algorithm.lam: 0.4}", "must be a mapping"),
        ("trainer: {actor_rollout_ref.actor.entropy_coeff: .nan}", "not a finite number"),
        ("trainer: {data.shuffle: null}", "is empty, and verl's own is the boolean True"),
        ("trainer: {reward.reward_kwargsx: 1}", "verl has no such key"),
        (
            "set: {trainer.actor_rollout_ref.rollout.gpu_memory_utilization: 0.5}",
            "write it under trainer, for all runs",
        ),
    ],
)
def test_what_no_spec_may_say_of_verl(write_spec, fields, words) -> None:
    with pytest.raises(SpecError, match=words):
        checked(write_spec, f"{TINY}{fields}\n")


def test_verls_keys_can_be_axes_labels_exclusions_and_contrasts(write_spec) -> None:
    text = """\
sweep: s
base: bases/tiny-cpu.yaml
axes: {trainer.actor_rollout_ref.actor.entropy_coeff: [0.0, 0.001, 0.01]}
exclude: [{when: {trainer.actor_rollout_ref.actor.entropy_coeff: 0.01}, because: too much}]
labels: {none: {trainer.actor_rollout_ref.actor.entropy_coeff: 0.0}}
contrasts: {c: {vary: trainer.actor_rollout_ref.actor.entropy_coeff, from: 0.0, to: 0.001}}
"""
    plan = make_plan(load_sweep(write_spec(text)))
    assert [c.label for c in plan.conditions] == ["none", "trainer.actor_rollout_ref.actor.entropy_coeff=0.001"]


def test_an_axis_of_verls_keys_is_checked_too(write_spec) -> None:
    text = TINY + "  trainer.algorithm.gama: [0.9, 1.0]\n"
    with pytest.raises(SpecError, match=r"sweep.yaml:6: axes.trainer.algorithm.gama\[0\]"):
        checked(write_spec, text)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("algorithm.gamma", 0.9, "verl ignores it: group-relative advantages are not discounted"),
        ("algorithm.filter_groups.max_num_gen_batches", 5, "without a limit"),
        ("data.gen_batch_size", 256, "one by one"),
        ("critic.optim.lr", 1e-5, "no critic"),
        ("trainer.balance_batch", False, "verl 0.9.1 never reads it"),
        ("actor_rollout_ref.nccl_timeout", 3600, "verl 0.9.1 never reads it"),
        ("actor_rollout_ref.rollout.max_num_seqs", 64, "reads it only in runs with rollouts by vLLM"),
        ("actor_rollout_ref.ref.fsdp_config.forward_prefetch", True, "reads it only in runs with a KL loss"),
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", 99, "use_dynamic_bsz"),
        ("custom_reward_function.path", "x.py", "its place is reward.custom_reward_function.path, which the workers"),
        ("reward_model.reward_kwargs.overlong_buffer_cfg.len", 4, "algorithm.overlong decides it"),
        ("data.image_key", "pictures", "runs here have no use for it: each question gets one answer in text"),
        ("reward.reward_model.enable", True, "answers are scored by a rule"),
        ("distillation.enabled", True, "no teacher takes part"),
        ("reward_model.enable", True, "never reads it, and answers are scored by a rule"),
        ("reward_model.overlong_buffer.len", 4, "algorithm.overlong decides it"),
        ("actor_rollout_ref.rollout.response_length", 8, "which data.max_response_tokens decides"),
        ("actor_rollout_ref.rollout.prompt_length", 8, "which data.max_prompt_tokens decides"),
        ("actor_rollout_ref.actor.optim.min_lr_ratio", 0.1, "constant after its warm-up"),
        ("actor_rollout_ref.rollout.val_kwargs.top_p", 0.5, "evals take the most likely token"),
        ("actor_rollout_ref.rollout.expert_parallel_size", 2, "with a whole model"),
        ("transfer_queue.backend.MooncakeStore.protocol", "tcp", "keeps its rows in memory"),
    ],
)
def test_a_key_without_an_effect_is_an_error_that_says_why(write_spec, key, value, why) -> None:
    with pytest.raises(SpecError) as caught:
        checked(write_spec, f"{TINY}trainer: {{{key}: {str(value).lower()}}}\n")
    assert why in str(caught.value)
    assert (caught.value.line, caught.value.key) == (6, f"trainer.{key}")


def test_all_keys_without_an_effect_are_told_at_once_and_where_a_key_has_one_it_may_stand(write_spec) -> None:
    text = (
        f"{TINY}trainer: {{trainer.balance_batch: false, actor_rollout_ref.ref.fsdp_config.forward_prefetch: true}}\n"
    )
    with pytest.raises(SpecErrors) as caught:
        checked(write_spec, text)
    assert [problem.key.rpartition(".")[2] for problem in caught.value.problems] == [
        "balance_batch",
        "forward_prefetch",
    ]
    with_kl = TINY + "set: {algorithm.kl_loss: 0.001}\n"
    assert not checked(write_spec, with_kl + "trainer: {actor_rollout_ref.ref.fsdp_config.forward_prefetch: true}\n")


def test_a_key_that_acts_in_some_conditions_alone_names_the_others(write_spec) -> None:
    text = TINY.replace("aqn: [none, standard]", "algorithm.kl_loss: [0.0, 0.001]")
    with pytest.raises(
        SpecError, match=r"has no effect in algorithm=dapo dtype=bf16, .* dtype=mxfp4: verl 0.9.1 reads"
    ):
        checked(write_spec, f"{text}trainer: {{actor_rollout_ref.ref.fsdp_config.forward_prefetch: true}}\n")


def test_memory_settings_without_an_effect_are_a_warning(write_spec) -> None:
    (warning,) = checked(write_spec, TINY + "trainer: {actor_rollout_ref.rollout.gpu_memory_utilization: 0.5}\n")
    assert warning == (
        "actor_rollout_ref.rollout.gpu_memory_utilization has no effect:"
        " verl 0.9.1 reads it only in runs with rollouts by vLLM"
    )


def test_a_key_that_only_code_mentions_is_left_to_the_runs_evidence(write_spec) -> None:
    (warning,) = checked(write_spec, TINY + "trainer: {actor_rollout_ref.actor.policy_loss.clip_cov_ratio: 0.001}\n")
    assert "in which nothing reads it is not PROVEN" in warning


def test_no_hint_leads_to_a_key_that_verl_never_reads() -> None:
    assert "balance_batch" not in str(problem_with("trainer.balance_batchh", True))
    for key, default in known_keys().items():
        if not isinstance(default, dict) and (problem := problem_with(f"{key}x", default)) is not None:
            hint = problem.partition("did you mean '")[2].rstrip("'?")
            assert not hint or isinstance(known_keys()[hint], dict) or not never_read(hint), (key, hint)


def test_what_verl_leaves_open_is_not_checked(write_spec) -> None:
    assert problem_with("actor_rollout_ref.rollout.engine_kwargs.vllm.max_num_seqs", 64) is None
    assert problem_with("actor_rollout_ref.actor.entropy_coeff", 0.001) is None
    assert not checked(write_spec, TINY + "trainer: {actor_rollout_ref.actor.entropy_coeff: 0.001}\n")


def test_the_ignored_keys_are_verls(write_spec) -> None:
    from workers.verl_config import IGNORED

    for entry in IGNORED:
        assert any(key.startswith(entry.prefix) for key in known_keys()), entry.prefix


def test_what_a_node_would_run_is_the_workers_own_order_and_configuration(write_spec) -> None:
    plan = prepare(write_spec(TINY.replace("tiny-cpu", "qwen2.5-1.5b-gsm8k-dapo") + "set: {lora: r32}\n"))
    shown = show(plan, plan.conditions[3], cpu=False)
    assert Order(**shown.order).typed_condition == plan.conditions[3].condition
    assert shown.command[1:] == ["-m", "workers.train"]
    actor, rollout = shown.config["actor_rollout_ref"]["actor"], shown.config["actor_rollout_ref"]["rollout"]
    assert (actor["ppo_mini_batch_size"], actor["clip_ratio_high"], rollout["name"], rollout["n"]) == (
        32,
        0.25,
        "vllm",
        8,
    )
    assert shown.config["trainer"]["total_training_steps"] == 29
    assert shown.config["trainer"]["n_gpus_per_node"] == 8
    assert shown.config["algorithm"]["filter_groups"]["enable"] is True
    assert shown.config["actor_rollout_ref"]["model"]["lora_rank"] == 32


@pytest.mark.parametrize(
    ("policy", "steps"),
    [
        ("keep: last", [6, 12, 18, 24]),  # to go on from, and the last to keep
        ("keep: last, every: never", [24]),
        ("keep: last, every: 5", [5, 10, 15, 20, 24]),
        ("keep: best, every: never", [6, 12, 18, 24]),
        ("keep: all, every: 8", [6, 8, 12, 16, 18, 24]),
        ("keep: none", [6, 12, 18]),
        ("keep: none, every: never", []),
    ],
)
def test_a_checkpoint_is_saved_where_it_is_kept_or_gone_on_from(write_spec, policy, steps) -> None:
    plan = make_plan(load_sweep(write_spec(TINY + f"checkpoints: {{{policy}}}\n")))
    shown = show(plan, plan.conditions[0], cpu=True)
    order = Order(**shown.order)
    assert [step for step in range(1, order.total_steps + 1) if due(order, step)] == steps
    assert shown.config["trainer"]["save_freq"] == 1, "verl has to ask at every step"


@pytest.mark.parametrize(
    ("keep", "saved", "right", "ended", "over", "gone"),
    [
        ("best", {6}, {0: 10, 6: 5}, 6, False, []),  # the start has no checkpoint
        ("best", {6, 12}, {6: 5, 12: 7}, 12, False, [6]),
        ("best", {6, 12}, {6: 7, 12: 7}, 12, False, []),  # the earliest of equals, and the one to go on from
        ("best", {6, 12}, {6: 7, 12: 7}, 12, True, [12]),
        ("best", {6, 12, 18}, {6: 5, 12: 7}, 17, False, [6]),  # 18 is not evaluated yet
        ("last", {6, 12}, {}, 11, False, []),  # one cannot go on from 12 before all of it is recorded
        ("last", {6, 12}, {}, 12, False, [6]),
        ("last", {12, 24}, {}, 24, True, [12]),
        ("none", {6, 12}, {}, 12, False, [6]),
        ("none", {18}, {}, 24, True, [18]),
        ("all", {5, 6, 10, 12}, {}, 12, False, [5, 10]),
        ("all", {6, 10, 12}, {}, 11, False, []),
        ("last", set(), {6: 5}, 6, True, []),
    ],
)
def test_what_is_neither_kept_nor_gone_on_from_is_removed(keep, saved, right, ended, over, gone) -> None:
    assert unneeded(saved, keep, [0, 6, 12, 18, 24], right, ended=ended, over=over) == gone
