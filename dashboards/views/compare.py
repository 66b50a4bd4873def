"""Compare two arms: what differs, what the seeds say of the treatments and the questions of the checkpoints."""

from __future__ import annotations

import streamlit as st
from sqlalchemy import Engine

from dashboards import figures
from dashboards.page import box, chart, keep, link, plain, show
from db import browse, reads
from db.bug_reads import reading
from orchestrator.asked import questions
from orchestrator.comparison import (
    ONE_SEED,
    Comparison,
    SeedPair,
    compare,
    evaluations_for,
    load_arms,
    recorded_answers,
)
from orchestrator.numbers import noise_in_words, p_value, percent_with_interval, points
from orchestrator.report.document import Cell, Row, table
from orchestrator.scores import Arm, arms
from orchestrator.statistics.checkpoints import answers
from orchestrator.words import short_value

ALL = "all sweeps"
MOST_LABELS = 1000
MOST_QUESTIONS = 200


def draw(engine: Engine) -> None:
    with reading(engine) as rows:
        labels = list(browse.labels(rows, MOST_LABELS))
    if not labels:
        st.info("No run was submitted yet: there is nothing to compare.", icon=":material/inbox:")
        return
    st.subheader("Compare")
    sweeps = reads.sweep_names(engine)
    left, right, third = st.columns([3, 3, 2])
    a = box(left, "a", "A: a label, or a run's id", labels, labels[0])
    b = box(right, "b", "B", labels, labels[min(1, len(labels) - 1)])
    keep("a", a)
    keep("b", b)
    sweep = box(third, "sweep", "runs of", [ALL, *sweeps], ALL)
    sides = [_arm(engine, name, None if sweep == ALL else sweep) for name in (a, b)]
    for name, side in zip((a, b), sides, strict=True):
        if side is None:
            st.warning(f"No training run {'here ' if sweep != ALL else ''}is called {plain(name)}.")
    first, second = sides
    if first is not None and second is not None:
        with st.spinner("comparing"):
            found = compare(first, second, recorded_answers(engine))
        _show(engine, found)


def _arm(engine: Engine, name: str, sweep: str | None) -> Arm | None:
    """All runs of a label's condition, or the one run with this id."""
    if called := reads.conditions_called(engine, name, sweep):
        if len(called) > 1:
            st.caption(f"{plain(name)} names {len(called)} conditions: the newest is compared.")
        return load_arms(engine, called[:1], sweep)[called[0]]
    run = reads.run(engine, name)
    if run is None or run.kind != "train":
        return None
    return arms([run], evaluations_for(engine, [run]))[run.condition_id]


def _show(engine: Engine, found: Comparison) -> None:
    first, second = found.first, found.second
    verdict, treatment = found.verdict, found.treatment
    said = f"**{plain(second.label)}** against **{plain(first.label)}**: {verdict}"
    if found.problems:
        st.error(said + "".join(f"\n* {plain(problem)}" for problem in found.problems))
    elif treatment.p is None:
        st.warning(f"{said}. {ONE_SEED.capitalize()}." if found.pairs else f"{said}: no pair of scores that count.")
    else:
        st.info(
            f"{said}: {points(treatment.difference, treatment.low, treatment.high)} points"
            f" (t interval of 95 % over {treatment.seeds} seeds, {p_value(treatment.p)})."
            + (f" {noise_in_words(found.noise)[0].upper()}{noise_in_words(found.noise)[1:]}." if found.noise else "")
        )
    for note in found.notes:
        st.caption(plain(note))
    if treatment.assessable:  # of one seed the table says all
        chart(figures.forest([(f"{first.label} → {second.label}", found)]), "forest")
    _pairs(found)
    left_out = [(arm, out) for arm in (first, second) for out in arm.left_out]
    if left_out:
        out_of_it = [
            (arm.label, str(out.run.seed), Cell(out.run.id[:10], href=link("run", run=out.run.id)), out.why)
            for arm, out in left_out
        ]
        show(table(("left out", "seed", "run", "why"), out_of_it))
    st.subheader("What differs")
    if found.varied:
        rows = [(key, short_value(key, one), short_value(key, other)) for key, (one, other) in found.varied.items()]
        show(table(("field", first.label, second.label), rows))
    else:
        st.caption("Nothing: both are the same condition.")
    _disagreements(engine, found)


def _pairs(found: Comparison) -> None:
    if not found.pairs:
        return
    rows: list[Row] = []
    for pair in found.pairs:
        checkpoints = pair.checkpoints
        low, high = (checkpoints.low, checkpoints.high) if checkpoints else (None, None)
        rows.append(
            (
                str(pair.first.seed),
                *(
                    Cell(percent_with_interval(one.point), href=link("run", run=one.by.id))
                    for one in (pair.first, pair.second)
                ),
                f"{checkpoints.only_first} / {checkpoints.only_second}" if checkpoints else "–",
                points(pair.second.point.percent - pair.first.point.percent, low, high),
                f"{checkpoints.test}, {p_value(checkpoints.p)}" if checkpoints else "outcomes are not recorded",
            )
        )  # fmt: skip
    sides = (f"A {found.first.label}", f"B {found.second.label}")
    columns = ("seed", *sides, "only A / only B", "B − A, points [95 %]", "test")
    caption = (
        "By seed: two checkpoints on the same questions. Only A: questions that A alone answered right. These tests are"
        " of checkpoints, each alone and not corrected; the verdict above is of the treatments."
    )
    show(table(columns, rows, right=("seed", "only A / only B"), caption=caption))


def _disagreements(engine: Engine, found: Comparison) -> None:
    pairs = [pair for pair in found.pairs if pair.checkpoints is not None]
    if not pairs:
        return
    st.subheader("Questions they disagree on")
    seeds = {f"seed {pair.first.seed}": pair for pair in pairs}
    pair = seeds[st.radio("of", list(seeds), horizontal=True, label_visibility="collapsed") or next(iter(seeds))]
    rows = _rows(engine, pair)
    if rows is None:
        st.caption("The outcomes of one of them are not recorded.")
        return
    shown = table(("question", "asked", "right answer", "A", "B"), rows[:MOST_QUESTIONS], right=("question", "A", "B"))
    st.caption(
        f"{len(rows)} of {pair.first.point.n} questions"
        + (f", the first {MOST_QUESTIONS}" if len(rows) > MOST_QUESTIONS else "")
    )
    show(shown)


def _rows(engine: Engine, pair: SeedPair) -> list[tuple[str, ...]] | None:
    packed = [recorded_answers(engine)(one) for one in (pair.first, pair.second)]
    if packed[0] is None or packed[1] is None:
        return None
    one, other = pair.first.point, pair.second.point
    mine, theirs = answers(packed[0], one.n, one.samples), answers(packed[1], other.n, other.samples)
    asked = questions(pair.first.by) or questions(pair.second.by)
    known = asked if asked is not None and len(asked) == one.n else None
    return [
        (
            known[i].number if known else str(i), known[i].text if known else "its file is not on this machine",
            known[i].answer if known else "–", _right(a, one.samples), _right(b, other.samples),
        )
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True))
        if a * other.samples != b * one.samples
    ]  # fmt: skip


def _right(k: int, samples: int) -> str:
    return ("right" if k else "wrong") if samples == 1 else f"{k} of {samples}"
