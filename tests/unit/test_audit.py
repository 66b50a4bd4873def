"""The audit: every contradiction of the study's own document, none that is not there, and each rule on its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiment_specs.claims import ClaimedRun, load_history
from experiment_specs.errors import SpecError
from experiment_specs.language import Condition
from experiment_specs.presets import PACKAGE
from orchestrator.audit import CHECKS, Audited, Claimed, Contradiction, audit, named
from orchestrator.claimed_counts import count_of
from orchestrator.importers.history import claims_of

SEED = PACKAGE / "history" / "aqn_2026_01.yaml"


def audited(path: Path) -> Audited:
    loaded = load_history(path)
    history = loaded.history
    claims = [
        Claimed(
            claim.id,
            ClaimedRun.model_validate(claim.body["claim"], strict=False),
            Condition.model_validate(claim.condition, strict=False) if claim.condition else None,
            history.questions,
        )
        for claim in claims_of(loaded)
    ]
    return Audited(history.history, claims, history.groups, history.best)


def test_the_study_has_all_runs_of_its_tables() -> None:
    runs = load_history(SEED).history.runs
    assert len(runs) == 18 + 7 + 2
    assert Counter(run.category for run in runs) == {"HW": 7, "Quant": 8, "LoRA": 10, "QeRL-style": 2}
    assert [run.label for run in runs if run.first("score") is None] == ["E12-qerl"]
    assert all(run.tensorboard for run in runs[:18])


def test_the_studys_contradictions_are_found_and_no_others() -> None:
    """Written down from reading the document; a finding more or less is a fault of the audit or of the history."""
    two_epochs = ("E6b-2ep", "E6a-2ep", "E7a-2ep", "E3a-2ep", "E3b-2ep", "E8a-2ep", "E12-2ep")
    wanted = Counter(
        [
            ("not-k-of-n", ("E5c",)),
            ("name-against-fields", ("E5b",)),
            ("name-against-fields", ("E5c",)),
            ("benefit-arithmetic", ("E12", "E6b")),
            ("two-scores-at-one-step", ("E3b-2ep",)),
            ("step-beyond-plan", ("E3b-2ep",)),
            ("eval-not-planned", ("E3b-2ep",)),
            ("executed-not-planned", ("E6b-qerl",)),
            ("executed-not-planned", two_epochs),
            ("last-eval-before-end", two_epochs),
            ("steps-arithmetic", ("E6b-qerl", "E12-qerl")),
            ("one-number-in-several-rows", ("E5b", "E9a", "E5b-LoRA")),
            ("one-number-in-several-rows", ("E4b", "E6b-2ep", "E3b-2ep")),
            ("one-number-in-several-rows", ("E12", "E12-2ep")),
            ("one-number-in-several-rows", ("E6a-2ep", "E12-2ep")),
            ("places-disagree", ("E9a",)),
            ("places-disagree", ("E9a",)),
            ("places-disagree", ("E9b",)),
            ("places-disagree", ("E9b",)),
            ("places-disagree", ("E3b-2ep",)),
            ("places-disagree", ()),
            ("best-is-not-best", ("E8a", "E8a-2ep")),
            ("best-is-not-best", ("E7a", "E7a-2ep")),
            ("best-is-not-best", ("E12", "E6a-2ep", "E6b-2ep")),
        ]
    )
    found = audit(audited(SEED))
    assert Counter((c.check, c.runs) for c in found) == wanted
    assert all(c.history == "aqn-2026-01" for c in found)


def test_both_places_and_both_values_are_named() -> None:
    found = {c.check: c for c in audit(audited(SEED))}
    assert found["benefit-arithmetic"].claimed == 4.99
    assert found["benefit-arithmetic"].expected == 5.0
    disagree = next(c for c in audit(audited(SEED)) if c.check == "places-disagree" and c.runs == ("E3b-2ep",))
    assert "2-Epoch Extension Experiments" in disagree.text
    assert "Known Issues" in disagree.text
    assert (disagree.fields, disagree.claimed, disagree.expected) == (("score_step",), 58, 50)


CLEAN = """\
history: h
recorded: 2026-01-12
questions: 1319
groups:
  g: {place: setup, rows: 7473, generation_batch: 256, steps_per_epoch: 29, planned_steps: 58, eval_steps: [0, 29, 58]}
runs:
  - label: A
    tensorboard: Q_MXFP4_DAPO_fullFT_AQN_2ep_sigma0.01_73.77
    group: g
    condition: sweeps/seed/two-epochs.yaml
    said:
      - {place: first, score: 73.77, score_step: 58, peak: 74.37, peak_step: 29, epochs: 2, dtype: mxfp4, lora: false, aqn: true, sigma_start: 0.01, executed_steps: 58}
      - {place: second, score: 73.77, better: [{than: B, points: 1.67}]}
  - label: B
    said:
      - {place: first, score: 72.10}
best:
  - {place: bests, category: all, run: A, score: 73.77, among: [A, B]}
"""


@pytest.fixture
def check(tmp_path: Path):
    def found(text: str) -> list[Contradiction]:
        path = tmp_path / "h.yaml"
        path.write_text(
            text.replace("label: A", "label: E3b-2ep")
            .replace("than: B", "than: B")
            .replace("run: A", "run: E3b-2ep")
            .replace("among: [A,", "among: [E3b-2ep,")
        )
        return audit(audited(path))

    return found


def test_claims_without_contradictions_have_none(check) -> None:
    assert check(CLEAN) == []


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("score: 72.10", "score: 72.11", {"not-k-of-n", "benefit-arithmetic"}),
        ("sigma0.01_", "sigma0.02_", {"name-against-fields"}),
        ("Q_MXFP4", "Q_NVFP4", {"name-against-fields"}),
        ("_2ep_", "_1ep_", {"name-against-fields"}),
        ("fullFT", "LoRA", {"name-against-fields"}),
        ("_73.77", "_73.24", {"name-against-fields"}),
        ("dtype: mxfp4", "dtype: nvfp4", {"name-against-fields", "row-against-condition"}),
        ("points: 1.67", "points: 1.76", {"benefit-arithmetic"}),
        ("peak: 74.37", "peak: 73.24", {"peak-below-score"}),
        ("peak_step: 29", "peak_step: 58", {"two-scores-at-one-step"}),
        ("score_step: 58", "score_step: 60", {"step-beyond-plan", "eval-not-planned"}),
        ("peak_step: 29", "peak_step: 30", {"eval-not-planned"}),
        ("executed_steps: 58", "executed_steps: 29", {"executed-not-planned"}),
        ("eval_steps: [0, 29, 58]", "eval_steps: [0, 29]", {"last-eval-before-end", "eval-not-planned"}),
        ("steps_per_epoch: 29", "steps_per_epoch: 30", {"steps-arithmetic"}),
        ("score: 72.10", "score: 73.77", {"one-number-in-several-rows", "benefit-arithmetic"}),
        ("place: second, score: 73.77", "place: second, score: 73.24, peak: 74.37", {"places-disagree", "benefit-arithmetic"}),
        ("score: 72.10", "score: 74.75", {"best-is-not-best", "benefit-arithmetic"}),
    ],
)  # fmt: skip
def test_each_rule_finds_what_breaks_it_and_nothing_else(check, old: str, new: str, wanted: set[str]) -> None:
    assert CLEAN.count(old) == 1
    assert {c.check for c in check(CLEAN.replace(old, new))} == wanted
    assert wanted <= set(CHECKS)


def test_what_a_name_says() -> None:
    assert named("LoRA_MXFP4_DAPO_1ep_AQN-high_72.48") == {
        "dtype": "mxfp4", "algorithm": "dapo", "epochs": 1, "score": 72.48, "aqn": True, "lora": True,
    }  # fmt: skip
    assert named("HW_5pct_noise_only_68.92") == {"hw_noise": 0.05, "score": 68.92, "aqn": False}
    assert named("HW_5pct_AQN_SRDD-targeted_high-sigma0.05_70.81")["sigma_start"] == 0.05
    assert named("run1") == {}


@pytest.mark.parametrize(
    ("percent", "questions", "k"),
    [(70.58, 1319, 931), (70.27, 1319, None), (91.0, 500, 455), (100.0, 500, 500), (0.0, 3, 0)],
)
def test_a_percentage_is_a_whole_number_of_its_questions(percent: float, questions: int, k: int | None) -> None:
    assert count_of(percent, questions) == k


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: B", "label: A", "names two runs"),
        ("group: g", "group: gg", "no such group.*did you mean 'g'"),
        ("than: B", "than: C", "no run of this history has this label"),
        ("two-epochs.yaml", "two-epoch.yaml", "no such sweep"),
        ("score: 72.10", "score: 172.10", r"h.yaml:16: runs\[1\].said\[0\].score"),
        ("score: 72.10", "scor: 72.10", "did you mean 'score'"),
        ("recorded: 2026-01-12", "recorded: yesterday", "recorded"),
        ("among: [A, B]", "among: [A, C]", "no run of this history has this label"),
    ],
)
def test_a_wrong_history_is_told_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(CLEAN.replace(old, new))
    with pytest.raises(SpecError, match=message):
        claims_of(load_history(path))


def test_a_condition_needs_its_label_in_the_sweep(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(CLEAN)  # two-epochs.yaml has no label A
    with pytest.raises(SpecError, match=r"h.yaml:10: .*no condition with the label 'A'"):
        claims_of(load_history(path))


def test_every_check_has_a_rule_in_words() -> None:
    seen: set[Any] = {c.check for c in audit(audited(SEED))}
    assert seen <= set(CHECKS)
    assert all(text.endswith(".") for text in CHECKS.values())
