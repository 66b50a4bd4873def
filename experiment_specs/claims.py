"""Claims: what people wrote of runs that no registry saw, with every place that says it.

A history is a YAML file of such runs. Nothing in it is believed: it is recorded as written, so that
``aqn audit`` can compare what its places say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from experiment_specs.errors import SpecError
from experiment_specs.language import Value, unknown_part
from experiment_specs.reader import Reader
from experiment_specs.yaml_source import KeyPath, read_yaml

Percent = Annotated[float, Field(ge=0, le=100)]
Step = Annotated[int, Field(ge=0, le=10**9)]
Steps = Annotated[tuple[Step, ...], Field(strict=False)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]


def _day(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        raise ValueError("not a day, as 2026-01-31")
    try:
        date.fromisoformat(text)
    except ValueError:
        raise ValueError("no such day; days are written as 2026-01-31") from None
    if text < "1970":
        raise ValueError("before 1970")
    return text


def _words(text: str) -> str:
    if not text.isprintable() or text != text.strip() or not text:
        raise ValueError("printable letters, without blanks around them")
    return text


Day = Annotated[str, AfterValidator(_day)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_words)]
HISTORY_NAME = re.compile(r"\w[\w.+-]{0,99}")


class Better(Value):
    """By how many percentage points a run is said to be better than another (negative: worse)."""

    than: str
    points: float
    of: Literal["score", "peak"] = "score"


class Statement(Value):
    """What one place says of one run. Percentages as written; a field that the place does not speak of is absent."""

    place: str
    score: Percent | None = None
    score_step: Step | None = None
    peak: Percent | None = None
    peak_step: Step | None = None
    epochs: Step | None = None
    algorithm: Literal["grpo", "dapo"] | None = None
    dtype: Literal["bf16", "mxfp4", "nvfp4"] | None = None
    lora: bool | None = None
    aqn: bool | None = None
    epoch_aware: bool | None = None
    sigma_start: float | None = None
    sigma_end: float | None = None
    srdd: Literal["none", "targeted", "variable"] | None = None
    hw_noise: float | None = None
    planned_steps: Step | None = None
    executed_steps: Step | None = None
    status: str | None = None
    notes: str | None = None
    better: Annotated[tuple[Better, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Statement:
        if len(self.model_fields_set) < 2:
            raise ValueError("place alone says nothing of the run")
        return self


COMPARED = tuple(
    name for name in Statement.model_fields if name not in ("place", "notes", "status", "better")
)  # fmt: skip
"""Fields that two places can disagree about."""


class Group(Value):
    """What a place says of all runs of a group."""

    place: str
    rows: Step | None = None
    generation_batch: Annotated[int, Field(gt=0)] | None = None
    steps_per_epoch: Step | None = None
    planned_steps: Step | None = None
    eval_steps: Steps = ()
    executed_steps: Annotated[tuple[Step, ...], Field(strict=False, max_length=2)] = ()
    """The fewest and the most."""

    @model_validator(mode="after")
    def _in_order(self) -> Group:
        if list(self.executed_steps) != sorted(self.executed_steps):
            raise ValueError("executed_steps are the fewest and the most, in this order")
        return self


def _absent(value: object) -> bool:
    """Whether a field is left out of what is recorded: a claim without it stays what it was before the field."""
    return value is None


class Point(Value):
    """One evaluation of an imported curve.

    ``decimals``: of the percentage, as its share was printed (0.620 has 1); absent where it was kept in full.
    """

    step: Step
    percent: Percent
    decimals: Annotated[int | None, Field(ge=-2, le=20, exclude_if=_absent)] = None


class ClaimedRun(Value):
    """One run: its names, and what is said of it, the first place first."""

    label: Name
    aliases: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    tensorboard: str | None = None
    category: str | None = None
    group: str | None = None
    condition: str | None = None
    """The sweep whose condition of the same label it was."""
    extends: str | None = None
    samples: Annotated[int | None, Field(gt=0, le=10**6, exclude_if=_absent)] = None
    """Answers to each question, where a score is a mean over several: 32 of mean@32."""
    said: Annotated[tuple[Statement, ...], Field(strict=False)] = ()
    curve: Annotated[tuple[Point, ...], Field(strict=False)] = ()
    source: str | None = None
    """The file that a curve was read from."""

    @model_validator(mode="after")
    def _something_is_said(self) -> ClaimedRun:
        if not self.said and not self.curve:
            raise ValueError("said is missing: a claim says something")
        if self.extends == self.label:
            raise ValueError("extends itself")
        if len({point.step for point in self.curve}) != len(self.curve):
            raise ValueError("curve has two points at one step")
        return self

    @property
    def answers(self) -> int:
        """Answers to each question."""
        return self.samples or 1

    def first(self, field: str) -> object | None:
        """What the first place that speaks of a field says."""
        return next((v for s in self.said if (v := getattr(s, field)) is not None), None)


class Best(Value):
    """A run said to be the best of some."""

    place: str
    category: str
    run: str
    score: Percent
    among: Texts


class Compared(Value):
    """One comparison behind a finding: ``run`` against ``than``, by the score or the peak of each."""

    run: str
    than: str
    of: Literal["score", "peak"] = "score"
    than_of: Literal["score", "peak"] = "score"


class Setting(Value):
    """A setting in a few words. ``what``: one in which reports describe runs, so that studies stand side by side."""

    what: str
    says: str


class Finding(Value):
    """What a document concludes, in short, and the comparisons that it rests on.

    ``direction``: what ``run`` is said to be against ``than``. ``points``: by how much, the least and the most, where
    that is said. ``because``: the fields that are said to be the cause; what else differs is a confound.
    """

    place: str
    says: str
    direction: Literal["higher", "lower", "equal"]
    points: Annotated[tuple[float, ...], Field(strict=False, min_length=2, max_length=2)] | None = None
    because: Texts = ()
    compares: Annotated[tuple[Compared, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Finding:
        if self.points is not None and self.points[0] > self.points[1]:
            raise ValueError("points are the least and the most, in this order")
        return self


class History(Value):
    """A file of claims."""

    history: Annotated[str, Field(pattern=f"^{HISTORY_NAME.pattern}$")]
    about: str = ""
    document: str = ""
    recorded: Day
    questions: Annotated[int, Field(gt=0, le=10**9)] | None = None
    groups: dict[str, Group] = Field(default_factory=dict)
    runs: Annotated[tuple[ClaimedRun, ...], Field(strict=False, min_length=1)]
    best: Annotated[tuple[Best, ...], Field(strict=False)] = ()
    settings: Annotated[tuple[Setting, ...], Field(strict=False)] = ()
    findings: Annotated[tuple[Finding, ...], Field(strict=False)] = ()


@dataclass(frozen=True)
class Loaded:
    """A history and the file it stands in."""

    history: History
    reader: Reader

    def error(self, problem: str, *path: str | int) -> SpecError:
        return self.reader.fail(problem, path)


def load_history(path: Path) -> Loaded:
    """Read and check a history. Raises :class:`SpecError` for what is wrong with it, with its line."""
    source = read_yaml(path)
    reader = Reader(source.data, source.marks, path)
    loaded = Loaded(reader.value_at((), source.data, History), reader)
    history = loaded.history
    labels = [run.label for run in history.runs]
    names: set[str] = set()
    for index, run in enumerate(history.runs):
        for name in (run.label, *run.aliases):
            if name in names:
                raise loaded.error(f"{name!r} names two runs", "runs", index)
            names.add(name)
    for index, run in enumerate(history.runs):
        if run.group is not None and run.group not in history.groups:
            raise reader.fail("no such group", ("runs", index, "group"), run.group, history.groups)
        others: list[tuple[KeyPath, str]] = [(("runs", index, "extends"), run.extends)] if run.extends else []
        for i, said in enumerate(run.said):
            others += [(("runs", index, "said", i, "better", j, "than"), b.than) for j, b in enumerate(said.better)]
        for at, other in others:
            if other not in labels:
                raise reader.fail("no run of this history has this label", at, other, labels)
    for index, best in enumerate(history.best):
        for label in (best.run, *best.among):
            if label not in labels:
                raise reader.fail("no run of this history has this label", ("best", index), label, labels)
    _check_findings(loaded, labels)
    return loaded


def _check_findings(loaded: Loaded, labels: list[str]) -> None:
    for index, finding in enumerate(loaded.history.findings):
        for nth, one in enumerate(finding.compares):
            for key, label in (("run", one.run), ("than", one.than)):
                if label not in labels:
                    place: KeyPath = ("findings", index, "compares", nth, key)
                    raise loaded.reader.fail("no run of this history has this label", place, label, labels)
        for nth, named in enumerate(finding.because):
            if (unknown := unknown_part(named)) is not None:
                raise loaded.reader.fail("unknown field of a condition", ("findings", index, "because", nth), *unknown)
