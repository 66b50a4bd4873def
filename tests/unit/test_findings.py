"""Can the data bear a finding? Each verdict, by the smallest example that deserves it."""

from __future__ import annotations

from typing import Any

import pytest

from experiment_specs.claims import ClaimedRun, Compared, Finding, Statement, load_history
from experiment_specs.errors import SpecError
from experiment_specs.presets import PACKAGE
from orchestrator.findings import MARKED, Side, assess

SEED = PACKAGE / "history" / "aqn_2026_01.yaml"


def side(label: str, percent: float | None, **changes: Any) -> Side:
    said = Statement(place="table", score=percent) if percent is not None else Statement(place="table", epochs=1)
    run = ClaimedRun(label=label, said=(said,))
    known = {"condition": {"aqn": None, "epochs": 1}, "questions": 1319, "validity": "unverified"}
    return Side(label, run, **(known | changes))


def finding(direction: str = "higher", **changes: Any) -> Finding:
    compares = (Compared(run="new", than="old"),)
    return Finding.model_validate(
        {"place": "p", "says": "s", "direction": direction, "because": (), "compares": compares} | changes, strict=False
    )


def verdict(one: Finding, new: Side, old: Side) -> str:
    return assess(one, {"new": new, "old": old}).verdict.partition(":")[0]


@pytest.mark.parametrize(
    ("direction", "new", "old", "expected"),
    [
        ("higher", 72.48, 65.88, "these checkpoints only"),
        ("higher", 70.58, 68.92, "not established"),  # within what 1,319 questions explain
        ("higher", 68.92, 70.58, "no"),  # it is lower
        ("lower", 68.92, 76.88, "these checkpoints only"),
        ("equal", 66.72, 67.48, "not contradicted"),
        ("equal", 72.48, 40.03, "no"),
        ("higher", 70.27, 60.0, "not established"),  # 70.27 % is no k of 1,319
        ("higher", None, 60.0, "no"),
    ],
)
def test_verdicts(direction, new, old, expected) -> None:
    assert verdict(finding(direction), side("new", new), side("old", old)) == expected


@pytest.mark.parametrize("validity", ["affected", "superseded"])
def test_a_bug_on_either_side_decides_also_after_its_rerun(validity) -> None:
    marked = side("old", 65.88, validity=validity)
    found = assess(finding(), {"new": side("new", 72.48), "old": marked})
    assert found.verdict == "no: it rests on runs that a bug rule marks"
    assert found.weighed[0].standing == MARKED


def test_what_else_differs_is_named_and_what_only_evaluates_is_not() -> None:
    new = side("new", 72.48, condition={"aqn": {"sigma_start": 0.05}, "epochs": 2, "eval": {"every": 10}})
    old = side("old", 65.88, condition={"aqn": None, "epochs": 1, "eval": {"every": 20}})
    found = assess(finding(because=("aqn",)), {"new": new, "old": old})
    assert found.weighed[0].against == ("epochs differs too",)
    both = assess(finding(because=("aqn", "epochs")), {"new": new, "old": old})
    assert both.weighed[0].against == ("changed at once: aqn, epochs",)


def test_a_score_under_errors_is_no_score_without_them() -> None:
    noisy = side("new", 68.92, condition={"aqn": None, "epochs": 1, "hw_noise": {"phases": ["train", "eval"]}})
    found = assess(finding("lower", because=("hw_noise",)), {"new": noisy, "old": side("old", 76.88)})
    assert found.weighed[0].against == ("one was evaluated under the errors and the other was not",)


def test_a_range_that_is_said_is_held_against_the_scores() -> None:
    said = finding(points=(5, 7))
    assert verdict(said, side("new", 71.0), side("old", 65.88)) != "no"  # people round
    assert verdict(said, side("new", 75.97), side("old", 65.88)) == "no"


def test_every_finding_of_the_shipped_history_is_of_its_runs() -> None:
    history = load_history(SEED).history
    assert len(history.findings) == 14
    assert {c.run for f in history.findings for c in f.compares} <= {run.label for run in history.runs}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{run: E12, than: E6b}]\n  - place: 2-Epoch|{run: E12, than: E6x}]\n  - place: 2-Epoch", "did you mean 'E6"),
        ("because: [batch,|because: [bach,", "did you mean 'batch'"),
        ("points: [5, 7]|points: [7, 5]", "the least and the most"),
        ("direction: equal|direction: same", "direction"),
    ],
)
def test_a_wrong_finding_is_an_error_with_its_line(tmp_path, change, message) -> None:
    before, after = change.split("|")
    text = SEED.read_text()
    assert before in text
    path = tmp_path / "history.yaml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(SpecError, match=message) as error:
        load_history(path)
    assert f"{path}:" in str(error.value)
