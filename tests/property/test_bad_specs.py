"""Good specs, spoiled in thousands of ways: a plan, or one error that names its file; never a traceback, never a trace."""

from __future__ import annotations

import copy
import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from experiment_specs.errors import SpecError, SpecErrors
from orchestrator.aims import aims_of
from orchestrator.cli.plan_view import command_text, plan_view
from orchestrator.composed import show
from orchestrator.forecast import forecast
from orchestrator.plan import Plan, plan_as_json
from orchestrator.prepare import prepare

SPECS = Path(__file__).resolve().parents[2] / "experiment_specs"
GOOD = sorted([*SPECS.glob("sweeps/*.yaml"), *SPECS.glob("sweeps/*/*.yaml")])
TEXTS = {path: path.read_text(encoding="utf-8") for path in GOOD}

JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 10**30, 0.0, -0.5, 1e-9, 1e300, float("inf"), float("nan"),
    "", " ", "none", "off", "two", "mxfp4", "standard", "a" * 5000, "\x00", "é\n", "${set.epochs}", "${", "${oc.env:HOME}",
    "${${a}.env:HOME}", "${HOME}", "~/x", "~nobody/x", "$HOME/x", "$NOWHERE/x", "1e\u22125", "0500", "\\${set.epochs}", "../../../../etc/passwd", "/etc/passwd", "bases/tiny-cpu.yaml", "!!int 3",
    [], {}, [[]], [{}], {"a": 1}, {"preset": "standard"}, {"preset": None}, {"preset": [1]}, "\ud800", [1, 1], ["x"], [None], {"": ""}, {"a.b.c": 1},
]  # fmt: skip
TOKENS = [
    "*a", "&a", "&a [*a]", "!!python/object/apply:os.system ['true']", "!!set {a, b}", "<<: {epochs: 2}", "? x", "- ", ": ",
    "{", "}", "[", "]", "\t", "#", "|", ">", "'", '"', "%", "@", "`", "---\n", "...\n", "2026-13-45", "0x1G", ".nan", "~",
    "\ud7ff", "\x07", "=", "!", "0o17", "1_000", "12:30:45", "0500", "off", "1\u22125", "~/x", "$HOME", "$NOWHERE/x",
]  # fmt: skip

MANY = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "searching" else 120

values = st.one_of(
    st.sampled_from(JUNK).map(copy.deepcopy),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)


def _paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [at, *(path for key, child in inner for path in _paths(child, (*at, key)))]


@st.composite
def spoiled_trees(draw: st.DrawFn) -> str:
    """One to three places of a good spec with another value, key, or nothing there."""
    tree = yaml.safe_load(TEXTS[draw(st.sampled_from(GOOD))])
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([p for p in _paths(tree) if p] or [("sweep",)]))
        parent: Any = tree
        for part in path[:-1]:
            parent = parent[part]
        what = draw(st.sampled_from(["replace", "delete", "rename", "add"]))
        if what == "replace" or isinstance(parent, list):
            parent[path[-1]] = draw(values)
        elif what == "delete":
            parent.pop(path[-1], None)
        elif what == "rename":
            name = draw(
                st.sampled_from(["epoch", "aqn.sigma", "dtype.format.x", "trainer.a.b", "", "7"]) | st.text(max_size=8)
            )
            parent[name] = parent.pop(path[-1], None)
        else:
            parent[draw(st.text(max_size=8) | st.sampled_from(["preset", "base", "lora", "seeds"]))] = draw(values)
    return str(yaml.dump(tree, sort_keys=False, allow_unicode=True))


@st.composite
def spoiled_texts(draw: st.DrawFn) -> str:
    """Characters cut out, lines doubled or moved, tokens of YAML's put in anywhere."""
    text = TEXTS[draw(st.sampled_from(GOOD))]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(text) - 1)))
        end = min(len(text), start + draw(st.integers(0, 30)))
        what = draw(st.sampled_from(["cut", "insert", "double", "move"]))
        if what == "cut":
            text = text[:start] + text[end:]
        elif what == "insert":
            text = text[:start] + draw(st.sampled_from(TOKENS) | st.text(max_size=5)) + text[start:]
        elif what == "double":
            text = text[:end] + text[start:end] + text[end:]
        else:
            text = text[:start] + text[end:] + text[start:end]
    return text


def _show(plan: Plan) -> None:
    """All that `aqn plan` does with a plan, priced by nothing."""
    outlook = forecast(plan, [], [])
    screen = Console(file=io.StringIO(), width=80)
    for part in plan_view(plan, outlook, aims_of(plan, None)):
        screen.print(part)
    json.dumps(plan_as_json(plan) | {"forecast": asdict(outlook)}, allow_nan=False).encode()
    first = plan.conditions[0]
    command_text(plan, first, show(plan, first, cpu=False), "gpu").encode()
    assert plan.conditions


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.timeout(1800)  # a search at random takes its time
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=MANY)
@given(text=spoiled_trees() | spoiled_texts())
def test_a_spoiled_spec_is_planned_or_told_in_lines_that_name_their_places(text: str, place: Path) -> None:
    (place / "spoiled.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    problem = None
    try:
        _show(prepare(Path("spoiled.yaml")))
    except SpecError as error:
        problem = error
    told = problem.problems if isinstance(problem, SpecErrors) else [problem] if problem is not None else []
    for one in told:
        message = str(one)
        assert one.file, message
        assert message.startswith(one.file), message
        assert "\n" not in message, message
        assert len(message) < 3000, message
    assert len({str(one) for one in told}) == len(told), "told twice"
    if len(told) > 1:
        assert str(problem).splitlines() == [*map(str, told), f"{len(told)} problems"]
        in_one_file = [one.line or 0 for one in told if one.file == told[0].file]
        assert in_one_file == sorted(in_one_file), str(problem)
    assert os.listdir(place) == ["spoiled.yaml"]
    assert not list(place.parent.glob("home/*"))
