"""PROVEN, REFUTED or UNPROVEN: a pure function of what was asked, what was planned, and what was measured.

It knows no database, no clock and no file. Every check answers with reasons; one reason against is enough to refute,
one fact missing is enough to leave a run unproven. An exit code of 0 and a splendid score count for nothing here.
"""

from orchestrator.verdict.case import PROVEN, REFUTED, UNPROVEN, Measured, PlannedSteps, Verdict
from orchestrator.verdict.judge import judge, judge_scan
from orchestrator.verdict.noise import inert_stages

__all__ = [
    "PROVEN", "REFUTED", "UNPROVEN", "Measured", "PlannedSteps", "Verdict", "inert_stages", "judge", "judge_scan",
]  # fmt: skip
