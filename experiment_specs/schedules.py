"""How sigma falls over training. One function of the training step t = 1..T, the step whose rollouts it noises.

Source of ``kstage``: QeRL (arXiv 2510.11696) and its published scheduler.
"""

from __future__ import annotations

from experiment_specs.language import Aqn


def sigma_at(aqn: Aqn, step: int, total: int, per_epoch: int) -> float:
    """Planned standard deviation for the rollouts of training step ``step`` (1..``total``); 0.0 outside that range.

    ``total`` and ``per_epoch`` are the true counts of training steps, not of optimiser updates or of generation
    batches: a schedule with another total stops half-way.
    """
    if not 1 <= step <= total:
        return 0.0
    if aqn.schedule == "kstage":
        return _kstage(aqn, step, total)
    if aqn.schedule == "epoch_aware":
        return _epoch_aware(aqn, step, total, per_epoch)
    return aqn.sigma_start + (aqn.sigma_end - aqn.sigma_start) * step / total


def _kstage(aqn: Aqn, step: int, total: int) -> float:
    """K equal intervals of T/K steps; the first has sigma 0, the others fall geometrically from start to end."""
    stages = aqn.num_stages or 10
    interval = min(stages - 1, int(step / (total / stages)))
    if interval == 0:
        return 0.0
    return _geometric(aqn.sigma_start, aqn.sigma_end, (interval - 1) / (stages - 2))


def _epoch_aware(aqn: Aqn, step: int, total: int, per_epoch: int) -> float:
    """Each epoch falls from its own upper to its own lower bound: S+1 equal intervals, the first with sigma 0."""
    stages = aqn.stages_per_epoch or 10
    epochs = max(1, round(total / per_epoch))
    epoch = min(epochs - 1, (step - 1) // per_epoch)
    upper = _geometric(aqn.sigma_start, aqn.sigma_end, epoch / epochs)
    lower = _geometric(aqn.sigma_start, aqn.sigma_end, (epoch + 1) / epochs)
    interval = min(stages, int((step - epoch * per_epoch) / (per_epoch / (stages + 1))))
    if interval == 0:
        return 0.0
    return _geometric(upper, lower, (interval - 1) / (stages - 1))


def _geometric(start: float, end: float, fraction: float) -> float:
    return float(start * (end / start) ** fraction)
