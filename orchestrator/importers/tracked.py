"""Runs as a tracker keeps them → curves of accuracy, one per test set. Pure.

The readers (W&B files, MLflow stores, Parquet files) give :class:`TrackedRun`; what is a score, and what becomes of
points that were written twice, is decided here alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from experiment_specs.errors import SpecError, nearest
from orchestrator.importers.curves import Ended, ImportedCurve, Point, percent, rank, remarks

MAX_NAMED = 8
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
        """Names are not unique in a tracker, ids are; a label stays the same when other runs and parts come."""
        part = f" part {self.part}" if self.part > 1 else ""
        own = self.run_id[:8] if _HEX.fullmatch(self.run_id) else self.run_id
        name = self.name[:120]
        full = name if own in ("", self.name) else f"{name} ({own[:60]})" if name else own[:60]
        return f"{full}{part}"


@dataclass(frozen=True)
class LeftOut:
    """A run, or a file of one, that makes no claim."""

    name: str
    why: str


@dataclass(frozen=True)
class Tracked:
    """What a source holds."""

    runs: tuple[TrackedRun, ...]
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class TrackedCurve:
    """One curve and the run that it is of."""

    run: TrackedRun
    curve: ImportedCurve


def curves_of(tracked: Tracked, metrics: Sequence[str], source: str) -> tuple[list[TrackedCurve], list[LeftOut]]:
    """The curves of every run, and the runs without one.

    ``metrics``: tags to read; none: verl's accuracy on every test set. Raises :class:`SpecError` where no run has a
    curve, or a tag of ``metrics``.
    """
    seen = list(dict.fromkeys(tag for run in tracked.runs for tag in run.metrics))
    for wanted in metrics:
        if tracked.runs and wanted not in seen:
            close = nearest(wanted, seen)
            hint = f"did you mean {close!r}?" if close else f"the tags are {_some(seen)}"
            raise SpecError(f"no run has this tag; {hint}", file=source, key="--metric", value=wanted)
    found: list[TrackedCurve] = []
    left_out = list(tracked.left_out)
    for run in tracked.runs:
        named = _chosen(run, metrics)
        if not named:
            left_out.append(LeftOut(run.label, _no_score(run, asked=bool(metrics))))
        for tag, label in named.items():
            try:
                found.append(TrackedCurve(run, _curve(run, tag, label)))
            except SpecError as error:  # of one test set: the others of the run are read
                left_out.append(LeftOut(label, str(error)))
    if not found:
        reasons = "; ".join(f"{one.name}: {one.why}" for one in left_out[:3])
        more = f" (and {len(left_out) - 3} more)" if len(left_out) > 3 else ""
        raise SpecError(f"nothing here can be a claim: {reasons}{more}", file=source)
    return _told_apart(found), left_out


def _told_apart(found: list[TrackedCurve]) -> list[TrackedCurve]:
    """Curves of one label: their projects tell them apart, since a tracker's ids are unique within one."""
    labels = Counter(one.curve.name for one in found)
    seen: Counter[str] = Counter()
    apart = []
    for one in found:
        name = one.curve.name
        if labels[name] > 1:
            name = f"{one.run.project or one.run.source}: {name}"
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name} #{seen[name]}"
        apart.append(replace(one, curve=replace(one.curve, name=name)))
    return apart


def _chosen(run: TrackedRun, wanted: Sequence[str]) -> dict[str, str]:
    """Tag → label. The label of a tag is the same whether it was chosen or found."""
    best = list(best_tags(run.metrics).values())
    chosen = [tag for tag in dict.fromkeys(wanted) if tag in run.metrics] if wanted else best
    return {tag: run.label if [tag] == best else f"{run.label} {dataset_of(tag)}" for tag in chosen}


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
    for step, value in run.metrics[tag]:
        if step in values and not _same(values[step], value):
            notes.append(f"step {step} was written again: {value:g} in the place of {values[step]:g}")
        values[step] = value
    for step in sorted(step for step, value in values.items() if not math.isfinite(value)):
        notes.append(f"the eval of step {step} gave no number")
        del values[step]
    if not values:
        raise SpecError(f"{tag} has no number at any step")
    if min(values) < 0:
        raise SpecError(f"{tag} has a value at step {min(values)}: steps are counted from 0")
    points = tuple(
        Point(step, percent(value, tag=tag, file=run.source)) for step, value in sorted(values.items())
    )  # fmt: skip
    notes += remarks(tag, [other for other in run.metrics if dataset_of(other) in (dataset_of(tag), other)])
    trained = run.metrics.get(GLOBAL_STEP, ())
    notes += _about_steps(trained)
    done = max((int(value) for _, value in trained if math.isfinite(value)), default=0)
    return ImportedCurve(label, run.source, tag, points, done, None, run.ended, run.why, tuple(dict.fromkeys(notes)))


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
    ordered = sorted(tags, key=lambda tag: (not re.search(r"val|eval|test|acc", tag), tag))
    more = f" and {len(tags) - MAX_NAMED} more" if len(tags) > MAX_NAMED else ""
    return ", ".join(ordered[:MAX_NAMED]) + more
