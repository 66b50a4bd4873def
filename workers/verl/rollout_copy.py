"""The rollout's copy of the policy: loads a sync, noises it, lifts the noise for evals, and measures what it holds.

Knows torch and the treatments, not Ray: the same object serves the transformers rollout and the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from experiment_specs.schedules import sigma_at
from workers.events import Kind
from workers.launch import Order
from workers.treatments.aqn import Noise, Simulated
from workers.treatments.quantize import fingerprint, is_block_linear, linears, quantise, sampled


class RolloutCopy:
    """One model that generates, and the record of what was done to it."""

    def __init__(self, model: Any, order: Order) -> None:
        self.model = model
        self.order = order
        self.condition = order.typed_condition
        self.noise = Noise(model)  # watches the norms also where no noise is planned: that too is measured
        self.step: int | None = None
        self.in_eval = False
        self._pending: list[Kind] = []
        self._linears = [name for name, _ in linears(model) if is_block_linear(name)]

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Take over a sync made after training step ``step``; it serves the rollouts of step ``step + 1``."""
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        tied = {"lm_head.weight"} if getattr(self.model.config, "tie_word_embeddings", False) else set()
        if set(missing) - tied or unexpected:
            raise RuntimeError(f"the sync does not fit the rollout model: missing {missing}, unexpected {unexpected}")
        self.step, self.in_eval = step, False
        self.noise.remember()
        self.apply_noise()
        self._pending = ["sync"]

    def apply_noise(self) -> None:
        """Draw for the rollouts that this sync serves."""
        self.noise.draw(self.planned_sigma(), self.order.seed, self.serves)

    @property
    def serves(self) -> int:
        return (self.step or 0) + 1

    def planned_sigma(self) -> float:
        if self.condition.aqn is None:
            return 0.0
        return sigma_at(self.condition.aqn, self.serves, self.order.total_steps, self.order.steps_per_epoch)

    def begin_eval(self) -> None:
        """From now on answers are test answers: without noise."""
        self.in_eval = True
        self.lift_noise()
        self._pending.append("eval_mode")

    def lift_noise(self) -> None:
        self.noise.lift()

    def end_eval(self) -> None:
        self.in_eval = False
        self.noise.restore()

    def evidence_before_generating(self) -> tuple[Kind, dict[str, Any]] | None:
        """What the model holds right now, the first time it generates after a sync or within an eval; else None.

        ``sync`` evidence waits for the first *training* rollout after the sync, so it is taken on what generates it.
        """
        wanted: Kind = "eval_mode" if self.in_eval else "sync"
        if wanted not in self._pending:
            return None
        self._pending.remove(wanted)
        return wanted, self.measure()

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """Facts about the weights as they stand: noise realised, linears on the grid or not, fingerprints."""
        realised = self.noise.measure()
        planned = self.planned_sigma()
        due = self.noise.simulate(planned, self.order.seed, self.serves) if planned > 0 else Simulated(0.0, 0.0, 0)
        by_name = dict(linears(self.model))
        watched = sampled(self._linears)
        return {
            "step": self.step,
            "serves": self.serves,
            "sigma_planned": planned,
            "sigma_expected": due.std,
            "sigma_error": due.error,
            "modules_due": due.modules,
            "realised": asdict(realised),
            "linears": len(self._linears),
            "on_grid": sum(self._on_grid(by_name[name].weight) for name in watched),
            "watched": len(watched),
            "weights": {name: fingerprint(by_name[name].weight) for name in watched},
            "norms": {name: fingerprint(module.weight) for name, module in self.noise.modules.items()},
        }

    def _on_grid(self, weight: Tensor) -> bool:
        """A quantiser leaves alone what is already quantised, so Q(w) = w says that w is on the grid. To five digits:
        the tensor scale of nvfp4 does not come back exactly in fp32; weights off the grid are off by percents."""
        return bool(torch.allclose(quantise(weight, self.condition.dtype), weight, rtol=1e-5, atol=0.0))
