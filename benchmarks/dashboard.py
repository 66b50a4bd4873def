"""The dashboard's pages over a small registry and over a large one: seconds that the server takes to draw each.

Rows are made up, as in :mod:`benchmarks.registry`; three seeds of every condition, sweeps of sixty runs. What a browser
adds is not counted.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import streamlit as st
from streamlit.testing.v1 import AppTest

from benchmarks.registry import COLUMNS, rows_of
from db.engine import open_registry

SEEDS, OF_A_SWEEP = 3, 60
SMALL, LARGE = 1_000, 100_000
DRAWS = 5
RUN = "0000000007"
FRESH = "the same, fields read anew"
"""Which fields differ is kept for a minute."""
PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "sweeps": ("sweeps", {}),
    "one sweep": ("sweeps", {"sweep": "sweep 1"}),
    "runs, the newest": ("runs", {}),
    "runs, a part of a label": ("runs", {"text": "condition 17"}),
    "runs, by a field": ("runs", {"dtype.format": "mxfp4"}),
    FRESH: ("runs", {"dtype.format": "mxfp4"}),
    "one run": ("run", {"run": RUN}),
    "compare": ("compare", {"a": "condition 1", "b": "condition 2"}),
    "bugs": ("bugs", {}),
    "fleet": ("fleet", {}),
}


def fill(file: Path, count: int) -> None:
    """``count`` finished runs, three of a condition, sixty of a sweep."""
    open_registry(f"sqlite:///{file}").dispose()
    rows = rows_of(count)
    bodies = [body for *_, body in rows["conditions"]]
    places = {name.strip(): i for i, name in enumerate(COLUMNS["runs"].split(","))}
    runs, members = [], []
    for i, row in enumerate(rows["runs"]):
        arm = i // SEEDS
        changed = list(row)
        for name, value in (("condition_id", f"{arm:012x}"), ("label", f"condition {arm}"), ("seed", i % SEEDS)):
            changed[places[name]] = value
        runs.append(tuple(changed))
        members.append((i // OF_A_SWEEP + 1, row[0], i % OF_A_SWEEP))
    arms = range(-(-count // SEEDS))
    rows |= {
        "runs": runs,
        "conditions": [(f"{arm:012x}", 2, bodies[arm % len(bodies)]) for arm in arms],
        "sweeps": [(n, f"sweep {n}", "", "", json.dumps({}), 1e9 + n) for n in range(1, members[-1][0] + 1)],
        "sweep_runs": members,
    }
    columns = COLUMNS | {
        "sweeps": "id, name, about, spec, details, submitted_at", "sweep_runs": "sweep_id, run_id, position"
    }  # fmt: skip
    connection = sqlite3.connect(file)
    with connection:
        for table, some in rows.items():
            marks = ", ".join("?" * len(some[0]))
            connection.executemany(f"INSERT INTO {table} ({columns[table]}) VALUES ({marks})", some)  # noqa: S608
    connection.close()


def page(view: str) -> None:
    """Run by Streamlit, from its source."""
    from importlib import import_module

    from dashboards.page import guarded

    guarded(import_module(f"dashboards.views.{view}").draw)()


def drawn(name: str) -> float:
    """Seconds of the median draw, the first one (which imports) left out. Exits where the page shows an error."""
    view, parameters = PAGES[name]
    took = []
    for _ in range(DRAWS + 1):
        test = AppTest.from_function(page, args=(view,), default_timeout=600)
        for key, value in parameters.items():
            test.query_params[key] = value
        if name == FRESH:
            st.cache_data.clear()
        took.append(timed(test.run))
        if test.exception or test.error:
            sys.exit(f"{view} {parameters}: {test.exception or test.error}")
    return median(took[1:])


def timed(what: Callable[[], Any]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def main() -> None:
    out = Path(sys.argv[sys.argv.index("--out") + 1]) if "--out" in sys.argv else None
    seconds: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="aqn-bench-") as folder:
        for count in (SMALL, LARGE):
            file = Path(folder) / f"{count}.db"
            fill(file, count)
            os.environ["AQN_REGISTRY_URL"] = f"sqlite:///{file}"
            seconds[count] = {name: drawn(name) for name in PAGES}
    lines = [
        "# The dashboard at size",
        "",
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, SQLite;"
        " `PYTHONPATH=. python benchmarks/dashboard.py` (part of `make bench`). Seconds until the server has drawn a"
        f" page, the median of {DRAWS}; made-up runs with ten evals each, three seeds a condition, sixty runs a sweep.",
        "",
        f"| page | {SMALL:,} runs | {LARGE:,} runs | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name in PAGES:
        small, large = seconds[SMALL][name], seconds[LARGE][name]
        lines.append(f"| {name} | {small:.2f} | {large:.2f} | {large / small:.1f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if out is not None:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
