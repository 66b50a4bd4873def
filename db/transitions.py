"""The history of states: the one way in which a run's state changes leaves a line of it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from db.schema import TransitionRow
from db.states import check_move


def note_move(  # noqa: PLR0917 - a row
    session: Session, run_id: str, before: str | None, after: str, why: str, at: float, attempt_id: int | None = None
) -> None:
    """The only way in which a run's state changes: by a move that is in the table, and with a line of history."""
    session.execute(insert(TransitionRow), [move_values(run_id, before, after, why, at) | {"attempt_id": attempt_id}])


def move_values(run_id: str, before: str | None, after: str, why: str, at: float) -> dict[str, Any]:
    check_move(before, after)
    return {"run_id": run_id, "before": before, "after": after, "why": storable(why), "at": at}


def storable(text: str) -> str:
    """A trainer's last words may hold what no database takes as text: NUL, halves of characters."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
