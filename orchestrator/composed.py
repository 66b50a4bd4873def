"""Every condition of a plan against verl's own configuration, and what exactly a node would run for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiment_specs.errors import Problems
from experiment_specs.explain import Explanation
from experiment_specs.explain import keys as sweep_keys
from experiment_specs.language import Condition
from experiment_specs.load import Sweep
from experiment_specs.verl_keys import DECIDED_BY, RESULT_NEUTRAL_OVERRIDES
from experiment_specs.yaml_source import KeyPath
from orchestrator.plan import Plan, PlannedCondition
from workers.launch import Order, plugins, process_environment, trainer_command
from workers.overrides import overrides
from workers.verl_config import (
    IGNORED,
    NoVerlError,
    compose,
    ignored,
    known_keys,
    problem_with,
    problem_with_own,
)
from workers.verl_reads import never_read, not_seen_to_be_read, reads_in_words


def check_with_verl(plan: Plan) -> list[str]:
    """Warnings about keys that may act or not. Raises SpecError for keys and values that verl does not have, and for
    keys without an effect, all at once.

    A key that moves only memory and speed is not in a condition: where it has no effect is a warning.
    """
    try:
        known_keys()
    except NoVerlError as error:
        return [str(error)]
    problems, warnings = Problems(), dict[str, list[str]]()
    idle: dict[tuple[KeyPath, str], list[str]] = {}
    for planned in plan.conditions:
        own = planned.condition.trainer | plan.sweep.overrides
        changes = overrides(order_of(plan.sweep, planned), Path("RUN_DIR"), _FILES, cpu=False)
        for key, value in changes.items():
            place = _written(plan.sweep, planned, key)
            if (problem := problem_with_own(key, value) if key in own else problem_with(key, value)) is not None:
                problems.add(plan.sweep.error(problem, place, value), hides=True)
            elif key in own and (why := ignored(key, planned.condition)) is not None:
                if key in planned.condition.trainer:
                    idle.setdefault((place, why), []).append(planned.label)
                else:
                    warnings.setdefault(f"{key} has no effect: {why}", []).append(planned.label)
            elif key in own and not_seen_to_be_read(key):
                warnings.setdefault(_UNSEEN.format(key=key), []).append(planned.label)
    for (place, why), labels in idle.items():
        problems.add(plan.sweep.error(f"has no effect{_in(plan, labels)}: {why}", place))
    problems.raise_all()
    return [text + _in(plan, labels) for text, labels in warnings.items()]


_UNSEEN = "no traced run of verl read {key}: a run of this sweep in which nothing reads it is not PROVEN"


def _in(plan: Plan, labels: Sequence[str]) -> str:
    """Which conditions are meant, where it is not all of them."""
    return "" if len(labels) == len(plan.conditions) else f" in {', '.join(labels)}"


def _written(sweep: Sweep, planned: PlannedCondition, key: str) -> tuple[str | int, ...]:
    """Where a spec says a key of verl's: under trainer, on an axis, beside the product, or in set."""
    places = (planned.where(("trainer", key)), ("trainer", key), ("set", "trainer", key))
    return next((place for place in places if place in sweep.marks), ("trainer", key))


def verl_key(key: str) -> Explanation | None:
    """What a key of verl's is: its default, and the field that decides it. None where it is no key of verl's."""
    try:
        known = known_keys()
    except NoVerlError:
        return None
    name = key if key in known else key.removeprefix("trainer.")
    if name not in known or name in sweep_keys():
        return None
    below = tuple(f"{name}.{part}" for part in known[name]) if isinstance(known[name], dict) else ()
    decided = DECIDED_BY.get(name)
    neutral = name in RESULT_NEUTRAL_OVERRIDES
    about = (
        f"A key of verl's that {decided} decides: it cannot be set a second time."
        if decided
        else "A key of verl's, to be written under trainer: it does not change the result."
        if neutral
        else "A key of verl's, to be written under trainer; it is part of the condition."
    )
    whys = [i.why for i in IGNORED if name.startswith(i.prefix)]
    about += "".join(f" Runs may ignore it: {why}." for why in whys)
    if not below and not decided:
        about = f"A key of verl's. {reads_in_words(name)}" if never_read(name) else f"{about} {reads_in_words(name)}"
    return Explanation(name, about, "what verl accepts", "" if below else str(known[name]), {}, below, ())


_FILES = {name: name for name in ("model", "train", "test")}


def order_of(sweep: Sweep, planned: PlannedCondition, seed: int = 0) -> Order:
    return Order(
        run_id="RUN",
        attempt=1,
        token="TOKEN",  # noqa: S106 - a placeholder
        label=planned.label,
        condition_id=planned.condition.id,
        condition=planned.condition.model_dump(mode="json"),
        seed=seed,
        total_steps=planned.steps.total,
        steps_per_epoch=planned.steps.per_epoch,
        eval_steps=list(planned.steps.evals),
        gpus=sweep.resources.gpus,
        assets="ASSETS",
        keep=sweep.checkpoints.keep,
        save_every=sweep.checkpoints.steps_between(planned.condition.eval.every),
        overrides=sweep.overrides,
    )


@dataclass(frozen=True)
class Shown:
    """What a node runs for one condition and its first seed."""

    order: dict[str, Any]
    command: list[str]
    """Without its last argument, the run directory."""
    environment: dict[str, str]
    changes: dict[str, Any]
    """verl's keys that differ from its defaults or are set all the same."""
    config: dict[str, Any]
    """verl's whole configuration, composed."""


def show(plan: Plan, planned: PlannedCondition, *, cpu: bool) -> Shown:
    """Raises :class:`workers.verl_config.NoVerlError` where verl is not installed."""
    from omegaconf import OmegaConf

    order = replace(
        order_of(plan.sweep, planned, planned.seeds[0]),
        assets="assets", run_id="by-hand", plugins=list(plugins()), workdir=str(Path.cwd()),
    )  # fmt: skip
    condition: Condition = planned.condition
    files = {"model": condition.model.path, "train": condition.data.train, "test": condition.data.test}
    changes = overrides(order, Path("RUN_DIR"), files, cpu=cpu)
    config: Any = OmegaConf.to_container(compose(changes), resolve=True)
    return Shown(
        order=vars(order),
        command=trainer_command(Path("RUN_DIR"))[:-1],
        environment=process_environment(plugins(), condition.hw_noise, cpu=cpu),
        changes=changes,
        config=config,
    )
