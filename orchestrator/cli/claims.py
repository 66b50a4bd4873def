"""`aqn import …` and `aqn audit`: what people wrote before, and what it contradicts."""

from __future__ import annotations

import re
import shlex
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.common import NOTHING_MATCHED, print_json
from orchestrator.cli.import_script import script
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from db.bug_writes import Imported
    from orchestrator.importers.curves import ImportedCurve
    from orchestrator.importers.tracked import LeftOut, Tracked

app = typer.Typer(no_args_is_help=True, help="Record what was there before: histories, logs, trackers' runs, scripts.")
app.command()(script)

Questions = Annotated[
    list[str] | None,
    typer.Option(
        "--questions", metavar="N or SET=N",
        help="Test questions, where known: percentages are shares of them. With several test sets, SET=N for each.",
    ),
]  # fmt: skip
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="TAG", help="Read this tag, not the scores of all test sets. Can be repeated."),
]
INDENTED: dict[str, Any] = {
    "width": 80, "initial_indent": "  ", "subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False
}  # fmt: skip
"""A detail below a line; tags and file names in it stay whole."""
Name = Annotated[str | None, typer.Option("--history", help="Name to file the claims under; the source's by default.")]
Day = Annotated[str | None, typer.Option("--recorded", help="Day of the runs, as 2026-01-31; the files' by default.")]
Began = Annotated[
    str | None,
    typer.Option("--recorded", help="Day of the runs, as 2026-01-31; by default the day on which each began."),
]


@app.command()
def history(
    file: Annotated[Path, typer.Argument(help="A history, or the name of a shipped one.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Record a file of claims: runs, scores, statuses as people wrote them. Again: only what changed."""
    from experiment_specs.claims import load_history
    from experiment_specs.presets import PACKAGE
    from orchestrator.cli.common import registry
    from orchestrator.importers.history import claims_of, import_history

    shipped = {path.stem: path for path in (PACKAGE / "history").glob("*.yaml")}
    path = shipped.get(file.name, file) if file.suffix == "" else file
    claims_of(load_history(path))  # what is wrong with it, before a registry is made
    engine = registry(create=True)
    _tell(import_history(engine, path), as_json=as_json, then="aqn audit; aqn runs; aqn bugs list")


@app.command()
def tensorboard(  # noqa: PLR0917 - typer reads them as options
    folder: Annotated[Path, typer.Argument(help="A folder with event files, in it or below.", show_default=False)],
    questions: Questions = None,
    metric: Metrics = None,
    name: Name = None,
    recorded: Day = None,
    as_json: Json = False,
) -> None:
    """Record the eval curves of TensorBoard event files as claims, one per attempt and test set."""
    from orchestrator.importers.tensorboard import read

    asked = _questions(questions)
    _curves(read(folder, metric or ()), folder, name, asked, recorded, as_json=as_json)


@app.command("verl-log")
def verl_log(  # noqa: PLR0917 - typer reads them as options
    file: Annotated[
        Path, typer.Argument(help="What verl printed on its console, or its file logger wrote.", show_default=False)
    ],
    questions: Questions = None,
    metric: Metrics = None,
    label: Annotated[str | None, typer.Option(help="What to call the run; the file's name by default.")] = None,
    name: Name = None,
    recorded: Day = None,
    as_json: Json = False,
) -> None:
    """Record the eval curves of a verl console log, or of its JSON lines, as claims, one per attempt and test set."""
    from orchestrator.importers.verl_log import read

    asked = _questions(questions)
    _curves(read(file, label, metric or ()), file, name, asked, recorded, as_json=as_json)


def _questions(given: Sequence[str] | None) -> int | dict[str, int] | None:
    """``--questions``: one number, or SET=N once per test set."""
    from experiment_specs.errors import SpecError

    found: dict[str, int] = {}
    for word in given or ():
        test_set, _, number = word.rpartition("=")
        if not re.fullmatch(r"[1-9]\d{0,8}", number) or test_set in found or (len(given or ()) > 1 and not test_set):
            problem = "is no number of questions: one number, as 1319, or each test set once, as aime24=30"
            raise SpecError(problem, key="--questions", value=word)
        found[test_set] = int(number)
    return found.get("", found or None)


@app.command()
def wandb(  # noqa: PLR0917 - typer reads them as options
    folder: Annotated[Path, typer.Argument(help="A folder with run-*.wandb files below it.", show_default=False)],
    metric: Metrics = None,
    questions: Questions = None,
    name: Name = None,
    recorded: Began = None,
    as_json: Json = False,
) -> None:
    """Record W&B runs from their local files as claims, one per run and test set. Needs no wandb and no network.

    Files of one run id are one run, resumed. A file that is cut off gives what it has.

    Examples:

    aqn import wandb wandb/

    aqn import wandb experiments/ --history grpo-2026 --metric val-core/math/acc/mean@4
    """
    from orchestrator.importers.wandb_files import read

    _tracked(read(folder), folder, "W&B", metric, questions, name, recorded, as_json=as_json)


@app.command()
def mlflow(  # noqa: PLR0917 - typer reads them as options
    uri: Annotated[
        str,
        typer.Argument(help="sqlite:///FILE, a database file, a folder mlruns, or http(s)://…", show_default=False),
    ],
    metric: Metrics = None,
    questions: Questions = None,
    name: Name = None,
    recorded: Began = None,
    as_json: Json = False,
) -> None:
    """Record the runs of an MLflow store as claims, one per run and test set. The store is not changed.

    Deleted runs are left out, and those that `aqn mlflow` wrote itself.

    Examples:

    aqn import mlflow sqlite:////tmp/mlruns.db

    aqn import mlflow http://localhost:5000 --history group-server --questions 1319
    """
    from orchestrator.importers.mlflow_store import read, source_path, tag_of

    path = source_path(uri)
    tags = [tag_of(tag) for tag in metric or ()]
    server = uri.rpartition("@")[2].rpartition("//")[2].strip("/")
    named = name or _as_history(path.resolve().name if path is not None else server)
    _tracked(read(uri, tuple(tags)), path, "MLflow", tags, questions, named, recorded, as_json=as_json)


@app.command()
def parquet(  # noqa: PLR0917 - typer reads them as options
    file: Annotated[
        Path, typer.Argument(help="A Parquet or CSV file, or a folder of Parquet files.", show_default=False)
    ],
    metric: Metrics = None,
    questions: Questions = None,
    name: Name = None,
    recorded: Began = None,
    as_json: Json = False,
) -> None:
    """Record runs that a tracker exported as Parquet or CSV as claims, one per run and test set.

    Layouts: wide (step and a column per metric: Trackio, W&B's history), long (run, step, metric, value: Neptune), and
    W&B's chart CSV (Step, RUN - METRIC).

    Examples:

    aqn import parquet ~/.cache/huggingface/trackio/my-project.parquet

    aqn import parquet chart.csv --metric eval/accuracy --recorded 2026-01-31
    """
    from orchestrator.importers.metric_tables import read

    _tracked(read(file), file, "a tracker's export", metric, questions, name, recorded, as_json=as_json)


def _as_history(words: str) -> str:
    """The words as a name of a history."""
    from experiment_specs.claims import HISTORY_NAME

    return (
        "".join(c if HISTORY_NAME.fullmatch(c) or c in ".+-" else "_" for c in words).lstrip(".+-")[:100] or "imported"
    )


def _tracked(  # noqa: PLR0917 - what the three commands share
    tracked: Tracked, path: Path | None, tracker: str, metric: Sequence[str] | None, questions: Sequence[str] | None,
    name: str | None, recorded: str | None, *, as_json: bool,
) -> None:  # fmt: skip
    from orchestrator.cli.common import registry
    from orchestrator.importers.curve_claims import with_questions
    from orchestrator.importers.tracked import curves_of
    from orchestrator.importers.tracked_claims import record_tracked, with_kept_labels

    asked = _questions(questions)
    curves, left_out = curves_of(tracked, tuple(metric or ()))
    changed_at = path.stat().st_mtime if path is not None else time.time()
    history_name, else_day = _filed(path or Path(tracked.source), name, recorded, changed_at)
    with_questions([one.curve for one in curves], asked)  # what is wrong with them, before a registry is made
    engine = registry(create=True)
    curves = with_kept_labels(engine, history_name, curves)
    _tell_read([one.curve for one in curves], asked, as_json=as_json)
    if not as_json:
        _tell_left_out(left_out)
    imported = record_tracked(engine, history_name, curves, tracker, recorded, else_day, asked)
    _tell(
        imported, as_json=as_json, then="aqn runs; aqn show CLAIM; aqn audit",
        left_out=[{"run": one.name, "why": one.why} for one in left_out],
    )  # fmt: skip


def _tell_left_out(left_out: Sequence[LeftOut]) -> None:
    from rich.text import Text

    from orchestrator.cli.render import console

    screen = console()
    for run in left_out:
        screen.print(Text.assemble(("left out  ", "yellow"), f"{run.name}: {run.why}"))


def _curves(
    curves: Sequence[ImportedCurve], source: Path, name: str | None, questions: int | dict[str, int] | None,
    recorded: str | None, *, as_json: bool,
) -> None:  # fmt: skip
    from orchestrator.cli.common import registry
    from orchestrator.importers.curve_claims import record_curves

    if not any(curve.points for curve in curves):
        if as_json:
            print_json({"created": [], "changed": [], "same": [], "missing": [], "left_out": _left_out(curves)})
        _tell_curves(curves)
        typer.echo("nothing was recorded: a claim needs a score", err=True)
        raise typer.Exit(NOTHING_MATCHED)
    history_name, day = _filed(source, name, recorded, source.stat().st_mtime)
    _tell_read(curves, questions, as_json=as_json)
    imported = record_curves(registry(create=True), history_name, curves, day, questions)
    _tell(imported, as_json=as_json, then="aqn runs; aqn audit", left_out=_left_out(curves))


def _tell_read(
    curves: Sequence[ImportedCurve], questions: int | dict[str, int] | None, *, as_json: bool
) -> None:  # fmt: skip
    """What was read, and what of ``--questions`` is not used. Raises SpecError for questions of an unknown test set."""
    from orchestrator.importers.curve_claims import with_questions

    counted = [curve for curve, _ in with_questions(curves, questions)]
    if not as_json:
        _tell_curves([*counted, *(curve for curve in curves if not curve.points)])
    sets = list(dict.fromkeys(curve.test_set for curve in counted))
    if isinstance(questions, int) and len(sets) > 1:
        each = " ".join(f"--questions {shlex.quote(one)}=N" for one in sets if one)
        unused = f"--questions {questions} was not used: there are several test sets. Say {each}"
        typer.echo(textwrap.fill(unused, 80, break_long_words=False, break_on_hyphens=False), err=True)


def _left_out(curves: Sequence[ImportedCurve]) -> list[dict[str, str]]:
    return [{"name": one.name, "source": one.source, "why": one.left_out} for one in curves if not one.points]


def _tell_curves(curves: Sequence[ImportedCurve]) -> None:
    """What was read, and what was left out and why: a line each, with the details below it."""
    for curve in curves:
        out = not curve.points
        steps = f"{curve.last_step} of {curve.planned_steps} steps" if curve.planned_steps else ""
        ended = f"ended {curve.ended}" if curve.ended != "unknown" else ""
        score = "left out" if out else f"{curve.points[-1].percent:.2f} % at step {curve.points[-1].step}"
        line = f"{curve.name}: {', '.join(part for part in (score, steps, ended) if part)}"
        typer.echo(textwrap.fill(line, **INDENTED | {"initial_indent": ""}), err=out)
        evals = "1 eval" if len(curve.points) == 1 else f"{len(curve.points)} evals"
        read = (f"{evals} of {curve.metric}", *curve.notes)
        for line in (curve.left_out or "it has no eval",) if out else read:
            typer.echo(textwrap.fill(line, **INDENTED), err=out)


def _filed(source: Path, name: str | None, recorded: str | None, changed_at: float) -> tuple[str, str]:
    """The name and the day that claims are filed under. Raises SpecError for a name or a day that is none."""
    from pydantic import TypeAdapter, ValidationError

    from experiment_specs.claims import HISTORY_NAME, Day
    from experiment_specs.errors import SpecError

    day = recorded or time.strftime("%Y-%m-%d", time.gmtime(changed_at))
    if name is not None and not HISTORY_NAME.fullmatch(name):
        raise SpecError("is no name: up to 100 letters, digits and . _ + -", key="--history", value=name)
    try:
        TypeAdapter(Day).validate_python(day)
    except ValidationError as error:
        raise SpecError("is no day, as 2026-01-31", key="--recorded", value=day) from error
    return name or _as_history(source.resolve().name), day


def _tell(
    imported: Imported, *, as_json: bool, then: str, left_out: Sequence[dict[str, str]] | None = None
) -> None:  # fmt: skip
    if as_json:
        found: dict[str, Any] = {
            name: list(getattr(imported, name)) for name in ("created", "changed", "same", "missing")
        }
        print_json(found | ({"left_out": left_out} if left_out is not None else {}))
        return
    parts = [
        f"{len(imported.created)} new claims" if imported.created else "",
        f"{len(imported.changed)} changed, now in a new version: {', '.join(imported.changed)}"
        if imported.changed
        else "",
        f"{len(imported.same)} as they were" if imported.same else "",
    ]
    typer.echo("; ".join(part for part in parts if part) or "no claims")
    if imported.missing:
        typer.echo(f"no longer in the file, and kept: {', '.join(imported.missing)}")
    typer.echo(f"look further:  {then}")


def audit(
    history_name: Annotated[str | None, typer.Option("--history", help="Only the claims of this history.")] = None,
    as_json: Json = False,
) -> None:
    """Find what recorded claims contradict: themselves, their names, arithmetic, other places."""
    from db import bug_reads
    from experiment_specs.errors import nearest
    from orchestrator.claims import contradictions
    from orchestrator.cli.common import registry

    engine = registry()
    known = bug_reads.histories(engine)
    if not known or (history_name is not None and history_name not in known):
        close = nearest(history_name or "", known)
        wanted = f"no history is called {history_name!r}" if history_name else "no claims are recorded"
        hint = f"; did you mean {close!r}?" if close else "; `aqn import history FILE` records them" * (not known)
        typer.echo(wanted + hint, err=True)
        raise typer.Exit(NOTHING_MATCHED)
    found = contradictions(engine, history_name)
    if as_json:
        print_json(
            [
                {"check": c.check, "runs": list(c.runs), "fields": list(c.fields), "claimed": c.claimed,
                 "expected": c.expected, "text": c.text, "history": c.history}
                for c in found
            ]
        )  # fmt: skip
        return
    _print_audit(found, {name: len(bug_reads.claims(engine, history=name)) for name in known})


def _print_audit(found: Sequence[Any], counts: dict[str, int]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from orchestrator.audit import CHECKS
    from orchestrator.cli.render import console

    screen = console()
    for name, count in counts.items():
        own = [c for c in found if c.history == name]
        screen.print(Text.assemble((name, "bold"), f": {count} claims, {len(own)} contradictions"))
        for check, rule in CHECKS.items():
            group = [c for c in own if c.check == check]
            if group:
                screen.print(Text.assemble("\n", (check, "bold"), (f"  {rule}", "dim")))
                for contradiction in group:
                    screen.print(Padding(Text(contradiction.text), (0, 0, 0, 2)))
    screen.print(
        Text("\nNothing here says which of two places is right; the runs' own logs might.", style="dim"),
    )
