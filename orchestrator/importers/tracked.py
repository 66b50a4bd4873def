"""Runs as a tracker keeps them → curves of accuracy, one per test set. Pure.

The readers (W&B files, MLflow stores, Parquet files) give :class:`TrackedRun`; what is a score, and what becomes of
points that were written twice, is decided here alone.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from experiment_specs.errors import SpecError, nearest
from orchestrator.importers.curves import (
    LONGEST_NAME,
    Ended,
    ImportedCurve,
    Point,
    as_label,
    numbered,
    percent,
    printable,
    rank,
    remarks,
)

MAX_NAMED = 8
MAX_PART = 60
"""Letters of a run's id, a project or a tag in a label."""
GLOBAL_STEP = "training/global_step"
_DATASET = re.compile(r"val-core/(?P<core>.+)/(?:acc|reward)/mean[@_]\d+|val/test_score/(?P<old>.+)")
_HEX = re.compile(r"[0-9a-f]{24,}")


@dataclass(frozen=True)
class TrackedRun:
    """One run of a tracker; what was resumed under the same run id is the same run.

    ``metrics``: tag → (step, value) in the order in which they were written; a value may be NaN or infinite.
    ``started``: seconds since 1970. ``config``: nested or flat, as written.
    """

    name: str
    run_id: str
    source: str
    metrics: Mapping[str, Sequence[tuple[int, float]]]
    project: str = ""
    started: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    ended: Ended = "unknown"
    why: str = ""
    notes: tuple[str, ...] = ()
    part: int = 1
    """Which one, of the parts of a resumed run that are kept apart."""

    @property
    def label(self) -> str:
        """What the run is called: its name and id, at most 200 printable letters. See :meth:`called`."""
        return self.called()

    def called(self, of: str = "", *, project: bool = False) -> str:
        """The label of a curve of this run. ``of``: its test set or tag, where that has to be said.

        Names are not unique in a tracker, ids are, within a project (``project`` puts it in front). A long name loses
        its end, before anything that tells curves apart does; two labels may still be equal.
        """
        where = f"{_end_of(self.project or self.source)}: " if project else ""
        own = self.run_id[:8] if _HEX.fullmatch(self.run_id) else self.run_id
        name, own_id = printable(self.name).strip(), printable(own)[:MAX_PART].strip()
        end = f" ({own_id})" if name and own not in ("", self.name) else ""
        end += f" part {self.part}" if self.part > 1 else ""
        end += f" {_end_of(of)}" if of else ""
        return as_label(f"{where}{name or own_id}"[: LONGEST_NAME - len(end)].rstrip() + end)


@dataclass(frozen=True)
class LeftOut:
    """A run, or a file of one, that makes no claim."""

    name: str
    why: str


@dataclass(frozen=True)
class Tracked:
    """What a source holds. ``source``: what it is called in errors, without a password."""

    source: str
    runs: tuple[TrackedRun, ...]
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class TrackedCurve:
    """One curve and the run that it is of.

    ``of``: the test set or tag in its label, if any. ``identity``: what makes it the same curve when its source is read
    again, whatever else is read with it: project, run, part of the run, tag.
    """

    run: TrackedRun
    curve: ImportedCurve
    of: str
    identity: str


def curves_of(tracked: Tracked, metrics: Sequence[str]) -> tuple[list[TrackedCurve], list[LeftOut]]:
    """The curves of every run, each with a label of its own, and the runs without one.

    ``metrics``: tags to read; none: verl's accuracy on every test set. Raises :class:`SpecError` where no run has a
    curve, or a tag of ``metrics``.
    """
    seen = list(dict.fromkeys(tag for run in tracked.runs for tag in run.metrics))
    for wanted in metrics:
        if tracked.runs and wanted not in seen:
            close = nearest(wanted, seen)
            hint = f"did you mean {close!r}?" if close else f"the tags are {_some(seen)}"
            raise SpecError(f"no run has this tag; {hint}", file=tracked.source, key="--metric", value=wanted)
    found: list[TrackedCurve] = []
    left_out = [LeftOut(printable(one.name), printable(one.why)) for one in tracked.left_out]
    same: Counter[str] = Counter()
    for run in tracked.runs:
        named = _chosen(run, metrics)
        if not named:
            left_out.append(LeftOut(run.label, _no_score(run, asked=bool(metrics))))
        for tag, of in named.items():
            try:
                curve = _curve(run, tag, run.called(of))
            except SpecError as error:  # of one test set: the others of the run are read
                left_out.append(LeftOut(run.called(of), printable(str(error))))
                continue
            identity = _identity(run, tag)
            same[identity] += 1
            found.append(TrackedCurve(run, curve, of, f"{identity} #{same[identity]}"))
    if not found:
        reasons = "; ".join(f"{one.name}: {one.why}" for one in left_out[:3])
        more = f" (and {len(left_out) - 3} more)" if len(left_out) > 3 else ""
        raise SpecError(f"nothing here can be a claim: {reasons}{more}", file=tracked.source)
    return with_labels(found), left_out


def _identity(run: TrackedRun, tag: str) -> str:
    """Of a run that has an id the name can be changed, and is no part of it."""
    return json.dumps(["tracked", run.project, run.run_id, run.name if not run.run_id else "", run.part, tag])


def with_labels(
    found: Sequence[TrackedCurve], kept: Mapping[str, str] | None = None, taken: Iterable[str] = ()
) -> list[TrackedCurve]:
    """Each curve with a label of its own.

    ``kept``: identity → the label that the curve got before and keeps. ``taken``: labels that no other curve may have.
    A tracker's ids are unique within a project, so projects tell curves of one label apart.
    """
    known = kept or {}
    used = {*taken, *known.values()}
    equal = Counter(one.run.called(one.of) for one in found)
    labelled = []
    for one in found:
        label = known.get(one.identity)
        if label is None:
            short, full = one.run.called(one.of), one.run.called(one.of, project=True)
            free = chain([short] if equal[short] == 1 else [], numbered(full))
            label = next(name for name in free if name not in used)
        used.add(label)
        labelled.append(replace(one, curve=replace(one.curve, name=label)))
    return labelled


def _end_of(text: str) -> str:
    """The end of a long project or tag tells more than its beginning."""
    shown = printable(text)
    return shown if len(shown) <= MAX_PART else f"…{shown[1 - MAX_PART :]}"


def _chosen(run: TrackedRun, wanted: Sequence[str]) -> dict[str, str]:
    """Tag → what of it is in the label. That is the same whether the tag was chosen or found."""
    best = list(best_tags(run.metrics).values())
    chosen = [tag for tag in dict.fromkeys(wanted) if tag in run.metrics] if wanted else best
    return {tag: "" if [tag] == best else dataset_of(tag) for tag in chosen}


def _no_score(run: TrackedRun, *, asked: bool) -> str:
    tags = f"its tags are {_some(list(run.metrics))}" if run.metrics else "it has no metric at all"
    if asked:
        return f"has none of the chosen tags: {tags}"
    hint = "; --metric TAG chooses one" if run.metrics else ""
    return f"no score of a test set (val-core/…/acc/mean@N): {tags}{hint}"


def best_tags(tags: Iterable[str]) -> dict[str, str]:
    """Test set → the tag that tells accuracy on it best, in an order of their own: W&B writes tags in any order."""
    found: dict[str, tuple[tuple[bool, int], str]] = {}
    for tag in sorted(tags):
        order = rank(tag)
        if order is not None and (dataset_of(tag) not in found or order < found[dataset_of(tag)][0]):
            found[dataset_of(tag)] = order, tag
    return {name: tag for name, (_, tag) in found.items()}


def dataset_of(tag: str) -> str:
    """The test set in a tag of verl's; the tag itself where it is another's."""
    match = _DATASET.fullmatch(tag)
    return (match["core"] or match["old"]) if match else tag


def _curve(run: TrackedRun, tag: str, label: str) -> ImportedCurve:
    values: dict[int, float] = {}
    notes = list(run.notes)
    metric, source = printable(tag), printable(run.source)
    for step, value in run.metrics[tag]:
        if step in values and not _same(values[step], value):
            notes.append(f"step {step} was written again: {value:g} in the place of {values[step]:g}")
        values[step] = value
    for step in sorted(step for step, value in values.items() if not math.isfinite(value)):
        notes.append(f"the eval of step {step} gave no number")
        del values[step]
    if not values:
        raise SpecError(f"{metric} has no number at any step")
    if min(values) < 0:
        raise SpecError(f"{metric} has a value at step {min(values)}: steps are counted from 0")
    points = tuple(
        Point(step, percent(value, tag=metric, file=source)) for step, value in sorted(values.items())
    )  # fmt: skip
    notes += remarks(tag, [other for other in run.metrics if dataset_of(other) in (dataset_of(tag), other)])
    trained = run.metrics.get(GLOBAL_STEP, ())
    notes += _about_steps(trained)
    done = max((int(value) for _, value in trained if math.isfinite(value)), default=0)
    told = tuple(dict.fromkeys(map(printable, notes)))
    return ImportedCurve(label, source, metric, points, done, None, run.ended, printable(run.why), told)


def _about_steps(trained: Sequence[tuple[int, float]]) -> Iterator[str]:
    """Whether a tracker's steps are training steps: W&B and Trackio count calls where nobody gives them one."""
    if not trained:
        yield f"steps are the tracker's own: without {GLOBAL_STEP} nothing says that they are training steps"
    for step, value in trained:
        if value != step:
            yield f"steps are the tracker's own: its step {step} has {GLOBAL_STEP} {value:g}"
            return


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _some(tags: Sequence[str]) -> str:
    ordered = sorted(map(printable, tags), key=lambda tag: (not re.search(r"val|eval|test|acc", tag), tag))
    more = f" and {len(tags) - MAX_NAMED} more" if len(tags) > MAX_NAMED else ""
    return ", ".join(ordered[:MAX_NAMED]) + more
