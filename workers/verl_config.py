"""verl's own configuration, read without importing verl: which keys it has, which it ignores, and composing a run's.

Light, because `aqn plan` checks every condition with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from experiment_specs.errors import AqnError, SpecError, nearest
from experiment_specs.language import Condition
from experiment_specs.verl_keys import DECIDED_BY, decided_by
from workers.verl_reads import never_read, table, why_unread

EARLIER_KEYS = {
    "reward_model.num_workers": "reward.num_workers",
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.reward_loop_source": "reward.reward_manager.source",
    "reward_model.reward_loop_module_path": "reward.reward_manager.module.path",
    "reward_model.reward_loop_class_name": "reward.reward_manager.module.name",
    "reward_model.reward_kwargs": "reward.reward_kwargs",
    "reward_model.overlong_buffer": "reward.reward_kwargs.overlong_buffer_cfg",
    "reward_model.model.path": "reward.reward_model.model_path",
    "reward_model": "reward.reward_model",
    "custom_reward_function": "reward.custom_reward_function",
    "sandbox_fusion": "reward.sandbox_fusion",
}
"""Keys of earlier versions that verl 0.9.1 lists, and reads in its fully asynchronous trainer only. Their successors
are those of verl's own ``migrate_legacy_reward_impl``."""


def live_key(key: str) -> str | None:
    """What a key of an earlier version is called now; None where it is none of those."""
    for earlier in sorted(EARLIER_KEYS, key=len, reverse=True):
        if key == earlier or key.startswith(f"{earlier}."):
            return EARLIER_KEYS[earlier] + key[len(earlier) :]
    return None


ADDED_KEYS = (
    "actor_rollout_ref.model.override_config.attn_implementation",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "reward.reward_kwargs",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class",
    "actor_rollout_ref.rollout.enable_sleep_mode",
)
"""Keys that verl reads and does not list (it would want a ``+`` on its command line)."""


class NoVerlError(AqnError):
    """verl is not installed here, so that its keys cannot be checked."""


@cache
def defaults() -> DictConfig:
    """verl's composed configuration. Raises :class:`NoVerlError`."""
    found = find_spec("verl")  # by folder, because importing verl takes ten seconds on a small machine
    if found is None or not found.submodule_search_locations:
        raise NoVerlError("verl is not installed here: its keys are not checked")
    import hydra

    with hydra.initialize_config_dir(f"{found.submodule_search_locations[0]}/trainer/config", version_base=None):
        config: DictConfig = hydra.compose("ppo_trainer")
    return config


@cache
def known_keys() -> dict[str, Any]:
    """Dotted key → verl's default as it is written there, for every key, those of mappings included."""
    return dict(_flat(OmegaConf.to_container(defaults(), resolve=False), ""))


def _flat(node: Any, at: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{at}.{key}" if at else str(key)
        yield name, value
        if isinstance(value, dict):
            yield from _flat(value, name)


def problem_with(key: str, value: Any) -> str | None:
    """Why verl cannot take this value under this key; None where it can."""
    known = known_keys()
    if any(key == added or key.startswith(f"{added}.") for added in ADDED_KEYS) or _in_open_mapping(key, known):
        return None
    if key not in known:
        close = _nearest(key, {name: default for name, default in known.items() if not _is_dead(name, known)})
        return "verl has no such key" + (f"; did you mean {close!r}?" if close else "")
    default = known[key]
    if isinstance(default, dict) and default:
        return f"is a mapping in verl; name a key of it, as {key}.{next(iter(default))}"
    if value is None and _kind(default) is not None:
        return f"is empty, and verl's own is the {_kind(default)} {default!r}"
    if _kind(default) is not None and _kind(value) is not None and _kind(default) != _kind(value):
        return f"{value!r} is a {_kind(value)}, and verl's own is the {_kind(default)} {default!r}"
    return None


def problem_with_own(key: str, value: Any) -> str | None:
    """Why a spec cannot set a key of verl's to this value, whatever the condition: verl has not got it, cannot take the
    value, or never reads it. None where it can."""
    if (successor := live_key(key)) is not None:
        return f"verl {table().verl} never reads it{_where_now(successor)}"
    if (source := next((one for one in DECIDED_BY if key in table().through.get(one, ())), None)) is not None:
        return f"takes its value from {source}, which {decided_by(source)} decides"
    if (problem := problem_with(key, value)) is not None:
        return problem
    return f"verl {table().verl} never reads it" if never_read(key) else None


def _where_now(successor: str) -> str:
    """What there is instead of a key of an earlier version; nothing where its successor would be refused as well."""
    by = decided_by(successor)
    if by is not None and not by.startswith("the "):
        return f": {by} decides it"
    if by is not None:
        return f": its place is {successor}, which {by} decide"
    if (why := not_done(successor)) is not None:
        return f", and {why}"
    return f": its place is {successor}" if successor in known_keys() else ""


def not_done(key: str) -> str | None:
    """What runs here do in the place of what a key asks of verl; None for other keys."""
    return next((why for pattern, why in NOT_DONE if re.search(pattern, key)), None)


def _is_dead(key: str, known: Mapping[str, Any]) -> bool:
    """Is there nothing behind a key, or behind any key of a mapping?"""
    if not isinstance(known[key], dict) or not known[key]:
        return never_read(key)
    return all(_is_dead(f"{key}.{part}", known) for part in known[key] if not part.startswith("_"))


def _in_open_mapping(key: str, known: Mapping[str, Any]) -> bool:
    """Below a mapping that verl leaves empty, for users to fill."""
    parts = key.split(".")
    return any(known.get(".".join(parts[:end])) == {} for end in range(1, len(parts)))


def _nearest(key: str, known: Mapping[str, Any]) -> str | None:
    """Among the siblings first, then by the last word anywhere, then among all."""
    parent, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == parent}
    if (sibling := nearest(leaf, siblings)) is not None:
        return siblings[sibling]
    same = [name for name in known if name.rpartition(".")[2] == leaf]
    return min(same, key=lambda name: _distance(key, name)) if same else nearest(key, known)


def _distance(one: str, other: str) -> int:
    return len(set(one.split(".")) ^ set(other.split(".")))


def _kind(value: Any) -> str | None:
    """None where a value says nothing of what verl takes there: it is open, or follows from another."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return None if "${" in value or value == "???" else "text"
    return "list" if isinstance(value, list) else None


@dataclass(frozen=True)
class Ignored:
    """Keys that verl 0.9.1 lists, may read, and does not act on in runs of some kind."""

    prefix: str
    why: str
    when: Callable[[Condition], bool] = lambda _: True


def _constant_rate(condition: Condition) -> bool:
    return bool(condition.trainer.get("actor_rollout_ref.actor.optim.lr_scheduler_type", "constant") == "constant")


def _greedy_evals(condition: Condition) -> bool:
    return condition.eval.temperature == 0


DYNAMIC_BATCHES = "actor_rollout_ref.actor.use_dynamic_bsz"


def _fixed_batches(condition: Condition) -> bool:
    switches = (DYNAMIC_BATCHES, *(f"actor_rollout_ref.{part}.log_prob_use_dynamic_bsz" for part in ("rollout", "ref")))
    return not any(condition.trainer.get(switch) for switch in switches)


IGNORED = (
    Ignored("algorithm.filter_groups.max_num_gen_batches", "verl 0.9.1 refills groups without a limit of batches"),
    Ignored(
        "data.gen_batch_size",
        "with dynamic sampling verl fetches prompts one by one",
        lambda c: c.algorithm.dynamic_sampling,
    ),
    Ignored("algorithm.gamma", "group-relative advantages are not discounted"),
    Ignored("algorithm.lam", "group-relative advantages have no lambda"),
    Ignored("algorithm.kl_ctrl.", "no KL term is in the reward"),
    Ignored("algorithm.kl_penalty", "no KL term is in the reward"),
    Ignored("critic.", "group-relative advantages need no critic"),
    Ignored("actor_rollout_ref.model.lora.", "there are no adapters", lambda c: c.lora is None),
    *(
        Ignored(key, f"micro-batches have a fixed size; {DYNAMIC_BATCHES}: true packs them by tokens", _fixed_batches)
        for key in (
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
            "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu",
            "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu",
        )
    ),
    *(
        Ignored(
            f"actor_rollout_ref.actor.optim.{name}", "the learning rate is constant after its warm-up", _constant_rate
        )
        for name in ("min_lr_ratio", "num_cycles")
    ),
    *(
        Ignored(f"actor_rollout_ref.rollout.val_kwargs.{name}", "evals take the most likely token", _greedy_evals)
        for name in ("top_p", "top_k")
    ),
    Ignored("actor_rollout_ref.actor.loss_scale_factor", "only verl's seq-mean-token-sum-norm divides by it"),
    Ignored("trainer.max_critic_ckpt_to_keep", "group-relative advantages need no critic"),
    Ignored("data.truncation", "it cuts prompts that are too long on the left, whatever this says"),
)


ON_ONE_NODE = "training is with FSDP2 on one node"
_ONE_ANSWER = "each question gets one answer in text, without tools, images or turns"
_TURNS = "generation and training take turns on the same GPUs"

NOT_DONE: tuple[tuple[str, str], ...] = (
    (r"\.(megatron|veomni|torchtitan|automodel|mindspeed\w*)\.|^model_engine$|\.turbo_config\.|"
     r"^actor_rollout_ref\.model\.(lora\.(?!merge)|mtp\.)|routing_replay|router_replay", ON_ONE_NODE),
    (r"\.engine_kwargs\.(sglang|trtllm)\b", "answers come from vLLM, or from transformers"),
    (r"\.rollout\.(expert|pipeline_model|data)_parallel_size$|\.rollout\.disaggregation\.",
     "each GPU answers with a whole model"),
    (r"^transfer_queue\.backend\.(?!SimpleStorage|storage_backend)", "the queue keeps its rows in memory"),
    (r"\.rollout\.(multi_turn|agent|skip_tokenizer_init|limit_images)\b|^data\.(image|video|audio|tool|mcp)_|"
     r"\.mm_|mm_preprocessor|^data\.return_multi_modal", _ONE_ANSWER),
    (r"^reward\.(reward_model|sandbox_fusion|reward_loop)\b|^reward_model\.", "answers are scored by a rule: no model"),
    (r"^ray_kwargs\.|^trainer\.ray_wait_register", "a run starts a private Ray on its node"),
    (r"^distillation\.", "no teacher takes part"),
    (r"^(async_training|rollout|async_resources)\.", _TURNS),
    (r"^actor_rollout_ref\.(hybrid_engine|rollout\.mode)$", _TURNS),
)  # fmt: skip
"""Patterns of keys for what verl can do and runs here do not, and what they do instead."""


def ignored(key: str, condition: Condition) -> str | None:
    """Why verl does not act on a key in runs of this condition; None where it does, as far as is known."""
    for known in IGNORED:
        if key.startswith(known.prefix) and known.when(condition):
            return f"verl ignores it: {known.why}"
    if (why := not_done(key)) is not None:
        return f"runs here have no use for it: {why}"
    return why_unread(key, condition)


def compose(changes: Mapping[str, Any]) -> DictConfig:
    """verl's own configuration with the changes. Raises SpecError for what verl cannot take."""
    config = defaults().copy()
    with open_dict(config):
        for key, value in changes.items():
            if (problem := problem_with(key, value)) is not None:
                raise SpecError(problem, key=f"trainer.{key}")
            OmegaConf.update(config, key, value, merge=False, force_add=True)
    return config
