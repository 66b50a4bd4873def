"""A treatment broken on purpose: noise is drawn at every sync, with sigma 0, while everything else looks right."""

from workers.verl.rollout_copy import RolloutCopy


def _inert(self: RolloutCopy) -> None:
    self.noise.draw(0.0, self.order.seed, self.serves)


RolloutCopy.apply_noise = _inert  # type: ignore[method-assign]
