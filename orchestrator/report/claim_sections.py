"""What a report says of claims: tables that people kept by hand, labelled as such, and what contradicts them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiment_specs.claims import ClaimedRun
from experiment_specs.language import Condition
from experiment_specs.references import Reference
from orchestrator.audit import CHECKS
from orchestrator.bugs.facts import claimed_percent
from orchestrator.claimed_counts import claimed_counts, count_of_questions
from orchestrator.numbers import bare_p, points
from orchestrator.report.document import Block, Cell, Items, Paragraph, Section, table, without_empty
from orchestrator.report.finding_sections import BY_QUESTIONS, CLAIM, findings
from orchestrator.report.gather import BugMaterial, HistoryMaterial
from orchestrator.report.published_sections import comparison_with
from orchestrator.report.run_sections import issues_overview, marks_table
from orchestrator.report.settings import settings_of
from orchestrator.statistics.checkpoints import CheckpointDifference, difference_of_counts
from orchestrator.statistics.scores import wilson
from orchestrator.words import readable

SMALL_BATCH = 32
_PICTOGRAM = re.compile("[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]")
"""Signs that many fonts do not have."""


def sections(history: HistoryMaterial, bugs: Sequence[BugMaterial], references: Sequence[Reference]) -> list[Section]:
    rows = list(zip(history.runs, history.rows, strict=True))
    conditions = [c for row in history.rows if row["condition"] and (c := readable(row["condition"])) is not None]
    return [
        section
        for section in (
            findings(history),
            _complete(history, rows),
            *_by_category(history, rows),
            _longer(history, rows),
            _small_batches(history, rows),
            _best(history),
            _configurations(history),
            _against(history, conditions, references),
            _issues(history, bugs),
            _steps(history),
            _contradictions(history),
            _environment(history),
        )
        if section is not None
    ]


def _against(
    history: HistoryMaterial, conditions: Sequence[Condition], references: Sequence[Reference]
) -> Section | None:
    """What the document says of itself, and the conditions that its claims are filed under, beside published work."""
    settings = {one["what"]: one["says"] for one in history.about.get("settings", ())}
    own: list[tuple[str, Mapping[str, str]]] = [("the document says", settings)] if settings else []
    own += [("its claims are filed as", settings_of(conditions))] if conditions else []
    return comparison_with(f"{history.name}: against published work", own, references) if own and references else None


def _score(row: Mapping[str, Any]) -> Cell:
    """As written; with Wilson's interval where k of n follows from it; struck through where a bug affects it."""
    score = row["score"]
    if score is None:
        return Cell("–")
    text = f"{score['percent']:.2f} %"
    if score["k"] is not None and score["samples"] == 1:
        low, high = wilson(score["k"], score["n"])
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    struck = row["validity"] in ("affected", "superseded")
    bugs = ", ".join(bug["bug"] for bug in row["bugs"] if bug["state"] in ("affected", "unknown"))
    return Cell(text, struck=struck, note=f"{row['validity']}: {bugs}" if struck and bugs else "")


def _said(run: ClaimedRun, field: str) -> str:
    """What the first place that speaks of a field says, in words."""
    value = run.first(field)
    if isinstance(value, str):
        return _PICTOGRAM.sub("", value).strip()
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _sigma(run: ClaimedRun) -> str:
    """As its places have it; where they disagree, each."""
    ranges = [f"{said.sigma_start:g}→{said.sigma_end:g}" for said in run.said if said.sigma_start and said.sigma_end]
    return " or ".join(dict.fromkeys(ranges)) or "–"


def _complete(history: HistoryMaterial, rows: Sequence[tuple[ClaimedRun, dict[str, Any]]]) -> Section:
    cells = [
        (
            run.label, run.category or "–", run.tensorboard or "–", _score(row), _k_of_n(run, row),
            _said(run, "epochs"), _said(run, "aqn"),
            _said(run, "epoch_aware"), _said(run, "srdd"), _said(run, "lora"), _said(run, "dtype"),
            _said(run, "notes"),
        )
        for run, row in rows
    ]  # fmt: skip
    columns = (
        "run",
        "type",
        "TensorBoard name",
        "as written [95 %]",
        "k/n",
        "epochs",
        "AQN",
        "epoch-aware",
        "SRDD",
        "LoRA",
        "dtype",
        "notes",
    )
    caption = f"{CLAIM} Every row, as the first place of the document has it. An interval stands where k of n follows."
    table_ = table(columns, cells, right=("as written [95 %]", "k/n", "epochs"), caption=caption)
    about = str(history.about.get("about") or "")
    return Section(f"{history.name}: all claims", (*([Paragraph(about)] if about else []), table_))


def _k_of_n(run: ClaimedRun, row: Mapping[str, Any]) -> str:
    score = row["score"]
    if score is None or not score["n"]:
        return "–"
    if score["k"] is not None:
        return f"{score['k']}/{score['n'] * score['samples']}"
    return "several k fit" if claimed_counts(run, score["percent"], score["n"]) else "no k fits"


def _apart(history: HistoryMaterial, label: str, than: str) -> CheckpointDifference | None:
    """Of two claims' scores, where both counts follow from what is written."""
    runs = {run.label: run for run in history.runs}
    questions = history.about.get("questions")
    counts = []
    for name in (than, label):
        k = count_of_questions(runs[name], claimed_percent(runs[name]), questions)
        if k is None:
            return None
        counts.append((k, int(questions or 0)))
    return difference_of_counts(counts[0], counts[1])


def _claimed_differences(history: HistoryMaterial, label: str) -> list[tuple[str, Cell, Cell, str]]:
    """(than, as claimed, recomputed with its interval, p) of everything that is said of one claim. A peak was chosen
    among several evals: what it is above another score has no interval."""
    found: list[tuple[str, Cell, Cell, str]] = []
    for one in history.compared[label]:
        struck, peak = not one["stands"], one["of"] == "peak"
        apart = None if peak else _apart(history, label, one["than"])
        note = "; ".join([*(["by its peak"] if peak else []), *one["because"]])
        again = points(apart.difference, apart.low, apart.high) if apart else "–"
        claimed = Cell(f"{one['points']:+.2f}".replace("-", "−"), struck=struck, note=note)
        found.append(
            (one["than"], claimed, Cell(again, struck=struck), bare_p(apart.p if apart and not struck else None))
        )
    return found


def _by_category(history: HistoryMaterial, rows: Sequence[tuple[ClaimedRun, dict[str, Any]]]) -> list[Section]:
    found = []
    for category in dict.fromkeys(run.category or "no category" for run in history.runs):
        cells: list[tuple[Cell | str, ...]] = []
        for run, row in rows:
            if (run.category or "no category") != category or run.group is not None:
                continue
            fixed = (
                _said(run, "dtype"),
                _said(run, "hw_noise"),
                _sigma(run),
                _said(run, "epoch_aware"),
                _said(run, "srdd"),
            )
            differences = _claimed_differences(history, run.label) or [("–", Cell("–"), Cell("–"), "–")]
            for nth, (than, claimed, again, p) in enumerate(differences):
                lead: tuple[Cell | str, ...] = (run.label, _score(row), *fixed) if nth == 0 else ("",) * 7
                cells.append((*lead, than, claimed, again, p, _said(run, "notes") if nth == 0 else ""))
        if cells:
            columns = (
                "run",
                "as written [95 %]",
                "dtype",
                "hw noise",
                "σ",
                "epoch-aware",
                "SRDD",
                "against",
                "claimed benefit",
                "points [95 %]",
                "p",
                "notes",
            )
            caption = f"{CLAIM} {BY_QUESTIONS}"
            right = ("as written [95 %]", "claimed benefit", "points [95 %]", "p")
            found.append(
                Section(
                    f"{history.name}: {category}", (without_empty(table(columns, cells, right=right, caption=caption)),)
                )
            )
    return found


def _longer(history: HistoryMaterial, rows: Sequence[tuple[ClaimedRun, dict[str, Any]]]) -> Section | None:
    by_label = {run.label: row for run, row in rows}
    cells = []
    for run, row in rows:
        if run.extends is None or run.extends not in by_label:
            continue
        said = next((one for one in _claimed_differences(history, run.label) if one[0] == run.extends), None)
        _, claimed, again, p = said or ("", Cell("–"), Cell("–"), "–")
        peak = run.first("peak")
        cells.append(
            (
                run.label, _score(by_label[run.extends]), _score(row), _said(run, "score_step"), claimed,
                again,
                p,
                Cell(
                    f"{peak:.2f} % at {_said(run, 'peak_step')}" if isinstance(peak, float) else "–",
                    struck=row["validity"] in ("affected", "superseded"),
                ),
                _said(run, "status"), _said(run, "notes"),
            )
        )  # fmt: skip
    if not cells:
        return None
    columns = (
        "run",
        "shorter run [95 %]",
        "this run [95 %]",
        "at step",
        "claimed",
        "points [95 %]",
        "p",
        "peak",
        "status",
        "notes",
    )
    caption = (
        f"{CLAIM} {BY_QUESTIONS} A peak is the best of several evals: luck alone raises it. At which step the shorter"
        " runs were evaluated is not told."
    )
    right = ("shorter run [95 %]", "this run [95 %]", "at step", "claimed", "points [95 %]", "p")
    return Section(f"{history.name}: training length", (table(columns, cells, right=right, caption=caption),))


def _small_batches(history: HistoryMaterial, rows: Sequence[tuple[ClaimedRun, dict[str, Any]]]) -> Section | None:
    cells = [
        (
            run.label, str(condition["batch"]["prompts"]), _sigma(run), _score(row), _planned(history, run),
            _said(run, "executed_steps"), _said(run, "status"), _said(run, "notes"),
        )
        for run, row in rows
        if (condition := row["condition"]) is not None and condition["batch"]["prompts"] <= SMALL_BATCH
    ]  # fmt: skip
    if not cells:
        return None
    columns = ("run", "prompts a step", "σ", "as written [95 %]", "steps planned", "executed", "status", "notes")
    right = ("prompts a step", "as written [95 %]", "steps planned", "executed")
    return Section(
        f"{history.name}: small batches",
        (table(columns, cells, right=right, caption=f"Runs of at most {SMALL_BATCH} prompts a step. {CLAIM}"),),
    )


def _planned(history: HistoryMaterial, run: ClaimedRun) -> str:
    """Of the run, or of its group."""
    group = history.groups.get(run.group or "")
    said = _said(run, "planned_steps")
    return _n(group.planned_steps) if said == "–" and group is not None else said


def _best(history: HistoryMaterial) -> Section | None:
    if not history.best:
        return None
    validity = {run.label: row["validity"] for run, row in zip(history.runs, history.rows, strict=True)}
    percent = {run.label: claimed_percent(run) for run in history.runs}
    cells = []
    for best in history.best:
        fallen = validity[best.run] in ("affected", "superseded")
        usable = {
            name: value
            for name in best.among
            if (value := percent[name]) is not None and validity[name] not in ("affected", "superseded")
        }
        highest = max(usable, key=lambda name: (usable[name], name), default=None)
        others = {name: _apart(history, highest, name) for name in usable if highest is not None and name != highest}
        tied = [name for name, apart in others.items() if apart is not None and not apart.differ]
        untested = [name for name, apart in others.items() if apart is None]
        beside = ", ".join([*tied, *(f"{name} (no k of n: not tested)" for name in untested)])
        cells.append(
            (
                best.category, Cell(best.run, struck=fallen, note=validity[best.run] if fallen else ""),
                Cell(f"{best.score:.2f} %", struck=fallen),
                f"{highest} ({usable[highest]:.2f} %)" if highest is not None else "none: a rule marks all",
                beside or "–", str(len(best.among)),
            )
        )  # fmt: skip
    columns = (
        "category",
        "called the best",
        "as written",
        "highest that no rule marks",
        "within question noise of it",
        "runs in the category",
    )
    caption = (
        f"{CLAIM} The highest of several is raised by luck, by the more the more there are; one run each, so no best"
        " treatment can be named."
    )
    return Section(
        f"{history.name}: best of each category",
        (table(columns, cells, right=("as written", "runs in the category"), caption=caption),),
    )


def _configurations(history: HistoryMaterial) -> Section | None:
    groups: dict[tuple[str, ...], list[str]] = {}
    for run, row in zip(history.runs, history.rows, strict=True):
        condition = row["condition"]
        if condition is None or condition["aqn"] is None:
            continue
        aqn, srdd = condition["aqn"], condition["srdd"]
        key = (
            _sigma(run), f"{aqn['sigma_start']:g}→{aqn['sigma_end']:g}", _said(run, "epoch_aware"), aqn["schedule"],
            _said(run, "srdd"), srdd["aim"] if srdd else "none", aqn["layer_types"],
        )  # fmt: skip
        groups.setdefault(key, []).append(run.label)
    if not groups:
        return None
    columns = (
        "σ, as written",
        "σ, filed as",
        "epoch-aware",
        "schedule",
        "SRDD, as written",
        "SRDD, filed as",
        "modules",
        "runs",
    )
    caption = "As the document has it, and the condition that the claim is filed under."
    return Section(
        f"{history.name}: configurations of the noise",
        (table(columns, [(*k, ", ".join(v)) for k, v in groups.items()], caption=caption),),
    )


def _issues(history: HistoryMaterial, bugs: Sequence[BugMaterial]) -> Section | None:
    own = {claim.id: claim.label for claim in history.claims}
    concerned = [bug for bug in bugs if any(mark.subject in own for mark in bug.marks)]
    if not concerned:
        text = "No bug rule marks a claim of this history. `aqn bugs check` says whom a rule would mark."
        return Section(f"{history.name}: known issues", (Paragraph(text),))
    only = [BugMaterial(b.bug, tuple(m for m in b.marks if m.subject in own), b.reruns) for b in concerned]
    return Section(f"{history.name}: known issues", (issues_overview(only), *(marks_table(bug, own) for bug in only)))


def _steps(history: HistoryMaterial) -> Section | None:
    if not history.groups:
        return None
    members = {key: [run.label for run in history.runs if run.group == key] for key in history.groups}
    cells = []
    for key, group in history.groups.items():
        whole = group.rows // group.generation_batch if group.rows and group.generation_batch else None
        cells.append(
            (
                key, _n(group.rows), _n(group.generation_batch), _n(group.steps_per_epoch),
                Cell(_n(whole), strong=whole != group.steps_per_epoch), _n(group.planned_steps),
                "–".join(map(str, group.executed_steps)) or _executed(history, members[key]),
                ", ".join(map(str, group.eval_steps)) or "–",
                ", ".join(members[key]) or "–",
            )
        )  # fmt: skip
    columns = ("runs", "rows", "batch", "steps an epoch", "rows ÷ batch", "planned", "executed", "evals at", "which")
    caption = f"{CLAIM} In bold: the division gives another number than the document."
    return Section(
        f"{history.name}: steps, planned and executed", (table(columns, cells, right=columns[1:7], caption=caption),)
    )


def _executed(history: HistoryMaterial, labels: Sequence[str]) -> str:
    told = {run.label: run.first("executed_steps") for run in history.runs if run.label in labels}
    return ", ".join(f"{steps} ({label})" for label, steps in told.items() if steps is not None) or "–"


def _n(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _contradictions(history: HistoryMaterial) -> Section:
    title = f"{history.name}: what the audit found"
    if not history.contradictions:
        return Section(title, (Paragraph("No contradiction."),))
    blocks: list[Block] = [Paragraph("Nothing here says which of two places is right; the runs' own logs might.")]
    for check, rule in CHECKS.items():
        own = tuple(c.text for c in history.contradictions if c.check == check)
        if own:
            blocks += [Paragraph(f"{check}: {rule}"), Items(own)]
    return Section(title, tuple(blocks))


def _environment(history: HistoryMaterial) -> Section:
    about = history.about
    told = [
        f"document: {about.get('document') or '–'}, recorded {about.get('recorded', '–')}",
        f"questions of the test: {about.get('questions') or 'not told'}",
        "seeds, code versions, packages, machines: not told",
    ]
    return Section(f"{history.name}: environment", (Items(tuple(told)),))
