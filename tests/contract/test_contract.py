"""What the project relies on in verl, vLLM, Ray, TransferQueue, transformers and peft is there, and as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.contract.by_hand import everything
from tests.contract.live import describe, readers
from tests.contract.record import Listed, moved, read, renewed, unlisted, write
from tests.contract.uses import ROOT, Use, in_source

pytestmark = pytest.mark.timeout(600)
AGAIN = "adapt the code to it, then `python -m tests.contract.regenerate`"


def look() -> tuple[str, dict[str, str | None]]:
    """The environment's name, and every name in it as it is installed. In a process where nothing is patched."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VERL_", "VLLM_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.live"], cwd=ROOT, env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["environment"], found["names"]


@pytest.fixture(scope="module")
def installed() -> tuple[str, dict[str, str | None]]:
    return look()


def test_every_name_is_as_it_was(installed) -> None:
    here, live = installed
    lines = moved(read(), live, here)
    assert not lines, "\n".join([*lines, AGAIN])


def test_every_use_is_listed(installed) -> None:
    _, live = installed
    lines = unlisted(read(), everything(), live)
    assert not lines, "\n".join([*lines, AGAIN])


def test_nothing_is_listed_that_is_not_used() -> None:
    used = {use.name for use in everything()}
    assert sorted(set(read()) - used) == []


def test_a_name_that_moved_is_told_in_one_line() -> None:
    listed = {
        "verl.x.Z.method": Listed("", {"cpu": "(a, b)", "gpu": "(a, b)"}),
        "verl.x.Z.other": Listed("", {"cpu": "(self)"}),
        "verl.x.LIMIT": Listed("", {"cpu": "= 3"}),
        "verl.x.only_gpu": Listed("", {"gpu": "()"}),
        "verl.y.C": Listed("", {"cpu": "module"}),
    }
    live = {"verl.x.Z.method": "(a, c)", "verl.x.Z.other": None, "verl.x.LIMIT": "= 3", "verl.x.only_gpu": "()"}
    assert moved(listed, live, "cpu") == [
        "verl.x.Z.method moved: was (a, b), is (a, c)",
        "verl.x.Z.other moved: was (self), is gone",
        "verl.x.only_gpu moved: was not there, is ()",
        "verl.y.C moved: was module, cannot be imported",
    ]
    assert moved({"verl.x.only_gpu": listed["verl.x.only_gpu"]}, {}, "cpu") == []


SOURCE = """
import ray
import transfer_queue as tq
from ray._private import ray_constants
from verl.a import Base, helper, TABLE, Registry
from verl.b import module
import transformers.models.llama.modeling_llama as llama
from transformers import AutoModel

class Ours(Base):
    added = 1
    def theirs_too(self):
        self.mine = self.inherited + self.added
        return super().called()

module.function = helper
TABLE["x"] = Ours
Registry._private.setdefault("x", 1)
tq.put(AutoModel)
llama.attention = None
ray_constants.SWITCH = False
VARIABLES = {"VLLM_NEW_THING": "1", "RAY_": "no name", "a text about RAY_OTHER": 1}
"""


def test_the_walk_finds_every_kind_of_use() -> None:
    found = {(use.name, use.kind, use.how) for use in in_source(SOURCE, "workers/x.py")}
    assert found >= {
        ("verl.a.Base", "name", "subclasses"),
        ("verl.a.Base.theirs_too", "maybe", "overrides"),
        ("verl.a.Base.inherited", "name", "uses"),
        ("verl.a.Base.called", "name", "calls"),
        ("verl.a.Base.mine", "maybe", "sets"),
        ("verl.a.helper", "name", "imports"),
        ("verl.b.module.function", "name", "patches"),
        ("verl.a.TABLE", "name", "patches"),
        ("verl.a.Registry._private", "name", "uses"),
        ("transfer_queue.put", "name", "uses"),
        ("transformers.models.llama.modeling_llama.attention", "name", "patches"),
        ("ray._private.ray_constants.SWITCH", "name", "patches"),
        ("vllm:VLLM_NEW_THING", "word", "sets or reads"),
    }
    names = {name for name, *_ in found}
    assert not {"transformers.AutoModel", "ray:RAY_", "ray:RAY_OTHER", "verl.a.Base.added"} & {
        use.name for use in in_source(SOURCE, "workers/x.py") if use.kind != "maybe"
    }
    assert "verl.a.Registry._private.setdefault" not in names


def test_a_new_use_must_be_listed_and_a_method_of_ours_only_where_theirs_has_one() -> None:
    new = {
        Use("verl.a.f", "name", "workers/x.py", "imports"),
        Use("verl.a.B.own", "maybe", "workers/x.py", "overrides"),
        Use("verl.a.B.theirs", "maybe", "workers/x.py", "overrides"),
    }
    assert unlisted({}, new, {"verl.a.f": "()", "verl.a.B.theirs": "(self)"}) == [
        "verl.a.B.theirs is not listed: workers/x.py overrides it",
        "verl.a.f is not listed: workers/x.py imports it",
    ]


def test_a_column_is_renewed_alone_and_survives_the_file(tmp_path) -> None:
    used = [Use("verl.f", "name", "workers/x.py", "imports"), Use("vllm.g", "name", "workers/x.py", "imports")]
    first = renewed({}, used, {"verl.f": "(a)"}, "cpu")
    assert first == {"verl.f": Listed("workers/x.py imports it", {"cpu": "(a)", "vllm": "(a)", "gpu": "(a)"})}
    second = renewed(first, used, {"verl.f": "(b)", "vllm.g": "()"}, "gpu")
    assert second["verl.f"].columns == {"cpu": "(a)", "vllm": "(a)", "gpu": "(b)"}
    assert second["vllm.g"].columns == {"vllm": "()", "gpu": "()"}
    write(second, tmp_path / "names.yaml")
    assert read(tmp_path / "names.yaml") == second


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json.JSONDecoder.decode", "(self, s, _w=…)"),
        ("json.JSONDecoder.strict", "set in json.decoder.JSONDecoder.__init__"),
        ("json.JSONDecoder.nothing", None),
        ("json.decoder", "module"),
        ("json.decoder.NOTHING", None),
        ("asyncio.Queue.get", "async (self)"),
        ("collections.OrderedDict", "class of builtins.dict, made with "),
        ("json.decoder.BACKSLASH", "= {'\"': '\"', "),
        ("pathlib.PurePath.name", "property"),
        ("pathlib.Path.cwd", "classmethod (cls)"),
        ("socket.SOMAXCONN", "= "),
    ],
)
def test_names_are_described_as_they_are(name, text) -> None:
    found = describe(name)
    assert (found is None) if text is None else (found or "").startswith(text)


def test_a_word_is_found_where_it_is_read_and_nowhere_else() -> None:
    assert readers("logging", "raiseExceptions") == "read in logging/__init__.py"
    assert readers("logging", "a word that nobody reads") is None
