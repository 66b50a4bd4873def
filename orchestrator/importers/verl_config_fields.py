"""verl's configuration, as trackers keep it → fields of a condition. Pure.

A field is set only where the configuration decides it alone. Number format, noise, layer scan, hardware noise and the
compute type are never set: no key of verl's says what the weights were. A configuration without ``actor_rollout_ref``
is not verl's, and sets nothing. Everything that sets no field is kept as text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from experiment_specs.language import Condition, record_in

MAX_TEXT = 500
"""Letters of a value that is kept as text."""
HIDDEN = "(left out: may be a secret)"

_SECRET = re.compile(
    r"(?i)(^|_)(api_?key|access_?key|private_?key|(auth|access|api|hf|hub|bearer)_?token|secret|passw(or)?d|credentials?)"
    r"(_|$)|^token$"
)
_MISSING: Any = object()

_ACTOR, _ROLLOUT, _MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"

DIRECT: dict[str, str] = {
    f"{_MODEL}.path": "model.path",
    "data.train_files": "data.train",
    "data.val_files": "data.test",
    "data.max_prompt_length": "data.max_prompt_tokens",
    "data.max_response_length": "data.max_response_tokens",
    f"{_ROLLOUT}.n": "algorithm.samples_per_prompt",
    f"{_ROLLOUT}.temperature": "algorithm.temperature",
    f"{_ACTOR}.loss_agg_mode": "algorithm.loss_aggregation",
    "algorithm.filter_groups.enable": "algorithm.dynamic_sampling",
    f"{_ACTOR}.optim.lr": "optimiser.lr",
    f"{_ACTOR}.optim.weight_decay": "optimiser.weight_decay",
    "data.train_batch_size": "batch.prompts",
    f"{_ACTOR}.ppo_mini_batch_size": "batch.mini_batch",
    "trainer.test_freq": "eval.every",
    "trainer.val_before_train": "eval.before_training",
    f"{_ROLLOUT}.val_kwargs.n": "eval.samples",
}
"""verl's key → the field that it decides alone. A value that the field does not accept stays text."""


@dataclass(frozen=True)
class ConfigFields:
    """What a configuration says.

    ``fields``: dotted fields of a condition; a field that is None is said to be ``none``, one that is absent is not
    known. ``text``: dotted key → value as text, of everything that set no field.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=dict)
    planned_steps: int | None = None


def read_config(config: Mapping[str, Any]) -> ConfigFields:
    """Nested or flat (``a.b``, ``a/b``), with values typed or as text (MLflow's parameters)."""
    flat = _lists_joined(dict(_flat(config)))
    if not any(key.startswith("actor_rollout_ref.") for key in flat):
        return ConfigFields({}, _text(flat, set()))
    fields: dict[str, Any] = {}
    used: set[str] = set()

    def take(name: str, value: Any, *keys: str) -> None:
        if (fitting := _fitting(name, value)) is not _MISSING:
            fields[name] = fitting
            used.update(keys)

    for key, name in DIRECT.items():
        take(name, _single(flat.get(key, _MISSING)), key)
    for name, value, keys in _decided(flat):
        take(name, value, *keys)
    if fields.keys() >= {"lora.rank", "lora.alpha", "lora.sync"}:
        fields["lora"] = {part: fields[f"lora.{part}"] for part in ("rank", "alpha", "sync")}
    if fields.get("rollout") != "vllm":
        fields.pop("rollout", None)
    steps = flat.get("trainer.total_training_steps")
    planned = steps if isinstance(steps, int) and not isinstance(steps, bool) and 0 < steps <= 10**9 else None
    return ConfigFields(fields, _text(flat, used), planned)


def _decided(flat: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """(field, value, verl's keys) of fields that follow from several keys, or from some values of one."""
    yield from _algorithm(flat)
    clips = [key for key in (f"{_ACTOR}.grad_clip", f"{_ACTOR}.optim.clip_grad") if flat.get(key) is not None]
    if len({flat[key] for key in clips}) == 1:  # versions differ in the one that counts
        yield "optimiser.grad_clip", flat[clips[0]], tuple(clips)
    warmup, ratio = f"{_ACTOR}.optim.lr_warmup_steps", f"{_ACTOR}.optim.lr_warmup_steps_ratio"
    if _number(flat.get(warmup)) and flat[warmup] >= 0:
        yield "optimiser.warmup_steps", flat[warmup], (warmup,)
    elif _number(flat.get(ratio)) and flat[ratio] == 0:
        yield "optimiser.warmup_steps", 0, (warmup, ratio)
    if flat.get("trainer.total_training_steps", _MISSING) is None:  # a number of steps ends a run before its epochs
        yield "epochs", flat.get("trainer.total_epochs"), ("trainer.total_epochs", "trainer.total_training_steps")
    sample, heat = f"{_ROLLOUT}.val_kwargs.do_sample", f"{_ROLLOUT}.val_kwargs.temperature"
    if flat.get(sample) is True or flat.get(heat) == 0:  # versions differ in whether do_sample alone means greedy
        yield "eval.temperature", flat.get(heat), (sample, heat)
    if flat.get(f"{_ROLLOUT}.name") == "vllm":
        yield "rollout", "vllm", (f"{_ROLLOUT}.name",)
    yield from _lora(flat)


def _algorithm(flat: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    both, low, high = (f"{_ACTOR}.clip_ratio{end}" for end in ("", "_low", "_high"))
    clip = {key: flat[key] if flat.get(key) is not None else flat.get(both) for key in (low, high)}
    yield "algorithm.clip_low", clip[low], (both, low)
    yield "algorithm.clip_high", clip[high], (both, high)
    use, coefficient = f"{_ACTOR}.use_kl_loss", f"{_ACTOR}.kl_loss_coef"
    if flat.get(use) is False:
        yield "algorithm.kl_loss", 0.0, (use, coefficient)
    elif flat.get(use) is True:
        yield "algorithm.kl_loss", flat.get(coefficient), (use, coefficient)
    buffer = next(
        (at for at in ("reward.reward_kwargs.overlong_buffer_cfg", "reward_model.reward_kwargs.overlong_buffer_cfg",
                       "reward_model.overlong_buffer") if f"{at}.enable" in flat), None,
    )  # fmt: skip
    if buffer is not None and flat[f"{buffer}.enable"] is False:
        yield "algorithm.overlong", None, (f"{buffer}.enable",)
    elif buffer is not None and flat[f"{buffer}.enable"] is True:
        keys = (f"{buffer}.len", f"{buffer}.penalty_factor")
        spec = {"buffer": flat.get(keys[0]), "penalty": flat.get(keys[1])}
        yield "algorithm.overlong", spec, (f"{buffer}.enable", *keys)
    groups = "algorithm.filter_groups.enable"
    parts = (flat.get(groups), _above(clip[high], clip[low]))
    if flat.get("algorithm.adv_estimator") == "grpo" and parts in ((False, False), (True, True)):
        # verl has no word for DAPO, and half of it is neither.
        yield "algorithm.name", "dapo" if parts[0] else "grpo", ("algorithm.adv_estimator",)


def _above(one: Any, other: Any) -> bool | None:
    return one > other if _number(one) and _number(other) else None


def _lora(flat: Mapping[str, Any]) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    rank, other = flat.get(f"{_MODEL}.lora_rank"), flat.get(f"{_MODEL}.lora.rank", 0)
    if not _number(rank) or other not in (0, None, rank):  # the second key is Megatron's
        return
    if rank == 0:
        yield "lora", None, (f"{_MODEL}.lora_rank", f"{_MODEL}.lora.rank")
        return
    yield "lora.rank", rank, (f"{_MODEL}.lora_rank",)
    yield "lora.alpha", flat.get(f"{_MODEL}.lora_alpha"), (f"{_MODEL}.lora_alpha",)
    if (merged := flat.get(f"{_MODEL}.lora.merge")) in (True, False):
        yield "lora.sync", "merged" if merged else "adapter", (f"{_MODEL}.lora.merge",)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _single(value: Any) -> Any:
    """verl takes one file or a list of them."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _fitting(name: str, value: Any) -> Any:
    """The value as the language has it, or ``_MISSING`` where it does not accept it."""
    if value is _MISSING or (value is None and name not in ("lora", "algorithm.overlong")):
        return _MISSING
    kind: Any = Condition
    *path, last = name.split(".")
    for word in path:
        kind = record_in(kind.model_fields[word].annotation)
    info = kind.model_fields[last]
    if isinstance(value, str) != (info.annotation is str or last in ("loss_aggregation", "name", "sync", "rollout")):
        return _MISSING  # no number from a text, and no text from a number
    if isinstance(value, bool) != (info.annotation is bool):
        return _MISSING
    try:
        accepted: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]
        found = accepted.validate_python(value, strict=False)
    except ValidationError:
        return _MISSING
    return found.model_dump(mode="json") if hasattr(found, "model_dump") else found


def _flat(node: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        name = f"{at}.{key}" if at else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, name)
        else:
            yield name.replace("/", "."), _typed(value) if isinstance(value, str) else value


def _lists_joined(flat: dict[str, Any]) -> dict[str, Any]:
    """``a.list_len`` and ``a.0``, ``a.1``: how verl hands a list to MLflow."""
    for key in [key for key in flat if key.endswith(".list_len")]:
        at, length = key.removesuffix(".list_len"), flat[key]
        if isinstance(length, int) and all(f"{at}.{i}" in flat for i in range(length)):
            del flat[key]
            flat[at] = [flat.pop(f"{at}.{i}") for i in range(length)]
    return flat


def _typed(text: str) -> Any:
    """None, booleans and numbers that were written as text; a text that only looks like a list is a text."""
    words = {"None": None, "null": None, "True": True, "true": True, "False": False, "false": False}
    if text in words:
        return words[text]
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text) if len(text) < 19 else text
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return float(text)
    if re.fullmatch(r"\[\s*(['\"]).*\1\s*\]", text, re.DOTALL):
        try:
            found = ast.literal_eval(text)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return text
        return found if isinstance(found, list) and all(isinstance(part, str) for part in found) else text
    return text


def _text(flat: Mapping[str, Any], used: set[str]) -> dict[str, str]:
    kept = {}
    for key, value in sorted(flat.items()):
        if key in used or value is None:
            continue
        words = str(value)
        secret = isinstance(value, str) and _SECRET.search(key.rpartition(".")[2])
        kept[key] = HIDDEN if secret else words if len(words) <= MAX_TEXT else f"{words[: MAX_TEXT - 1]}…"
    return kept
