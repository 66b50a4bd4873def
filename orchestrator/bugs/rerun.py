"""Which marked runs can be replaced, by what, at what price; and their replacements, made once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine

from db import bug_reads, reads, submissions
from db.records import Bug, Claim, Run
from db.submissions import NewRun
from experiment_specs.bug_rules import Point
from experiment_specs.errors import SpecError
from experiment_specs.language import CONDITION_SCHEMA, Checkpoints, Condition, ScoreRule, scan_of
from orchestrator.bugs.engine import ROOT, contains, parsed
from orchestrator.evaluation import order, score_rule
from orchestrator.history import history, pasts
from orchestrator.price import Past, price
from orchestrator.steps import plan_steps
from orchestrator.submit import scan_run
from workers.launch import CodeVersion, code_version, unsupported


@dataclass(frozen=True)
class Replacement:
    """What would be done about one marked run or claim.

    ``exists``: the run that replaces it already, or is about to. ``problem``: why it cannot be rerun. Otherwise
    ``new`` is the run that would be made.
    """

    subject: str
    label: str
    new: NewRun | None
    score_rule: dict[str, Any]
    waits_for: str | None = None
    exists: str | None = None
    problem: str | None = None
    note: str | None = None
    gpu_hours: float | None = None

    @property
    def wanted(self) -> bool:
        return self.new is not None and self.exists is None and self.problem is None


def replacements(engine: Engine, bug: Bug, *, seed: int = 1, gpu_hours: float | None = None) -> list[Replacement]:
    """What to do about everything that ``bug`` affects, in the order of the runs' labels. Writes nothing.

    A bug of the evaluation (disposition re-evaluate) is mended by evaluating checkpoints anew, others by training.
    ``seed``: for claims, whose seed nobody told. ``gpu_hours``: what may be spent; the rest says so.
    """
    marked = [m.subject for m in bug_reads.marks(engine, bug.bug).values() if m.state == "affected"]
    runs = {run.id: run for run in reads.runs(engine, ids=marked)}
    claims = {claim.id: claim for claim in bug_reads.claims(engine, ids=marked)}
    conditions = reads.conditions(engine, [c.condition_id for c in claims.values() if c.condition_id])
    again = bug.disposition == "re-evaluate"
    made = bug_reads.reruns(engine, marked, "re-evaluation-of" if again else "supersedes")
    past = pasts(engine, history(engine))
    code = code_version()
    lacks = _lacks_the_fix(bug, code)
    found = []
    for subject in marked:
        if subject in runs:
            one = _of_checkpoint(engine, runs[subject]) if again else _of_run(runs[subject], code)
        elif subject in claims and again:
            one = Replacement(subject, claims[subject].label, None, {}, problem="a claim has no checkpoint")
        elif subject in claims:
            one = _of_claim(claims[subject], conditions, seed)
        else:
            continue
        earlier = made.get(subject, ())
        if again and subject in runs:
            of_score = {r.id for r in reads.runs(engine, ids=[run_id for run_id, *_ in earlier])
                        if r.plan["source"]["step"] == runs[subject].total_steps}  # fmt: skip
            earlier = [one_made for one_made in earlier if one_made[0] in of_score]
        one = _as_made(engine, one, earlier, code)
        if one.wanted and lacks:
            one = replace(one, problem=lacks)
        found.append(_priced(one, past))
    found.sort(key=lambda r: (r.label, r.subject))
    return _within(found, gpu_hours)


def _of_run(run: Run, code: CodeVersion) -> Replacement:
    base = Replacement(run.id, run.label, None, run.score_rule)
    condition = _valid(run.condition)
    if condition is None:
        return replace(base, problem="its condition is of a language that this version does not read")
    if run.superseded_by is not None:
        return replace(base, exists=run.superseded_by)
    new = _new_run(run.label, condition, run.seed, run.plan, run.gpus, run.overrides)
    if run.code_version == code.id:
        same = f"the code is the version that it ran with ({code.id}): nothing would change"
        return replace(base, new=new, problem=same)
    return replace(base, new=new, problem=_cannot(condition))


def _of_checkpoint(engine: Engine, run: Run) -> Replacement:
    """Its last checkpoint in the mode of its own scores."""
    base = Replacement(run.id, run.label, None, score_rule("native"), run.waits_for)
    try:
        return replace(base, new=order(engine, run, "native", run.total_steps))
    except SpecError as error:
        return replace(base, problem=error.problem)
    except ValidationError:
        return replace(base, problem="its condition is of a language that this version does not read")


def _of_claim(claim: Claim, conditions: dict[str, dict[str, Any]], seed: int) -> Replacement:
    base = Replacement(claim.id, claim.label, None, ScoreRule().model_dump(mode="json"))
    body = conditions.get(claim.condition_id or "")
    condition = _valid(body) if body is not None else None
    if condition is None:
        return replace(base, problem="nobody wrote down its condition")
    steps = plan_steps(condition)
    how = claim.body.get("resources", {})
    kept = Checkpoints(keep=how.get("keep", "last"))
    plan = {
        "total_steps": steps.total, "steps_per_epoch": steps.per_epoch, "eval_steps": list(steps.evals),
        "keep": kept.keep, "save_every": kept.steps_between(condition.eval.every),
    }  # fmt: skip
    new = _new_run(claim.label, condition, seed, plan, int(how.get("gpus", 1)), how.get("overrides", {}))
    note = f"its seed was not told; {seed} is taken"
    return replace(base, new=new, problem=_cannot(condition), note=note)


def _valid(condition: dict[str, Any]) -> Condition | None:
    try:
        return Condition.model_validate(condition, strict=False)
    except ValidationError:
        return None


def _new_run(  # noqa: PLR0917 - a run's parts
    label: str, condition: Condition, seed: int, plan: dict[str, Any], gpus: int, overrides: dict[str, Any]
) -> NewRun:
    scan = scan_of(condition)
    return NewRun(
        label=label, condition_id=condition.id, condition=condition.model_dump(mode="json"), seed=seed, plan=plan,
        gpus=gpus, overrides=overrides, needs=scan_run(scan) if scan is not None else None,
    )  # fmt: skip


def _cannot(condition: Condition) -> str | None:
    if missing := unsupported(condition):
        return "; ".join(missing)
    for path in dict.fromkeys((condition.data.train, condition.data.test)):
        if not path.startswith("tiny/") and not Path(path).is_file():
            return f"no such file, seen from {Path.cwd()}: {path}; `aqn data prepare` makes it"
    return None


def _as_made(
    engine: Engine, one: Replacement, made: Sequence[tuple[str, str, str | None]], code: CodeVersion
) -> Replacement:
    """What earlier calls made of it: a run that is under way or PROVEN is not made twice; a refuted one says so."""
    for run_id, state, verdict in made:
        if state in ("queued", "running") or verdict == "PROVEN":
            return replace(one, exists=run_id)
    if made and one.wanted:
        run_id, state, verdict = made[-1]
        last = reads.runs(engine, ids=[run_id])[0]
        if last.code_version == code.id and state == "succeeded":
            why = "; ".join(last.reasons)
            return replace(one, problem=f"its replacement {run_id} came out {verdict} with this code: {why}")
    return one


def _lacks_the_fix(bug: Bug, code: CodeVersion) -> str | None:
    """Why this checkout would only repeat the bug; None where nothing says so."""
    point: Point = parsed(bug.text).header.fixed_in
    if point.commit is None or code.commit is None or contains(code.commit, point.commit) is not False:
        return None
    return f"the checkout ({ROOT.name} at {code.commit[:12]}) does not contain the fix, {point.commit[:12]}"


def _priced(one: Replacement, past: Sequence[Past]) -> Replacement:
    if one.new is None or one.new.kind == "eval":
        return one
    condition = Condition.model_validate_json(json.dumps(one.new.condition))
    cost = price(condition, plan_steps(condition), 1, one.new.gpus, past)
    return replace(one, gpu_hours=cost.hours if cost is not None else None)


def _within(found: Sequence[Replacement], budget: float | None) -> list[Replacement]:
    """In order, as many as the budget bears."""
    if budget is None:
        return list(found)
    result, spent = [], 0.0
    for one in found:
        if not one.wanted:
            result.append(one)
        elif one.gpu_hours is None:
            result.append(
                replace(one, problem="no run like it is recorded, so its price is unknown; leave out the budget")
            )
        elif spent + one.gpu_hours > budget:
            over = f"{one.gpu_hours:.3g} GPU-hours more than {spent:.3g} would exceed the budget of {budget:g}"
            result.append(replace(one, problem=over))
        else:
            spent += one.gpu_hours
            result.append(one)
    return result


def make(engine: Engine, bug: Bug, wanted: Sequence[Replacement], priority: int) -> dict[str, str]:
    """Make the runs that are wanted, queued and linked, in one transaction. Subject → run, those of others included."""
    orders = [
        submissions.Rerun(one.subject, one.new, one.score_rule, one.waits_for)
        for one in wanted
        if one.wanted and one.new is not None
    ]
    return submissions.rerun(engine, orders, bug.bug, code_version().id, CONDITION_SCHEMA, priority)
