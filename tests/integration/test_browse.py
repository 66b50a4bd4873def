"""Browsing a registry, on SQLite and on a real PostgreSQL server: what is chosen, counted and summed up."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from db import browse, reads, writes
from db.browse import NOT_JUDGED, Wanted
from db.bug_reads import reading
from experiment_specs.bug_rules import rule_from_text
from orchestrator.bugs import engine as bugs
from tests.registry_tools import finish

SWEEP = """\
sweep: looked-at
base: bases/tiny-cpu.yaml
about: what is there to see?
set: {steps_per_epoch: 4, eval: {every: 2}}
axes: {dtype: [bf16, mxfp4], aqn: [none, standard]}
labels: {100%_plain: {dtype: bf16, aqn: none}}
seeds: [1, 2]
budget: {gpu_hours: 3}
"""
OTHER = """\
sweep: other
base: bases/tiny-cpu.yaml
axes: {aqn: [high]}
seeds: [7]
"""
BUG = """\
bug: four-bits
version: 1
title: the test says so
found: 2026-01-01
status: confirmed
disposition: rerun
affects: {field: dtype.format, is: mxfp4}
"""


@pytest.fixture
def engine(either_engine: Engine) -> Engine:
    """Overrides that of SQLite alone."""
    return either_engine


@pytest.fixture
def recorded(submit, engine: Engine, tmp_path) -> list[str]:
    """Two PROVEN, one REFUTED, one running, the others queued; and another sweep of one run."""
    ids = submit(SWEEP).all
    finish(engine, ids[0])
    finish(engine, ids[1])
    finish(engine, ids[2], verdict="REFUTED")
    assert writes.begin_attempt(engine, ids[3], tmp_path) is not None
    submit(OTHER)
    return list(ids)


def ids(engine: Engine, wanted: Wanted, **where: int) -> set[str]:
    with reading(engine) as rows:
        found = browse.page(rows, wanted, limit=where.get("limit", 100), offset=where.get("offset", 0))
        if not where:
            assert browse.count(rows, wanted) == len(found)
    return set(found)


def test_every_filter_alone_and_together(engine, recorded) -> None:
    everything = {run.id for run in reads.runs(engine)}
    assert ids(engine, Wanted()) == everything
    assert ids(engine, Wanted(states=("running",))) == {recorded[3]}
    assert ids(engine, Wanted(verdicts=("PROVEN", "REFUTED"))) == set(recorded[:3])
    assert ids(engine, Wanted(verdicts=(NOT_JUDGED,))) == everything - set(recorded[:3])
    assert ids(engine, Wanted(verdicts=("REFUTED", NOT_JUDGED))) == everything - set(recorded[:2])
    assert ids(engine, Wanted(sweep="looked-at")) == set(recorded)
    assert ids(engine, Wanted(seeds=(7,))) == everything - set(recorded)
    assert ids(engine, Wanted(sweep="looked-at", seeds=(1,), states=("succeeded",))) < set(recorded[:3])
    assert ids(engine, Wanted(sweep="nothing")) == set()


def test_text_is_no_pattern_and_its_letters_may_be_of_any_size(engine, recorded) -> None:
    labelled = {run.id for run in reads.runs(engine) if run.label == "100%_plain"}
    assert len(labelled) == 2
    for text in ("100%_", "100%_PLAIN", "%_p"):
        assert ids(engine, Wanted(text=text)) == labelled, text
    assert ids(engine, Wanted(text="100_")) == set()
    assert ids(engine, Wanted(text="\\")) == set()
    assert ids(engine, Wanted(text=recorded[4][:12])) == {recorded[4]}
    assert ids(engine, Wanted(text="' OR 1=1 --")) == set()


def test_conditions_by_their_bodies(engine, recorded) -> None:
    with reading(engine) as rows:
        bodies = browse.trained_conditions(rows)
    four_bits = tuple(key for key, body in bodies.items() if body["dtype"]["format"] == "mxfp4")
    found = ids(engine, Wanted(conditions=four_bits))
    assert found == {run.id for run in reads.runs(engine) if run.condition["dtype"]["format"] == "mxfp4"}
    assert ids(engine, Wanted(conditions=())) == set()
    with pytest.raises(ValueError, match="too many"), reading(engine) as rows:
        browse.count(rows, Wanted(conditions=tuple(map(str, range(browse.MOST_CONDITIONS + 1)))))


def test_marked_by_a_bug(engine, recorded, tmp_path) -> None:
    bugs.apply(engine, rule_from_text(BUG, tmp_path / "four-bits.yaml"), "")
    ended = {run.id for run in reads.runs(engine, states=("succeeded",)) if run.condition["dtype"]["format"] == "mxfp4"}
    assert ids(engine, Wanted(bug="four-bits")) >= ended
    assert ids(engine, Wanted(bug="another")) == set()


def test_pages_are_the_list_cut_in_pieces(engine, recorded) -> None:
    with reading(engine) as rows:
        whole = browse.page(rows, Wanted(), limit=100)
        pieces = [browse.page(rows, Wanted(), limit=3, offset=start) for start in range(0, len(whole), 3)]
    assert [run_id for piece in pieces for run_id in piece] == whole
    assert sorted(whole) == sorted(run.id for run in reads.runs(engine))
    assert [run.id for run in reads.runs(engine, ids=whole)] == whole


def test_sweeps_are_summed_up(engine, recorded) -> None:
    with reading(engine) as rows:
        other, sweep = browse.sweeps(rows, now=4e9)
    assert (other.name, sweep.name, sweep.about) == ("other", "looked-at", "what is there to see?")
    assert sweep.runs == len(recorded) == 8
    assert (sweep.in_state("succeeded"), sweep.in_state("running", "queued")) == (3, 5)
    assert (sweep.with_verdict("PROVEN"), sweep.with_verdict("REFUTED")) == (2, 1)
    assert (sweep.budget, sweep.paused, sweep.searches) == (3, False, False)
    assert sweep.gpu_hours > 100, "the running attempt counts up to now"


def test_attempts_on_a_time_line(engine, recorded) -> None:
    with reading(engine) as rows:
        spans, newest = browse.spans(rows, 100), browse.spans(rows, 1)
    assert [span.run_id for span in spans] == recorded[:4]
    assert [span.end is None for span in spans] == [False, False, False, True]
    assert spans[2].verdict == "REFUTED"
    assert newest == spans[-1:]


def test_labels_once_each_the_newest_first(engine, recorded) -> None:
    with reading(engine) as rows:
        found = browse.labels(rows, 100)
        assert browse.labels(rows, 2) == found[:2]
    assert len(found) == len(set(found)) == len({run.label for run in reads.runs(engine)})


def test_names_to_complete(engine, recorded) -> None:
    with reading(engine) as rows:
        assert set(browse.names(rows, "run", "")) == set(browse.labels(rows, 100))
        assert browse.names(rows, "run", "100%_p") == ["100%_plain"]
        assert browse.names(rows, "run", "%") == []
        assert browse.names(rows, "sweep", "") == ["other", "looked-at"]
        assert browse.names(rows, "bug", "") == []
