"""A worker plugin that leaves out what only proves: fingerprints, movement, probes, evidence. Its runs are UNPROVEN."""

from __future__ import annotations

from typing import Any

from workers.treatments import quantize
from workers.verl import engine, rollout_copy


def _none(*_: Any, **__: Any) -> None:
    return None


quantize.fingerprint = rollout_copy.fingerprint = lambda _tensor: ""  # type: ignore[attr-defined]
engine._ExportReport.moved = _none  # type: ignore[method-assign]
engine.TreatedEngine._arm_probes = _none  # type: ignore[method-assign]
rollout_copy.RolloutCopy.evidence_before_generating = _none  # type: ignore[method-assign]
