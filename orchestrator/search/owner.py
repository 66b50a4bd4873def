"""The one process that goes on with a search: reads where it stands, decides, records. Crash-only.

Everything that was decided stands in the registry before anything of it runs, in one transaction; a process that is
killed between any two lines leaves a search that the next one goes on with, without a trial lost or run twice.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import fmean

from sqlalchemy import Engine

from db import reads, submissions, wishes
from db.records import EvalPoint, Run, SearchArm
from experiment_specs.architecture import Architecture
from experiment_specs.errors import AqnError, SpecError
from experiment_specs.language import Condition
from experiment_specs.search import Search, reserved
from orchestrator.expand import Planned
from orchestrator.plan import Plan, PlannedCondition, planned_condition
from orchestrator.search.decide import (
    Confirm,
    Finish,
    NewTrial,
    Order,
    Replicate,
    Rules,
    View,
    Wait,
    behind_at_equal_steps,
    further_seed,
    next_order,
)
from orchestrator.search.space import Point, startup
from orchestrator.search.state import FRESH_FROM, PRUNED, SearchState, gpu_hours, read_state
from orchestrator.search.suggest import suggest
from orchestrator.settings import Settings
from orchestrator.submit import submission

Look = Callable[[str], Architecture | str]

_FIXED = ("space", "require", "objective", "seed")
"""What a search is: another one of these is another search."""


MOST_FALLEN = 3
"""Seeds of which the baseline's run may come to nothing before the search gives up: something is wrong with it."""
SUGGESTIONS = 20
"""How often the sampler is asked before its space counts as exhausted: all that it suggests was tried."""


def _preset(arm: SearchArm) -> bool:
    return arm.role == "beside"


class SearchError(AqnError):
    """A search cannot go on."""

    exit_code = 1


@dataclass(frozen=True)
class _Wanted:
    arm: SearchArm
    condition: Condition
    seeds: tuple[int, ...]
    new: bool = True
    """Is the arm to be recorded too?"""


@contextmanager
def ownership(settings: Settings, name: str) -> Iterator[None]:
    """For one process at a time; the lock goes with the process, however it ends. Raises :class:`SearchError`."""
    folder = settings.home / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise SearchError(f"process {lock.read().strip() or '?'} goes on with the search {name} already") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Owner:
    """Goes on with one search, a step at a time."""

    def __init__(self, engine: Engine, search: Search, look: Look) -> None:
        self._engine, self._search = engine, search
        self._look = look
        self._reserved = reserved(search)
        self._exhausted: tuple[str, int] | None = None

    def begin(self) -> None:
        """Record the search, or find the one of this name. Raises SpecError where that one sought something else, or in
        other conditions."""
        search, before = self._search, read_state(self._engine, self._search.name)
        if before is None and reads.sweep_details(self._engine, search.name) is not None:
            raise search.sweep.error(f"{search.name} is a sweep, not a search; give it another name", ("search",))
        if before is None:
            self._record([self._baseline()] if self._compares else [])
            return
        now, then = search.settings.model_dump(mode="json"), before.settings.model_dump(mode="json")
        changed = [key for key in _FIXED if now[key] != then[key]]
        if not changed and any(self._condition(arm).id != arm.condition_id for arm in before.arms if not _preset(arm)):
            changed = ["conditions (set, or a base or preset that it names)"]
        if changed:
            raise search.sweep.error(
                f"{search.name} began with another {', '.join(changed)}: give this one another name", ("search",)
            )

    def _condition(self, arm: SearchArm) -> Condition:
        """What the spec says of an arm today; not of presets, which have names only."""
        objective, confirm = self._search.settings.objective, self._search.settings.confirm
        questions = objective.questions if arm.role in ("baseline", "trial") else confirm.questions
        if arm.role in ("baseline", "plain"):
            return self._search.baseline(questions)
        return self._search.trial(arm.point, questions)

    def state(self) -> SearchState:
        found = read_state(self._engine, self._search.name, self._search.settings)
        assert found is not None  # noqa: S101 - begun
        return found

    def step(self) -> tuple[SearchState, Order]:
        """Record all that can be decided now. Returns how it stands then, and what it waits for, or that it is over."""
        while True:
            state = self.state()
            self._prune(state)
            view = self.view(state)
            order = next_order(view, state.surface)
            if isinstance(order, NewTrial):
                found = self._suggested(state, view)
                if isinstance(found, dict):
                    self._record(self._trial(state, view, found, order.seeds))
                    continue
                order = found or next_order(replace(view, exhausted=True), state.surface)
            if isinstance(order, Replicate):
                self._record(self._replicate(state, order))
            elif isinstance(order, Confirm):
                if not order.trials:
                    return state, Finish()
                self._record(self._confirmation(state, order.trials))
            elif isinstance(order, Wait | Finish):
                return state, order

    def _suggested(self, state: SearchState, view: View) -> Point | Replicate | None:
        """A point that was not tried yet and can be run; one that was tried is worth a further seed of it, where it may
        have one; None where all is done. Asked again of the same trials, what was exhausted is."""
        settings = self._search.settings
        told = [state.told(trial) for trial in state.trials]
        asked = (repr(told), view.left)
        if asked == self._exhausted:
            return None
        known = {t.number: t for t in state.trials}
        by_condition = {arm.condition_id: known[arm.number] for arm in state.of_role("trial")}
        for attempt in range(SUGGESTIONS):
            point = suggest(settings, told, view.rules.total, attempt)
            if point is None:
                break
            try:
                condition = self._search.trial(point, settings.objective.questions)
                self._planned("", condition)
            except SpecError:  # inside the space, and yet no condition: as if require refused it
                continue
            trial = by_condition.get(condition.id)
            if trial is None:
                return point
            if (again := further_seed(view, state.surface, trial)) is not None:
                return again
        self._exhausted = asked
        return None

    def view(self, state: SearchState) -> View:
        settings, selection = self._search.settings, self._selection(state)
        affordable = self._left(state)
        left = affordable - self._reserved
        total = (settings.budget.runs or 0) - self._reserved
        if settings.budget.runs is None:
            total = len(selection) + max(0, left)
        fallen, replicates = state.fallen_baseline, settings.replicates
        seeds = [seed for seed in range(1, replicates.up_to + len(fallen) + 1) if seed not in fallen]
        baseline = state.baseline
        confirm = settings.confirm
        aside = self._reserved - confirm.top * confirm.fresh_seeds
        rules = Rules(
            tuple(seeds[: replicates.up_to]) if len(fallen) <= MOST_FALLEN else (), replicates.first, confirm.top,
            startup(settings, total), self._compares, total,
        )  # fmt: skip
        return View(
            rules, state.trials,
            baseline=frozenset(run.seed for run in state.runs_of(baseline)) if baseline else frozenset(),
            left=left, slots=settings.parallel - sum(bool(trial.waiting) for trial in state.trials),
            confirmable=(affordable - aside) // confirm.fresh_seeds, confirming=state.confirming,
            waiting=not state.over,
        )  # fmt: skip

    @property
    def _compares(self) -> bool:
        return self._search.settings.objective.maximise == "difference"

    def _selection(self, state: SearchState) -> list[Run]:
        """Its runs, one of a condition and seed: what took the place of a run that fell was not of its spending."""
        asked = {arm.condition_id for arm in state.of_role("trial", "baseline")}
        return list({(run.condition_id, run.seed): run for run in state.runs if run.condition_id in asked}.values())

    def _left(self, state: SearchState) -> int:
        """Runs that the budget still allows, the confirmation's included."""
        budget = self._search.settings.budget
        by_runs = budget.runs - len(self._selection(state)) if budget.runs is not None else math.inf
        if budget.gpu_hours is None:
            return int(by_runs)
        ended = [hours for run in state.runs if (hours := gpu_hours(run)) is not None]
        under_way = sum(run.state in ("queued", "running") for run in state.runs)
        whole = [gpu_hours(run) or 0.0 for run in state.runs if run.state == "succeeded"] or ended
        if not whole:  # nothing is known of what a run costs: the first trial tells
            first = self._search.settings.replicates.first * (1 + self._compares)
            return 0 if under_way else int(min(by_runs, self._reserved + first))
        each, spent = fmean(whole), math.fsum(ended) + state.scan_hours
        by_hours = math.floor((budget.gpu_hours - spent - under_way * each) / each) if each else math.inf
        return int(min(by_runs, by_hours, 1e9))

    def _baseline(self) -> _Wanted:
        condition = self._search.baseline(self._search.settings.objective.questions)
        arm = SearchArm(0, "baseline", f"{self._search.name}/baseline", condition.id, {}, None, "objective.against")
        return _Wanted(arm, condition, ())

    def _with_baseline(self, state: SearchState, seeds: Sequence[int]) -> list[_Wanted]:
        """The baseline's runs of these seeds, where it does not have them yet."""
        baseline = state.baseline
        if not self._compares or baseline is None:
            return []
        have = {run.seed for run in state.runs_of(baseline)}
        missing = tuple(seed for seed in seeds if seed not in have)
        return [replace(self._baseline(), seeds=missing, new=False)] if missing else []

    def _trial(self, state: SearchState, view: View, point: Point, seeds: tuple[int, ...]) -> list[_Wanted]:
        settings = self._search.settings
        condition = self._search.trial(point, settings.objective.questions)
        number = len(state.arms)
        by_chance = len(state.trials) < view.rules.startup
        why = "by chance, to begin with" if by_chance and settings.sampler.name != "grid" else settings.sampler.name
        arm = SearchArm(number, "trial", f"{self._search.name}/{number}", condition.id, point, None, why)
        return [*self._with_baseline(state, seeds), _Wanted(arm, condition, seeds)]

    def _replicate(self, state: SearchState, order: Replicate) -> list[_Wanted]:
        arm = next(arm for arm in state.arms if arm.number == order.trial)
        return [
            *self._with_baseline(state, (order.seed,)),
            _Wanted(arm, self._condition(arm), (order.seed,), new=False),
        ]  # fmt: skip

    def _confirmation(self, state: SearchState, trials: Sequence[int]) -> list[_Wanted]:
        """No noise, what else stands beside, and the chosen: on other questions, with seeds that none of them had."""
        search, confirm = self._search, self._search.settings.confirm
        asked: list[tuple[str, str, Condition, SearchArm | None]] = [
            ("plain", f"{search.name}/baseline confirmed", search.baseline(confirm.questions), None),
            *(("beside", f"{search.name}/{name}", condition, None) for name, condition in search.beside().items()),
        ]
        for chosen in trials:
            arm = next(arm for arm in state.arms if arm.number == chosen)
            condition = search.trial(arm.point, confirm.questions)
            asked.append(("confirmed", f"{arm.label} confirmed", condition, arm))
        known = reads.runs(self._engine, conditions=[condition.id for _, _, condition, _ in asked])
        first = max([FRESH_FROM - 1, *(run.seed for run in known)]) + 1
        seeds = tuple(range(first, first + confirm.fresh_seeds))
        found: dict[str, _Wanted] = {}
        for role, label, condition, trial in asked:
            number = len(state.arms) + len(found)
            if (same := found.get(condition.id)) is not None:  # a trial that is the baseline, or a preset
                if trial is not None:
                    arm = replace(same.arm, trial=trial.number, point=trial.point)
                    found[condition.id] = replace(same, arm=arm)
                continue
            point, of = (trial.point, trial.number) if trial is not None else ({}, None)
            arm = SearchArm(number, role, label, condition.id, point, of, "the confirmation")
            found[condition.id] = _Wanted(arm, condition, seeds)
        return list(found.values())

    def _record(self, wanted: Sequence[_Wanted]) -> None:
        search = self._search
        planned = (replace(self._planned(one.arm.label, one.condition), seeds=one.seeds) for one in wanted)
        plan = Plan(search.sweep, tuple(planned), (), ())
        new = submission(plan)
        details = new.details | {"search": search.settings.model_dump(mode="json")}
        arms = [one.arm for one in wanted if one.new]
        conditions = {one.condition.id: one.condition.model_dump(mode="json") for one in wanted}
        submissions.extend_search(self._engine, replace(new, details=details), arms, conditions)

    def _planned(self, label: str, condition: Condition) -> PlannedCondition:
        planned = Planned(label, condition, self._search.place_of)
        return planned_condition(self._search.sweep, planned, self._look(condition.model.path))

    def _prune(self, state: SearchState) -> None:
        """Ask for the end of runs that are behind the leader at equal steps, with the same seed, beyond the noise."""
        pruner, leader = self._search.settings.pruner, state.surface.leader
        if pruner is None or leader is None or state.confirming:
            return
        first = next(arm for arm in state.arms if arm.number == leader)
        ahead = {run.seed: run for run in state.runs_of(first) if run.valid}
        pruned = {}
        for arm in state.of_role("trial"):
            for run in state.runs_of(arm) if arm.number != leader else ():
                other = ahead.get(run.seed)
                if run.state != "running" or run.cancel is not None or other is None or set(run.sweeps) != {state.name}:
                    continue  # a run that another sweep wants too is not ours to end
                pair = _at_the_last_common_step(run, other, pruner.from_step)
                evals = sum(step >= pruner.from_step for step in run.plan["eval_steps"])
                looks = evals * len(state.surface.order)
                if pair and behind_at_equal_steps(pair[0].percent, pair[1].percent, state.sd, pruner.z, looks):
                    own, theirs = pair
                    pruned[run.id] = (
                        f"{PRUNED}: {own.percent:.1f} % at step {own.step}, where {first.label} had "
                        f"{theirs.percent:.1f} %"
                    )
        wishes.ask_to_cancel(self._engine, pruned, at_once=True)  # what is pruned is not gone on with


def _at_the_last_common_step(run: Run, other: Run, from_step: int) -> tuple[EvalPoint, EvalPoint] | None:
    theirs = {point.step: point for point in other.curve}
    common = [point for point in run.curve if point.step in theirs and point.step >= from_step]
    return (common[-1], theirs[common[-1].step]) if common else None
