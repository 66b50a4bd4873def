"""docs/run-states.md says what db/states.py says, and the table is sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.states import (
    ATTEMPTS,
    OPEN,
    RETRIABLE,
    RUN_MOVES,
    RUN_STATES,
    RUNS,
    TERMINAL,
    ForbiddenMoveError,
    check_move,
)

LINES = (Path(__file__).parents[2] / "docs" / "run-states.md").read_text(encoding="utf-8").splitlines()


def rows(section: str, cells: int) -> list[list[str]]:
    begin = LINES.index(f"## {section}")
    end = next((at for at in range(begin + 1, len(LINES)) if LINES[at].startswith("## ")), len(LINES))
    table = [line.strip("|").split("|") for line in LINES[begin:end] if line.startswith("|")]
    found = [[cell.strip().strip("`") for cell in row] for row in table[2:]]
    assert all(len(row) == cells for row in found)
    return found


def yes(value: bool) -> str:
    return "yes" if value else "no"


def test_the_document_has_every_state_and_move_word_for_word() -> None:
    assert rows("Runs", 4) == [[s.name, s.meaning, yes(s.terminal), yes(s.retriable)] for s in RUNS]
    assert rows("Who moves them", 4) == [[m.before or "–", m.after, m.who, m.when] for m in RUN_MOVES]
    assert rows("Attempts", 3) == [[s.name, s.meaning, yes(s.terminal)] for s in ATTEMPTS]


def test_nothing_leaves_a_terminal_state_and_every_open_one_can_be_left() -> None:
    assert {move.before for move in RUN_MOVES} == {None, *OPEN}
    assert {move.after for move in RUN_MOVES} == set(RUN_STATES)
    assert set(RETRIABLE) < set(TERMINAL)


@pytest.mark.parametrize("before", [None, *RUN_STATES])
def test_what_is_not_in_the_table_is_refused(before) -> None:
    allowed = {move.after for move in RUN_MOVES if move.before == before}
    for after in RUN_STATES:
        if after in allowed:
            check_move(before, after)
        else:
            with pytest.raises(ForbiddenMoveError):
                check_move(before, after)
