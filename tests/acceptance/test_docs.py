"""The documentation does as it says: its commands run, in order, in a folder of their own; what cannot run says why."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = ("tutorial.md", "gpu-node.md", "cluster.md", "migrating.md", "importing.md", "dashboard.md")
NEEDS = {"gpu", "network", "cluster", "browser", "install", "verl", "your files"}
"""What a block may say that it needs. Those that need verl are run by the long tests; of the others, `make demo` and `aqn
ui` have tests of their own, and the rest is not run anywhere."""
BLOCK = re.compile(
    r"(?:<!-- (?P<what>needs|exits): (?P<value>[^>]+?) -->\n)?```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)```",
    re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    needs: str
    exits: int
    kind: str
    title: str
    body: str

    @property
    def commands(self) -> list[str]:
        return [line.removeprefix("$ ") for line in self.body.splitlines() if line.startswith("$ ")]


def blocks(page: str) -> list[Block]:
    found = []
    for match in BLOCK.finditer((DOCS / page).read_text(encoding="utf-8")):
        said = {match["what"]: match["value"]} if match["what"] else {}
        found.append(
            Block(said.get("needs", ""), int(said.get("exits", 0)), match["kind"], match["title"] or "", match["body"])
        )
    return found


def follow(page: str, folder: Path, *, verl: bool) -> int:
    """Do what a page says; how many commands that were."""
    (folder / "experiment_specs").symlink_to(REPOSITORY / "experiment_specs")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = 0
    for block in blocks(page):
        if block.kind == "yaml" and block.title:
            (folder / block.title).write_text(block.body, encoding="utf-8")
        if block.kind != "console" or (block.needs and not (verl and block.needs == "verl")):
            continue
        for command in block.commands:
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1500,
                check=False,
            )  # fmt: skip
            assert done.returncode == block.exits, f"{command}\n{done.stdout}\n{done.stderr}"
            ran += 1
            printed = " ".join((done.stdout + done.stderr).split())
            for line in block.body.splitlines():
                if not line.startswith("$ ") and line.strip():
                    assert " ".join(line.split()) in printed, f"{command} does not print {line!r}"
    return ran


def test_every_block_of_commands_runs_or_says_what_it_needs() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.kind in ("console", "yaml"), f"{page}: {block.body}"
            assert block.needs in NEEDS | {""}, f"{page}: {block.needs}"
            if block.kind == "console":
                assert block.commands, f"{page}: {block.body}"


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(page, tmp_path) -> None:
    wanted = [c for b in blocks(page) if b.kind == "console" and not b.needs for c in b.commands]
    assert follow(page, tmp_path, verl=False) == len(wanted)


@pytest.mark.verl
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_with_its_runs(tmp_path) -> None:
    assert follow("tutorial.md", tmp_path, verl=True) >= 15


def test_the_language_page_is_that_of_the_types() -> None:
    from experiment_specs import reference

    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "python -m experiment_specs.reference"
