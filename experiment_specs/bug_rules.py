"""Bug rules: which runs a known bug affects, as data. A YAML file a bug, no code in it.

A rule asks for facts: fields of the condition, what follows from it, the code that ran, recorded evidence, artefacts,
scores. Whoever evaluates it (:mod:`orchestrator.bugs.evaluate`) answers match, clean or unknown, with the facts that
decided.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from experiment_specs.errors import SpecError
from experiment_specs.language import NAMED_FIELDS, Condition, Value, unknown_part
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
        "quantised.modules": "modules whose weights were quantised",
        "quantised.outside_blocks": "quantised modules that are no block linears: lm_head, embeddings",
        "quantised.adapters": "quantised adapter matrices",
        "eval.count": "evaluations",
        "eval.last_step": "step of the last evaluation",
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
        "checkpoint_twins": "runs of another condition or seed with the same last checkpoint",
        "answers_twins": "runs of another condition or seed with the same outcomes at the score, question by question",
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

    commit: str | None = None
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None


class Exception_(Value):  # noqa: N801 - not an error
    """A run that the predicate decides wrongly, and why."""

    run: str
    because: Annotated[str, Field(min_length=1)]


class Header(Value):
    """Everything of a rule but its predicate."""

    bug: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,99}$")]
    version: Annotated[int, Field(gt=0)]
    title: Annotated[str, Field(min_length=1)]
    found: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    status: Status
    disposition: Disposition
    introduced_in: Point = Point()
    fixed_in: Point = Point()
    because: str = ""
    except_: Annotated[tuple[Exception_, ...], Field(strict=False, alias="except")] = ()
    include: Annotated[tuple[Exception_, ...], Field(strict=False)] = ()


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
    source = read_yaml(path, shown_as)
    reader = Reader(source.data, source.marks, path)
    header = {key: value for key, value in source.data.items() if key != "affects"}
    known = [f.alias or name for name, f in Header.model_fields.items()] + ["affects"]
    for key in header:
        if key not in known:
            raise reader.fail("unknown key", (key,), key, known)
    if "affects" not in source.data:
        raise reader.fail("affects is missing: whom does the bug affect?", ())
    return Rule(
        reader.value_at((), header, Header),
        _predicate(reader, source.data["affects"], ("affects",)),
        path.read_text(encoding="utf-8"),
        path,
    )


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
        return Combined(how[0], tuple(_predicate(reader, part, (*below, i)) for i, part in enumerate(inner)))
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


_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _fits(reader: Reader, source: str, name: str, operator: str, value: Any, at: KeyPath) -> None:  # noqa: PLR0917
    """An operator that cannot compare this fact would never match, silently."""
    if (source, name) == ("field", "code"):
        if operator not in ("before", "since"):
            raise reader.fail("code is compared by before or since", at, operator, ["before", "since"])
        if value not in ("fixed_in", "introduced_in"):
            raise reader.fail("names a point of the rule", at, value, ["fixed_in", "introduced_in"])
    elif operator in ("before", "since"):
        raise reader.fail("compares field: code alone", at)
    elif operator in NUMERIC and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise reader.fail(f"{value!r} is not a number", at, value)
    elif operator in ("in", "not_in") and (not isinstance(value, list) or not value):
        raise reader.fail("is a list of values", at, value)
    if source == "field" and name in NAMED_FIELDS:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and not (name == "dtype" and operator in NUMERIC):
                resolve_name(name, one, lambda problem, v, accepted: reader.fail(problem, at, v, accepted))


def fields_of_conditions() -> list[str]:
    return [*Condition.model_fields, "code", "seed"]


def shipped_rules() -> dict[str, Path]:
    """Bug → file, of those that are shipped."""
    return {path.stem: path for path in sorted((PACKAGE / "bugs").glob("*.yaml"))}


def find_rule(name: str) -> Rule:
    """A rule by its file or by the name of a shipped one. Raises :class:`SpecError` where there is none."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return load_rule(path)
    shipped = shipped_rules()
    if name not in shipped:
        raise SpecError("no such bug rule, nor a file", key="RULE", value=name, accepted=shipped)
    return load_rule(shipped[name])


def with_status(text: str, status: Status, version: int) -> str:
    """The same rule in a later version with another status; everything else, comments too, as it was."""
    text, statuses = re.subn(r"(?m)^status:[^#\n]*?(\s*#.*)?$", rf"status: {status}\1", text, count=1)
    text, versions = re.subn(r"(?m)^version:[^#\n]*?(\s*#.*)?$", rf"version: {version}\1", text, count=1)
    if not statuses or not versions:
        raise SpecError("status and version must each stand on a line of their own")
    return text
