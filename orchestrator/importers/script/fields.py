"""verl's keys → fields of a sweep: the inverse of :mod:`workers.overrides`, as one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.importers.script.overrides_of import Unknown
from workers.verl_config import live_key

ACTOR, MODEL, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.model", "actor_rollout_ref.rollout"
OVERLONG = "reward.reward_kwargs.overlong_buffer_cfg"

DEFAULTS: dict[str, Any] = {
    f"{MODEL}.lora_rank": 0,
    f"{MODEL}.lora_alpha": 16,
    f"{MODEL}.lora.merge": False,
    "data.train_batch_size": 1024,
    "data.max_prompt_length": 512,
    "data.max_response_length": 512,
    "data.seed": None,
    "data.train_max_samples": -1,
    "data.val_max_samples": -1,
    f"{ACTOR}.ppo_mini_batch_size": 256,
    f"{ACTOR}.clip_ratio_low": 0.2,
    f"{ACTOR}.clip_ratio_high": 0.2,
    f"{ACTOR}.loss_agg_mode": "token-mean",
    f"{ACTOR}.use_kl_loss": False,
    f"{ACTOR}.kl_loss_coef": 0.001,
    f"{ACTOR}.optim.clip_grad": 1.0,
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.optim.weight_decay": 0.01,
    f"{ACTOR}.optim.lr_warmup_steps": -1,
    f"{ACTOR}.optim.lr_warmup_steps_ratio": 0.0,
    f"{ROLLOUT}.n": 1,
    f"{ROLLOUT}.temperature": 1.0,
    f"{ROLLOUT}.dtype": "bfloat16",
    f"{ROLLOUT}.val_kwargs.n": 1,
    f"{ROLLOUT}.val_kwargs.temperature": 0,
    "algorithm.filter_groups.enable": False,
    "reward.reward_manager.name": "naive",
    "trainer.n_gpus_per_node": 8,
    "trainer.save_freq": -1,
    "trainer.test_freq": -1,
    "trainer.total_epochs": 30,
    "trainer.total_training_steps": None,
    "trainer.val_before_train": True,
}
"""What verl 0.9.1 takes where a script says nothing (checked by a test against verl's own configuration)."""


class AskError(Exception):
    """A field that the script does not tell, and why."""


@dataclass(frozen=True)
class Settings:
    """What a script says of verl's keys, with verl's defaults underneath. ``rows``: of the files, where known."""

    said: Mapping[str, Any]
    rows: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """Raises :class:`AskError` where the script's value is not known."""
        value = self.said.get(key, DEFAULTS.get(key))
        if isinstance(value, Unknown):
            raise AskError(f"{key}={value.written} {value.why}")
        return value

    def whole(self, key: str) -> int | None:
        """A whole number, or null. Raises :class:`AskError` for anything else."""
        value = self.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise AskError(f"{key}={value} is no whole number")
        return value

    def flag(self, key: str) -> bool:
        """True or false. Raises :class:`AskError` for anything else."""
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise AskError(f"{key}={value} is neither true nor false")
        return bool(value)


def _file(settings: Settings, key: str, limit: str) -> str:
    value = settings.get(key)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and value:
        raise AskError(f"{key} names {len(value)} files, and a spec has one: join them")
    if key not in settings.said or not isinstance(value, str) or not value:
        raise AskError(f"the script does not say {key}")
    if (most := settings.whole(limit)) is not None and most > 0:
        raise AskError(f"{limit}={most} takes a part of {value}: write these rows to a file of their own")
    return value


def _rows(settings: Settings, name: str, key: str, limit: str) -> int:
    path = _file(settings, key, limit)
    if name in settings.rows:
        return settings.rows[name]
    raise AskError(f"the rows of {path}, which is not here")


def _warmup(settings: Settings) -> int:
    steps = settings.whole(f"{ACTOR}.optim.lr_warmup_steps")
    if steps is not None and steps >= 0:
        return steps
    ratio = float(settings.get(f"{ACTOR}.optim.lr_warmup_steps_ratio") or 0)
    if not ratio:
        return 0
    total = _total(settings)
    if total is None:
        raise AskError(f"lr_warmup_steps_ratio={ratio:g} of training steps that follow from the rows")
    return int(ratio * total)


def _total(settings: Settings) -> int | None:
    """Training steps; None where they follow from a row count that is not known."""
    limit = settings.whole("trainer.total_training_steps")
    prompts, epochs = settings.whole("data.train_batch_size"), settings.whole("trainer.total_epochs")
    if "data.train_rows" not in settings.rows or not prompts or not epochs:
        return limit
    every = settings.rows["data.train_rows"] // prompts * epochs
    return every if limit is None else min(every, limit)


def _limited(settings: Settings) -> bool:
    """Whether total_training_steps ends training before the epochs do."""
    limit = settings.whole("trainer.total_training_steps")
    return limit is not None and _total(settings) == limit


def _eval_every(settings: Settings) -> int:
    every = settings.whole("trainer.test_freq")
    if every is not None and every > 0:
        return every
    total = _total(settings)
    if not total:
        raise AskError(
            f"trainer.test_freq={every} evaluates never, and a run here has an eval at its end: its training steps"
        )
    return total


def _overlong(settings: Settings) -> dict[str, Any] | None:
    enabled = settings.get("reward.reward_manager.name") == "dapo" and settings.get(f"{OVERLONG}.enable")
    if not enabled:
        return None
    buffer, penalty = settings.get(f"{OVERLONG}.len"), settings.get(f"{OVERLONG}.penalty_factor")
    if buffer is None or penalty is None:
        raise AskError("overlong_buffer_cfg is enabled without len or penalty_factor")
    return {"buffer": buffer, "penalty": float(penalty)}


def _lora(settings: Settings) -> dict[str, Any] | None:
    rank = settings.whole(f"{MODEL}.lora_rank")
    if not rank:
        return None
    merged = settings.flag(f"{MODEL}.lora.merge")
    return {
        "rank": rank, "alpha": settings.get(f"{MODEL}.lora_alpha"), "sync": "merged" if merged else "adapter",
    }  # fmt: skip


def _compute(settings: Settings) -> str:
    kind = settings.said.get(f"{ACTOR}.fsdp_config.mixed_precision.param_dtype", settings.get(f"{ROLLOUT}.dtype"))
    return "fp32" if str(kind) in ("fp32", "float32", "float") else "bf16"


def _rollout(settings: Settings) -> str:
    return "transformers" if settings.said.get(f"{ROLLOUT}.name") in ("transformers", "hf") else "vllm"


def _name(settings: Settings) -> str:
    dapo = settings.get("algorithm.filter_groups.enable") or _overlong(settings) is not None
    return "dapo" if dapo else "grpo"


def _model(settings: Settings) -> str:
    value = settings.get(f"{MODEL}.path")
    if not isinstance(value, str):
        raise AskError(f"the script does not say {MODEL}.path")
    return value


def _hw_noise(settings: Settings) -> dict[str, Any] | None:
    """Under the names of the environment that :func:`workers.launch.noisy_ops_environment` sets."""
    told = {name: settings.environment.get(f"VERL_NOISY_OPS_{name}", "") for name in ("ENABLED", "SCALE")}
    if told["ENABLED"].lower() in ("", "0", "false", "no", "off"):
        return None
    try:
        return {"scale": float(told["SCALE"])}
    except ValueError:
        raise AskError("VERL_NOISY_OPS_ENABLED is set, and VERL_NOISY_OPS_SCALE is not known") from None


def _attention(settings: Settings) -> str:
    kind = settings.get(f"{MODEL}.override_config.attn_implementation")
    return kind if kind in ("sdpa", "flash_attention_2", "eager") else "auto"


def _seeds(settings: Settings) -> list[int]:
    seed = settings.whole("data.seed")
    return [1 if seed is None else seed]


def _gpus(settings: Settings) -> int:
    gpus = settings.whole("trainer.n_gpus_per_node")
    if not gpus or gpus < 0:
        raise AskError(f"trainer.n_gpus_per_node={gpus}: a run holds one GPU or more")
    return gpus


def _checkpoints(settings: Settings) -> int | str:
    every = settings.whole("trainer.save_freq")
    return every if every is not None and every > 0 else "never"


def _kl_loss(settings: Settings) -> Any:
    return _number(settings.get(f"{ACTOR}.kl_loss_coef")) if settings.flag(f"{ACTOR}.use_kl_loss") else 0.0


@dataclass(frozen=True)
class Inverse:
    """How verl's keys give a field. ``field``: dotted, of a sweep; ``set.`` marks those of the condition.
    ``value`` raises :class:`AskError`."""

    field: str
    keys: tuple[str, ...]
    value: Callable[[Settings], Any]


def _one(field_: str, key: str, convert: Callable[[Any], Any] = lambda value: value) -> Inverse:
    return Inverse(field_, (key,), lambda settings: convert(settings.get(key)))


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


_OVERLONG_KEYS = ("reward.reward_manager.name", "reward.reward_kwargs")
_STEPS = ("trainer.total_training_steps", "trainer.total_epochs")

INVERSE: tuple[Inverse, ...] = (
    Inverse("set.model.path", (f"{MODEL}.path",), _model),
    Inverse("set.data.train", ("data.train_files", "data.train_max_samples"),
            lambda s: _file(s, "data.train_files", "data.train_max_samples")),
    Inverse("set.data.test", ("data.val_files", "data.val_max_samples"),
            lambda s: _file(s, "data.val_files", "data.val_max_samples")),
    Inverse("set.data.train_rows", (),
            lambda s: _rows(s, "data.train_rows", "data.train_files", "data.train_max_samples")),
    Inverse("set.data.test_rows", (), lambda s: _rows(s, "data.test_rows", "data.val_files", "data.val_max_samples")),
    _one("set.data.max_prompt_tokens", "data.max_prompt_length"),
    _one("set.data.max_response_tokens", "data.max_response_length"),
    Inverse("set.algorithm.name", ("algorithm.adv_estimator", "critic.enable"), _name),
    _one("set.algorithm.samples_per_prompt", f"{ROLLOUT}.n"),
    _one("set.algorithm.temperature", f"{ROLLOUT}.temperature", _number),
    _one("set.algorithm.clip_low", f"{ACTOR}.clip_ratio_low", _number),
    _one("set.algorithm.clip_high", f"{ACTOR}.clip_ratio_high", _number),
    _one("set.algorithm.loss_aggregation", f"{ACTOR}.loss_agg_mode"),
    Inverse("set.algorithm.kl_loss", (f"{ACTOR}.use_kl_loss", f"{ACTOR}.kl_loss_coef"),
            _kl_loss),
    _one("set.algorithm.dynamic_sampling", "algorithm.filter_groups.enable"),
    Inverse("set.algorithm.overlong", _OVERLONG_KEYS, _overlong),
    _one("set.optimiser.lr", f"{ACTOR}.optim.lr", _number),
    _one("set.optimiser.weight_decay", f"{ACTOR}.optim.weight_decay", _number),
    Inverse("set.optimiser.warmup_steps",
            (f"{ACTOR}.optim.lr_warmup_steps", f"{ACTOR}.optim.lr_warmup_steps_ratio"), _warmup),
    _one("set.optimiser.grad_clip", f"{ACTOR}.optim.clip_grad", _number),
    _one("set.batch.prompts", "data.train_batch_size"),
    _one("set.batch.mini_batch", f"{ACTOR}.ppo_mini_batch_size"),
    Inverse("set.compute", (f"{ROLLOUT}.dtype", f"{ACTOR}.fsdp_config.mixed_precision"), _compute),
    Inverse("set.dtype", (), lambda _: "bf16"),
    Inverse("set.hw_noise", (), _hw_noise),
    Inverse("set.lora", (f"{MODEL}.lora_rank", f"{MODEL}.lora_alpha", f"{MODEL}.lora.merge"), _lora),
    Inverse("set.attention", (f"{MODEL}.override_config.attn_implementation",), _attention),
    Inverse("set.epochs", _STEPS, lambda s: 1 if _limited(s) else s.get("trainer.total_epochs")),
    Inverse("set.steps_per_epoch", _STEPS,
            lambda s: s.get("trainer.total_training_steps") if _limited(s) else None),
    Inverse("set.eval.every", ("trainer.test_freq",), _eval_every),
    _one("set.eval.before_training", "trainer.val_before_train"),
    _one("set.eval.samples", f"{ROLLOUT}.val_kwargs.n"),
    _one("set.eval.temperature", f"{ROLLOUT}.val_kwargs.temperature", _number),
    Inverse("set.rollout", (f"{ROLLOUT}.name",), _rollout),
    Inverse("seeds", ("data.seed",), _seeds),
    Inverse("resources.gpus", ("trainer.n_gpus_per_node",), _gpus),
    Inverse("checkpoints.every", ("trainer.save_freq",), _checkpoints),
)  # fmt: skip
"""In the order in which a spec is written."""

FIELD_OF = {key: inverse.field for inverse in reversed(INVERSE) for key in inverse.keys}


def field_of(key: str) -> str | None:
    """The field that a key of verl's, or the mapping that it is in, goes to."""
    return next((at for known, at in FIELD_OF.items() if key == known or key.startswith(f"{known}.")), None)


LEGACY: dict[str, str] = {
    "reward_model.overlong_buffer.": f"{OVERLONG}.",
    f"{ACTOR}.grad_clip": f"{ACTOR}.optim.clip_grad",
    f"{ACTOR}.optim.grad_clip": f"{ACTOR}.optim.clip_grad",
    f"{ACTOR}.optim.warmup_style": f"{ACTOR}.optim.lr_scheduler_type",
    f"{ROLLOUT}.update_weights_bucket_megabytes": f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes",
}
"""Keys of earlier versions that verl 0.9.1 does not migrate itself → where it has what they meant. A key that ends in a
dot stands for all below it."""


def current(key: str) -> str:
    """The key of verl 0.9.1 that a key of an earlier version stands for; the key itself where there is none."""
    for old, new in LEGACY.items():
        if key == old:
            return new
        if old.endswith(".") and key.startswith(old):
            return new + key.removeprefix(old)
    return live_key(key) or key
