"""What a report says of a search: its trials, what was confirmed, the answer, pictures. Values; pure."""

from __future__ import annotations

from orchestrator.numbers import bare_p, points
from orchestrator.report.canvas import to_svg
from orchestrator.report.difference_sections import arm_score
from orchestrator.report.document import (
    Block,
    Cell,
    Figure,
    Items,
    Paragraph,
    Section,
    Table,
    slug,
    table,
    without_empty,
)
from orchestrator.report.forest import Line, draw_forest
from orchestrator.report.gather import SearchMaterial
from orchestrator.report.search_pictures import pictures
from orchestrator.search.answer import Answer
from orchestrator.search.decide import Trial
from orchestrator.search.space import headings, spelled
from orchestrator.search.state import SearchState


def search_section(material: SearchMaterial) -> Section:
    state, found = material.state, material.answer
    blocks: list[Block] = []
    if state.about:
        blocks.append(Paragraph(state.about))
    if found is None:
        blocks.append(Paragraph("Nothing of it is confirmed yet: no score of it is one to report.", warning=True))
    else:
        blocks += [Paragraph(found.sentence), confirmed_table(state, found), *_forest(state, found)]
        if found.pick is not None:
            blocks.append(
                Paragraph(f"Where one has to be taken, selection and confirmation together speak for {found.pick}.")
            )
    blocks.append(trials_table(state))
    if why := withheld(state):
        blocks.append(Items(tuple(why)))
    for name, (picture, caption) in pictures(state, material.important).items():
        label = f"{state.name}: {name}"
        blocks.append(Figure(f"search-{slug(state.name)}-{name}", to_svg(picture, label), caption))
    return Section(f"Search: {state.name}", tuple(blocks))


def confirmed_table(state: SearchState, found: Answer) -> Table:
    rows = []
    for candidate in sorted(found.candidates, key=lambda c: (c.gain is not None, -(c.scores.mean or 0))):
        gain = candidate.gain
        own = candidate.arm.point
        point = ", ".join(f"{head} {spelled(own[key])}" for key, head in headings(state.settings).items() if key in own)
        rows.append(
            (
                Cell(candidate.label, strong=candidate.label in found.tied),
                point,
                str(len(candidate.scores.scored)),
                arm_score(candidate.scores),
                points(gain.treatment.difference, gain.treatment.low, gain.treatment.high) if gain else "",
                bare_p(gain.adjusted.p) if gain else "",
                gain.verdict if gain else "what they are held against",
            )
        )
    return table(
        ("treatment", "point", "seeds", "mean [95 %]", "points [95 %]", "p, Holm", "verdict"),
        rows,
        right=("seeds", "mean [95 %]", "points [95 %]", "p, Holm"),
        caption=(
            f"Confirmed on the {state.settings.confirm.questions} questions with seeds that no trial had; bold: cannot"
            " be told from the best."
        ),
    )


def _forest(state: SearchState, found: Answer) -> list[Block]:
    lines = [
        Line(
            name=candidate.label,
            difference=gain.treatment.difference, low=gain.treatment.low, high=gain.treatment.high,
            widest=(gain.adjusted.low, gain.adjusted.high)
            if gain.adjusted.low is not None and gain.adjusted.high is not None
            else None,
            margin=gain.treatment.margin, note=gain.verdict, single=gain.treatment.differences,
        )
        for candidate in found.candidates
        if (gain := candidate.gain) is not None and gain.treatment.difference is not None
    ]  # fmt: skip
    if not lines:
        return []
    first = next(c for c in found.candidates if c.gain is None).label
    picture = draw_forest(lines, f"points against {first}", f"{state.name}: what was confirmed")
    name = f"search-{slug(state.name)}-confirmed"
    caption = "Differences on fresh seeds: thick 95 % each, thin all together; ticks: single seeds; grey: equal."
    return [Figure(name, to_svg(picture, f"{state.name}: confirmed differences"), caption)]


def trials_table(state: SearchState) -> Table:
    seen, heads = state.surface, headings(state.settings)
    signed = state.settings.objective.maximise == "difference"
    order = sorted(state.trials, key=lambda t: (-seen.smoothed.get(t.number, float("-inf")), t.number))
    rows: list[tuple[Cell | str, ...]] = [
        (
            str(trial.number),
            *(spelled(trial.point.get(key)) for key in heads),
            str(len(trial.values)),
            _mean(state, trial, signed=signed),
            _number(seen.smoothed.get(trial.number), signed=signed),
            spelled(trial.cost),
        )
        for trial in order
    ]
    goal = state.settings.objective
    what = "points against the baseline" if signed else "score, %"
    cost = {"gpu_hours": "GPU-hours", "response_length": "tokens an answer"}.get(str(goal.also), "cost")
    ranges = [head for key, head in heads.items() if state.settings.space[key].choices is None]
    return without_empty(
        table(
            ("trial", *heads.values(), "seeds", f"{what} ± SE", "smoothed", cost),
            rows,
            right=("trial", *ranges, "seeds", f"{what} ± SE", "smoothed", cost),
            caption=(
                f"Trials, on the {goal.questions} questions, which are selected on and therefore not reported."
                f" Smoothed: with what neighbouring trials say. One run scatters by about {state.known_sd:.1f} points."
            ),
        )
    )


def _mean(state: SearchState, trial: Trial, *, signed: bool) -> Cell:
    seen = state.surface
    if trial.number in seen.mean:
        return Cell(f"{_number(seen.mean[trial.number], signed=signed)} ± {seen.error[trial.number]:.1f}")
    return Cell("under way" if trial.waiting else "ended early" if trial.pruned else "withheld")


def _number(value: float | None, *, signed: bool) -> str:
    return points(value) if signed or value is None else f"{value:.1f}"


def withheld(state: SearchState) -> list[str]:
    return [
        f"Withheld: trial {trial.number}, seed {seed}: {why}"
        for trial in state.trials
        for seed, why in state.why_void(trial).items()
    ]
