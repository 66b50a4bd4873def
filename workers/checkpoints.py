"""When a checkpoint is saved, and which of them stay on disk. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from workers.launch import Order


def due(order: Order, step: int) -> bool:
    """Is one saved after this training step? To be kept, or to go on from."""
    if order.save_every and step % order.save_every == 0 and step < order.total_steps:
        return True
    if order.keep == "none":
        return False
    return step == order.total_steps or (order.keep in ("best", "all") and step in order.eval_steps)


def best(saved: Iterable[int], right: Mapping[int, int]) -> int | None:
    """The step of the best eval that has a checkpoint; the earliest of equals.

    ``right``: step to the number of test answers that were right.
    """
    return max((step for step in saved if step in right), key=lambda step: (right[step], -step), default=None)


def unneeded(
    saved: Collection[int], keep: str, evals: Sequence[int], right: Mapping[int, int], *, ended: int, over: bool
) -> list[int]:
    """Steps whose checkpoint is neither kept nor needed to go on from.

    ``ended``: the last step of which everything is recorded; ``over``: the run is at its end.
    """
    wanted: set[int] = set()
    complete = [step for step in saved if step <= ended]
    if keep == "all":
        wanted |= set(saved) & set(evals)
    elif keep == "best" and (step := best(complete, right)) is not None:
        wanted.add(step)
    if complete and (not over or keep == "last"):
        wanted.add(max(complete))
    return sorted(step for step in complete if step not in wanted)
