"""What becomes of every override of a script: a field, a key under ``trainer:``, or a line that says what holds.

The answer is checked with the workers' own table: a key counts as expressed where the run would set the same value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from experiment_specs.errors import SpecError
from experiment_specs.language import Condition
from experiment_specs.presets import presets
from experiment_specs.reader import refuse_verl_key
from experiment_specs.verl_keys import LOGGERS, RESULT_NEUTRAL_OVERRIDES, decided_by
from orchestrator.importers.script.fields import ACTOR, INVERSE, MODEL, OVERLONG, AskError, Settings, current, field_of
from orchestrator.importers.script.overrides_of import CommandLine, Override, Unknown
from workers.launch import Order
from workers.overrides import MICRO_BATCHES, overrides
from workers.verl_config import NOT_DONE, ON_ONE_NODE, NoVerlError, ignored, known_keys, problem_with_own

KINDS = {
    "ask": "to fill in by hand",
    "unread": "to check by hand, because not read",
    "other": "without a place: another value holds",
    "dead": "without effect",
    "same": "true of every run",
    "trainer": "kept under trainer",
    "field": "in a field",
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
    script says nothing of; ``configuration``: the file that may say something of them, and is not read; ``unread``: how
    many words may, whose keys are not known."""

    fields: Mapping[str, Any]
    asked: Mapping[str, str]
    defaults: frozenset[str]
    trainer: Mapping[str, Any]
    lines: tuple[Line, ...]
    configuration: str = ""
    unread: int = 0

    def without(self, key: str, why: str) -> Port:
        """The same without one key under ``trainer``, which the plan refuses."""
        lines = tuple(
            replace(line, kind="other", text=f"left out: {why}")
            if line.kind == "trainer" and current(line.key) == key
            else line
            for line in self.lines
        )
        return replace(self, trainer={k: v for k, v in self.trainer.items() if k != key}, lines=lines)


def port(line: CommandLine, rows: Mapping[str, int], environment: Mapping[str, str], seeds: Sequence[int] = ()) -> Port:
    """``rows``: data.train_rows and data.test_rows, where known. ``environment``: what the script exports. ``seeds``:
    those of a loop over this command line."""
    told: list[Line] = [Line(word, "", "unread", why) for word, why in line.rest]
    told += [_of_option(name, value) for name, value in line.options]
    last, more = _in_force(line.overrides)
    settings = Settings({key: o.value for key, o in last.items()}, rows, environment)
    fields, asked = _fields(settings)
    if seeds:
        fields["seeds"] = list(seeds)
    known = _checked(fields, asked, settings)
    trainer: dict[str, Any] = {}
    for key, override in last.items():
        kind, text = _outcome(key, override.value, known)
        renamed = f"today {key}: " if key != override.key else ""
        told.append(Line(override.key, _shown(override.value), kind, renamed + text))
        if kind == "trainer":
            trainer[key] = _loggers(override.value)[0] if key == "trainer.logger" else override.value
    defaults = frozenset(i.field for i in INVERSE if not any(_said(key, settings.said) for key in i.keys))
    order = {kind: index for index, kind in enumerate(KINDS)}
    lines = sorted((*told, *more), key=lambda item: order[item.kind])
    named = [line.value for line in told if line.key == "--config-name" and line.kind == "unread"]
    return Port(known.fields, known.asked, defaults, trainer, tuple(lines), " ".join(named[-1:]), line.unread)


def _in_force(overrides_: Iterable[Override]) -> tuple[dict[str, Override], list[Line]]:
    """The last override of each key of verl 0.9.1, and a line for each of the others."""
    last: dict[str, Override] = {}
    lines: list[Line] = []
    for override in _flat(overrides_):
        key = current(override.key)
        if override.deletes or (override.when and field_of(key) is None):
            lines.append(_not_plain(override))
        elif key in last and key != override.key and last[key].key == key:
            lines.append(Line(override.key, _shown(override.value), "dead", f"{key} is set too, and holds"))
        else:
            if key in last:
                old = last[key]
                again = "a later word sets it again" if old.key == override.key else f"{override.key} is set after it"
                lines.append(Line(old.key, _shown(old.value), "dead", again))
            last[key] = override if not override.when else _conditional(override)
    return last, lines


def _conditional(override: Override) -> Override:
    return replace(override, value=Unknown(_shown(override.value), f"is there only if {override.when}"), when="")


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
        return Line(name, value, "other", f"{ON_ONE_NODE}: verl's ppo_trainer holds")
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
        except (TypeError, ValueError, ArithmeticError) as error:
            asked[inverse.field] = f"{', '.join(inverse.keys)}: {error}"
    return fields, asked


_STAND_INS: dict[str, Any] = {
    "model.path": "MODEL", "data.train": "TRAIN", "data.test": "TEST", "data.test_rows": 1, "algorithm.name": "grpo",
    "data.max_prompt_tokens": 1, "data.max_response_tokens": 1_000_000, "algorithm.samples_per_prompt": 2,
    "optimiser.lr": 1e-6, "optimiser.weight_decay": 0.01, "optimiser.warmup_steps": 0, "optimiser.grad_clip": 1.0,
    "compute": "bf16", "eval.every": 1, "rollout": "vllm", "epochs": 1,
}  # fmt: skip
"""For fields that are still to be filled in, so that what the others give can be checked."""


@dataclass(frozen=True)
class _Known:
    """What is known of the sweep: its fields, the reasons of those that are asked for, and the values that verl's
    keys have in such a run (``held``; empty where the language refuses too much to say)."""

    settings: Settings
    fields: Mapping[str, Any]
    asked: Mapping[str, str]
    held: Mapping[str, Any]
    condition: Condition | None


def _checked(fields: Mapping[str, Any], asked: Mapping[str, str], settings: Settings) -> _Known:
    """What the language refuses is asked for; then every value that verl's keys would have in such a run."""
    fields, asked = dict(fields), dict(asked)
    for _ in range(len(INVERSE)):
        try:
            condition = Condition.model_validate(_completed(fields))
            rows, prompts = condition.data.train_rows, condition.batch.prompts
            if rows >= prompts:
                return _Known(settings, fields, asked, _held(condition, fields.get("resources.gpus", 1)), condition)
            name, why = "set.batch.prompts", f"{rows} training rows make no step of {prompts} prompts"
        except ValidationError as error:
            name, why = _refused(error, settings)
        except (TypeError, ValueError) as error:
            name, why = "resources.gpus", str(error)
        if fields.pop(name, None) is None and name in asked:
            break
        asked[name] = why
    return _Known(settings, fields, asked, {}, None)


def _completed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A whole condition: what is still to be filled in has a value that goes with the others."""
    known = _of_set(fields)
    counts = (known.get("batch.prompts"), known.get("batch.mini_batch"), fields.get("resources.gpus"), 1)
    batch = next(count for count in counts if isinstance(count, int) and count > 0)
    known = {"batch.prompts": batch, "batch.mini_batch": batch, "data.train_rows": batch} | known
    if "set.batch.prompts" not in fields:
        known["data.train_rows"] = batch
    nested: dict[str, Any] = {}
    for name, value in {**_STAND_INS, **known}.items():
        _put(nested, name, value)
    return nested | {"dtype": presets()["dtype"]["bf16"]}


def _of_set(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("set."): value for name, value in fields.items() if name.startswith("set.")}


def _put(target: dict[str, Any], name: str, value: Any) -> None:
    *above, leaf = name.split(".")
    for part in above:
        target = target.setdefault(part, {})
    target[leaf] = value


def _refused(error: ValidationError, settings: Settings) -> tuple[str, str]:
    """The field that the language refuses, and why."""
    first = error.errors()[0]
    words = [str(part) for part in first["loc"]]
    message = str(first.get("ctx", {}).get("error", first["msg"]))
    if words == ["batch"]:
        return "set.batch.mini_batch", message
    if not words:
        return f"set.{'.'.join(message.split(' ', maxsplit=1)[0].split('.')[:2])}", message
    inverse = next((i for i in INVERSE if f"set.{'.'.join(words)}.".startswith(f"{i.field}.")), None)
    value = f"{first.get('input')!r}"
    if inverse is None:
        return f"set.{words[0]}", f"{value} is refused: {message}"
    if inverse.keys and not any(_said(key, settings.said) for key in inverse.keys):
        value = f"{value}, verl's default for {inverse.keys[0]},"
    return inverse.field, f"{value} is refused: {message[0].lower()}{message[1:]}"


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


Fate = tuple[str, str]
"""Kind and text of a line."""


def _outcome(key: str, value: Any, known: _Known) -> Fate:
    deciders = (_asked_for, _no_place, _in_field, _idle, _decided, _not_known, _refused_by_verl)
    found = (decide(key, value, known) for decide in deciders)
    neutral = key in RESULT_NEUTRAL_OVERRIDES
    kept = ("trainer", "moves memory, speed or display, not the result" if neutral else "as it is")
    if key == "trainer.logger" and (dropped := _loggers(value)[1]):
        kept = ("trainer", f"without {', '.join(dropped)}, which is filled from the record of runs")
    return next((fate for fate in found if fate is not None), kept)


def _asked_for(key: str, _: Any, known: _Known) -> Fate | None:
    at = field_of(key)
    return ("ask", f"{_name(at)}: {known.asked[at]}") if at in known.asked and at is not None else None


def _in_field(key: str, value: Any, known: _Known) -> Fate | None:
    at = field_of(key)
    if at is None or not _expressed(key, value, at, known):
        return None
    steps = known.fields.get("set.steps_per_epoch")
    epoch = f", steps_per_epoch: {steps}" if at == "set.epochs" and steps is not None else ""
    return "field", f"{_name(at)}: {_brief(known.fields[at])}{epoch}"


def _expressed(key: str, value: Any, at: str, known: _Known) -> bool:
    """Whether a run of this spec would do what the key says."""
    settings, leaf = known.settings, key.rpartition(".")[2]
    if at in ("seeds", "checkpoints.every", "set.eval.every", "set.optimiser.warmup_steps"):
        taken = leaf != "lr_warmup_steps_ratio" or settings.said.get(key.removesuffix("_ratio")) in (None, -1)
        return value is not None and taken
    if at == "set.epochs":
        limited = known.fields.get("set.steps_per_epoch") is not None
        return limited == (leaf == "total_training_steps") and value is not None
    if at == "set.algorithm.kl_loss":
        return leaf == "use_kl_loss" or bool(settings.said.get(f"{ACTOR}.use_kl_loss"))
    if leaf in ("train_max_samples", "val_max_samples"):
        return False
    if at == "set.lora" and not settings.said.get(f"{MODEL}.lora_rank"):
        return leaf == "lora_rank"
    if leaf in ("train_files", "val_files") and isinstance(value, list):
        value = value[0]
    return key in known.held and _equal(value, known.held[key])


def _idle(key: str, _: Any, known: _Known) -> Fate | None:
    """Keys that another one switches off, or takes the place of."""
    said = known.settings.said
    if key.rpartition(".")[2] in ("kl_loss_coef", "kl_loss_type") and not known.fields.get("set.algorithm.kl_loss", 1):
        return "dead", "the script uses no KL loss"
    if key in _OF_ADAPTERS and not said.get(f"{MODEL}.lora_rank"):
        return "dead", "the script has no adapters"
    off = said.get(f"{OVERLONG}.enable") in (None, False)
    manager = said.get("reward.reward_manager.name", "naive")
    if key.startswith(_OF_OVERLONG) and off and manager in ("dapo", "naive"):
        return "dead", "the script has no overlong punishment"
    if key in ("trainer.total_epochs", "trainer.total_training_steps"):
        if "data.train_rows" in known.settings.rows:
            return "dead", "training ends before, by the other of total_epochs and total_training_steps"
        return "other", "whichever ends first ends training in verl; the rows are not known, and the steps are taken"
    return None


_OF_ADAPTERS = (f"{MODEL}.lora_alpha", f"{MODEL}.target_modules", f"{MODEL}.lora.merge")
_OF_OVERLONG = (OVERLONG, "reward.reward_kwargs.max_resp_len", "reward.reward_manager.name")
_OWN = (
    "trainer.experiment_name", "trainer.default_local_dir", "trainer.validation_data_dir", f"{MODEL}.external_lib",
    "reward.custom_reward_function", "trainer.v1.trainer_mode",
)  # fmt: skip
"""Keys whose value in a run says nothing to a reader."""


def _decided(key: str, value: Any, known: _Known) -> Fate | None:
    """Keys that a field or the workers decide, in another way than the script."""
    at = field_of(key)
    by = decided_by(key) or (f"the field {_name(at)}" if at is not None else None)
    if by is None:
        return None
    why = next((text for start, text in WHY.items() if key == start or key.startswith(f"{start}.")), None)
    why = why or f"is decided by {by}"
    if at is not None and known.condition is None:
        return "ask", f"{_name(at)}: to be checked when the other fields are filled in"
    default = _default(key)
    known_here = key in known.held or (default is not None and not isinstance(default, dict))
    if key.startswith(_OWN) or not known_here:
        return "other", why
    have = known.held.get(key, default)
    if not isinstance(value, Unknown) and (_equal(value, have) or (value is None and have in (False, 0))):
        return "same", why
    return "other", f"{_brief(have)} holds: {why}"


def _no_place(key: str, value: Any, _: _Known) -> Fate | None:
    """What runs here do not do, whatever verl can."""
    why = next((why for pattern, why in NO_PLACE if re.search(pattern, key)), None)
    if why is None:
        chosen = "chooses one of verl's configuration files: those of ppo_trainer hold"
        return ("other", chosen) if "@" in key or "/" in key else None
    default = _default(key)
    usual = not isinstance(value, Unknown) and default is not None and _equal(value, default)
    return ("same" if usual else "other"), why


def _not_known(key: str, value: Any, _: _Known) -> Fate | None:
    if not isinstance(value, Unknown):
        return None
    if key in RESULT_NEUTRAL_OVERRIDES:
        return "other", f"{value.why}, and does not change the result: left out"
    return "ask", f"under trainer, if it matters: {value.why}"


def _refused_by_verl(key: str, value: Any, known: _Known) -> Fate | None:
    """What neither the language nor verl takes under ``trainer``, or verl takes and does not act on."""
    if isinstance(value, str) and "${" in value:
        return "other", "is computed by Hydra from another key: write its value"
    if key in MICRO_BATCHES and not isinstance(value, int):
        return "same", "the size follows from batch and lengths"
    if key == "trainer.logger":
        value, dropped = _loggers(value)
        if not value:
            return "other", f"{', '.join(dropped)} is filled from the record of runs: console holds"
    try:
        refuse_verl_key(key, value, lambda problem, at: SpecError(problem, value=at))
    except SpecError as error:
        return "other", error.problem
    try:
        why = problem_with_own(key, value)
    except NoVerlError:
        why = None  # and the plan says that it could not check
    if why is None and known.condition is not None:
        why = ignored(key, known.condition)
    return ("dead", why) if why is not None else None


def _loggers(value: Any) -> tuple[list[str], list[str]]:
    """Those that a spec may switch on, and the others."""
    names = [str(name) for name in (value if isinstance(value, list) else [value])]
    return [name for name in names if name in LOGGERS], [name for name in names if name not in LOGGERS]


def _default(key: str) -> Any:
    """verl's own value; None where verl is not installed here."""
    try:
        return known_keys().get(key)
    except NoVerlError:
        return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, list) != isinstance(other, list):
        return bool([one] == other or one == [other])
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


NO_PLACE: tuple[tuple[str, str], ...] = (
    *NOT_DONE,
    (r"override_optimizer_config", "the optimiser is AdamW, as the field optimiser says"),
    (r"^trainer\.device$", "the node that runs it decides"),
    (r"^hydra\.", "everything of a run lies in its own directory"),
    (r"\.profiler\.|^global_profiler\.", "runs are measured, not profiled"),
)
"""Keys that a port leaves out, and what holds instead."""

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
    "reward.custom_reward_function": "verl's own scorers score answers, by data_source",
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
