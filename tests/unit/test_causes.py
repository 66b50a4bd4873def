"""Why attempts ended, read from eighty logs as they are seen: the cause, and a line that says it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.scheduler.causes import BY_NAME, CAUSES, find_cause
from orchestrator.scheduler.retry import TRIES, Ended, decide_retry

FOLDER = Path(__file__).parents[1] / "data" / "failures"
CASES = yaml.safe_load((FOLDER / "cases.yaml").read_text(encoding="utf-8"))
SILENT = {name for name, case in CASES.items() if case["cause"] == "hang" and case["line"] is None}
"""Found by their silence, while they still run: their logs say nothing."""


def log_of(name: str) -> list[str]:
    return (FOLDER / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()


def test_the_corpus_has_every_cause_and_every_log_is_a_case() -> None:
    assert len(CASES) >= 60
    assert {path.stem for path in FOLDER.glob("*.log")} == set(CASES)
    assert {case["cause"] for case in CASES.values()} == set(BY_NAME) - {"consequence"}
    assert {cause.budget for cause in CAUSES} == set(TRIES)


@pytest.mark.parametrize("name", sorted(set(CASES) - SILENT))
def test_the_cause_is_found_and_the_line_that_says_it(name) -> None:
    case = CASES[name]
    found = find_cause(log_of(name), case["error"], case["exit_code"])
    assert found.cause.name == case["cause"], found.line
    if case["line"] is None:
        return
    assert found.line is not None
    if case["line"] not in found.line:  # another line of the same log says the same
        assert find_cause([found.line], None, None).cause == find_cause([case["line"]], None, None).cause


@pytest.mark.parametrize("name", sorted(SILENT))
def test_silence_is_told_by_whoever_waited(name) -> None:
    case = CASES[name]
    decision = decide_retry(Ended(case["exit_code"], case["error"], log_of(name), stuck=3600.0))
    assert (decision.cause, decision.line) == ("hang", "no sign of life for 60 minutes")


def test_what_stands_before_a_completed_step_did_not_end_the_run() -> None:
    oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    log = [oom, "(TaskRunner pid=7) step:3 - critic/score/mean:0.4", "ValueError: bad answer"]
    assert find_cause(log, "ValueError: bad answer", 1).line == "ValueError: bad answer"
    assert find_cause([*log, oom], "ValueError: bad answer", 1).cause.name == "gpu-out-of-memory"


def test_colours_prefixes_and_progress_bars_hide_nothing() -> None:
    line = "\x1b[36m(WorkerDict pid=12, ip=10.0.0.1)\x1b[0m OSError: [Errno 28] No space left on device [repeated 7x across cluster]"
    found = find_cause([f"10%|#   | 3/29\r20%|##  | 6/29\r{line}"], None, 1)
    assert (found.cause.name, found.line) == ("disk-full", "OSError: [Errno 28] No space left on device")
