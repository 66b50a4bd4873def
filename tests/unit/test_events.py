"""The spool: nothing acknowledged is lost, nothing is read twice, a torn line harms nobody."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from workers.events import Spool, read_events


def test_sequence_numbers_run_on_over_writers(tmp_path: Path) -> None:
    assert [Spool(tmp_path).append("step", {"step": i}) for i in range(3)] == [0, 1, 2]
    events, _ = read_events(tmp_path)
    assert [(e.seq, e.data["step"]) for e in events] == [(0, 0), (1, 1), (2, 2)]


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("step", {"step": 1})
    first, offset = read_events(tmp_path)
    spool.append("step", {"step": 2})
    second, end = read_events(tmp_path, offset)
    assert [e.data["step"] for e in first + second] == [1, 2]
    assert read_events(tmp_path, end) == ([], end)


def test_a_torn_line_is_waited_for_then_skipped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("step", {"step": 1})
    with spool.path.open("ab") as handle:
        handle.write(b'{"seq":1,"kind":"step","at":1.0,"pi')  # killed in mid-line
    events, offset = read_events(tmp_path)
    assert len(events) == 1
    assert spool.append("step", {"step": 2}) == 1
    later, _ = read_events(tmp_path, offset)
    assert [(e.seq, e.data["step"]) for e in later] == [(1, 2)]


def test_an_event_longer_than_the_tail_window_is_found_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("started", {"text": "x" * 200_000})
    assert spool.append("step", {"step": 1}) == 1


def test_no_spool_is_an_empty_spool(tmp_path: Path) -> None:
    assert read_events(tmp_path) == ([], 0)


def test_unknown_kinds_and_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown event kind"):
        Spool(tmp_path).append("stpe", {})  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Spool(tmp_path).append("step", {"model": object()})


def _write_many(folder: str, count: int) -> None:
    spool = Spool(folder)
    for i in range(count):
        spool.append("step", {"step": i})


def test_processes_that_write_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_many, args=(str(tmp_path), 100)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    events, _ = read_events(tmp_path)
    assert [e.seq for e in events] == list(range(400))
    assert len({(e.pid, e.data["step"]) for e in events}) == 400
