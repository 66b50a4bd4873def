"""A model that generates, seen as the tensors of its checkpoint: the same names whatever library built its modules.

What is here is the model of transformers, perhaps in adapters, whose parameters are those tensors. Another library's
fuses some and pads others; :mod:`workers.verl.vllm_held` undoes that by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from experiment_specs.language import HwNoise
from experiment_specs.modules import is_adapter, is_block_linear, plain
from workers.treatments.noisy_ops import NoisyOps
from workers.treatments.probe import OutputCheck
from workers.treatments.quantize import linears


@dataclass(frozen=True)
class Part:
    """One tensor of the checkpoint, and the module that holds it, alone or with others."""

    name: str
    """As the policy has it, wrapped in adapters or not; weights without ``.weight``."""
    holder: str
    """Name of the module; the tensor is its ``weight`` where ``is_weight``."""
    tensor: Tensor
    is_weight: bool
    rows: slice | None = None
    """Of the holder's tensor; None: all of it."""

    def of(self, whole: Tensor) -> Tensor:
        """This part of the holder's tensor, or of its clean copy."""
        return whole if self.rows is None else whole[self.rows]


class Held:
    """The model of a rollout by transformers."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.tied = bool(getattr(model.config, "tie_word_embeddings", False))

    def load(self, weights: Mapping[str, Tensor], *, first: bool) -> None:
        """Take over what a sync brings: everything the ``first`` time, later perhaps adapters alone.

        Raises RuntimeError for weights that do not fit.
        """
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        adapted = any(is_adapter(name) for name in self.model.state_dict())
        absent = [name for name in missing if self._must_come(name, first=first or not adapted)]
        if absent or unexpected:
            raise RuntimeError(f"the sync does not fit the rollout model: missing {absent}, unexpected {unexpected}")

    def _must_come(self, name: str, *, first: bool) -> bool:
        return not (self.tied and name.endswith("lm_head.weight")) and (first or is_adapter(name))

    def parts(self) -> Iterator[Part]:
        """Every tensor of the checkpoint; what is there under two names, once."""
        for name, parameter in self.model.named_parameters():
            if not (self.tied and name.endswith("lm_head.weight")):
                holder, _, leaf = name.rpartition(".")
                yield Part(name.removesuffix(".weight"), holder, parameter.detach(), leaf == "weight")

    def linears(self) -> dict[str, Part]:
        """The weights of the decoder layers' linears, adapters left out, by name."""
        return {
            name: Part(name, name, module.weight.detach(), True)
            for name, module in linears(self.model)
            if is_block_linear(name)
        }

    def check_output(self, part: Part, call: int) -> OutputCheck:
        """Watch the linear that holds a part, up to its ``call``-th call."""
        return OutputCheck(plain(part.name), self.model.get_submodule(part.holder), call)

    def noisy_ops(self, noise: HwNoise) -> NoisyOps:
        return NoisyOps(self.model, noise)
