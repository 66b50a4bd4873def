"""Bugs over a real registry, SQLite and PostgreSQL alike: claims, marks, replacements, and what they do to scores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db import bug_reads, bug_writes, reads, submissions, writes
from db.records import Bug, Run
from db.schema import EvidenceRow, FactsRow
from experiment_specs.bug_rules import FACTS, Rule, load_rule, rule_from_text, shipped_rules, with_status
from experiment_specs.errors import SpecError
from experiment_specs.presets import PACKAGE
from orchestrator.bugs import engine as bugs
from orchestrator.bugs.rerun import make, replacements
from orchestrator.claims import claims_as_json, contradictions
from orchestrator.importers.history import import_history
from orchestrator.runs_json import run_as_json
from orchestrator.verdict import Measured
from tests.integration.conftest import SWEEP
from tests.registry_tools import finish, probe, sync
from workers import launch

SEED = PACKAGE / "history" / "aqn_2026_01.yaml"
VICTIMS = {"E3a", "E3b", "E4a", "E4b", "E3a-2ep", "E3b-2ep"}
WRONG, RIGHT = [("gradient_probe", probe(0.2, 1e-7))], [("gradient_probe", probe(1e-7))]


@pytest.fixture
def engine(either_engine: Engine) -> Engine:
    """Overrides that of SQLite alone."""
    return either_engine


@pytest.fixture
def ste() -> Rule:
    return load_rule(shipped_rules()["ste-backward"])


@pytest.fixture
def rule(tmp_path: Path) -> Callable[[str], Rule]:
    def made(text: str) -> Rule:
        return rule_from_text(text, tmp_path / "rule.yaml")

    return made


@pytest.fixture
def new_code(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Once called, the code is of another version than that of the runs so far."""

    def advance(version: str = "newer0000000") -> None:
        new = replace(launch.code_version(), id=version)
        for module in ("orchestrator.bugs.rerun", "orchestrator.submit"):
            monkeypatch.setattr(f"{module}.code_version", lambda *_: new)

    return advance


def validity(engine: Engine, run_id: str) -> str:
    return reads.runs(engine, ids=[run_id])[0].validity


def found(engine: Engine, run_id: str) -> Run:
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

    def test_a_waiver_outlasts_retraction_and_revival_with_its_reason_and_can_be_taken_back(
        self, engine: Engine, submit, ste: Rule, rule
    ) -> None:
        run_id = submit().all[1]
        finish(engine, run_id, facts=WRONG)
        bugs.apply(engine, ste, "found")
        bug_writes.waive(engine, "ste-backward", [run_id], "somebody", "measured by hand")
        bugs.apply(engine, rule(with_status(ste.text, "retracted", 2)), "none")
        bugs.apply(engine, rule(with_status(ste.text, "confirmed", 3)), "one after all")
        (mark,) = found(engine, run_id).marks
        assert (mark.state, mark.by, mark.why, mark.rule_version) == ("waived", "somebody", "measured by hand", 3)
        assert validity(engine, run_id) == "valid"
        assert bug_writes.waive(engine, "ste-backward", [run_id], "x", "wrongly", undo=True) == [run_id]
        assert validity(engine, run_id) == "affected"

    def test_two_versions_applied_at_once_leave_the_later_one_standing(
        self, engine: Engine, submit, rule, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = "bug: u\nversion: 1\ntitle: t\nfound: 2026-01-12\nstatus: confirmed\ndisposition: rerun\n"
        first = rule(text + "affects: {evidence: gradient_probe.relative_error, above: 0.5}\n")
        second = rule(
            text.replace("version: 1", "version: 2")
            + "affects: {evidence: gradient_probe.relative_error, above: 0.1}\n"
        )
        run_id = submit().all[1]
        finish(engine, run_id, facts=WRONG)
        original, calls = bugs.check, []

        def late(*arguments: Any) -> Any:
            result = original(*arguments)
            if not calls:
                calls.append(1)
                bugs.apply(engine, second, "later")
            return result

        monkeypatch.setattr(bugs, "check", late)
        with pytest.raises(SpecError, match="version 2 of this rule is applied already"):
            bugs.apply(engine, first, "earlier")
        assert validity(engine, run_id) == "affected"

    def test_a_claim_that_changes_while_a_rule_is_applied_is_judged_as_it_is(
        self, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rule = load_rule(shipped_rules()["percentage-of-no-count"])
        import_history(engine, SEED)
        changed = tmp_path / "aqn.yaml"
        changed.write_text(SEED.read_text().replace("score: 68.23", "score: 68.24"))  # no k of 1319
        original, calls = bugs.check, []

        def late(*arguments: Any) -> Any:
            result = original(*arguments)
            if not calls:
                calls.append(1)
                import_history(engine, changed)
            return result

        monkeypatch.setattr(bugs, "check", late)
        bugs.apply(engine, rule, "")
        marked = {c.label for c in bug_reads.claims(engine) if c.marks}
        assert marked == {"E5c", "E5a-LoRA"}

    def test_lists_of_runs_mean_the_old_run_and_not_the_one_in_its_place(
        self, engine: Engine, submit, rule, new_code
    ) -> None:
        text = "bug: u\nversion: 1\ntitle: t\nfound: 2026-01-12\nstatus: confirmed\ndisposition: rerun\n"
        listed = rule(
            text + "affects: {record: kind, is: claim}\ninclude: [{run: a, because: seen}, {run: zz, because: x}]\n"
        )
        old = submit().all[0]
        finish(engine, old)
        assert bugs.check(engine, listed).idle == ("zz",)
        bugs.apply(engine, listed, "")
        new_code()
        bug = bug_reads.bugs(engine)[0]
        new = make(engine, bug, replacements(engine, bug), 0)[old]
        finish(engine, new)
        assert (validity(engine, old), validity(engine, new)) == ("superseded", "valid")
        bugs.apply(engine, listed, "")
        assert (validity(engine, old), validity(engine, new)) == ("superseded", "valid")

    def test_a_rule_that_nobody_can_read_any_more_stops_no_run_and_leaves_it_unverified(
        self, engine: Engine, submit, ste: Rule
    ) -> None:
        bugs.apply(engine, ste, "")
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE bugs SET text = 'of another version'")
        run_id = submit().all[0]
        finish(engine, run_id, facts=RIGHT)
        assert validity(engine, run_id) == "unverified"

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

    def test_a_run_that_was_cancelled_before_it_began_is_nobodys_victim(
        self, engine: Engine, submit, ste: Rule
    ) -> None:
        """Nothing of it was recorded, which this rule takes for a match; but nothing was computed either."""
        _, run_id = submit().all
        writes.cancel_queued(engine, run_id, "not wanted")
        assert found(engine, run_id).state == "cancelled"
        bugs.apply(engine, ste, "")
        assert found(engine, run_id).marks == ()

    def test_two_conditions_with_the_same_answers_are_found_and_one_condition_twice_is_not(
        self, engine: Engine, submit
    ) -> None:
        rule = load_rule(shipped_rules()["same-answers-as-another"])
        one, other = submit().all
        finish(engine, one, right=7)
        assert bugs.apply(engine, rule, "")[0] == {}
        finish(engine, other, right=7)  # judged as it ends
        assert {validity(engine, run) for run in (one, other)} == {"unverified"}  # and the one that ended before
        assert bugs.apply(engine, rule, "")[0] == {"affected": 2}
        repeat = submit(again=True).all[0]
        finish(engine, repeat, right=9)
        again = submit(again=True).all[0]
        finish(engine, again, right=9)
        assert {validity(engine, run) for run in (repeat, again)} == {"valid"}


class TestReplacements:
    @pytest.fixture
    def victim(self, engine: Engine, submit, ste: Rule, new_code) -> tuple[str, Bug]:
        """A run with wrong gradients, marked; and code of another version since."""
        run_id = str(submit().all[1])
        finish(engine, run_id, facts=WRONG)
        bugs.apply(engine, ste, "")
        new_code()
        return run_id, bug_reads.bugs(engine)[0]

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

    def test_a_replacement_that_is_refuted_replaces_nothing(self, engine: Engine, ste: Rule, victim) -> None:
        mxfp4, bug = victim
        made = make(engine, bug, replacements(engine, bug), 0)
        finish(engine, made[mxfp4], "REFUTED", facts=WRONG)
        assert validity(engine, mxfp4) == "affected"
        problems = {one.subject: one.problem for one in replacements(engine, bug)}
        assert "came out REFUTED with this code: as the test wants" in str(problems[mxfp4])
        assert "the version that it ran with" in str(problems[made[mxfp4]])

    def test_a_replacement_with_the_same_bug_resolves_nothing(self, engine: Engine, ste: Rule, victim) -> None:
        mxfp4, bug = victim
        made = make(engine, bug, replacements(engine, bug), 0)
        finish(engine, made[mxfp4], "PROVEN", facts=WRONG)
        assert {validity(engine, run) for run in (mxfp4, made[mxfp4])} == {"affected"}
        bugs.apply(engine, ste, "")  # nor when they are judged anew
        assert {mark.state for run in (mxfp4, made[mxfp4]) for mark in found(engine, run).marks} == {"affected"}

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

    def test_a_budget_bears_so_many(self, engine: Engine, ste: Rule, victim) -> None:
        _, bug = victim
        (one,) = replacements(engine, bug, gpu_hours=1.0)
        assert "its price is unknown" in str(one.problem)

    @pytest.fixture
    def void(self, engine: Engine, submit) -> str:
        """A run whose evaluation was void, marked so."""
        run_id = str(submit().all[0])
        still = {"export": 4, "block_linears": 0.1, "adapters": 0.0, "other": 0.0}
        finish(engine, run_id, facts=[("moved", still)], right=4, at_start=4)
        bugs.apply(engine, load_rule(shipped_rules()["eval-void"]), "")
        assert validity(engine, run_id) == "affected"
        return run_id

    def evaluated(self, engine: Engine, run_id: str, step: int = 4, mode: str = "native") -> str:
        run = found(engine, run_id)
        source = {"run": run_id, "step": step}
        plan = {"total_steps": step, "steps_per_epoch": step, "eval_steps": [step], "mode": mode, "source": source}
        new = submissions.NewRun(
            kind="eval",
            label="again",
            condition_id=run.condition_id,
            condition=run.condition,
            seed=1,
            gpus=1,
            plan=plan,
        )
        again = submissions.evaluation(engine, new, run_id, None, "code", 2, 0)
        finish(engine, again, right=9)
        return again

    def test_a_native_evaluation_of_the_last_checkpoint_resolves_marks_of_the_evaluation(
        self, engine: Engine, void: str
    ) -> None:
        assert validity(engine, self.evaluated(engine, void, mode="unquantised")) == "valid"
        assert validity(engine, void) == "affected"  # another mode is another score
        assert validity(engine, self.evaluated(engine, void, step=2)) == "valid"
        assert validity(engine, void) == "affected"  # an earlier step is another score
        again = self.evaluated(engine, void)
        assert (validity(engine, void), validity(engine, again)) == ("superseded", "valid")
        assert found(engine, void).superseded_by == again
        row = run_as_json(found(engine, again))
        assert (row["kind"], row["re_evaluates"], row["mode"]) == ("eval", void, "native")
        assert all(run.kind == "train" for run in reads.runs(engine))  # it is no second run of its condition

    def test_an_evaluation_stands_and_falls_with_its_training(self, engine: Engine, void: str, ste: Rule, rule) -> None:
        again = self.evaluated(engine, void)
        for disposition, effect in (("rerun", "match"), ("unverified", "match"), ("rerun", "unknown")):
            text = f"bug: b{disposition[:2]}{effect}\nversion: 1\ntitle: t\nfound: 2026-01-12\nstatus: confirmed\n"
            test = "{field: epochs, is: 1}" if effect == "match" else "{evidence: gradient_probe.count, below: 1}"
            bad = rule(f"{text}disposition: {disposition}\naffects: {test}\n")
            before = found(engine, again).mark_changes
            bugs.apply(engine, bad, "")
            assert validity(engine, again) == "affected"
            assert found(engine, again).mark_changes > before  # MLflow is told
            bugs.apply(engine, rule(with_status(bad.text, "retracted", 2)), "")
            assert validity(engine, again) == "valid"

    def test_an_evaluation_from_before_the_bug_was_known_mends_nothing(self, engine: Engine, submit, rule) -> None:
        run_id = str(submit().all[0])
        finish(engine, run_id)
        self.evaluated(engine, run_id)
        text = "bug: u\nversion: 1\ntitle: t\nfound: 2026-01-12\nstatus: confirmed\ndisposition: re-evaluate\n"
        bugs.apply(engine, rule(text + "affects: {field: epochs, is: 1}\n"), "the scorer was wrong")
        assert validity(engine, run_id) == "affected"
        self.evaluated(engine, run_id)
        assert validity(engine, run_id) == "superseded"

    def test_a_run_in_the_place_of_a_run_in_the_place_resolves_both(
        self, engine: Engine, submit, ste: Rule, new_code
    ) -> None:
        first = submit().all[1]
        finish(engine, first, facts=WRONG)
        bugs.apply(engine, ste, "")
        bug = bug_reads.bugs(engine)[0]
        new_code()
        second = make(engine, bug, replacements(engine, bug), 0)[first]
        finish(engine, second, facts=WRONG)  # PROVEN, and it has the bug
        assert {validity(engine, run) for run in (first, second)} == {"affected"}
        new_code("newest000000")
        third = make(engine, bug, replacements(engine, bug), 0)[second]
        finish(engine, third, facts=RIGHT)
        assert [validity(engine, run) for run in (first, second, third)] == ["superseded", "superseded", "valid"]
        bugs.apply(engine, ste, "")
        assert [validity(engine, run) for run in (first, second, third)] == ["superseded", "superseded", "valid"]
        assert replacements(engine, bug) == []

    def test_a_disposition_that_becomes_rerun_asks_for_a_rerun(self, engine: Engine, void: str, rule) -> None:
        self.evaluated(engine, void)
        text = (PACKAGE / "bugs" / "eval-void.yaml").read_text()
        worse = text.replace("version: 1", "version: 2").replace("disposition: re-evaluate", "disposition: rerun")
        bugs.apply(engine, rule(worse), "the training was void too")
        assert validity(engine, void) == "affected"
        assert [one.subject for one in replacements(engine, bug_reads.bugs(engine)[0])] == [void]

    def test_a_bug_of_the_evaluation_is_mended_by_evaluations_made_once(
        self, engine: Engine, void: str, tmp_path: Path
    ) -> None:
        bug = bug_reads.bugs(engine)[0]
        (one,) = replacements(engine, bug)
        assert "no checkpoint" in str(one.problem)
        attempt = found(engine, void).attempts[-1]
        folder = tmp_path / "global_step_4"
        folder.mkdir()
        with Session(engine) as session, session.begin():
            data = {"step": 4, "path": str(folder), "files": {}}
            session.add(EvidenceRow(attempt_id=attempt.id, seq=99, kind="checkpoint", data=data, at=1.0))
        wanted = replacements(engine, bug)
        made = make(engine, bug, wanted, 0)
        run = found(engine, made[void])
        assert (run.kind, run.plan["mode"], run.plan["source"]["step"]) == ("eval", "native", 4)
        assert make(engine, bug, wanted, 0) == {}
        assert [one.exists for one in replacements(engine, bug)] == [run.id]
        finish(engine, run.id, right=9)
        assert validity(engine, void) == "superseded"


class TestFacts:
    """What the rules ask is what happened."""

    @pytest.fixture
    def answer(self, engine: Engine) -> Callable[[str, str], str]:
        def answered(rule: str, run_id: str) -> str:
            checked = bugs.check(engine, load_rule(shipped_rules()[rule])).found
            return next(one.finding.answer for one in checked if one.subject == run_id)

        return answered

    def test_a_missing_final_evaluation_is_found_and_a_best_score_is_none(self, engine: Engine, submit, answer) -> None:
        run_id = submit().all[0]
        steps = [("step", {"step": 4}), ("planned", {"total_steps": 4})]
        finish(engine, run_id, facts=[*steps], last=2)
        assert found(engine, run_id).score is None
        with Session(engine) as session, session.begin():
            row = session.get_one(FactsRow, run_id)
            row.body = {**row.body, "evidence": {**row.body["evidence"], "steps.executed_share": 1.0}}
        assert answer("missing-final-eval", run_id) == "match"
        best = submit(SWEEP.replace("sweep: light", "sweep: best\nscore: {rule: best}")).all[0]
        finish(engine, best, right=3, at_start=5)
        assert answer("missing-final-eval", best) == "clean"
        assert answer("best-of-many", best) == "match"

    def test_noise_left_on_where_none_was_planned_is_found(self, engine: Engine, submit, answer) -> None:
        run_id = submit().all[0]
        finish(engine, run_id, facts=[("eval_mode", {"realised": {"std": 0.02}, "watched": 2, "on_grid": 2})])
        assert answer("noise-in-validation", run_id) == "match"

    def test_merged_adapters_are_on_no_grid_and_that_is_right(self, engine: Engine, submit, answer) -> None:
        merged = SWEEP.replace("eval: {every: 2}", "eval: {every: 2}, lora: {preset: r32, sync: merged}")
        run_id = submit(merged).all[1]
        finish(engine, run_id, facts=[("eval_mode", {"realised": {"std": 0.0}, "watched": 2, "on_grid": 0})])
        assert answer("eval-in-16-bit", run_id) == "unknown"
        plain = submit().all[1]
        finish(engine, plain, facts=[("eval_mode", {"realised": {"std": 0.0}, "watched": 2, "on_grid": 0})])
        assert answer("eval-in-16-bit", plain) == "match"

    def test_answers_that_are_all_wrong_twice_are_no_void_evaluation(self, engine: Engine, submit, answer) -> None:
        run_id = submit().all[0]
        still = {"export": 4, "block_linears": 0.1, "adapters": 0.0, "other": 0.0}
        finish(engine, run_id, facts=[("moved", still)], right=0, at_start=0)
        assert answer("eval-void", run_id) == "clean"

    def test_hardware_errors_that_are_missing_in_one_phase_are_found(self, engine: Engine, submit, answer) -> None:
        noisy = SWEEP.replace("eval: {every: 2}", "eval: {every: 2}, hw_noise: matmul-5pct")
        run_id = submit(noisy).all[0]
        ops = [
            ("noisy_ops", {"by": "policy", "phase": phase, "step": 1, "ops": {"linear": {"relative_std": error}}})
            for phase, error in (("train", 0.05), ("rollout", 0.0))
        ]
        finish(engine, run_id, facts=ops)
        assert answer("hw-noise-inert", run_id) == "match"

    def test_twins_are_found_among_runs_whose_facts_were_not_recorded_yet(self, engine: Engine, submit, answer) -> None:
        one, other = submit().all
        finish(engine, one, right=7)
        finish(engine, other, right=7)
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM facts")
        assert {answer("same-answers-as-another", run) for run in (one, other)} == {"match"}

    def test_lists_of_labels_count_when_a_twin_ends_too(self, engine: Engine, submit, rule) -> None:
        text = (PACKAGE / "bugs" / "same-answers-as-another.yaml").read_text()
        bugs.apply(engine, rule(text + "except: [{run: a, because: known to be alike}]\n"), "")
        one, other = submit().all
        finish(engine, one, right=7)
        finish(engine, other, right=7)
        assert (validity(engine, one), validity(engine, other)) == ("valid", "unverified")

    @pytest.mark.parametrize(
        "strange",
        [
            [("started", {"code": "abc"})],
            [("checkpoint", {"step": 4, "files": ["a"]})],
            [("sync", {"step": 0})],
            [("noisy_ops", {"ops": 3})],
        ],
        ids=["code", "checkpoint", "sync", "ops"],
    )
    def test_evidence_that_cannot_be_understood_stops_nobody(
        self, engine: Engine, submit, ste: Rule, strange: list[tuple[str, dict[str, Any]]]
    ) -> None:
        """Neither the run that ends, nor, made anew, the check of any rule."""
        bugs.apply(engine, ste, "")
        run_id = submit().all[1]
        finish(engine, run_id, facts=strange)
        assert found(engine, run_id).state == "succeeded"
        assert validity(engine, run_id) in ("unverified", "affected")
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM facts")
        assert [one.subject for one in bugs.check(engine, ste).found] == [run_id]

    def test_every_fact_that_a_rule_may_ask_for_is_made_by_somebody_and_none_has_another_name(
        self, engine: Engine, submit
    ) -> None:
        still = {"export": 4, "block_linears": 0.1, "adapters": 0.0, "other": 0.0}
        everything: list[tuple[str, dict[str, Any]]] = [
            *RIGHT,
            ("started", {"plugins": ["p"], "code": {"id": "c", "commit": None}}),
            ("planned", {"total_steps": 4}),
            ("quantised", {"role": "policy", "quantised": ["model.layers.0.mlp.up_proj"]}),
            ("sync", sync(0.01, 0.01)),
            ("eval_mode", {"realised": {"std": 0.0}, "watched": 2, "on_grid": 2}),
            ("noisy_ops", {"phase": "train", "ops": {"linear": {"relative_std": 0.05}}}),
            ("moved", still),
            ("checkpoint", {"step": 4, "files": {"model.pt": "abc"}}),
        ]
        run_id = submit(SWEEP.replace("eval: {every: 2}", "eval: {every: 2}, hw_noise: matmul-5pct")).all[0]
        finish(engine, run_id, facts=everything)
        measured = [Measured(kind, data) for kind, data in everything]
        measured.append(Measured("step", {"step": 4, "trajectories": 128}))
        made = bugs.facts_for(engine, found(engine, run_id), "succeeded", "PROVEN", measured).body
        for source, names in FACTS.items():
            if source != "field":
                known = {name for name in names if not name.endswith("_twins")}
                assert set(made[source]) == known, source

    def test_what_is_recorded_at_the_end_is_what_is_made_anew(self, engine: Engine, submit) -> None:
        for text in (SWEEP, SWEEP.replace("sweep: light", "sweep: best\nscore: {rule: best}")):
            run_id = submit(text).all[0]
            finish(engine, run_id, facts=RIGHT)
            (recorded,) = bug_reads.facts(engine, [run_id])
            with engine.begin() as connection:
                connection.exec_driver_sql("DELETE FROM facts")
            check = bugs.check(engine, load_rule(shipped_rules()["ste-backward"]))
            anew = next(facts for facts in check.new_facts if facts.subject == run_id)
            assert anew == recorded


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
