"""What went wrong in rollouts before, once more in vLLM: the verdict says so, by what vLLM's worker measured.

Only the rollout is there, so that a verdict lacks the policy's half; what is asked is that the fault's reason is given, and
is not where the fault is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiment_specs.load import build_condition, load_sweep
from orchestrator.verdict import REFUTED, Measured, PlannedSteps, Verdict, judge
from tests.with_vllm.engine import FAULTS, SPEC, TOTAL
from tests.with_vllm.test_engine import looked_at

pytestmark = pytest.mark.timeout(600)
REASONS = {
    "the step was never told": "sigma stayed 0",
    "the schedule gave 0 for ever": "sigma stayed 0",
    "drawn and never written": "sigma stayed 0",
    "the class check matched nothing": "AQN found no module to act on",
    "left on in validation": "noise was on in the eval",
    "products without their error": "planned are 5 %",
}


def judged(found: dict[str, Any], folder: Path) -> Verdict:
    (folder / "judged.yaml").write_text(SPEC)
    condition = build_condition(load_sweep(folder / "judged.yaml"), {"dtype": "mxfp4"})
    facts = [
        Measured(event["kind"], {key: value for key, value in event.items() if key != "kind"})
        for event in found["events"]
    ]
    return judge(condition, PlannedSteps(TOTAL, (0, TOTAL), TOTAL), facts)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Verdict:
    folder = tmp_path_factory.mktemp("sound")
    return judged(looked_at("tiny", folder), folder)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_rollout_is_refuted(fault, sound, tmp_path) -> None:
    verdict = judged(looked_at("tiny", tmp_path, fault), tmp_path)
    assert verdict.status == REFUTED
    assert REASONS[fault] in "; ".join(verdict.reasons)
    assert REASONS[fault] not in "; ".join(sound.reasons)
