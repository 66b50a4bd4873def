"""The rollout's copy of the policy: takes a sync, noises it, lifts the noise for evals, and measures what it holds.

Knows torch and the treatments, neither Ray nor who generates: the same object serves the rollouts by transformers,
those by vLLM, and the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiment_specs.layers import LayerMultipliers, layer_multipliers
from experiment_specs.modules import is_quantised, plain
from experiment_specs.schedules import sigma_at
from workers.events import Kind
from workers.launch import Order
from workers.treatments.aqn import Expected, Noise, by_layer
from workers.treatments.held import Held, Part
from workers.treatments.noisy_ops import by_turns
from workers.treatments.probe import OutputCheck
from workers.treatments.quantize import fingerprint, grouped, quantise, sampled

LATEST_CALL = 11
"""Products are checked in one of this many first calls: reading the prompt is the first, a token each of the others."""

SILENT = Expected(0.0, 0.0, 0)


@dataclass
class Evidence:
    """Facts about one spell of generating. Complete after it: some are seen only while the model generates."""

    kind: Kind
    facts: dict[str, Any]
    output: OutputCheck | None = field(default=None, repr=False)

    def complete(self) -> dict[str, Any]:
        return self.facts | ({"output": self.output.facts()} if self.output is not None else {})


class RolloutCopy:
    """One model that generates, and the record of what was done to it."""

    def __init__(self, held: Held, order: Order) -> None:
        self.held = held
        self.order = order
        self.condition = order.typed_condition
        aqn = self.condition.aqn
        multipliers = LayerMultipliers()
        if aqn is not None:
            multipliers = layer_multipliers(aqn, self.condition.srdd, order.scan_errors)
        # norms are watched also where no noise is planned: that too is measured
        self.noise = Noise(held.model, aqn.layer_types if aqn is not None else "rmsnorm", multipliers)
        hw_noise = self.condition.hw_noise
        self.noisy_ops = held.noisy_ops(hw_noise) if hw_noise is not None else None
        self.step: int | None = None
        self.in_eval = False
        self._calls = {False: 0, True: 0}
        """Spells of generating since the sync, in training and in evals apart: an eval must not change what follows it,
        because a run that goes on from a checkpoint does not ask its questions again."""
        self._pending: list[Kind] = []
        self._linears = held.linears()
        self._quantised = [name for name in self._linears if is_quantised(self.condition.dtype, name)]

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor], step: int) -> list[tuple[Kind, dict[str, Any]]]:
        """Take over a whole sync made after training step ``step``; it serves the rollouts of step ``step + 1``.

        Returns the events that end with the weights before. Raises RuntimeError for weights that do not fit.
        """
        ended = self.begin_sync()
        self.held.load(weights, first=self.step is None)
        self.end_sync(step)
        return ended

    def begin_sync(self) -> list[tuple[Kind, dict[str, Any]]]:
        """Before weights come. Returns the events that end with those before."""
        ended = self._noisy_ops_seen("rollout")
        self.noise.lift()  # what this sync does not bring must not keep the last one's noise
        return ended

    def end_sync(self, step: int) -> None:
        """All weights of the sync made after training step ``step`` have come."""
        self.step, self.in_eval, self._calls = step, False, {False: 0, True: 0}
        self._linears = self.held.linears()  # a library may have put new tensors in their place
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

    def begin_eval(self) -> list[tuple[Kind, dict[str, Any]]]:
        """From now on answers are test answers: without noise on the weights, unless the condition wants it there.

        Returns the events that end with the training answers before.
        """
        ended = self._noisy_ops_seen("rollout")
        self.in_eval = True
        if self.condition.aqn is None or not self.condition.aqn.during_eval:
            self.lift_noise()
        self._pending.append("eval_mode")
        return ended

    def lift_noise(self) -> None:
        self.noise.lift()

    def end_eval(self) -> list[tuple[Kind, dict[str, Any]]]:
        """Training answers again. Returns the events that end with the eval."""
        ended = self._noisy_ops_seen("eval")
        self.in_eval = False
        self.noise.restore()
        return ended

    @contextmanager
    def answering(self, emit: Callable[[Kind, dict[str, Any]], object]) -> Iterator[None]:
        """Around every spell of generating: errors of the hardware on, and evidence to ``emit`` when it is due."""
        evidence = self.evidence_before_generating()
        self._calls[self.in_eval] += 1
        noise: Any = nullcontext()
        if self.noisy_ops is not None:
            spell = self._calls[self.in_eval]
            seed = ((self.order.seed * 1009 + self.serves) * 2 + self.in_eval) * 10_007 + spell
            noise = self.noisy_ops.phase("eval" if self.in_eval else "rollout", seed)
        with noise:
            yield
        if evidence is not None:
            emit(evidence.kind, evidence.complete())

    def evidence_before_generating(self) -> Evidence | None:
        """What the model holds right now, the first time it generates after a sync or within an eval; else None.

        ``sync`` evidence waits for the first *training* rollout after the sync, so it is taken on what generates it.
        """
        wanted: Kind = "eval_mode" if self.in_eval else "sync"
        if wanted not in self._pending:
            return None
        self._pending.remove(wanted)
        name = by_turns(list(self._linears), self.condition.hw_noise, self.serves)
        call = 1 + self.serves * 5 % LATEST_CALL
        return Evidence(wanted, self.measure(), self.held.check_output(self._linears[name], call))

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """Facts about the weights as they stand: noise realised, linears on the grid or not, fingerprints.

        Fingerprints are of the weights without their noise, which is measured apart: together they say what is held.
        """
        realised = self.noise.measure()
        planned = self.planned_sigma()
        if planned > 0:
            due, due_by_layer = self.noise.expect(planned, self.order.seed, self.serves)
        else:
            due, due_by_layer = SILENT, {}
        watched = sampled(self._quantised)
        pooled = realised.pooled
        return {
            "step": self.step,
            "serves": self.serves,
            "sigma_planned": planned,
            "sigma_expected": due.std,
            "sigma_error": due.error,
            "modules_due": due.due,
            "realised": {
                "modules": pooled.changed, "watched": pooled.modules, "std": pooled.std, "largest": pooled.largest,
                "elements": pooled.elements,
            },
            "correlation": None if self.in_eval else self.noise.correlation(),
            "layers": by_layer(self.noise, realised, lambda layer: due_by_layer.get(layer, SILENT)),
            "linears": len(self._linears),
            "on_grid": sum(self._on_grid(self._clean(self._linears[name])) for name in watched),
            "watched": len(watched),
            "weights": grouped(self._fingerprints()),
        }  # fmt: skip

    def _fingerprints(self) -> dict[str, str]:
        """Of everything that is held, under the names of the model without its wrapping."""
        return {plain(part.name): fingerprint(self._clean(part)) for part in self.held.parts()}

    def _clean(self, part: Part) -> Tensor:
        """Without the noise that is on it now."""
        noised = part.is_weight and part.holder in self.noise.modules
        return part.of(self.noise.clean(part.holder)) if noised else part.tensor

    def _on_grid(self, weight: Tensor) -> bool:
        """A quantiser leaves alone what is already quantised, so Q(w) = w says that w is on the grid. To five digits:
        the tensor scale of nvfp4 does not come back exactly in fp32; weights off the grid are off by percents."""
        return bool(torch.allclose(quantise(weight, self.condition.dtype), weight, rtol=1e-5, atol=0.0))

    def _noisy_ops_seen(self, phase: str) -> list[tuple[Kind, dict[str, Any]]]:
        ops = self.noisy_ops.take() if self.noisy_ops is not None else {}
        return [("noisy_ops", {"by": "rollout", "phase": phase, "step": self.step, "ops": ops})] if ops else []
