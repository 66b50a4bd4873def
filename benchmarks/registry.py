"""The registry at size: importing against raw executemany, listing, and judging every run by a rule.

Ratios are of things measured side by side in this process, or of commands started one after the other. The rows are
made up; their shapes are those of real runs.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from db import bug_reads, reads
from db.engine import open_registry
from experiment_specs.bug_rules import load_rule, shipped_rules
from experiment_specs.claims import ClaimedRun, Point, Statement
from experiment_specs.load import load_sweep
from orchestrator.bugs import engine as bugs
from orchestrator.bugs.facts import FACTS_VERSION, facts_of_claim
from orchestrator.importers.history import claim_id, new_claim, record
from orchestrator.plan import make_plan
from orchestrator.submit import submission

SPEC = """\
sweep: many
base: bases/tiny-cpu.yaml
axes: {dtype: [bf16, mxfp4], aqn: [none, standard, high]}
"""
EVALS = 10


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = what()
    return time.perf_counter() - start, result


def rows_of(count: int) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of ``count`` finished runs with ten evals each, by table."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "s.yaml"
        spec.write_text(SPEC, encoding="utf-8")
        sweep = submission(make_plan(load_sweep(spec)))
    found: dict[str, list[tuple[Any, ...]]] = {
        "conditions": [(r.condition_id, 2, json.dumps(r.condition)) for r in sweep.runs]
    }
    plan, rule = json.dumps(sweep.runs[0].plan), json.dumps(sweep.score_rule)
    runs, attempts, evals, facts = [], [], [], []
    for i in range(count):
        run = sweep.runs[i % len(sweep.runs)]
        run_id = f"{i:010x}"
        runs.append(
            (run_id, run.condition_id, i, "code", "train", None, f"{run.label} {i}", "succeeded", 1e9 + i, 0, 1, plan,
             "{}", rule, "PROVEN", "[]", None, -1, None, 0)
        )  # fmt: skip
        attempts.append(
            (i + 1, run_id, 1, f"token{i}", "succeeded", "/runs", "node", 1, 1e9, 1e9, 0, None, 0, 9, 1e9, 24)
        )
        evals += [(i + 1, s, run_id, 2 * s, 200 + s, 500, 1, "q", b"\0" * 63, 1e9) for s in range(EVALS)]
        body = {
            "condition": run.condition, "seed": i, "code": {"id": "code", "commit": None, "date": "2026-11-01"},
            "derived": {"total_steps": 24}, "evidence": {"gradient_probe.used_unquantised": int(i % 100 == 1)},
            "artefact": {"answers": f"{i:x}"}, "score": {"percent": 50.0, "at_last_step": True},
            "record": {"kind": "run", "state": "succeeded"},
        }  # fmt: skip
        facts.append((run_id, FACTS_VERSION, 1, json.dumps(body), f"{i:x}", f"{i:x}"))
    return found | {"runs": runs, "attempts": attempts, "evals": evals, "facts": facts}


COLUMNS = {
    "conditions": "id, schema_version, body",
    "runs": "id, condition_id, seed, code_version, kind, waits_for, label, state, created_at, priority, gpus, plan,"
    " overrides, score_rule, verdict, reasons, mlflow_run, projected_seq, projected_state, mark_changes",
    "attempts": "id, run_id, number, token, state, run_dir, node, trainer_pid, created_at, ended_at, exit_code, retry,"
    " spool_offset, spool_seq, last_event_at, last_step",
    "evals": "attempt_id, seq, run_id, step, k, n, samples, questions, outcomes, at",
    "facts": "subject, version, revision, body, answers, checkpoint",
}


def filled(file: Path, count: int) -> float:
    """A registry with ``count`` runs; the seconds that raw executemany took."""
    open_registry(f"sqlite:///{file}").dispose()
    rows = rows_of(count)
    connection = sqlite3.connect(file)

    def fill() -> None:
        with connection:
            for table, some in rows.items():
                marks = ", ".join("?" * len(some[0]))
                connection.executemany(f"INSERT INTO {table} ({COLUMNS[table]}) VALUES ({marks})", some)  # noqa: S608

    seconds, _ = timed(fill)
    connection.close()
    return seconds


def imported(folder: Path, count: int) -> tuple[float, float]:
    """Seconds for importing ``count`` claims with ten evals each, and for the same rows by raw executemany."""
    claims = []
    for i in range(count):
        said = Statement(place="log", score=50.0 + i % 40, score_step=90, planned_steps=90, executed_steps=90)
        curve = tuple(Point(step=10 * s, percent=40.0 + s) for s in range(EVALS))
        run = ClaimedRun(label=f"run {i}", said=(said,), curve=curve)
        subject = claim_id("many", run.label)
        body = {"claim": run.model_dump(mode="json"), "questions": 1319, "recorded": "2026-01-12", "document": "log"}
        claims.append(new_claim(run.label, i, body, None, facts_of_claim(subject, run, None, None, "2026-01-12", 1319)))
    engine = open_registry(f"sqlite:///{folder}/import.db")
    ours, _ = timed(lambda: record(engine, "many", {}, claims, "2026-01-12"))
    engine.dispose()
    raw_file = folder / "raw.db"
    open_registry(f"sqlite:///{raw_file}").dispose()
    connection = sqlite3.connect(raw_file)

    def raw() -> None:
        bodies = [json.dumps(c.body) for c in claims]
        with connection:
            connection.executemany(
                "INSERT INTO claims (id, history, label, version, recorded_at, position, body)"
                " VALUES (?, 'many', ?, 1, 0, ?, ?)",
                [(c.id, c.label, c.position, b) for c, b in zip(claims, bodies, strict=True)],
            )
            connection.executemany(
                "INSERT INTO claim_versions (claim_id, version, body, imported_at) VALUES (?, 1, ?, 0)",
                [(c.id, b) for c, b in zip(claims, bodies, strict=True)],
            )
            connection.executemany(
                "INSERT INTO facts (subject, version, revision, body) VALUES (?, ?, 1, ?)",
                [(c.id, FACTS_VERSION, json.dumps(c.facts.body)) for c in claims],
            )

    seconds, _ = timed(raw)
    connection.close()
    return ours, seconds


def command(url: str, *words: str, repeats: int = 5) -> float:
    """Best of several starts."""
    environment = os.environ | {"AQN_REGISTRY_URL": url}
    aqn = str(Path(sys.executable).with_name("aqn"))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([aqn, *words], check=True, capture_output=True, env=environment, cwd=tempfile.gettempdir())
        times.append(time.perf_counter() - start)
    return min(times)


def scans(url: str) -> list[str]:
    """Steps of query plans that read a whole large table, of the queries behind lists and marks."""
    queries = {
        "runs, newest": "SELECT * FROM runs WHERE kind = 'train' ORDER BY created_at DESC, id LIMIT 100",
        "runs by label": "SELECT id FROM runs WHERE label = 'x' ORDER BY created_at DESC LIMIT 1",
        "runs by state": "SELECT id FROM runs WHERE state IN ('queued', 'running')",
        "runs by condition and seed": "SELECT id FROM runs WHERE condition_id = 'x' AND seed = 1",
        "attempts of a run": "SELECT * FROM attempts WHERE run_id IN ('x', 'y') ORDER BY number",
        "evals of an attempt": "SELECT * FROM evals WHERE attempt_id IN (1, 2) ORDER BY attempt_id, step, seq",
        "marks of a run": "SELECT * FROM marks WHERE subject IN ('x', 'y')",
        "links of a run": "SELECT * FROM links WHERE source IN ('x') OR target IN ('x')",
        "facts of a run": "SELECT * FROM facts WHERE subject IN ('x')",
        "twins of an answer": "SELECT subject FROM facts WHERE answers = 'x'",
        "claims by label": "SELECT id FROM claims WHERE label = 'x'",
    }
    engine = open_registry(url)
    found = []
    with engine.connect().execution_options(read_only=True) as connection:
        for name, query in queries.items():
            for row in connection.execute(text(f"EXPLAIN QUERY PLAN {query}")):
                if row[3].startswith("SCAN") and "USING" not in row[3]:
                    found.append(f"{name}: {row[3]}")
    engine.dispose()
    return found


def main(count: int = 100_000) -> None:
    folder = Path(tempfile.mkdtemp(prefix="aqn-bench-"))
    small, large = folder / "small.db", folder / "large.db"
    filled(small, count // 10)
    raw = filled(large, count)
    size = large.stat().st_size / 1e6
    print(f"{count} runs, {count * EVALS} evals, SQLite: {size:.0f} MB, {raw:.1f} s by raw executemany")
    ours, plain = imported(folder, count)
    print(
        f"import of {count} claims with {EVALS} evals each: {ours:.1f} s, {ours / plain:.1f} x raw executemany of them"
    )
    help_ = command(f"sqlite:///{small}", "--help")
    for file, runs in ((small, count // 10), (large, count)):
        url = f"sqlite:///{file}"
        for words in (("runs",), ("runs", "--json"), ("runs", "--all", "--json")):
            seconds = command(url, *words, repeats=5 if "--all" not in words else 1)
            name = " ".join(words)
            print(f"aqn {name:<18} at {runs:>6} runs: {1000 * seconds:7.0f} ms, {seconds / help_:5.1f} x aqn --help")
    engine = open_registry(f"sqlite:///{small}")
    listing = min(timed(lambda: reads.runs(engine, limit=100))[0] for _ in range(5))
    print(f"the list itself, of {count // 10} runs, without starting Python: {1000 * listing:.0f} ms")
    engine.dispose()
    engine = open_registry(f"sqlite:///{large}")
    reading, facts = timed(lambda: list(bug_reads.facts(engine)))
    for name in ("ste-backward", "same-answers-as-another"):
        checking, found = timed(lambda n=name: bugs.check(engine, load_rule(shipped_rules()[n])))
        matches = len(found.of("match"))
        print(
            f"bugs check {name}: {len(facts)} runs in {checking:.1f} s, {matches} affected, {checking / reading:.1f} x"
            " reading their facts"
        )
    applying, _ = timed(lambda: bugs.apply(engine, load_rule(shipped_rules()["ste-backward"]), ""))
    print(f"bugs apply ste-backward: {applying:.1f} s")
    engine.dispose()
    whole = scans(f"sqlite:///{large}")
    print("queries that read a whole table: " + ("; ".join(whole) or "none"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
