"""Why attempts ended, read from whole logs as they are seen, and from how libraries say each kind of error."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from orchestrator.raylog import REPEATED
from orchestrator.scheduler import statements
from orchestrator.scheduler.causes import BY_NAME, CAUSES, find_cause
from orchestrator.scheduler.retry import TRIES, Ended, decide_retry
from orchestrator.scheduler.signs import Signs

FOLDER = Path(__file__).parents[1] / "data" / "failures"
CASES = yaml.safe_load((FOLDER / "cases.yaml").read_text(encoding="utf-8"))
KINDS = [
    (cause, said)
    for cause, texts in yaml.safe_load((FOLDER / "kinds.yaml").read_text(encoding="utf-8")).items()
    for said in texts
]
PREFIXES = (
    "\x1b[36m(WorkerDict pid=12, ip=10.0.0.1)\x1b[0m ",
    "(vLLMHttpServer pid=6) (EngineCore pid=7) ERROR 11-02 10:33:01 [v1/engine/core.py:710] ",
    "(TaskRunner pid=3) [rank2]: ",
    "[rank11]: ",
    "3: ",
    "trainer-1  | ",
    "2026-11-02T10:33:01.123456789Z stderr F ",
    "2026-11-02 10:33:01,123 - verl.trainer - ERROR - ",
    "2026-11-02 10:33:01.123 | ERROR    | verl.trainer:fit:88 - ",
    "[2026-11-02 10:33:01,123][verl.trainer][ERROR] - ",
    "[2026-11-02 10:33:01 TP0] ",
    "ERROR:2026-11-02 10:33:01,123:",
    "[rank5]:[E1102 10:33:01.123456789 ProcessGroupNCCL.cpp:629] ",
    "/opt/preempted/OOMKilled/.triton/cache/x.py:88: ",
)
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


@pytest.mark.parametrize(("cause", "said"), KINDS, ids=lambda value: value[:60])
def test_each_kind_of_error_is_known_however_a_library_says_it(cause, said) -> None:
    assert find_cause(said.splitlines(), None, 1).cause.name == cause


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_cause_does_not_depend_on_who_wrote_it_or_how_often(prefix) -> None:
    for cause, said in KINDS:
        lines = [prefix + line for line in said.splitlines()]
        assert find_cause(lines, None, 1).cause.name == cause, lines
        lines[-1] += " [repeated 7x across cluster]"
        assert find_cause(lines, None, 1).cause.name == cause, lines


def test_a_last_word_says_what_a_line_says() -> None:
    for cause, said in KINDS:
        if "\n" not in said.strip() and cause != "own-error":
            assert find_cause([], said, 1).cause.name == cause, said


@pytest.mark.parametrize(
    "quoted",
    [
        '  File "/opt/x.py", line 3, in no_space_left_on_device',
        "    raise MemoryError(f'CUDA out of memory {x}')",
        "'on_error': 'OSError: [Errno 28] No space left on device',",
        "retry=ConnectionRefusedError on_oom=OOMKilled",
        "+ cat /data/OOMKilled",
        "[response] RuntimeError: CUDA error: out of memory",
        "│ ❱ 88 │   raise ConnectionRefusedError(x)",
        "WARNING: OSError: [Errno 116] Stale file handle",
        "urllib3: Retrying after connection broken by 'NewConnectionError: [Errno 111] Connection refused'",
        "Attempt 1/3: OSError: [Errno 5] Input/output error",
        "wandb: Network error (ReadTimeout), entering retry loop.",
        "rm: cannot remove '/data/x': No such file or directory",
    ],
)
def test_what_only_quotes_or_is_tried_again_is_no_cause(quoted) -> None:
    assert find_cause([quoted, "KeyError: 17"], None, 1).line == "KeyError: 17"


def test_a_caught_traceback_does_not_hide_the_next_one() -> None:
    frames = ["Traceback (most recent call last):", '  File "/opt/x.py", line 3, in f', "    g()"]
    caught = ["Exception ignored in: <function f at 0x7f>", *frames, "OSError: [Errno 5] Input/output error"]
    fatal = ["ray::TaskRunner.run() (pid=3)", *frames[1:], "OSError: [Errno 116] Stale file handle"]
    assert find_cause(caught, None, 1).cause.name == "unknown"
    assert find_cause([*caught, *fatal], None, 1).line == fatal[-1]


def test_the_last_of_several_tries_counts() -> None:
    tries = [f"Attempt {n}/3 failed: OSError: [Errno 5] Input/output error" for n in (1, 2, 3)]
    assert find_cause([*tries[:2], "KeyError: 17"], None, 1).cause.name == "own-error"
    assert find_cause([*tries, "KeyError: 17"], None, 1).cause.name == "storage"


def test_a_recovery_clears_the_losses_of_its_own_process_only() -> None:
    lost, back = "ConnectionRefusedError: [Errno 111] Connection refused", "the service is reachable again"
    log = [f"(Reward pid=1) {lost}", f"(Reward pid=1) {back}", "KeyError: 17"]
    assert find_cause(log, None, 1).cause.name == "own-error"
    assert find_cause([log[0].replace("pid=1", "pid=2"), *log[1:]], None, 1).cause.name == "network"
    assert find_cause([log[1], log[0], log[2]], None, 1).cause.name == "network"
    unnumbered = ["ERROR: attempt 1 failed: [Errno 116] Stale file handle", "attempt 2 succeeded", "KeyError: 17"]
    assert find_cause(unnumbered, None, 1).cause.name == "own-error"


@pytest.mark.parametrize(
    "said",
    [
        "ValueError: rate limit must be positive",
        "ValueError: http status 503 is no valid choice",
        "ValueError: bad reward: connection refused is not a label",
        "AttributeError: 'X' object has no attribute 'TimeoutError'",
        "TypeError: cannot pickle ConnectionError objects",
        "KeyError: 'Bad Gateway'",
        "IndexError: Port 80 is in use by entry 7 of 3",
        "AssertionError: Broken pipe",
        "UnicodeDecodeError: stale file handle: Stale file handle",
        "NotImplementedError: spot instance",
        "RuntimeError: the reward failed: ValueError: rate limit must be positive",
        "RayTaskError(ValueError): rate limit must be positive",
    ],
)
def test_a_wrong_value_that_mentions_a_loss_is_an_own_error(said) -> None:
    assert find_cause([said], None, 1).cause.name == "own-error"
    assert find_cause([], said, 1).cause.name == "own-error"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("ValueError: cannot load x: ConnectionError: no answer", "network"),
        ("ValueError: cannot load x: ReadTimeout('no answer')", "network"),
        ("ValueError: HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /y", "network"),
        ("ValueError: 503 Server Error: Service Unavailable for url: https://x/y", "network"),
        ("ValueError: cannot read x: [Errno 116] Stale file handle", "storage"),
        ("huggingface_hub.errors.LocalEntryNotFoundError: An error happened while locating the file", "network"),
        ("huggingface_hub.errors.EntryNotFoundError: 404 Client Error.", "missing-file"),
        ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "network"),
        ("ValueError: Free memory on device cuda:0 (1/80 GiB) is less than desired GPU memory utilization", "gpu-busy"),
    ],
)
def test_a_loss_that_a_wrong_value_wraps_or_a_hub_calls_one_keeps_its_cause(said, cause) -> None:
    assert find_cause([said], None, 1).cause.name == cause


def test_a_chain_tells_of_what_a_wrong_value_came() -> None:
    frames = ["Traceback (most recent call last):", '  File "/opt/x.py", line 3, in f', "    g()"]
    lost, wrong = "ConnectionRefusedError: [Errno 111] Connection refused", "ValueError: no connection timed out"
    chained = ["", "The above exception was the direct cause of the following exception:", ""]
    found = find_cause([*frames, lost, *chained, *frames, wrong], None, 1)
    assert (found.cause.name, found.line) == ("network", lost)
    assert find_cause([*frames, "KeyError: 17", *chained, *frames, wrong], None, 1).cause.name == "own-error"


@pytest.mark.parametrize("filler", [" ", "^", "[", "(", ".", "~^", "| ", "1: ", "(raylet) ", "\r", "[repeated 1x "])
def test_of_a_long_line_only_the_beginning_is_looked_at(filler, monkeypatch) -> None:
    offered: list[int] = []

    def noting(pattern: re.Pattern[str]) -> SimpleNamespace:
        def match(text: str, begin: int = 0) -> re.Match[str] | None:
            offered.append(len(text))
            return pattern.match(text, begin)

        def search(text: str) -> re.Match[str] | None:
            offered.append(len(text))
            return pattern.search(text)

        def sub(by: str, text: str) -> str:
            offered.append(len(text))
            return pattern.sub(by, text)

        return SimpleNamespace(match=match, search=search, sub=sub)

    for name, value in vars(statements).copy().items():
        if isinstance(value, re.Pattern):
            monkeypatch.setattr(statements, name, noting(value))
    line = (filler * 512 * 1024)[: 512 * 1024] + "x"
    found = [*statements.read_statements([line]), statements.read_statement(line)]
    assert max(offered) <= statements.LINE_CHARACTERS
    assert max(len(statement.text) for statement in found) <= statements.MAX_CHARACTERS


def test_what_a_long_line_states_at_its_beginning_counts() -> None:
    said = "OSError: [Errno 28] No space left on device"
    for filler in (" ", "^", "[", "."):
        assert find_cause([f"(WorkerDict pid=12) {said}{filler * 512 * 1024}x"], None, 1).cause.name == "disk-full"
    assert find_cause([said + " " * 5000 + "[repeated 7x across cluster]"], None, 1).line == said


def test_a_count_of_repetitions_is_looked_for_once_in_a_row_of_spaces() -> None:
    counted = "x     [repeated 7x across cluster]"
    assert REPEATED.sub("", counted) == "x"
    assert [begin for begin in range(len(counted)) if REPEATED.match(counted, begin)] == [1]


def test_the_first_of_an_own_error_and_a_broken_connection_is_the_root() -> None:
    own, echo = "[rank0]: KeyError: 17", "[rank1]: RuntimeError: Connection closed by peer"
    assert find_cause([own, echo], None, 1).cause.name == "own-error"
    assert find_cause([echo, own], None, 1).cause.name == "communication"
    logged = "2026-11-02 10:33:01,123 - tools - ERROR - KeyError: 17"  # its process continued
    assert find_cause([logged, echo], None, 1).cause.name == "communication"


def test_a_shells_exit_code_tells_a_signal() -> None:
    assert find_cause([], None, 137).cause.name == "killed"
    assert decide_retry(Ended(137, None)).line == "killed by signal 9"
    assert find_cause([], None, 75).cause.name == "unknown"


def test_transient_kinds_are_tried_again_after_a_wait_and_missing_files_are_not() -> None:
    for said in ("OSError: [Errno 116] Stale file handle", "FileNotFoundError: [Errno 2] x: '/h/.triton/cache/k.ttir'"):
        decision = decide_retry(Ended(1, None, [said]))
        assert (decision.again, decision.budget, decision.wait >= 30) == (True, "infrastructure", True)
    assert "TRITON_CACHE_DIR" in decision.rule
    gone = decide_retry(Ended(1, None, ["FileNotFoundError: [Errno 2] No such file or directory: '/models/gone'"]))
    assert (gone.again, gone.cause) == (False, "missing-file")


def test_an_unknown_errno_in_the_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown errno 'ESTALLED'"):
        Signs(errnos=("ESTALLED",))


def test_what_stands_before_a_completed_step_did_not_end_the_run() -> None:
    oom = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    log = [oom, "(TaskRunner pid=7) step:3 - critic/score/mean:0.4", "ValueError: bad answer"]
    assert find_cause(log, "ValueError: bad answer", 1).line == "ValueError: bad answer"
    assert find_cause([*log, oom], "ValueError: bad answer", 1).cause.name == "gpu-out-of-memory"


def test_colours_prefixes_and_progress_bars_hide_nothing() -> None:
    line = "\x1b[36m(WorkerDict pid=12, ip=10.0.0.1)\x1b[0m OSError: [Errno 28] No space left on device [repeated 7x across cluster]"
    found = find_cause([f"10%|#   | 3/29\r20%|##  | 6/29\r{line}"], None, 1)
    assert (found.cause.name, found.line) == ("disk-full", "OSError: [Errno 28] No space left on device")


PUBLIC = Path(__file__).parents[1] / "data" / "failures_public"
PUBLIC_CASES = yaml.safe_load((PUBLIC / "cases.yaml").read_text(encoding="utf-8"))
OTHERWISE = {
    "actor-died-end-of-file": "killed",  # Ray's words for a worker that somebody ended
    "ends-without-an-error": "killed",  # nobody saw it end
    "tokenizer-attribute-of-newer-transformers": "own-error",  # an attribute's name says nothing of versions
}
"""Logs whose cause is told in another word than whoever kept them chose, without another decision on a retry."""


def test_the_public_corpus_is_complete() -> None:
    assert len(PUBLIC_CASES) >= 60
    assert {path.stem for path in PUBLIC.glob("*.log")} == set(PUBLIC_CASES)


@pytest.mark.parametrize("name", sorted(PUBLIC_CASES))
def test_a_log_of_a_public_report_is_understood(name) -> None:
    case = PUBLIC_CASES[name]
    log = (PUBLIC / f"{name}.log").read_text(encoding="utf-8").splitlines()
    found = find_cause(log, case["error"], case["exit_code"]).cause
    assert found.name in ([OTHERWISE[name]] if name in OTHERWISE else [case["cause"], *case.get("also", ())])
    assert (TRIES[found.budget] == 0) == (TRIES[BY_NAME[case["cause"]].budget] == 0)
