"""Invalidation is total: whatever is marked, waived, amended, retracted, rerun and re-evaluated, and in whatever order, no
list, score, comparison, plan or export takes a run for valid that a simple model of the rules says is not."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rich.console import Console

from db import bug_reads, bug_writes, reads, submissions
from db.engine import open_registry
from db.records import Run
from experiment_specs.bug_rules import rule_from_text, with_status
from experiment_specs.load import load_sweep
from orchestrator.bugs import engine as bugs
from orchestrator.bugs import rerun as reruns
from orchestrator.cli.render import results_table, runs_table
from orchestrator.comparison import declared, evaluations_for
from orchestrator.frames import chosen
from orchestrator.history import scatter
from orchestrator.mlflow_projector import _tags
from orchestrator.plan import make_plan
from orchestrator.report.document import Table
from orchestrator.report.gather import gather
from orchestrator.report.run_sections import complete
from orchestrator.runs_json import run_as_json
from orchestrator.scores import arms
from orchestrator.submit import submission
from tests.registry_tools import finish, probe, sync
from workers import launch

pytestmark = pytest.mark.timeout(1800)  # a search at random takes its time

SPEC = """\
sweep: random
base: bases/tiny-cpu.yaml
set: {steps_per_epoch: 4, eval: {every: 2}, aqn: standard}
axes: {dtype: [bf16, mxfp4]}
contrasts: {4-bit-costs: {vary: dtype, from: bf16, to: mxfp4}}
"""
RULES = {
    "grads": "{evidence: gradient_probe.relative_error, above: 0.1}",
    "inert": "{evidence: aqn.largest_sigma_realised, at_most: 0, if_never_recorded: clean}",
}
HEADER = "version: {version}\ntitle: t\nfound: 2026-01-12\nstatus: {status}\ndisposition: rerun\naffects: {affects}\n"
SPOILT = st.sets(st.sampled_from(sorted(RULES)))


@dataclass
class Known:
    """What the model knows of a run: which bugs it really has, what was decided about it."""

    verdict: str
    has: frozenset[str]
    condition: str
    waived: set[str] = field(default_factory=set)
    replaces: str | None = None


class Invalidation(RuleBasedStateMachine):
    """The registry on one side, a dictionary on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = open_registry(f"sqlite:///{self.folder.name}/registry.db")
        path = Path(self.folder.name) / "sweep.yaml"
        path.write_text(SPEC)
        self.sweep = submission(make_plan(load_sweep(path)))
        self.versions: dict[str, tuple[int, str]] = {}
        self.known: dict[str, Known] = {}
        self.evaluations: dict[str, str] = {}
        self.codes = itertools.count(1)

    def teardown(self) -> None:
        self._report()
        self.close()

    def close(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    # ------------------------------------------------------------------------------------------------ what happens

    @rule(has=SPOILT, verdict=st.sampled_from(["PROVEN", "PROVEN", "REFUTED"]), again=st.booleans())
    def submit_and_finish(self, has: set[str], verdict: str, again: bool) -> None:
        self._advance()
        done = submissions.submit(self.engine, replace(self.sweep, code_version=self.code), again=again)
        for run_id in done.existing:  # what a sweep takes over is valid, or at least not known to be bad
            assert self.known[run_id].verdict != "PROVEN" or self.expected(run_id) == "valid"
        for run_id in done.created:
            self._finish(run_id, has, verdict)

    @rule(bug=st.sampled_from(sorted(RULES)), status=st.sampled_from(["confirmed", "disputed", "fixed"]))
    def apply_or_amend(self, bug: str, status: str) -> None:
        version = self.versions.get(bug, (0, ""))[0] + 1
        self._apply(bug, version, status)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def retract(self, data: st.DataObject) -> None:
        bug = data.draw(st.sampled_from(sorted(self.versions)))
        known = next(b for b in bug_reads.bugs(self.engine) if b.bug == bug)
        text = with_status(known.text, "retracted", known.version + 1)
        bugs.apply(self.engine, self._parsed(text), "it was none")
        self.versions[bug] = (known.version + 1, "retracted")

    @precondition(lambda self: self.known and self.versions)
    @rule(data=st.data())
    def waive(self, data: st.DataObject) -> None:
        bug = data.draw(st.sampled_from(sorted(self.versions)))
        run_id = data.draw(st.sampled_from(list(self.known)))  # in order of making: ids are random
        done = bug_writes.waive(self.engine, bug, [run_id], "x", "it does not count")
        if self._stand_in(run_id):  # its mark may be resolved, or open because the stand-in has the bug too
            assert not done or self._counts(run_id, bug)
        else:
            assert bool(done) == self._counts(run_id, bug)
        if done:
            self.known[run_id].waived.add(bug)

    @precondition(lambda self: any(status != "retracted" for _, status in self.versions.values()))
    @rule(data=st.data(), has=SPOILT, verdict=st.sampled_from(["PROVEN", "PROVEN", "REFUTED"]))
    def rerun(self, data: st.DataObject, has: set[str], verdict: str) -> None:
        self._advance()
        name = data.draw(st.sampled_from(sorted(self.versions)))
        bug = next(b for b in bug_reads.bugs(self.engine) if b.bug == name)
        with CodeOf(self.code):
            wanted = reruns.replacements(self.engine, bug)
            affected = {r for r in self.known if self._counts(r, name) and not self._stand_in(r)}
            assert {one.subject for one in wanted if one.exists is None} == affected
            assert all(self._stand_in(one.subject) for one in wanted if one.exists is not None)
            made = reruns.make(self.engine, bug, wanted, 0)
            assert reruns.make(self.engine, bug, wanted, 0) == {}
        for old, new in made.items():
            self._finish(new, has, verdict, replaces=old)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), mode=st.sampled_from(["native", "unquantised"]))
    def evaluate_anew(self, data: st.DataObject, mode: str) -> None:
        """Its own verdict says that the right checkpoint was asked; whether that counts follows its training."""
        run = reads.runs(self.engine, ids=[data.draw(st.sampled_from(list(self.known)))])[0]
        plan = {"total_steps": 4, "steps_per_epoch": 4, "eval_steps": [4], "mode": mode,
                "source": {"run": run.id, "step": 4}}  # fmt: skip
        new = submissions.NewRun(f"{run.label}, {mode}", run.condition_id, run.condition, 1, plan, 1, kind="eval")
        again = submissions.evaluation(self.engine, new, run.id, None, "code", 2, 0)
        finish(self.engine, again)
        self.evaluations[again] = run.id

    # ------------------------------------------------------------------------------------------------ the model

    def _advance(self) -> None:
        self.code = f"code{next(self.codes)}"

    def _finish(self, run_id: str, has: set[str], verdict: str, replaces: str | None = None) -> None:
        facts: list[tuple[str, dict[str, Any]]] = [("gradient_probe", probe(0.2 if "grads" in has else 1e-7))]
        facts.append(("sync", sync(0.01, 0.0 if "inert" in has else 0.01)))
        finish(self.engine, run_id, verdict, facts=facts)
        run = reads.runs(self.engine, ids=[run_id])[0]
        self.known[run_id] = Known(verdict, frozenset(has), run.condition_id, replaces=replaces)

    def _apply(self, bug: str, version: int, status: str) -> None:
        text = f"bug: {bug}\n" + HEADER.format(version=version, status=status, affects=RULES[bug])
        bugs.apply(self.engine, self._parsed(text), "found")
        self.versions[bug] = (version, status)

    def _parsed(self, text: str) -> Any:
        return rule_from_text(text, Path(self.folder.name) / "rule.yaml")

    def _counts(self, run_id: str, bug: str) -> bool:
        run = self.known[run_id]
        standing = bug in self.versions and self.versions[bug][1] != "retracted"
        return standing and bug in run.has and bug not in run.waived

    def _stand_in(self, run_id: str) -> bool:
        return any(run.replaces == run_id and run.verdict == "PROVEN" for run in self.known.values())

    def expected(self, run_id: str) -> str:
        """What the run should be, but for which of two words says that it is not valid."""
        run = self.known[run_id]
        if self._stand_in(run_id) or any(self._counts(run_id, bug) for bug in self.versions):
            return "not valid"
        return "valid" if run.verdict == "PROVEN" else "not valid"

    # ------------------------------------------------------------------------------------------------ what must hold

    @invariant()
    def no_view_takes_an_invalid_run_for_valid(self) -> None:
        runs = reads.runs(self.engine)
        assert {run.id for run in runs} == set(self.known)
        for run in runs:
            wanted = self.expected(run.id) == "valid"
            assert run.valid == wanted, (run.id, run.validity, self.known[run.id], self.versions)
            shown = run_as_json(run)
            assert (shown["validity"] == "valid") == wanted
            assert (_tags(run)["score.valid"] == "true") == wanted
            if not wanted and run.verdict == "PROVEN":
                assert shown["superseded_by"] or any(mark["effect"] != "none" for mark in shown["bugs"])
                assert _tags(run)["superseded_by"] or _tags(run)["bugs"]
        for again in reads.runs(self.engine, ids=list(self.evaluations)):
            source = self.evaluations[again.id]
            wanted = not any(self._counts(source, bug) for bug in self.versions)
            assert again.valid == wanted, (again.id, source, self.known[source], self.versions)
            assert (_tags(again)["score.valid"] == "true") == wanted
            assert run_as_json(again)["kind"] == "eval"
        self._tables(runs)
        self._spread(runs)
        self._compared(runs)

    def _tables(self, runs: list[Run]) -> None:
        """Scores that do not count are struck through, in both tables."""
        for table in (runs_table(runs, 80), results_table(runs)) if runs else ():
            console = Console(width=200, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115
            console.print(table)
            struck = console.export_text(styles=True).count("\x1b[2;9m")
            assert struck >= sum(not run.valid for run in runs)

    def _spread(self, runs: list[Run]) -> None:
        """The scatter from which a plan computes its power knows valid runs alone."""
        model = "tiny/qwen2"
        every = scatter(runs, model, "tiny/addition")
        assert every == scatter([run for run in runs if self.expected(run.id) == "valid"], model, "tiny/addition")

    def _compared(self, runs: list[Run]) -> None:
        """One valid run a condition and seed stands for it: in arms, declared contrasts and exports."""
        valid = {run.id for run in runs if self.expected(run.id) == "valid"}
        found = arms(runs, evaluations_for(self.engine, runs))
        counted = [scored for arm in found.values() for scored in arm.scored]
        assert {scored.by.id for scored in counted} <= valid
        assert {s.trained.condition_id for s in counted} == {r.condition_id for r in runs if r.id in valid}
        left_out = {out.run.id for arm in found.values() for out in arm.left_out}
        assert left_out | {scored.trained.id for scored in counted} == set(self.known)
        for contrast in declared(self.engine, "random"):
            for one in contrast.comparisons:
                assert {side.by.id for pair in one.pairs for side in (pair.first, pair.second)} <= valid
        assert {one.by for one in chosen(self.engine, sweep=None, everything=False)} == {s.by.id for s in counted}

    def _report(self) -> None:
        """What does not count is struck through in the table of all runs."""
        if not self.known:
            return
        table = complete(gather(self.engine)).blocks[0]
        assert isinstance(table, Table)
        for row in table.rows:
            assert row[4].struck == (self.expected(row[-1].text) != "valid")
        assert len(table.rows) == len(self.known)


class CodeOf:
    """The code version as the rerun engine sees it."""

    def __init__(self, version: str) -> None:
        self.version = version

    def __enter__(self) -> None:
        self.before = reruns.code_version
        reruns.code_version = lambda *_: replace(launch.code_version(), id=self.version)  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        reruns.code_version = self.before


Invalidation.TestCase.settings = settings(
    max_examples=settings().max_examples // 5, stateful_step_count=12, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
TestInvalidation = Invalidation.TestCase


def test_the_model_is_not_asleep(tmp_path: Path) -> None:
    """The machine notices a registry that forgets a mark."""
    machine = Invalidation()
    try:
        machine.submit_and_finish({"grads"}, "PROVEN", again=False)
        machine.apply_or_amend("grads", "confirmed")
        machine.no_view_takes_an_invalid_run_for_valid()
        with machine.engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM marks")
        try:
            machine.no_view_takes_an_invalid_run_for_valid()
        except AssertionError:
            return
        raise AssertionError("a forgotten mark was not noticed")
    finally:
        machine.close()
