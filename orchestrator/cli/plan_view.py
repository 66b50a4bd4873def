"""A plan on the terminal, 80 columns: conditions, what they touch, what they would cost and could show, warnings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from experiment_specs.errors import one_line
from experiment_specs.language import Condition, scan_of
from orchestrator import checks, touched
from orchestrator.aims import Aim
from orchestrator.composed import Shown
from orchestrator.forecast import Forecast, Question
from orchestrator.plan import Plan, PlannedCondition
from orchestrator.price import Price
from orchestrator.statistics.power import MOST_SEEDS, Scatter
from orchestrator.words import condition_words

MOST_POINTS = 100
"""Scores are percentages."""
MOST_NAMED, MOST_LETTERS = 4, 60
"""With more conditions than these, or longer names, a line says how many more there are."""


def plan_view(plan: Plan, outlook: Forecast, aims: Mapping[str, Aim], recorded: int = 0) -> Iterator[RenderableType]:
    """``recorded``: how many of the runs there are already."""
    yield Text.assemble((plan.sweep.name, "bold"), f"  {one_line(plan.sweep.about)}")
    yield _conditions(plan)
    seeds = ", ".join(map(str, plan.sweep.seeds))
    rule = plan.sweep.score
    yield Text(
        f"{_count(len(plan.conditions), 'condition')}, seeds {seeds}: {_count(plan.runs, 'run')} of "
        f"{_count(plan.sweep.resources.gpus, 'GPU')}; score: {rule.rule} eval, {rule.mode} mode\n"
    )
    for heading, lines in (
        ("model", _grouped(plan, [(c, _model(c)) for c in plan.conditions])),
        ("touches", _grouped(plan, [(c, _touched(c)) for c in plan.conditions])),
        ("attention", _grouped(plan, [(c, _attention(c.condition)) for c in plan.conditions])),
        ("evaluated", _grouped(plan, [(c, checks.eval_mode(c.condition)) for c in plan.conditions])),
        ("aimed", _aimed(plan, aims)),
        ("costs", _costs(plan, outlook, recorded)),
        ("can show", [_question(question, plan) for question in outlook.questions]),
        ("left out", _left_out(plan)),
    ):
        if found := list(lines):
            yield _section(heading, found)
    warnings = list(_warnings(plan))
    if warnings:
        yield _section("warnings", warnings, style="yellow")


def _section(heading: str, lines: Iterable[str], style: str = "") -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=9, no_wrap=True)
    table.add_column(width=2)
    table.add_column(overflow="fold")
    for index, line in enumerate(lines):
        table.add_row(Text("" if index else heading, style="bold"), "·", Text(line, style=style))
    return Padding(table, (0, 0, 1, 0))


def _conditions(plan: Plan) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, justify in (("condition", "left"), ("means", "left"), ("steps", "right"), ("evals at", "left")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    words = condition_words([c.condition for c in plan.conditions])
    for c, text in zip(plan.conditions, words, strict=True):
        evals = [str(step) for step in c.steps.evals]
        shown = ", ".join(evals if len(evals) <= 8 else [*evals[:3], "…", *evals[-2:]])
        table.add_row(
            escape(c.label), escape(text),
            f"{c.steps.per_epoch} × {c.condition.epochs}" if c.condition.epochs > 1 else str(c.steps.total), shown,
        )  # fmt: skip
    return table


def _model(c: PlannedCondition) -> str:
    path, t = c.condition.model.path, c.touched
    if t is None:
        return f"{path}: its modules are not known here, see the warnings"
    return (
        f"{path}: {t.layers} decoder layers, {t.norms} RMSNorms, {t.block_linears} block linears; "
        f"{_large(t.trained)} of {_large(t.parameters)} parameters are trained"
    )


def _attention(condition: Condition) -> str:
    packs = condition.attention == "flash_attention_2"
    where = "policy and rollouts" if condition.rollout == "transformers" else "policy (vLLM has its own)"
    return f"{condition.attention} in {where}, sequences {'packed without padding' if packs else 'padded'}"


def _touched(c: PlannedCondition) -> str:
    return touched.in_words(c.condition, c.touched) if c.touched is not None else "not known"


def _grouped(plan: Plan, texts: Iterable[tuple[PlannedCondition, str]]) -> Iterator[str]:
    """Each text once, with the conditions that it is said of."""
    by_text: dict[str, list[str]] = {}
    for c, text in texts:
        by_text.setdefault(text, []).append(c.label)
    for text, labels in by_text.items():
        yield text if len(labels) == len(plan.conditions) else f"{text} ({_some(labels)})"


def _aimed(plan: Plan, aims: Mapping[str, Aim]) -> Iterator[str]:
    """How much of sigma every layer gets, where a scan decides it."""
    texts = []
    for c in plan.conditions:
        aim = aims.get(c.condition.id)
        if aim is None:
            continue
        if aim.multipliers is not None:
            text = "sigma by layer × " + ", ".join(f"{m:.3g}" for m in aim.multipliers)
        else:
            text = aim.problem or f"sigma by layer follows from scan {aim.scan_id}, which is made first"
        texts.append((c, text))
    return _grouped(plan, texts)


def _costs(plan: Plan, outlook: Forecast, recorded: int) -> Iterator[str]:
    steps = sum(len(c.seeds) * c.steps.total for c in plan.conditions)
    updates = sum(len(c.seeds) * c.steps.optimiser_updates for c in plan.conditions)
    yield f"{_count(steps, 'training step')}, {_count(updates, 'optimiser update')}"
    if recorded:
        yield f"{recorded} of the {_count(plan.runs, 'run')} are recorded already: `aqn submit` takes them over"
    if outlook.price is not None:
        yield f"{_hours(outlook.price)}, by {_count(outlook.price.runs, 'finished run')} like these"
    else:
        some = "" if len(outlook.unknown) == len(plan.conditions) else f" ({_some(outlook.unknown)})"
        yield f"GPU-hours unknown: no finished run like these is recorded{some}"
    if outlook.disk_bytes is not None:
        keep = plan.sweep.checkpoints.keep
        yield f"checkpoints: {_bytes(outlook.disk_bytes)} on disk (keep: {keep})"
    if outlook.gpu_bytes is not None:
        yield f"memory: {_bytes(outlook.gpu_bytes)} a GPU for weights, gradients and moments; activations come on top"


def _hours(price: Price) -> str:
    if price.low is None or price.high is None:
        return f"about {price.hours:.2g} GPU-hours (too few runs for an interval)"
    return f"{price.hours:.2g} GPU-hours [{price.low:.2g}, {price.high:.2g}]"


def _question(question: Question, plan: Plan) -> str:
    found, seeds = question.power, len(plan.sweep.seeds)
    spread = _spread(found.scatter)
    several = f", {found.comparisons} comparisons" if found.comparisons > 1 else ""
    if found.detectable is None:
        text = f"{question.name}: nothing with one seed an arm"
    elif found.detectable > MOST_POINTS:
        text = f"{question.name}: no difference that scores can have, with {_count(seeds, 'seed')} an arm"
    else:
        text = f"{question.name}: {found.detectable:.1f} points with {_count(seeds, 'seed')} an arm"
    if found.seeds is None:
        text += f"; {found.wished:g} points take more than {MOST_SEEDS:,}"
    elif question.more_runs:
        cost = f", {_hours(question.more)}" if question.more is not None else ""
        text += f"; {found.wished:g} points take {found.seeds} ({_count(question.more_runs, 'run')} more{cost})"
    elif found.detectable is not None and found.detectable > found.wished:
        text += f"; {found.wished:g} points take {found.seeds}"
    return f"{text} (80\u00a0% power at 5\u00a0%{several}, {spread})"


def _spread(scatter: Scatter) -> str:
    if not scatter.runs:
        return f"runs assumed to scatter by {scatter.sd:g} point{'s' * (scatter.sd != 1)}"
    return f"runs scatter by at most {scatter.sd:.2g} points, by {scatter.runs} that finished"


def _left_out(plan: Plan) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for excluded in plan.excluded:
        choice = ", ".join(f"{key} {_plain(value)}" for key, value in excluded.choice.items())
        by_reason.setdefault(excluded.reason, []).append(choice)
    for reason, choices in by_reason.items():
        more = f" and {len(choices) - 1} more" if len(choices) > 1 else ""
        yield f"{choices[0]}{more}: {reason}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={_plain(inner)}" for key, inner in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def _warnings(plan: Plan) -> Iterator[str]:
    for text in _grouped(plan, [(c, text) for c in plan.conditions for text in c.blockers]):
        yield f"aqn submit will refuse this: {text}"
    yield from plan.warnings
    yield from _grouped(plan, [(c, text) for c in plan.conditions for text in c.warnings])


def _some(labels: Iterable[str]) -> str:
    names = list(labels)
    shown = names[:1]
    for name in names[1:MOST_NAMED]:
        if len(", ".join([*shown, name])) <= MOST_LETTERS:
            shown.append(name)
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _bytes(number: int) -> str:
    return f"{_large(number)}B"


def _large(number: int) -> str:
    """``1.54 G``; a unit may follow."""
    size = float(number)
    for unit in ("", "k", "M", "G"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} T"


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def command_text(plan: Plan, chosen: PlannedCondition, shown: Shown, on: str) -> str:
    """A shell script that runs one condition by hand, and the configuration that follows."""
    changes = yaml.dump(shown.changes, Dumper=_Plain, sort_keys=True, allow_unicode=True, width=110)
    scan = scan_of(chosen.condition)
    aimed = [f'# Its noise is aimed by layer scan {scan.id}, whose result belongs under "scan".'] if scan else []
    return "\n".join([
        f"# {one_line(chosen.label)} of {plan.sweep.name}, seed {chosen.seeds[0]}, on a node with a {on.upper()}.",
        "# order.json is the whole run, events.jsonl what came of it. --json prints the whole of verl's configuration.",
        *aimed,
        'export RUN_DIR="$PWD/by-hand"; mkdir -p "$RUN_DIR"; cat > "$RUN_DIR/order.json" <<\'END\'',
        json.dumps(shown.order, indent=1, ensure_ascii=False),
        "END",
        f'{shlex.join(shown.command)} "$RUN_DIR"',
        "",
        "# What the trainer sets for its processes:",
        *(f"#   {name}={shlex.quote(value)}" for name, value in shown.environment.items()),
        f"# What it sets in verl's configuration, {len(shown.changes)} keys (model and data where it finds them):",
        *(f"#   {line}" for line in changes.splitlines()),
    ])  # fmt: skip
