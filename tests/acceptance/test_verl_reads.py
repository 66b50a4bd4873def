"""The table of what verl reads, against a whole run on real verl."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.verl_reads import make, trace
from workers.verl_reads import BASES, TABLE


@pytest.mark.verl
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_traced_run_reads_what_the_table_says(tmp_path: Path) -> None:
    shipped = json.loads(TABLE.read_text(encoding="utf-8"))
    made = make(shipped, BASES[0], trace(BASES[0], tmp_path / "assets"))
    assert made["read"] == shipped["read"], "make verl-reads"
    assert made["through"] == shipped["through"]
