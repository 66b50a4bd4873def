"""What can be said of one condition before it runs: its steps, its schedule of noise, the mode of its evals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiment_specs.errors import Problems
from experiment_specs.language import TINY_DATA, TINY_MODEL, TINY_PREFIX, TINY_SELECTION, Condition
from experiment_specs.load import Sweep
from experiment_specs.presets import preset_name
from experiment_specs.schedules import sigma_at
from experiment_specs.yaml_source import KeyPath
from orchestrator.steps import Steps

ROUNDED_AWAY = 5.6e-4
"""Noise of this sigma and below does not survive bfloat16 on weights near 1: half of the spacing below 1, 2^-9, is 3.5
sigma away, and one element in two thousand changes."""


MOST_STEPS = 1_000_000
"""Training steps of a run; evals are counted one by one."""


def refuse(sweep: Sweep, condition: Condition, where: Callable[[KeyPath], KeyPath]) -> None:
    """Raises SpecError for batches that make no step, too many, or that cannot be shared out equally; all at once."""
    problems = Problems()
    made = (
        (("model", "path"), condition.model.path, [TINY_MODEL]),
        (("data", "train"), condition.data.train, [TINY_DATA]),
        (("data", "test"), condition.data.test, [TINY_DATA, TINY_SELECTION]),
    )
    for at, path, known in made:
        if path.startswith(TINY_PREFIX) and path not in known:
            problems.add(sweep.error(f"{path!r} is nothing that is made locally", where(at), path, known))
    rows, prompts, gpus = condition.data.train_rows, condition.batch.prompts, sweep.resources.gpus
    if rows < prompts:
        places = [where(("batch", "prompts")), where(("data", "train_rows"))]
        place = next((place for place in places if sweep.says(place)), places[0])
        problems.add(sweep.error(f"{rows} training rows make no step of {prompts} prompts", place))
    total = (condition.steps_per_epoch or rows // prompts) * condition.epochs
    if total > MOST_STEPS:
        problems.add(sweep.error(f"{total:.3g} training steps are more than {MOST_STEPS:,}", where(("epochs",))))
    for name, count in (("prompts", prompts), ("mini_batch", condition.batch.mini_batch)):
        samples = condition.algorithm.samples_per_prompt
        if count * samples % gpus:
            text = f"batch.{name}, {count} × {samples} samples, cannot be shared out to {gpus} GPUs"
            problems.add(sweep.error(text, ("resources", "gpus")))
    problems.raise_all()


def warnings(condition: Condition, steps: Steps) -> list[str]:
    """Sentences about steps, evals and the schedule of noise."""
    found = list(_noise(condition, steps))
    every, total = condition.eval.every, steps.total
    if total % every:
        found.append(
            f"the last eval, at step {total}, is off the rhythm of every {every} steps:"
            f" on the rhythm alone the last one would be at {total - total % every}"
        )
    if condition.hw_noise is not None and condition.hw_noise.ops == ("bmm",):
        found.append(
            "errors in bmm alone: models of transformers multiply by matmul in attention, and a kind of product that is"
            " never made leaves the run UNPROVEN"
        )
    a = condition.algorithm
    if a.clip_high < a.clip_low:
        found.append(f"clip_high ({a.clip_high:g}) is below clip_low ({a.clip_low:g})")
    if a.name == "grpo" and (a.dynamic_sampling or a.overlong is not None):
        found.append("the algorithm is called grpo and has dynamic sampling or the overlong punishment, as DAPO has")
    if condition.eval.samples > 1 and not condition.eval.temperature:
        found.append(f"{condition.eval.samples} answers a question at temperature 0 are the same answer")
    if condition.optimiser.warmup_steps >= total:
        found.append(
            f"the learning rate is still warming up at the end: {condition.optimiser.warmup_steps} steps of {total}"
        )
    natural = condition.data.train_rows // condition.batch.prompts
    if condition.steps_per_epoch is not None and condition.steps_per_epoch != natural:
        passes = steps.total * condition.batch.prompts / condition.data.train_rows
        found.append(
            f"steps_per_epoch is {steps.per_epoch}, and rows and batch give {natural}:"
            f" training keeps {passes:.2g} of the data's prompts"
        )
    return found


def _noise(condition: Condition, steps: Steps) -> list[str]:
    aqn, total = condition.aqn, steps.total
    if aqn is None:
        return []
    found = []
    if aqn.num_stages and total < aqn.num_stages:
        found.append(f"{total} training steps cannot hold {aqn.num_stages} noise stages")
    if aqn.stages_per_epoch and steps.per_epoch <= aqn.stages_per_epoch:
        found.append(
            f"{steps.per_epoch} steps an epoch cannot hold {aqn.stages_per_epoch} noise stages and their warm-up"
        )
    if condition.compute == "bf16" and aqn.layer_types == "rmsnorm":
        sigmas = [sigma_at(aqn, step, total, steps.per_epoch) for step in range(1, total + 1)]
        inert = [step for step, sigma in enumerate(sigmas, 1) if 0 < sigma <= ROUNDED_AWAY]
        if inert:
            found.append(
                f"sigma is {ROUNDED_AWAY:g} or less in {len(inert)} of {total} steps (first at {inert[0]}):"
                " on norm weights near 1, bf16 rounds it away"
            )
    return found


def eval_mode(condition: Condition) -> str:
    """What answers the test questions, in native mode."""
    asked = condition.eval
    parts = [f"{preset_name('dtype', condition.dtype)} weights"]
    if asked.samples > 1 or asked.temperature:
        parts.append(f"{asked.samples} answers a question at temperature {asked.temperature:g}")
    if condition.aqn is not None:
        parts.append("noise of the last sync on" if condition.aqn.during_eval else "noise lifted")
    if condition.hw_noise is not None:
        parts.append("hardware errors on" if "eval" in condition.hw_noise.phases else "hardware errors off")
    return ", ".join(parts)


def mixed_modes(arms: Sequence[tuple[str, Condition]]) -> list[str]:
    """Arms that are evaluated under noise or errors beside arms that are not: their scores measure two things."""
    found = []
    if len({(c.eval.samples, c.eval.temperature) for _, c in arms}) > 1:
        found.append("the conditions are asked for different numbers of answers, or at different temperatures")
    for what, is_on in (
        ("noise", lambda c: c.aqn is not None and c.aqn.during_eval),
        ("hardware errors", lambda c: c.hw_noise is not None and "eval" in c.hw_noise.phases),
    ):
        on = [label for label, condition in arms if is_on(condition)]
        if on and len(on) < len(arms):
            some = ", ".join(on[:3]) + (", …" if len(on) > 3 else "")
            found.append(f"evaluated under {what}, unlike the other conditions, whose scores do not compare: {some}")
    return found
