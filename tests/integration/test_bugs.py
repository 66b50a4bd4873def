"""Bugs over a real registry, SQLite and PostgreSQL alike: claims, marks, replacements, and what they do to scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from db import bug_reads, bug_writes, reads, writes
from db.engine import open_registry
from experiment_specs.bug_rules import Rule, load_rule, rule_from_text, shipped_rules, with_status
from experiment_specs.errors import SpecError
from experiment_specs.presets import PACKAGE
from orchestrator.bugs import engine as bugs
from orchestrator.bugs.rerun import make, replacements
from orchestrator.claims import claims_as_json, contradictions
from orchestrator.importers.history import import_history
from orchestrator.runs_json import run_as_json
from tests.integration.conftest import SWEEP, NewDatabase
from tests.registry_tools import finish, probe, sync
from workers import launch

SEED = PACKAGE / "history" / "aqn_2026_01.yaml"
VICTIMS = {"E3a", "E3b", "E4a", "E4b", "E3a-2ep", "E3b-2ep"}
WRONG, RIGHT = [("gradient_probe", probe(0.2, 1e-7))], [("gradient_probe", probe(1e-7))]


@pytest.fixture
def engine(new_database: NewDatabase) -> Iterator[Engine]:
    engine = open_registry(new_database())
    yield engine
    engine.dispose()


@pytest.fixture
def ste() -> Rule:
    return load_rule(shipped_rules()["ste-backward"])


@pytest.fixture
def rule(tmp_path: Path) -> Callable[[str], Rule]:
    def made(text: str) -> Rule:
        return rule_from_text(text, tmp_path / "rule.yaml")

    return made


@pytest.fixture
def new_code(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, the code is of another version than that of the runs so far."""

    def advance() -> None:
        new = replace(launch.code_version(), id="newer0000000")
        for module in ("orchestrator.bugs.rerun", "orchestrator.submit"):
            monkeypatch.setattr(f"{module}.code_version", lambda *_: new)

    return advance


def validity(engine: Engine, run_id: str) -> str:
    return reads.runs(engine, ids=[run_id])[0].validity


def found(engine: Engine, run_id: str) -> reads.Run:
    return reads.runs(engine, ids=[run_id])[0]


class TestClaims:
    def test_a_history_is_recorded_once_and_a_changed_claim_is_a_new_version(
        self, engine: Engine, tmp_path: Path
    ) -> None:
        assert len(import_history(engine, SEED).created) == 27
        again = import_history(engine, SEED)
        assert (again.created, again.changed, len(again.same), again.missing) == ((), (), 27, ())
        changed = tmp_path / "aqn.yaml"
        changed.write_text(SEED.read_text().replace("score: 68.23", "score: 68.31"))
        assert import_history(engine, changed).changed == ("E5a-LoRA",)
        claim = bug_reads.claim(engine, "E5a-LoRA")
        assert claim is not None
        assert claim.version == 2
        versions = bug_reads.claim_versions(engine, claim.id)
        assert [v["claim"]["said"][0]["score"] for _, _, v in versions] == [68.23, 68.31]
        assert len(bug_reads.claims(engine)) == 27

    def test_a_claim_that_left_its_file_is_kept_and_told(self, engine: Engine, tmp_path: Path) -> None:
        import_history(engine, SEED)
        shorter = tmp_path / "aqn.yaml"
        text = SEED.read_text()
        start = text.index("  - label: E12-qerl")
        shorter.write_text(text[:start] + text[text.index("best:", start) :])
        assert import_history(engine, shorter).missing == ("E12-qerl",)
        assert bug_reads.claim(engine, "E12-qerl") is not None

    def test_a_claim_is_never_a_valid_run(self, engine: Engine) -> None:
        import_history(engine, SEED)
        rows = claims_as_json(engine, bug_reads.claims(engine))
        assert [row["label"] for row in rows][:3] == ["Baseline", "E5", "E5b"]
        assert {(row["status"], row["verdict"], row["validity"]) for row in rows} == {
            ("imported", "UNPROVEN", "unverified")
        }
        by_label = {row["label"]: row for row in rows}
        assert by_label["E9b"]["score"] == {
            "k": 939, "n": 1319, "samples": 1, "percent": 71.19, "step": None, "rule": "claimed", "mode": None,
        }  # fmt: skip
        assert by_label["E5c"]["score"]["k"] is None  # 70.27 % is no whole number of 1319
        assert by_label["E12-qerl"]["score"] is None
        assert by_label["E3b"]["condition"]["dtype"]["format"] == "mxfp4"
        assert reads.runs(engine) == []  # no list of runs holds one
        assert len(contradictions(engine)) == 24

    def test_an_alias_finds_its_claim(self, engine: Engine) -> None:
        import_history(engine, SEED)
        claim = bug_reads.claim(engine, "E9a-high-sigma")
        assert claim is not None
        assert claim.label == "E9a-high-σ"
        assert bug_reads.claim(engine, "nobody") is None


class TestMarks:
    def test_the_seeds_victims_and_no_others(self, engine: Engine, ste: Rule) -> None:
        import_history(engine, SEED)
        check = bugs.check(engine, ste)
        assert {one.label for one in check.of("match")} == VICTIMS
        assert check.of("unknown") == []
        assert len(check.of("clean")) == 21
        assert bug_reads.bugs(engine) == []  # nothing was written
        counts, _ = bugs.apply(engine, ste, "")
        assert counts == {"affected": 6}
        assert {c.label for c in bug_reads.claims(engine) if c.validity == "affected"} == VICTIMS

    def test_a_claim_that_is_imported_later_is_judged_when_it_enters(self, engine: Engine, ste: Rule) -> None:
        bugs.apply(engine, ste, "")
        import_history(engine, SEED)
        assert {c.label for c in bug_reads.claims(engine) if c.validity == "affected"} == VICTIMS

    def test_a_run_is_judged_in_the_transaction_that_ends_it(self, engine: Engine, submit, ste: Rule) -> None:
        bugs.apply(engine, ste, "")
        bf16, mxfp4 = submit().all
        finish(engine, bf16, facts=RIGHT)
        finish(engine, mxfp4, facts=WRONG)
        assert (validity(engine, bf16), validity(engine, mxfp4)) == ("valid", "affected")
        (mark,) = found(engine, mxfp4).marks
        assert mark.facts[-1] == "evidence gradient_probe.used_unquantised is 1"
        assert (mark.state, mark.effect, mark.rule_version) == ("affected", "invalid", 1)

    def test_a_rule_that_comes_between_reading_and_ending_is_not_missed(
        self, engine: Engine, submit, ste: Rule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_id = submit().all[1]
        original, calls = bugs.rules, []

        def late(*arguments: Any) -> Any:
            result = original(*arguments)
            if not calls:  # after the rules were read, before the run is ended by them
                calls.append(1)
                bugs.apply(engine, ste, "")
            return result

        monkeypatch.setattr(bugs, "rules", late)
        finish(engine, run_id, facts=WRONG)
        assert calls
        assert validity(engine, run_id) == "affected"

    def test_a_run_that_ends_while_a_rule_is_applied_is_not_missed(
        self, engine: Engine, submit, ste: Rule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other = submit().all
        finish(engine, one, facts=WRONG)
        original, calls = bugs.check, []

        def late(*arguments: Any) -> Any:
            result = original(*arguments)
            if not calls:
                calls.append(1)
                finish(engine, other, facts=WRONG)
            return result

        monkeypatch.setattr(bugs, "check", late)
        bugs.apply(engine, ste, "")
        assert calls
        assert validity(engine, other) == "affected"

    def test_amending_shows_the_difference_and_keeps_history(self, engine: Engine, submit, rule) -> None:
        text = """\
bug: grads
version: 1
title: t
found: 2026-01-12
status: confirmed
disposition: rerun
affects: {evidence: gradient_probe.relative_error, above: 0.1}
"""
        one, other = submit().all
        finish(engine, one, facts=[("gradient_probe", probe(0.2))])
        finish(engine, other, facts=[("gradient_probe", probe(0.05))])
        bugs.apply(engine, rule(text), "first")
        assert (validity(engine, one), validity(engine, other)) == ("affected", "valid")
        second = rule(text.replace("version: 1", "version: 2").replace("above: 0.1", "below: 0.1"))
        changes = bugs.changes(engine, bugs.check(engine, second))
        assert {(c.subject, c.before, c.after) for c in changes} == {
            (one, "affected", "withdrawn"), (other, None, "affected"),
        }  # fmt: skip
        assert validity(engine, one) == "affected"  # nothing is written yet
        bugs.apply(engine, second, "the other way round")
        assert (validity(engine, one), validity(engine, other)) == ("valid", "affected")
        history = bug_reads.mark_changes(engine, one)
        assert [(before, after, why) for _, _, before, after, _, why in history] == [
            (None, "affected", "first"), ("affected", "withdrawn", "the other way round"),
        ]  # fmt: skip
        assert [bug.version for bug in bug_reads.bug_versions(engine, "grads")] == [1, 2]
        with pytest.raises(SpecError, match="version 2 of this rule is applied already"):
            bugs.apply(engine, rule(text), "")
        with pytest.raises(SpecError, match="another text; raise the version"):
            bugs.apply(engine, rule(text.replace("version: 1", "version: 2")), "")

    def test_what_was_never_recorded_leaves_a_score_unverified(self, engine: Engine, submit, rule) -> None:
        run_id = submit().all[0]
        finish(engine, run_id)
        counts, _ = bugs.apply(
            engine,
            rule(
                "bug: u\nversion: 1\ntitle: t\nfound: 2026-01-12\nstatus: confirmed\ndisposition: rerun\n"
                "affects: {evidence: gradient_probe.count, below: 1}\n"
            ),
            "",
        )
        assert counts == {"unknown": 1}
        assert validity(engine, run_id) == "unverified"

    def test_a_waiver_lifts_a_mark_until_the_rule_no_longer_matches(self, engine: Engine, submit, ste: Rule) -> None:
        run_id = submit().all[1]
        finish(engine, run_id, facts=WRONG)
        bugs.apply(engine, ste, "")
        assert bug_writes.waive(engine, "ste-backward", [run_id], "somebody", "measured by hand") == [run_id]
        assert validity(engine, run_id) == "valid"
        bugs.apply(engine, ste, "")  # judging anew does not forget it
        assert validity(engine, run_id) == "valid"
        assert bug_writes.waive(engine, "ste-backward", [run_id], "somebody", "again") == []
        assert [after for _, _, _, after, by, _ in bug_reads.mark_changes(engine, run_id) if by == "somebody"] == [
            "waived"
        ]

    def test_a_retracted_bug_leaves_scores_valid_and_its_history_on_record(
        self, engine: Engine, submit, ste: Rule, rule
    ) -> None:
        run_id = submit().all[1]
        finish(engine, run_id, facts=WRONG)
        bugs.apply(engine, ste, "")
        bugs.apply(engine, rule(with_status(ste.text, "disputed", 2)), "is it?")
        assert validity(engine, run_id) == "affected"  # a doubt heals nothing
        bugs.apply(engine, rule(with_status(ste.text, "retracted", 3)), "the counter lied")
        assert validity(engine, run_id) == "valid"
        assert [after for _, _, _, after, _, _ in bug_reads.mark_changes(engine, run_id)] == [
            "affected", "affected", "withdrawn",
        ]  # fmt: skip

    def test_runs_that_ended_before_there_were_facts_are_judged_from_their_evidence(
        self, engine: Engine, submit, ste: Rule
    ) -> None:
        run_id = submit().all[1]
        finish(engine, run_id, facts=WRONG)
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM facts")
        assert [one.subject for one in bugs.check(engine, ste).of("match")] == [run_id]
        assert list(bug_reads.facts(engine)) == []  # a check writes nothing
        bugs.apply(engine, ste, "")
        assert [facts.subject for facts in bug_reads.facts(engine)] == [run_id]

    def test_two_conditions_with_the_same_answers_are_found_and_one_condition_twice_is_not(
        self, engine: Engine, submit
    ) -> None:
        rule = load_rule(shipped_rules()["same-answers-as-another"])
        one, other = submit().all
        finish(engine, one, right=7)
        assert bugs.apply(engine, rule, "")[0] == {}
        finish(engine, other, right=7)  # judged as it ends
        assert validity(engine, other) == "unverified"
        assert validity(engine, one) == "valid"  # it ended before there was anything to compare with
        assert bugs.apply(engine, rule, "")[0] == {"affected": 2}
        repeat = submit(again=True).all[0]
        finish(engine, repeat, right=9)
        again = submit(again=True).all[0]
        finish(engine, again, right=9)
        assert {validity(engine, run) for run in (repeat, again)} == {"valid"}


class TestReplacements:
    def test_what_is_affected_is_run_again_once_and_superseded(
        self, engine: Engine, submit, ste: Rule, new_code
    ) -> None:
        bf16, mxfp4 = submit().all
        with_old = {run: found(engine, run) for run in (bf16, mxfp4)}
        finish(engine, bf16, facts=RIGHT)
        finish(engine, mxfp4, facts=WRONG)
        bugs.apply(engine, ste, "")
        new_code()
        bug = bug_reads.bugs(engine)[0]
        wanted = replacements(engine, bug)
        assert [(one.subject, one.problem, one.wanted) for one in wanted] == [(mxfp4, None, True)]
        made = make(engine, bug, wanted, priority=5)
        assert list(made) == [mxfp4]
        new = found(engine, made[mxfp4])
        old = with_old[mxfp4]
        assert (new.condition_id, new.seed, new.label, new.sweeps) == (
            old.condition_id,
            old.seed,
            old.label,
            old.sweeps,
        )
        assert (new.code_version, new.state, new.priority) == ("newer0000000", "queued", 5)
        assert new.plan == old.plan
        assert make(engine, bug, wanted, priority=5) == {}  # once
        assert [one.exists for one in replacements(engine, bug)] == [new.id]
        assert validity(engine, mxfp4) == "affected"  # until the replacement is PROVEN

        finish(engine, new.id, facts=RIGHT)
        assert (validity(engine, mxfp4), validity(engine, new.id)) == ("superseded", "valid")
        (mark,) = found(engine, mxfp4).marks
        assert (mark.state, mark.replacement) == ("resolved", new.id)
        assert replacements(engine, bug) == []
        assert run_as_json(found(engine, mxfp4))["superseded_by"] == new.id
        assert run_as_json(found(engine, new.id))["supersedes"] == mxfp4
        assert submit().all == (bf16, new.id)  # and a sweep takes the replacement

    def test_a_replacement_that_is_refuted_replaces_nothing(self, engine: Engine, submit, ste: Rule, new_code) -> None:
        mxfp4 = submit().all[1]
        finish(engine, mxfp4, facts=WRONG)
        bugs.apply(engine, ste, "")
        new_code()
        bug = bug_reads.bugs(engine)[0]
        made = make(engine, bug, replacements(engine, bug), 0)
        finish(engine, made[mxfp4], "REFUTED", facts=WRONG)
        assert validity(engine, mxfp4) == "affected"
        problems = {one.subject: one.problem for one in replacements(engine, bug)}
        assert "came out REFUTED with this code: as the test wants" in str(problems[mxfp4])
        assert "the version that it ran with" in str(problems[made[mxfp4]])

    def test_a_replacement_with_the_same_bug_resolves_nothing(
        self, engine: Engine, submit, ste: Rule, new_code
    ) -> None:
        mxfp4 = submit().all[1]
        finish(engine, mxfp4, facts=WRONG)
        bugs.apply(engine, ste, "")
        new_code()
        bug = bug_reads.bugs(engine)[0]
        made = make(engine, bug, replacements(engine, bug), 0)
        finish(engine, made[mxfp4], "PROVEN", facts=WRONG)
        assert {validity(engine, run) for run in (mxfp4, made[mxfp4])} == {"affected"}

    def test_without_new_code_there_is_nothing_to_run_again(self, engine: Engine, submit, ste: Rule) -> None:
        mxfp4 = submit().all[1]
        finish(engine, mxfp4, facts=WRONG)
        bugs.apply(engine, ste, "")
        bug = bug_reads.bugs(engine)[0]
        (one,) = replacements(engine, bug)
        assert "nothing would change" in str(one.problem)
        assert make(engine, bug, [one], 0) == {}

    def test_claims_say_why_they_cannot_be_run_here(self, engine: Engine, ste: Rule) -> None:
        import_history(engine, SEED)
        bugs.apply(engine, ste, "")
        found = replacements(engine, bug_reads.bugs(engine)[0])
        assert {one.label for one in found} == VICTIMS
        assert all(one.problem and "rollout: vllm" in one.problem for one in found)
        assert all(one.note == "its seed was not told; 1 is taken" for one in found)

    def test_a_claim_of_the_embedded_task_is_rerun_and_superseded(
        self, engine: Engine, ste: Rule, tmp_path: Path
    ) -> None:
        (tmp_path / "sweep.yaml").write_text(SWEEP)
        history = tmp_path / "h.yaml"
        history.write_text(
            "history: h\nrecorded: 2026-01-12\nquestions: 500\nruns:\n"
            "  - {label: b, condition: sweep.yaml, said: [{place: table, score: 57.8}]}\n"
        )
        import_history(engine, history)
        bugs.apply(engine, ste, "")
        bug = bug_reads.bugs(engine)[0]
        (one,) = replacements(engine, bug, seed=7)
        assert one.problem is None
        made = make(engine, bug, [one], 0)
        run = found(engine, made[one.subject])
        assert (run.seed, run.label, run.total_steps, run.score_rule["rule"]) == (7, "b", 4, "final")
        finish(engine, run.id, facts=RIGHT)
        claim = bug_reads.claim(engine, one.subject)
        assert claim is not None
        assert (claim.validity, found(engine, run.id).validity) == ("superseded", "valid")

    def test_a_budget_bears_so_many(self, engine: Engine, submit, ste: Rule, new_code) -> None:
        mxfp4 = submit().all[1]
        finish(engine, mxfp4, facts=WRONG)
        bugs.apply(engine, ste, "")
        new_code()
        (one,) = replacements(engine, bug_reads.bugs(engine)[0], gpu_hours=1.0)
        assert "its price is unknown" in str(one.problem)

    def test_only_marks_of_the_evaluation_are_resolved_by_a_new_one(self, engine: Engine, submit, rule) -> None:
        noisy = load_rule(shipped_rules()["eval-void"])
        run_id = submit().all[0]
        still = {"export": 4, "block_linears": 0.1, "adapters": 0.0, "other": 0.0}
        finish(engine, run_id, facts=[("moved", still)], right=4, at_start=4)
        bugs.apply(engine, noisy, "")
        assert validity(engine, run_id) == "affected"
        new = writes.NewRun(
            kind="eval", label="again", condition_id=found(engine, run_id).condition_id,
            condition=found(engine, run_id).condition, seed=1, gpus=1,
            plan={"total_steps": 4, "steps_per_epoch": 4, "eval_steps": [4], "mode": "native"},
        )  # fmt: skip
        rule_of_score = {"rule": "final", "mode": "native"}
        again = writes.evaluation(engine, new, run_id, None, rule_of_score, "code", 2, 0)
        assert validity(engine, again) == "affected" or found(engine, again).verdict is None
        finish(engine, again, right=9)
        assert (validity(engine, run_id), validity(engine, again)) == ("superseded", "valid")
        assert found(engine, run_id).superseded_by == again


def test_shipped_rules_leave_a_clean_run_alone(engine: Engine, submit) -> None:
    """The facts of a run as they should be: no rule is affected by them."""
    run_id = submit().all[1]
    finish(engine, run_id, facts=[*RIGHT, ("sync", sync(0.0, 0.0))])
    for name, path in shipped_rules().items():
        assert bugs.check(engine, load_rule(path)).of("match") == [] or name == "checkpoint-missing"


def test_a_registry_can_be_copied_and_audited(engine: Engine, tmp_path: Path) -> None:
    copy = tmp_path / "aqn.yaml"
    shutil.copy(SEED, copy)
    import_history(engine, copy)
    assert {c.history for c in contradictions(engine, "aqn-2026-01")} == {"aqn-2026-01"}
    assert contradictions(engine, "another") == []
