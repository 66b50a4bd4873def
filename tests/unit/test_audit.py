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
from orchestrator.claimed_counts import claimed_count
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
    run = ClaimedRun.model_validate({"label": "r", "said": [{"place": "p", "score": percent}]}, strict=False)
    assert claimed_count(run, percent, questions) == k


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


# Imported logs: nobody is accused of what a logger printed


def of_log(tmp_path: Path, questions: int | None, *values: str, tag: str = "math/acc/mean@1") -> list[Contradiction]:
    """What the audit says of a log with these evals, imported with these questions."""
    from orchestrator.importers.curve_claims import claimed_run, with_questions
    from orchestrator.importers.verl_log import read

    path = tmp_path / "run.log"
    path.write_text("".join(f"step:{5 * n} - val-core/{tag}:{value}\n" for n, value in enumerate(values)))
    claims = [Claimed(c.name, claimed_run(c), None, n) for c, n in with_questions(read(path), questions)]
    return audit(Audited("h", claims, {}, []))


@pytest.mark.parametrize(
    ("tag", "questions", "value"),
    [
        ("math/acc/mean@1", 1312, "0.621"),  # 815 of 1312
        ("math/acc/mean@1", 1319, "0.62"),
        ("math/acc/mean@1", 1319, "0.6"),
        ("math/acc/mean@1", 7, "0.857"),
        ("math/acc/mean@1", 7, "np.float64(0.8571428571428571)"),
        ("math/acc/mean@1", 7, "0.8571428656578064"),  # the same in 32 bits
        ("math/acc/mean@1", 7, "np.float32(0.85714287)"),
        ("aime24/acc/mean@32", 30, "0.0958333333333333"),  # 92 of 960
        ("aime24/acc/mean_32", 30, "0.096"),
        ("aime24/acc/mean@8", 5, "0.53"),  # 21 of 40 is 0.525
        ("aime24/acc/mean@8", 5, "0.52"),  # so is this, its tie rounded to even
        ("math/acc/mean@1", 3, "0.000"),
        ("math/acc/mean@1", 3, "1.000"),
        ("math/reward/mean@1", 10, "0.537"),  # a reward may be what it likes
    ],
)
def test_what_a_logger_prints_of_a_count_is_no_contradiction(
    tmp_path: Path, tag: str, questions: int, value: str
) -> None:
    assert of_log(tmp_path, questions, "0.0", value, tag=tag) == []


@pytest.mark.parametrize(
    ("tag", "questions", "value", "near"),
    [
        ("math/acc/mean@1", 10, "0.537", "5/10 = 50.00 %, 6/10 = 60.00 %"),
        ("math/acc/mean@1", 1312, "0.6215", "815/1312 = 62.12 %, 816/1312 = 62.20 %"),
        ("math/acc/mean@1", 7, "0.850", "5/7 = 71.43 %, 6/7 = 85.71 %"),
        ("aime24/acc/mean@8", 3, "0.53", "12/24 = 50.00 %, 13/24 = 54.17 %"),
        ("aime24/acc/mean@32", 30, "0.0963", "92/960 = 9.58 %, 93/960 = 9.69 %"),
        (
            "math/acc/mean@1", 7, "np.float64(0.857141)",
            "5/7 = 71.4286 %, 6/7 = 85.7143 %",
        ),
    ],
)  # fmt: skip
def test_what_no_count_gives_is_a_contradiction(
    tmp_path: Path, tag: str, questions: int, value: str, near: str
) -> None:
    found = of_log(tmp_path, questions, "0.0", value, tag=tag)
    assert [(c.check, c.expected) for c in found] == [("not-k-of-n", near)]


def test_several_answers_to_a_question_are_named(tmp_path: Path) -> None:
    [found] = of_log(tmp_path, 3, "0.53", tag="aime24/acc/mean@8")
    assert "score 53.00 %" in found.text
    assert "is no whole number of 3 questions with 8 answers each: 12/24" in found.text


def test_prompts_with_fewer_answers_make_no_contradiction(tmp_path: Path) -> None:
    """The mean leaves them out: of how many questions it is a share, nobody knows."""
    tag = "math/acc/mean@1:0.1 - val-core/aime24/acc/mean@8"
    assert of_log(tmp_path, 3, "0.53", tag=tag.replace("math/", "aime24/")) == []


def test_runs_of_logs_may_have_one_number(tmp_path: Path) -> None:
    log = of_log(tmp_path, 30, "0.1", "0.2", "0.1", tag="aime24/acc/mean@1")
    assert log == []
    again = of_log(
        tmp_path, 30, "0.1", "0.2 - actor/x:1\nTotal training steps: 9\nstep:0 - val-core/aime24/acc/mean@1:0.2"
    )
    assert "one-number-in-several-rows" not in {c.check for c in again}


def test_a_history_may_state_answers_per_question(check) -> None:
    row = "label: B\n    samples: 32\n    said:\n      - {place: first, score: 72.10}"
    text = CLEAN.replace("label: B\n    said:\n      - {place: first, score: 72.10}", row)
    assert check(text) == []
    assert check(text.replace("score: 72.10}", "score: 72.11}").replace("points: 1.67", "points: 1.66")) == []


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("score: 72.10}", "score: 72.1}", set()),
        ("points: 1.67", "points: 1.7", set()),
        ("points: 1.67", "points: 1.8", {"benefit-arithmetic"}),
        ("place: second, score: 73.77", "place: second, score: 73.8", set()),
        ("place: second, score: 73.77", "place: second, score: 73.768", set()),
        ("place: second, score: 73.77", "place: second, score: 73.7", {"places-disagree"}),
    ],
)
def test_numbers_are_compared_to_the_decimals_that_both_have(check, old: str, new: str, wanted: set[str]) -> None:
    assert {c.check for c in check(CLEAN.replace(old, new))} - {"not-k-of-n"} == wanted


def test_the_score_in_a_name_is_compared_to_its_decimals(tmp_path: Path) -> None:
    from dataclasses import replace

    run = ClaimedRun.model_validate(
        {"label": "r", "tensorboard": "Q_MXFP4_73.77", "said": [{"place": "p", "score": 73.7680060652}]}, strict=False
    )
    claim = Claimed("c", run, None, 1319)
    assert audit(Audited("h", [claim], {}, [])) == []
    other = replace(claim, run=run.model_copy(update={"tensorboard": "Q_MXFP4_73.76"}))
    assert [c.check for c in audit(Audited("h", [other], {}, []))] == ["name-against-fields"]
