"""Treatments broken as they were broken before, for exhibits in one process and plugins of real runs."""

from __future__ import annotations

from typing import Any

import torch


def restored_in_place(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Quantised in place before the product and put back after it: backward finds W where it should find Q(W)."""
    from workers.treatments.quantize import fingerprint, quantise

    saved = self.weight.data.clone()
    self.weight.data.copy_(quantise(saved, self.weight_dtype))
    if self.watch:
        self.watch, self.seen = False, fingerprint(self.weight)
    y = torch.nn.functional.linear(x, self.weight, self.bias)
    self.weight.data.copy_(saved)
    return y
