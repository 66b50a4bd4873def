"""From which checkpoint an attempt goes on, and what of an earlier attempt becomes its past."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.events import Spool, read_events
from workers.launch import Order, has_successor, write_order
from workers.overrides import smaller
from workers.resume import find_point, points, take_over


def order(attempt: int = 1, **more: object) -> Order:
    return Order(
        "r", attempt, "t", "l", "condition", {}, seed=1, total_steps=4, steps_per_epoch=4, eval_steps=[0, 2, 4],
        gpus=1, assets="", code="code", **more,  # type: ignore[arg-type]
    )  # fmt: skip


def spoken(run_dir: Path, *, saved: list[int], evaluated: list[int], stepped: list[int]) -> Path:
    """A run directory as an attempt leaves it that died in mid-step."""
    write_order(run_dir, order())
    spool = Spool(run_dir)
    for step in range(max([*saved, *stepped]) + 1):
        if step in saved:
            folder = run_dir / f"global_step_{step}"
            folder.mkdir()
            (folder / "model").write_text(str(step))
            digest = hashlib.sha256(str(step).encode()).hexdigest()
            spool.append("checkpoint", {"step": step, "path": str(folder), "files": {"model": digest}})
        if step in evaluated:
            spool.append("eval", {"step": step})
        if step in stepped:
            spool.append("step", {"step": step, "metrics": {}})
    return run_dir


def steps(run_dir: Path) -> list[int]:
    return [point.step for point in points(str(run_dir), read_events(run_dir)[0], [0, 2, 4])]


def test_a_checkpoint_counts_once_its_step_and_its_eval_are_told(tmp_path: Path) -> None:
    assert steps(spoken(tmp_path / "a", saved=[1, 2, 3], evaluated=[0, 2], stepped=[1, 2, 3])) == [3, 2, 1]
    assert steps(spoken(tmp_path / "b", saved=[1, 2], evaluated=[0], stepped=[1, 2])) == [1], "no eval of step 2"
    assert steps(spoken(tmp_path / "c", saved=[1, 2], evaluated=[0, 2], stepped=[1])) == [1], "step 2 has no end"


def test_a_removed_checkpoint_is_none(tmp_path: Path) -> None:
    run_dir = spoken(tmp_path / "a", saved=[1, 2], evaluated=[0, 2], stepped=[1, 2])
    Spool(run_dir).append("checkpoint_removed", {"step": 2})
    assert steps(run_dir) == [1]


def test_the_latest_whole_unspoiled_checkpoint_of_the_same_run_is_gone_on_from(tmp_path: Path) -> None:
    first = spoken(tmp_path / "1", saved=[1, 2, 3], evaluated=[0, 2], stepped=[1, 2, 3])
    now = order(2, earlier=[str(tmp_path / "gone"), str(first)])

    def step(now: Order) -> int | None:
        point = find_point(now)
        return None if point is None else point.step

    assert step(now) == 3
    assert step(replace(now, spoiled=[3])) == 2
    for other in (replace(now, seed=2), replace(now, code="another"), replace(now, condition_id="another")):
        assert step(other) is None
    (first / "global_step_3" / "model").write_text("torn")
    assert step(now) == 2
    for name in (1, 2):
        (first / f"global_step_{name}" / "model").unlink()
    assert step(now) is None


def test_what_is_taken_over_ends_with_the_step_of_the_checkpoint(tmp_path: Path) -> None:
    first = spoken(tmp_path / "1", saved=[1, 2], evaluated=[0, 2], stepped=[1, 2, 3])
    point = find_point(order(2, earlier=[str(first)]))
    assert point is not None
    second = tmp_path / "2"
    second.mkdir()
    take_over(second, point, Spool(second))
    told = [(event.kind, event.data.get("step")) for event in read_events(second)[0]]
    assert told[-2:] == [("step", 2), ("resumed", 2)]
    assert [event.seq for event in read_events(second)[0]] == list(range(len(told)))


def test_an_attempt_sees_that_another_was_begun_after_it(tmp_path: Path) -> None:
    run_dir = tmp_path / "1"
    write_order(run_dir, order())
    assert not has_successor(run_dir, order())
    (tmp_path / "2").mkdir()
    assert not has_successor(run_dir, order()), "its directory may be there without its order"
    write_order(tmp_path / "2", order(2))
    assert has_successor(run_dir, order())
    with pytest.raises(FileExistsError):
        write_order(tmp_path / "2", order(2))


@given(st.integers(1, 4096), st.integers(0, 14))
def test_a_smaller_micro_batch_divides_the_answers(answers: int, halvings: int) -> None:
    size = smaller(answers, halvings)
    assert answers % size == 0
    assert 1 <= size <= max(1, answers >> halvings)
    assert smaller(answers, halvings + 1) <= size
