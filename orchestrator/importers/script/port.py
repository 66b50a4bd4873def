"""What becomes of every override of a script: a field, a key under ``trainer:``, or a line that says what holds instead.

The answer is checked with the workers' own table: a key counts as expressed where the run would set the same value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiment_specs.language import Condition
from experiment_specs.presets import presets
from experiment_specs.reader import problem_with_verl_key
from experiment_specs.verl_keys import LOGGERS, RESULT_NEUTRAL_OVERRIDES, decided_by
from orchestrator.importers.script.fields import INVERSE, AskError, Settings, current, field_of
from orchestrator.importers.script.overrides_of import CommandLine, Override, Unknown
from workers.launch import Order
from workers.overrides import MICRO_BATCHES, overrides
from workers.verl_config import NoVerlError, ignored, known_keys, problem_with

KINDS = {
    "ask": "to fill in by hand",
    "unread": "not read: check by hand",
    "other": "has no place: another value holds",
    "dead": "has no effect in verl 0.9.1",
    "same": "holds anyway",
    "trainer": "kept under trainer",
    "field": "goes to a field",
}
"""What can become of a word, the most urgent first."""


@dataclass(frozen=True)
class Line:
    """One line of the report. ``key``: as the script writes it; ``value``: there; ``text``: what becomes of it."""

    key: str
    value: str
    kind: str
    text: str


@dataclass(frozen=True)
class Port:
    """A sweep in parts, and the report. ``asked``: field → why it is to be filled in; ``defaults``: fields that the
    script says nothing of."""

    fields: Mapping[str, Any]
    asked: Mapping[str, str]
    defaults: frozenset[str]
    trainer: Mapping[str, Any]
    lines: tuple[Line, ...]

    def without(self, key: str, why: str) -> Port:
        """The same without one key under ``trainer``, which the plan refuses."""
        lines = tuple(
            replace(line, kind="other", text=f"left out: {why}")
            if line.kind == "trainer" and current(line.key) == key
            else line
            for line in self.lines
        )
        return replace(self, trainer={k: v for k, v in self.trainer.items() if k != key}, lines=lines)


def port(line: CommandLine, rows: Mapping[str, int], environment: Mapping[str, str]) -> Port:
    """``rows``: data.train_rows and data.test_rows, where known. ``environment``: what the script exports."""
    told: list[Line] = [Line(word, "", "unread", why) for word, why in line.rest]
    told += [_of_option(name, value) for name, value in line.options]
    last: dict[str, Override] = {}
    for override in _flat(line.overrides):
        if override.deletes or (override.when and field_of(current(override.key)) is None):
            told.append(_not_plain(override))
            continue
        key = current(override.key)
        if key in last:
            told.append(Line(last[key].key, _shown(last[key].value), "dead", "a later word sets it again"))
        if override.when:
            why = f"is there only if {override.when}"
            override = replace(override, value=Unknown(_shown(override.value), why), when="")
        last[key] = override
    settings = Settings({key: o.value for key, o in last.items()}, rows, environment)
    fields, asked = _fields(settings)
    fields, asked, held, condition = _checked(fields, asked)
    trainer: dict[str, Any] = {}
    for key, override in last.items():
        outcome = _outcome(key, override, settings, asked, held, condition, fields)
        told.append(outcome.line)
        if outcome.keep:
            trainer[key] = outcome.value
    defaults = frozenset(i.field for i in INVERSE if not any(_said(key, settings.said) for key in i.keys))
    order = {kind: index for index, kind in enumerate(KINDS)}
    told.sort(key=lambda item: order[item.kind])
    return Port(fields, asked, defaults, trainer, tuple(told))


def _said(key: str, said: Iterable[str]) -> bool:
    return any(known == key or known.startswith(f"{key}.") for known in said)


def _flat(found: Iterable[Override]) -> Iterable[Override]:
    """A mapping as a value is its keys, dotted."""
    for override in found:
        if isinstance(override.value, dict) and override.value:
            below = (replace(override, key=f"{override.key}.{k}", value=v) for k, v in override.value.items())
            yield from _flat(below)
        else:
            yield override


def _not_plain(override: Override) -> Line:
    if override.deletes:
        return Line(f"~{override.key}", "", "other", "a spec sets keys, and removes none: verl's own value holds")
    return Line(override.key, _shown(override.value), "unread", f"is there only if {override.when}")


def _of_option(name: str, value: str) -> Line:
    if name == "--config-name" and value in ("ppo_trainer", "ppo_trainer.yaml", "'ppo_trainer'"):
        return Line(name, value, "same", "verl's own configuration, which holds here")
    if name == "--config-name" and "megatron" in value:
        return Line(name, value, "other", f"{_TRAINING}: verl's ppo_trainer holds")
    if name in ("--config-name", "--config-path", "--config-dir"):
        return Line(name, value, "unread", "what this configuration sets is not read: add its keys to the spec")
    return Line(name, value, "unread", "is an option of Hydra's that a spec has no place for")


def _fields(settings: Settings) -> tuple[dict[str, Any], dict[str, str]]:
    fields: dict[str, Any] = {}
    asked: dict[str, str] = {}
    for inverse in INVERSE:
        try:
            fields[inverse.field] = inverse.value(settings)
        except AskError as error:
            asked[inverse.field] = str(error)
        except (TypeError, ValueError) as error:
            asked[inverse.field] = f"{', '.join(inverse.keys)}: {error}"
    return fields, asked


_STAND_INS: dict[str, Any] = {
    "model.path": "MODEL", "data.train": "TRAIN", "data.test": "TEST", "data.test_rows": 1, "algorithm.name": "grpo",
    "data.max_prompt_tokens": 1, "data.max_response_tokens": 1_000_000, "algorithm.samples_per_prompt": 2,
    "optimiser.lr": 1e-6, "optimiser.weight_decay": 0.01, "optimiser.warmup_steps": 0, "optimiser.grad_clip": 1.0,
    "batch.prompts": 1, "batch.mini_batch": 1, "compute": "bf16", "eval.every": 1, "rollout": "vllm", "epochs": 1,
}  # fmt: skip
"""For fields that are still to be filled in, so that what the others give can be checked."""


def _checked(
    fields: dict[str, Any], asked: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any], Condition | None]:
    """What the language refuses is asked for; then every value that verl's keys would have in such a run."""
    fields, asked = dict(fields), dict(asked)
    for _ in range(len(INVERSE)):
        nested: dict[str, Any] = {}
        for name, value in {**_STAND_INS, **_of_set(fields)}.items():
            _put(nested, name, value)
        nested["dtype"] = presets()["dtype"]["bf16"]
        nested["data"].setdefault("train_rows", nested["batch"]["prompts"])
        if "batch.mini_batch" not in _of_set(fields):
            nested["batch"]["mini_batch"] = nested["batch"]["prompts"]
        try:
            condition = Condition.model_validate(nested)
            return fields, asked, _held(condition, fields.get("resources.gpus", 1)), condition
        except ValidationError as error:
            name, why = _refused(error)
        except ValueError as error:
            name, why = "resources.gpus", str(error)
        if fields.pop(name, None) is None and name in asked:
            break
        asked[name] = why
    return fields, asked, {}, None


def _of_set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("set."): value for name, value in fields.items() if name.startswith("set.")}


def _put(target: dict[str, Any], name: str, value: Any) -> None:
    *above, leaf = name.split(".")
    for part in above:
        target = target.setdefault(part, {})
    target[leaf] = value


def _refused(error: ValidationError) -> tuple[str, str]:
    first = error.errors()[0]
    words = [str(part) for part in first["loc"]]
    message = str(first.get("ctx", {}).get("error", first["msg"]))
    if words == ["batch"]:
        return "set.batch.mini_batch", message
    if not words:
        return f"set.{'.'.join(message.split(' ', maxsplit=1)[0].split('.')[:2])}", message
    name = next((i.field for i in INVERSE if f"set.{'.'.join(words)}.".startswith(f"{i.field}.")), f"set.{words[0]}")
    return name, f"{first.get('input')!r} is refused: {message}"


def _held(condition: Condition, gpus: int) -> dict[str, Any]:
    """verl's keys as a run of the condition sets them. Raises ValueError where answers cannot be shared out."""
    per_epoch = condition.steps_per_epoch or condition.data.train_rows // condition.batch.prompts
    total = per_epoch * condition.epochs
    order = Order(
        "RUN", 1, "", "", condition.id, condition.model_dump(mode="json"), seed=1, total_steps=total,
        steps_per_epoch=per_epoch, eval_steps=[], gpus=gpus, assets="",
    )  # fmt: skip
    files = {"model": condition.model.path, "train": condition.data.train, "test": condition.data.test}
    table = overrides(order, Path("RUN_DIR"), files, cpu=False)
    return dict(_flat_items(table))


def _flat_items(table: Mapping[str, Any], at: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _flat_items(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


@dataclass(frozen=True)
class _Outcome:
    line: Line
    keep: bool = False
    value: Any = None


def _outcome(
    key: str, override: Override, settings: Settings, asked: Mapping[str, str], held: Mapping[str, Any],
    condition: Condition | None, fields: Mapping[str, Any],
) -> _Outcome:  # fmt: skip
    value = override.value
    renamed = f"today {key}: " if key != override.key else ""

    def told(kind: str, text: str) -> _Outcome:
        return _Outcome(Line(override.key, _shown(value), kind, renamed + text))

    at = field_of(key)
    if at is not None and at in asked:
        return told("ask", f"{at}: {asked[at]}")
    if (why := _no_place(key, value)) is not None:
        return told(*why)
    if at is not None and _expressed(key, value, at, settings, held, fields):
        return told("field", f"{_name(at)}: {_brief(fields[at])}")
    if (by := decided_by(key)) is not None or at is not None:
        return told(*_decided(key, value, by or str(at), held))
    if isinstance(value, Unknown):
        return told("ask", f"trainer.{key}: {value.why}")
    return _kept(key, override, renamed, condition)


def _expressed(
    key: str, value: Any, at: str, settings: Settings, held: Mapping[str, Any], fields: Mapping[str, Any]
) -> bool:
    """Whether a run of this spec would do what the key says."""
    if key in ("data.train_max_samples", "data.val_max_samples"):
        return False
    if at in ("seeds", "checkpoints.every", "set.eval.every"):
        return value is not None
    if at == "set.epochs":
        limited = fields.get("set.steps_per_epoch") is not None
        return limited == (key == "trainer.total_training_steps") and value is not None
    if key.endswith(("lr_warmup_steps", "lr_warmup_steps_ratio", ".use_kl_loss", ".kl_loss_coef")):
        deciding = {
            "lr_warmup_steps": True, "lr_warmup_steps_ratio": settings.get(key.removesuffix("_ratio")) in (None, -1),
            "use_kl_loss": True, "kl_loss_coef": bool(settings.said.get(key.replace("kl_loss_coef", "use_kl_loss"))),
        }[key.rpartition(".")[2]]  # fmt: skip
        return deciding
    if key.startswith(("data.train_files", "data.val_files")) or at == "set.lora":
        return key not in held or _equal(value if not isinstance(value, list) else value[0], held[key])
    return key in held and _equal(value, held[key])


def _decided(key: str, value: Any, by: str, held: Mapping[str, Any]) -> tuple[str, str]:
    default = _default(key)
    have = held.get(key, default)
    why = next((text for start, text in WHY.items() if key == start or key.startswith(f"{start}.")), None)
    why = why or ("follows from the spec" if by.startswith("set.") else f"is decided by {by}")
    if isinstance(value, Unknown):
        return "other", f"{_brief(have)} holds: {why}" if key in held else why
    if key in held or (default is not None and not isinstance(default, dict)):
        if _equal(value, have) or (value is None and have in (False, 0)):
            return "same", f"holds anyway: {why}"
        return "other", f"{_brief(have)} holds: {why}"
    return "other", why


def _no_place(key: str, value: Any) -> tuple[str, str] | None:
    """What runs here do not do, whatever verl can."""
    for pattern, why in NO_PLACE:
        if re.search(pattern, key):
            default = _default(key)
            if not isinstance(value, Unknown) and default is not None and _equal(value, default):
                return "same", f"verl's own value: {why}"
            return "other", why
    if "@" in key or "/" in key:
        return "other", "chooses one of verl's configuration files: those of ppo_trainer hold"
    return None


def _kept(key: str, override: Override, renamed: str, condition: Condition | None) -> _Outcome:
    value = override.value
    note = "moves memory, speed or display, not the result" if key in RESULT_NEUTRAL_OVERRIDES else "as it is"

    def told(kind: str, text: str) -> _Outcome:
        return _Outcome(Line(override.key, _shown(value), kind, renamed + text), kind == "trainer", value)

    if key == "trainer.logger":
        asked_for = value if isinstance(value, list) else [value]
        value, dropped = [name for name in asked_for if name in LOGGERS], [n for n in asked_for if n not in LOGGERS]
        if not value:
            return told("other", f"{_brief(dropped)} is filled from the record of runs: console holds")
        note += f"; without {', '.join(map(str, dropped))}" if dropped else ""
    if isinstance(value, str) and "${" in value:
        return told("other", "is computed by Hydra from another key: write its value")
    if key in MICRO_BATCHES and not isinstance(value, int):
        return told("same", "the size follows from batch and lengths")
    if (problem := problem_with_verl_key(key, value)) is not None:
        return told("other", problem)
    try:
        problem = problem_with(key, value)
    except NoVerlError:
        problem, note = None, f"{note}; verl is not installed here, and the key is not checked"
    if problem is not None:
        return told("dead", problem)
    if condition is not None and (why := ignored(key, condition)) is not None:
        return told("dead", why)
    return told("trainer", note)


def _default(key: str) -> Any:
    try:
        return known_keys().get(key)
    except NoVerlError:
        return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return bool(one is other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, list) != isinstance(other, list):
        return [one] == other or one == [other]
    return bool(one == other)


def _shown(value: Any) -> str:
    return value.written if isinstance(value, Unknown) else _brief(value)


def _brief(value: Any) -> str:
    if isinstance(value, str):
        return value
    return {None: "none", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else (
        f"{value:g}" if isinstance(value, float) else json.dumps(value)
    )  # fmt: skip


def _name(at: str) -> str:
    return at.removeprefix("set.")


_TRAINING = "training is with FSDP2 on one node"
_ONE_ANSWER = "each question gets one answer in text, without tools, images or turns"

NO_PLACE: tuple[tuple[str, str], ...] = (
    (r"\.(megatron|veomni|torchtitan|automodel|mindspeed\w*)\.|^model_engine$|override_optimizer_config|"
     r"\.turbo_config\.|^actor_rollout_ref\.model\.(lora\.(?!merge)|mtp\.)|routing_replay|router_replay", _TRAINING),
    (r"\.engine_kwargs\.(sglang|trtllm)\b", "answers come from vLLM, or from transformers"),
    (r"\.rollout\.(multi_turn|agent|skip_tokenizer_init|limit_images)\b|^data\.(image|video|audio|tool|mcp)_|"
     r"\.mm_|mm_preprocessor|^data\.return_multi_modal", _ONE_ANSWER),
    (r"^reward\.(reward_model|sandbox_fusion|reward_loop)\b|^reward_model\.", "answers are scored by a rule: no model"),
    (r"^ray_kwargs\.|^trainer\.ray_wait_register", "a run starts a private Ray on its node"),
    (r"^distillation\.", "no teacher takes part"),
    (r"^(async_training|rollout|async_resources)\.", "generation and training take turns on the same GPUs"),
    (r"^actor_rollout_ref\.(hybrid_engine|rollout\.mode)$", "generation and training take turns on the same GPUs"),
    (r"^trainer\.device$", "the node that runs it decides"),
    (r"\.profiler\.|^global_profiler\.", "runs are measured, not profiled"),
)  # fmt: skip
"""Keys that runs here do not act on, and what they do instead."""

WHY: dict[str, str] = {
    "algorithm.adv_estimator": "advantages are group-relative (GRPO), without a critic",
    "algorithm.use_kl_in_reward": "the KL term is in the loss (algorithm.kl_loss)",
    "algorithm.filter_groups.metric": "groups are filtered by whether their answers are right",
    "actor_rollout_ref.rollout.name": "answers come from vLLM, or from transformers",
    "actor_rollout_ref.rollout.tensor_model_parallel_size": "each GPU answers with a whole model",
    "actor_rollout_ref.rollout.enforce_eager": "what is compiled can neither be noised nor looked at",
    "actor_rollout_ref.rollout.val_kwargs.do_sample": "verl 0.9.1 answers at eval.temperature whatever it says",
    "actor_rollout_ref.rollout.quantization": "the field dtype says the number format, of training and rollout alike",
    "actor_rollout_ref.actor.strategy": "training is with FSDP2",
    "actor_rollout_ref.actor.fsdp_config.strategy": "training is with FSDP2",
    "actor_rollout_ref.ref.fsdp_config.strategy": "training is with FSDP2",
    "actor_rollout_ref.actor.clip_ratio": "clip_low and clip_high are what verl 0.9.1 clips by",
    "actor_rollout_ref.actor.kl_loss_type": "of verl's estimators, low_var_kl is used",
    "actor_rollout_ref.model.target_modules": "adapters are on every linear module",
    "reward.custom_reward_function": "the reward is the project's, by data_source and ground truth",
    "reward.reward_manager.name": "algorithm.overlong decides",
    "reward.reward_kwargs": "algorithm.overlong decides",
    "data.train_max_samples": "the whole file is read",
    "data.val_max_samples": "the whole file is read",
    "trainer.nnodes": "a run is on one node",
    "trainer.max_actor_ckpt_to_keep": "checkpoints.keep says which stay",
    "trainer.default_local_dir": "everything of a run lies in its own directory",
    "trainer.experiment_name": "labels name runs",
    "trainer.resume_mode": "the scheduler resumes what was interrupted",
    "trainer.total_epochs": "epochs and steps_per_epoch say when training ends",
    "trainer.total_training_steps": "epochs and steps_per_epoch say when training ends",
}
"""Why a key that is decided elsewhere has another value."""
