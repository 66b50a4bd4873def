"""Bug rules: which runs a known bug affects, as data. A YAML file a bug, no code in it.

A rule asks for facts: fields of the condition, what follows from it, the code that ran, recorded evidence, artefacts,
scores. Whoever evaluates it (:mod:`orchestrator.bugs.evaluate`) answers match, clean or unknown, with the facts that
decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from experiment_specs.claims import Day
from experiment_specs.errors import Problems, SpecError
from experiment_specs.language import NAMED_FIELDS, Condition, Value, record_in, unknown_part
from experiment_specs.paths import PATH_FIELDS, depends_on_user
from experiment_specs.presets import PACKAGE, resolve_name
from experiment_specs.reader import Reader
from experiment_specs.yaml_source import KeyPath, read_yaml

Status = Literal["proposed", "confirmed", "disputed", "fixed", "retracted"]
Disposition = Literal["rerun", "re-evaluate", "cannot-fix", "not-comparable", "unverified", "note", "false-alarm"]
Effect = Literal["invalid", "unverified", "none"]
Answer = Literal["match", "clean", "unknown"]

FACTS: dict[str, dict[str, str]] = {
    "field": {},
    "derived": {
        "steps_per_epoch": "training steps an epoch, as planned",
        "total_steps": "training steps, as planned",
        "optimiser_updates": "optimiser updates, as planned",
        "total_steps_modulo_eval_every": "training steps that are left after the last periodic eval",
        "last_eval_step": "the last step at which an eval is planned",
        "answers_a_step": "answers that a training step should learn from: prompts × samples",
    },
    "evidence": {
        "gradient_probe.count": "linears probed in real updates",
        "gradient_probe.relative_error": "largest relative error of dL/dx against dL/dy·Q(W), adapters apart",
        "gradient_probe.used_unquantised": "probes whose dL/dx is that of the unquantised W and not that of Q(W)",
        "aqn.largest_sigma_planned": "largest sigma that the schedule planned for a rollout",
        "aqn.largest_sigma_realised": "largest standard deviation of rollout minus clean weights",
        "aqn.modules_noised": "most modules that a draw changed",
        "aqn.multipliers": "how many different multipliers of sigma the layers had",
        "hw_noise.largest_relative_error": "largest measured standard deviation of (y' - y)/|y|",
        "hw_noise.least_of_planned": "the smallest of any planned phase and kind of product, as a share of the scale",
        "quantised.modules": "modules whose weights were quantised",
        "quantised.outside_blocks": "quantised modules that are no block linears: lm_head, embeddings",
        "quantised.adapters": "quantised adapter matrices",
        "eval.count": "evaluations",
        "eval.last_step": "step of the last evaluation",
        "eval.at_last_step": "was there an evaluation of the last planned step?",
        "eval.noise_left_on": "largest standard deviation of noise on the weights while test questions were answered",
        "eval.off_grid": "most watched linears that were not on the format's grid during an evaluation",
        "steps.executed": "training steps that were done",
        "steps.planned": "training steps that the trainer itself counted on",
        "steps.executed_share": "executed of planned training steps, 0 to 1",
        "answers_a_step.least": "fewest answers that a training step learnt from",
        "answers_a_step.most": "most answers that a training step learnt from",
        "answers_a_step.most_of_planned": "the same as a share of the planned ones",
        "moved.all": "relative distance of all trained weights from their start",
        "plugins": "modules of the user's that every process imported",
    },
    "artefact": {
        "checkpoint": "the last checkpoint: its hash, or missing",
        "answers": "outcomes of the score's evaluation: their hash, or missing",
        "checkpoint_twins": "1 if a run of another condition or seed has the same last checkpoint, else 0",
        "answers_twins": "1 if a run of another condition or seed has the same outcomes at the score, else 0",
    },
    "score": {
        "percent": "the score",
        "right": "right answers, where the score is a number of questions",
        "integral": "is the percentage a whole number of the stated questions?",
        "step": "the step that the score is of",
        "rule": "final, best, or claimed",
        "at_last_step": "is it of the last planned step?",
        "same_as_at_start": "are the outcomes those of the untrained model, question by question?",
    },
    "record": {
        "kind": "run, or claim",
        "state": "succeeded, failed, cancelled, or imported",
        "verdict": "PROVEN, REFUTED, UNPROVEN",
        "label": "its label",
        "attempts": "attempts that were made",
    },
}  # fmt: skip
"""Source → name → what it is. The fields are those of a condition, and ``code``."""

NUMERIC = ("above", "below", "at_least", "at_most")
OPERATORS = ("is", "is_not", "in", "not_in", *NUMERIC, "before", "since")
COMBINED = ("all", "any", "not")


@dataclass(frozen=True)
class Comparison:
    """One comparison: a fact, an operator and a value."""

    source: str
    name: str
    operator: str
    value: Any
    if_never_recorded: Answer = "unknown"


@dataclass(frozen=True)
class Combined:
    """all, any or not of other predicates."""

    how: str
    parts: tuple[Predicate, ...]


Predicate = Comparison | Combined


class Point(Value):
    """A place in the code's history: a git commit, and a date for what has no commit recorded."""

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")] | None = None
    date: Day | None = None


class Exception_(Value):  # noqa: N801 - not an error
    """A run that the predicate decides wrongly, and why."""

    run: str
    because: Annotated[str, Field(min_length=1)]


class Header(Value):
    """Everything of a rule but its predicate."""

    bug: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
    version: Annotated[int, Field(gt=0, lt=10**6)]
    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
    found: Day
    status: Status
    disposition: Disposition
    introduced_in: Point = Point()
    fixed_in: Point = Point()
    because: str = ""
    except_: Annotated[tuple[Exception_, ...], Field(strict=False, alias="except")] = ()
    include: Annotated[tuple[Exception_, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _decided_once(self) -> Header:
        if both := {entry.run for entry in self.except_} & {entry.run for entry in self.include}:
            raise ValueError(f"include and except both name {sorted(both)[0]}")
        return self


@dataclass(frozen=True)
class Rule:
    """A bug: who it affects and what follows for them."""

    header: Header
    affects: Predicate
    text: str
    source: Path = field(compare=False, default=Path())

    @property
    def name(self) -> str:
        return self.header.bug

    @property
    def effect(self) -> Effect:
        """What a mark of this rule does to the validity of a run. A dispute does not make a run valid again."""
        if self.header.status in ("proposed", "retracted") or self.header.disposition in ("note", "false-alarm"):
            return "none"
        return "unverified" if self.header.disposition == "unverified" else "invalid"


def load_rule(path: Path, shown_as: str | None = None) -> Rule:
    """Read a rule. Raises :class:`SpecError` for what is wrong with it, with its line and what is accepted."""
    problems = Problems()
    source = read_yaml(path, shown_as, problems)
    reader = Reader(source.data, source.marks, path)
    header = {key: value for key, value in source.data.items() if key != "affects"}
    known = [f.alias or name for name, f in Header.model_fields.items()] + ["affects"]
    for key in header:
        if key not in known:
            problems.add(reader.fail("unknown key", (key,), key, known))
    if "affects" not in source.data:
        problems.add(reader.fail("affects is missing: whom does the bug affect?", ()))
    said = {key: value for key, value in header.items() if key in known}
    read = problems.value_of(lambda: reader.value_at((), said, Header), None)
    affects = None
    if "affects" in source.data:
        affects = problems.value_of(lambda: _predicate(reader, source.data["affects"], ("affects",)), None)
    problems.raise_all()
    assert read is not None and affects is not None  # noqa: S101, PT018 - what is wrong with them was raised
    return Rule(read, affects, path.read_text(encoding="utf-8"), path)


def rule_from_text(text: str, path: Path) -> Rule:
    """A rule as the registry keeps it. ``path``: a scratch file to read it from."""
    path.write_text(text, encoding="utf-8")
    return load_rule(path)


def _predicate(reader: Reader, raw: Any, at: KeyPath) -> Predicate:
    if not isinstance(raw, dict):
        raise reader.fail("must be a mapping: all, any, not, or a comparison", at, raw)
    how = [key for key in raw if key in COMBINED]
    if how:
        if len(raw) != 1:
            raise reader.fail(f"{how[0]} stands alone; put the comparisons below it", at)
        inner, below = raw[how[0]], (*at, how[0])
        if how[0] == "not":
            return Combined("not", (_predicate(reader, inner, below),))
        if not isinstance(inner, list) or not inner:
            raise reader.fail(f"{how[0]} is a list of comparisons, each begins with a dash", below, inner)
        problems, parts = Problems(), list[Predicate]()
        for i, part in enumerate(inner):
            with problems.noted():
                parts.append(_predicate(reader, part, (*below, i)))
        problems.raise_all()
        return Combined(how[0], tuple(parts))
    return _test(reader, raw, at)


def _test(reader: Reader, raw: dict[str, Any], at: KeyPath) -> Comparison:
    for key in raw:
        if key not in (*FACTS, *OPERATORS, "if_never_recorded"):
            raise reader.fail("unknown key", (*at, key), key, [*FACTS, *OPERATORS, "if_never_recorded", *COMBINED])
    sources, operators = [k for k in raw if k in FACTS], [k for k in raw if k in OPERATORS]
    if len(sources) != 1 or len(operators) != 1:
        raise reader.fail(
            "a comparison names one fact and one operator, as {field: lora, is: none}", at, None, [*FACTS, *OPERATORS]
        )
    source, operator = sources[0], operators[0]
    name, value = raw[source], raw[operator]
    never = raw.get("if_never_recorded", "unknown")
    if never not in ("match", "clean", "unknown"):
        raise reader.fail("is not accepted", (*at, "if_never_recorded"), never, ["match", "clean", "unknown"])
    _known(reader, source, name, (*at, source))
    _fits(reader, source, str(name), operator, value, (*at, operator))
    return Comparison(source, str(name), operator, value, never)


def _known(reader: Reader, source: str, name: Any, at: KeyPath) -> None:
    if not isinstance(name, str):
        raise reader.fail(f"{name!r} is not a name", at, name)
    if source == "field":
        if name not in ("code", "seed") and (unknown := unknown_part(name)) is not None:
            raise reader.fail("unknown field of a condition", at, unknown[0], [*unknown[1], "code", "seed"])
    elif name not in FACTS[source]:
        raise reader.fail(f"no such {source}", at, name, FACTS[source])


TRUE_OR_FALSE = {("score", "integral"), ("score", "at_last_step"), ("score", "same_as_at_start"),
                 ("evidence", "eval.at_last_step")}  # fmt: skip
WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("record", "kind"): ("run", "claim"),
    ("record", "state"): ("succeeded", "failed", "cancelled", "imported"),
    ("record", "verdict"): ("PROVEN", "REFUTED", "UNPROVEN"),
    ("score", "rule"): ("final", "best", "claimed"),
    ("artefact", "checkpoint"): ("missing",),
    ("artefact", "answers"): ("missing",),
}
"""Facts that are words, and the words; ``record: label`` is any."""
TEXTS = {("record", "label"), ("evidence", "plugins")}


def _fits(reader: Reader, source: str, name: str, operator: str, value: Any, at: KeyPath) -> None:  # noqa: PLR0917
    """A comparison that no run could ever match would be a rule that silently does nothing."""
    if (source, name) == ("field", "code") or operator in ("before", "since"):
        _fits_code(reader, (source, name), operator, value, at)
        return
    if operator in ("in", "not_in") and (not isinstance(value, list) or not value):
        raise reader.fail("is a list of values", at, value)
    numeric = operator in NUMERIC
    if numeric and not _is_number(value):
        raise reader.fail(f"{value!r} is not a number", at, value)
    for one in value if operator in ("in", "not_in") else [value]:
        if source == "field":
            _fits_field(reader, name, one, numeric, at)
        else:
            _fits_fact(reader, (source, name), one, numeric, at)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < float("inf")


def _fits_code(reader: Reader, fact: tuple[str, str], operator: str, value: Any, at: KeyPath) -> None:
    if fact != ("field", "code"):
        raise reader.fail("compares field: code alone", at)
    if operator not in ("before", "since"):
        raise reader.fail("code is compared by before or since", at, operator, ["before", "since"])
    if value not in ("fixed_in", "introduced_in"):
        raise reader.fail("names a point of the rule", at, value, ["fixed_in", "introduced_in"])


def _fits_fact(reader: Reader, fact: tuple[str, str], value: Any, numeric: bool, at: KeyPath) -> None:
    name = " ".join(fact)
    if fact in TRUE_OR_FALSE:
        if numeric or not isinstance(value, bool):
            raise reader.fail(f"{name} is true or false", at, value)
    elif fact in WORDS:
        if numeric or value not in WORDS[fact]:
            raise reader.fail(f"{name} is a word", at, value, WORDS[fact])
    elif fact in TEXTS:
        if numeric or not isinstance(value, str):
            raise reader.fail(f"{name} is a text", at, value)
    elif not _is_number(value):
        raise reader.fail(f"{name} is a number", at, value)


def _fits_field(reader: Reader, name: str, value: Any, numeric: bool, at: KeyPath) -> None:
    if name == "seed" and (isinstance(value, bool) or not isinstance(value, int)):
        raise reader.fail("seed is a whole number", at, value)
    if name == "seed" or (name.startswith("trainer.") and numeric):
        return
    annotation: Any = Condition
    for word in name.split("."):
        kind = annotation if annotation is Condition else record_in(annotation)
        if kind is None or word not in kind.model_fields:
            return  # verl's own keys
        annotation = kind.model_fields[word].annotation
    if name in NAMED_FIELDS:
        meaning = resolve_name(name, value, lambda problem, v, accepted: reader.fail(problem, at, v, accepted))
        value = meaning if not isinstance(value, str) else None
    record = record_in(annotation)
    if record is not None:
        unknown = [key for key in value if key not in record.model_fields] if isinstance(value, dict) else []
        if numeric or unknown or not isinstance(value, dict | None):
            part = next(iter(record.model_fields))
            raise reader.fail(f"has parts: compare one, as {name}.{part}", at, None, record.model_fields)
        return
    if numeric and not {int, float} & {annotation, *getattr(annotation, "__args__", ())}:
        raise reader.fail(f"{name} is no number", at, value)
    if name in PATH_FIELDS and isinstance(value, str) and depends_on_user(value):
        raise reader.fail(f"{value!r} is another path for each user: write the whole path", at)
    if not numeric and value not in ("none", "missing"):
        try:
            TypeAdapter(annotation).validate_python(value, strict=not isinstance(value, list))
        except ValidationError as error:
            raise reader.fail(f"{name} can never be {value!r}: {error.errors()[0]['msg']}", at) from error


def shipped_rules() -> dict[str, Path]:
    """Bug → file, of those that are shipped."""
    return {path.stem: path for path in sorted((PACKAGE / "bugs").glob("*.yaml"))}


def find_rule(name: str, applied: Iterable[str] = ()) -> Rule:
    """A rule by its file or by the name of a shipped one. Raises :class:`SpecError` where there is none.

    ``applied``: other names that would have been understood.
    """
    path = Path(name)
    try:
        there = path.is_file()
    except OSError:  # a name too long for the file system, for one
        there = False
    if there or path.suffix in (".yaml", ".yml"):
        return load_rule(path)
    shipped = shipped_rules()
    if name not in shipped:
        raise SpecError("no such bug rule, nor a file", key="RULE", value=name, accepted=sorted({*shipped, *applied}))
    return load_rule(shipped[name])


def with_status(text: str, status: Status, version: int) -> str:
    """The same rule in a later version with another status; everything else, comments too, as it was."""
    text, statuses = re.subn(r"(?m)^status:[^#\n]*?(\s*#.*)?$", rf"status: {status}\1", text, count=1)
    text, versions = re.subn(r"(?m)^version:[^#\n]*?(\s*#.*)?$", rf"version: {version}\1", text, count=1)
    if not statuses or not versions:
        raise SpecError("status and version must each stand on a line of their own")
    return text
