"""Bug rules: what they accept, and what they answer."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_specs.bug_rules import (
    Combined,
    Comparison,
    Point,
    Rule,
    load_rule,
    rule_from_text,
    shipped_rules,
    with_status,
)
from experiment_specs.errors import SpecError
from orchestrator.bugs.evaluate import evaluate

RULE = """\
bug: ste
version: 1
title: wrong gradient
found: 2026-01-12
status: confirmed
disposition: rerun
fixed_in: {commit: null, date: null}
affects:
  all:
    - {field: dtype, in: [mxfp4, nvfp4]}
    - {field: lora, is: none}
    - {field: code, before: fixed_in}
    - {evidence: gradient_probe.relative_error, above: 1.0e-3, if_never_recorded: match}
because: measured
"""
MXFP4 = {"dtype": {"format": "mxfp4", "scale_rule": "floor"}, "lora": None, "aqn": None}


def never(point: Point, code: Any) -> bool | None:
    raise AssertionError("no point of the code is asked for")


def facts(condition: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return {"condition": MXFP4 if condition is None else condition, "evidence": {}, "score": {}, **sections}


@pytest.fixture
def rule(tmp_path: Path):
    def made(text: str = RULE) -> Rule:
        return rule_from_text(text, tmp_path / "rule.yaml")

    return made


def affects(rule, predicate: str) -> Rule:
    return rule(RULE[: RULE.index("affects:")] + f"affects: {predicate}\n")


def test_all_shipped_rules_load_under_their_own_names() -> None:
    assert len(shipped_rules()) >= 15
    for name, path in shipped_rules().items():
        assert load_rule(path).name == name


def test_a_rule_answers_with_the_facts_that_decided(rule) -> None:
    found = evaluate(rule(), facts(evidence={"gradient_probe.relative_error": 0.2}), ("r",), never)
    assert found.answer == "match"
    assert "evidence gradient_probe.relative_error is 0.2" in found.facts
    assert "dtype is mxfp4" in found.facts
    clean = evaluate(rule(), facts(evidence={"gradient_probe.relative_error": 1e-7}), ("r",), never)
    assert (clean.answer, clean.facts) == ("clean", ("evidence gradient_probe.relative_error is 1e-07",))
    adapters = evaluate(rule(), facts({**MXFP4, "lora": {"rank": 32, "alpha": 16}}), ("r",), never)
    assert adapters.answer == "clean"
    assert adapters.facts == ("lora is r32",)


def test_what_was_never_recorded_is_as_the_rule_says_or_unknown(rule) -> None:
    assert evaluate(rule(), facts(), ("r",), never).answer == "match"
    plain = rule(RULE.replace(", if_never_recorded: match", ""))
    found = evaluate(plain, facts(), ("r",), never)
    assert found.answer == "unknown"
    assert found.facts == ("evidence gradient_probe.relative_error was never recorded",)
    assert evaluate(plain, facts({**MXFP4, "dtype": {"format": "bf16"}}), ("r",), never).answer == "clean"
    nothing = {"condition": None, "evidence": {"gradient_probe.relative_error": 0.5}}
    assert evaluate(plain, nothing, ("r",), never).answer == "unknown"


def test_a_comparison_on_what_a_run_does_not_have_is_false(rule) -> None:
    sigma = affects(rule, "{field: aqn.sigma_start, above: 0.02}")
    assert evaluate(sigma, facts(), ("r",), never) == evaluate(sigma, facts(), ("other",), never)
    assert evaluate(sigma, facts(), ("r",), never).answer == "clean"
    assert evaluate(sigma, facts(), ("r",), never).facts == ("aqn.sigma_start: not applicable",)
    assert (
        evaluate(affects(rule, "{not: {field: aqn.sigma_start, above: 0.02}}"), facts(), ("r",), never).answer
        == "match"
    )
    noisy = facts({**MXFP4, "aqn": {"sigma_start": 0.05}})
    assert evaluate(sigma, noisy, ("r",), never).answer == "match"


@pytest.mark.parametrize(
    ("predicate", "section", "answer"),
    [
        ("{score: integral, is: false}", {"score": {"integral": False}}, "match"),
        ("{score: step, at_least: 50}", {"score": {"step": 50}}, "match"),
        ("{score: step, at_most: 49}", {"score": {"step": 50}}, "clean"),
        ("{score: rule, not_in: [final, best]}", {"score": {"rule": "claimed"}}, "match"),
        ("{artefact: checkpoint, is: missing}", {"artefact": {"checkpoint": None}}, "match"),
        ("{artefact: checkpoint, is: missing}", {"artefact": {"checkpoint": "abc"}}, "clean"),
        ("{artefact: answers_twins, above: 0}", {"artefact": {}}, "unknown"),
        (
            "{derived: total_steps_modulo_eval_every, above: 0}",
            {"derived": {"total_steps_modulo_eval_every": 8}},
            "match",
        ),
        ("{record: kind, is: claim}", {"record": {"kind": "run"}}, "clean"),
        ("{field: seed, in: [1, 2]}", {"seed": 2}, "match"),
        ("{field: seed, in: [1, 2]}", {"seed": None}, "unknown"),
        ("{field: dtype.scale_rule, is: floor}", {}, "match"),
        ("{field: aqn, is_not: none}", {}, "clean"),
    ],
)
def test_operators(rule, predicate: str, section: dict[str, Any], answer: str) -> None:
    assert evaluate(affects(rule, predicate), facts(**section), ("r",), never).answer == answer


TRUTH = {"match": True, "clean": False, "unknown": None}
VALUES = {True: 2.0, False: 0.0}


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=5))
def test_three_valued_logic(values: list[bool | None]) -> None:
    names = ["total_steps", "steps_per_epoch", "optimiser_updates", "last_eval_step", "answers_a_step"]
    tests = tuple(Comparison("derived", name, "above", 1.0) for name, _ in zip(names, values, strict=False))
    section = {name: VALUES[value] for name, value in zip(names, values, strict=False) if value is not None}
    for how in ("all", "any"):
        rule_ = Rule(HEADER.header, Combined(how, tests), "")
        wanted = (
            (False if False in values else None if None in values else True)
            if how == "all"
            else (True if True in values else None if None in values else False)
        )
        assert TRUTH[evaluate(rule_, {"derived": section}, ("r",), never).answer] is wanted
        opposite = Rule(HEADER.header, Combined("not", (Combined(how, tests),)), "")
        turned = None if wanted is None else not wanted
        assert TRUTH[evaluate(opposite, {"derived": section}, ("r",), never).answer] is turned


HEADER = load_rule(shipped_rules()["ste-backward"])


def test_lists_of_runs_stand_above_the_predicate(rule) -> None:
    listed = rule(
        RULE + "except:\n  - {run: E3a, because: rerun by hand}\ninclude:\n  - {run: E9, because: same branch}\n"
    )
    spoilt, fine = facts(evidence={"gradient_probe.relative_error": 0.2}), facts({**MXFP4, "lora": {"rank": 8}})
    assert evaluate(listed, spoilt, ("id", "E3a"), never).facts == ("excepted: rerun by hand",)
    assert evaluate(listed, spoilt, ("id", "E3"), never).answer == "match"
    assert evaluate(listed, fine, ("id", "E9"), never).facts == ("included: same branch",)


def test_code_is_placed_before_or_after_the_fix(rule) -> None:
    fixed = rule(RULE.replace("{commit: null, date: null}", "{commit: abcdef0, date: 2026-02-01}"))
    spoilt = facts(evidence={"gradient_probe.relative_error": 0.2}, code={"commit": "c", "date": "2026-01-01"})
    for placed, answer in ((True, "match"), (False, "clean"), (None, "unknown")):
        assert evaluate(fixed, spoilt, ("r",), lambda point, code, p=placed: p).answer == answer
    since = affects(rule, "{field: code, since: introduced_in}")
    assert evaluate(since, spoilt, ("r",), never).answer == "match"  # it was always there


def test_a_retracted_rule_matches_nobody_and_a_dispute_changes_nothing(rule) -> None:
    spoilt = facts(evidence={"gradient_probe.relative_error": 0.2})
    retracted = rule(with_status(RULE, "retracted", 2))
    assert (retracted.header.version, retracted.effect) == (2, "none")
    assert evaluate(retracted, spoilt, ("r",), never).answer == "clean"
    disputed = rule(with_status(RULE, "disputed", 2))
    assert disputed.effect == "invalid"
    assert evaluate(disputed, spoilt, ("r",), never).answer == "match"


def test_a_new_status_leaves_comments_alone() -> None:
    text = RULE.replace("status: confirmed", "status: confirmed   # since January")
    assert "status: disputed   # since January" in with_status(text, "disputed", 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{field: lora, is: none}", "{field: lorra, is: none}", r"rule.yaml:11: affects.all\[1\].field: .*'lora'"),
        ("{field: lora, is: none}", "{field: dtype, is: mxpf4}", "did you mean 'mxfp4'"),
        ("{field: lora, is: none}", "{field: lora, is: none, above: 1}", "one fact and one operator"),
        ("{field: lora, is: none}", "{field: lora}", "one fact and one operator"),
        ("{field: lora, is: none}", "{field: epochs, above: two}", "'two' is not a number"),
        ("{field: lora, is: none}", "{field: epochs, in: 2}", "is a list of values"),
        ("{field: lora, is: none}", "{field: epochs, before: fixed_in}", "compares field: code alone"),
        ("{field: code, before: fixed_in}", "{field: code, is: abc}", "compared by before or since"),
        ("{field: code, before: fixed_in}", "{field: code, before: now}", "fixed_in, introduced_in"),
        (
            "gradient_probe.relative_error",
            "gradient_prob.relative_error",
            "did you mean 'gradient_probe.relative_error'",
        ),
        ("if_never_recorded: match", "if_never_recorded: maybe", "match, clean, unknown"),
        ("status: confirmed", "status: confirmd", "did you mean 'confirmed'"),
        ("disposition: rerun", "disposition: re-run", "did you mean 'rerun'"),
        ("found: 2026-01-12", "found: January", "found"),
        ("version: 1", "version: 0", "version"),
        ("title: wrong gradient", "titel: wrong gradient", "did you mean 'title'"),
        ("bug: ste", "bug: STE backward", "bug"),
        ("  all:", "  al:", "did you mean 'all'"),
    ],
)
def test_a_wrong_rule_is_told_with_its_line(rule, old: str, new: str, message: str) -> None:
    assert old in RULE
    with pytest.raises(SpecError, match=message):
        rule(RULE.replace(old, new))


def test_a_rule_without_victims_is_refused(rule) -> None:
    with pytest.raises(SpecError, match="affects is missing"):
        rule(RULE[: RULE.index("affects:")])


def test_effects_follow_from_status_and_disposition(rule) -> None:
    statuses = ("proposed", "confirmed", "disputed", "fixed", "retracted")
    dispositions = ("rerun", "re-evaluate", "cannot-fix", "not-comparable", "unverified", "note", "false-alarm")
    effects = {}
    for status, disposition in itertools.product(statuses, dispositions):
        text = RULE.replace("status: confirmed", f"status: {status}").replace("rerun", disposition, 1)
        effects[status, disposition] = rule(text).effect
    assert {d for (s, d), e in effects.items() if s == "confirmed" and e == "invalid"} == set(dispositions[:4])
    assert effects["confirmed", "unverified"] == "unverified"
    assert {e for (s, _), e in effects.items() if s in ("proposed", "retracted")} == {"none"}
    assert {e for (_, d), e in effects.items() if d in ("note", "false-alarm")} == {"none"}
