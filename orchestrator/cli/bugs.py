"""`aqn bugs …`: known bugs, whom they affect, and what was decided about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import completing
from orchestrator.cli.common import NOTHING_MATCHED, print_json
from orchestrator.cli.plan import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from sqlalchemy import Engine

    from db.records import Bug, Claim, Run
    from experiment_specs.bug_rules import Rule, Status
    from orchestrator.bugs.engine import Change, Check, Checked

app = typer.Typer(no_args_is_help=True, help="Known bugs: whom they affect, and what was decided about it.")

RuleName = Annotated[
    str,
    typer.Argument(
        metavar="RULE", help="A rule's file, or the name of a shipped one.", autocompletion=completing.rules
    ),
]
BugName = Annotated[
    str, typer.Argument(metavar="BUG", help="The name of an applied bug.", autocompletion=completing.bugs)
]


def _said(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("a reason is needed: it stays on record")
    return text.strip()


Because = Annotated[str, typer.Option("--because", help="Why; it stays on record.", show_default=False, callback=_said)]
Yes = Annotated[bool, typer.Option("--yes", help="Write what is shown.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, write nothing.")]


@app.command("list")
def list_bugs(as_json: Json = False) -> None:
    """Shipped rules and applied bugs, with how many runs and claims each one marks."""
    from db import bug_reads
    from db.engine import NoRegistryError
    from experiment_specs.bug_rules import find_rule, shipped_rules
    from orchestrator.cli.common import registry

    applied: dict[str, Bug] = {}
    counts: dict[str, dict[str, int]] = {}
    try:
        engine = registry()
        applied = {bug.bug: bug for bug in bug_reads.bugs(engine)}
        counts = bug_reads.mark_counts(engine)
    except NoRegistryError:
        pass  # the shipped rules are there all the same
    rows: list[dict[str, Any]] = []
    for name in sorted({*applied, *shipped_rules()}):
        header = applied[name] if name in applied else find_rule(name).header
        rows.append(
            {
                "bug": name, "title": header.title, "status": header.status, "disposition": header.disposition,
                "version": header.version, "applied": name in applied, "marks": counts.get(name, {}),
            }
        )  # fmt: skip
    if as_json:
        print_json(rows)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from orchestrator.cli.render import console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("bug", "status", "disposition", "marks"):
        table.add_column(column)
    for row in rows:
        marks = ", ".join(f"{count} {state}" for state, count in sorted(row["marks"].items())) or "none"
        what = Text.assemble((row["bug"], "bold" if row["applied"] else ""), (f"\n{row['title']}", "dim"))
        shown = Text(marks) if row["applied"] else Text("not applied", "dim")
        table.add_row(what, row["status"], row["disposition"], shown)
    screen = console()
    screen.print(table)
    screen.print(Text("aqn bugs check BUG   whom it affects, before anything is written", style="dim"))


@app.command()
def check(rule: RuleName, as_json: Json = False) -> None:
    """Whom a rule affects, whom it does not, and where it cannot tell, with the facts that decided. Writes nothing."""
    from orchestrator.bugs.engine import check as check_rule
    from orchestrator.bugs.engine import named_rule
    from orchestrator.cli.common import registry

    engine = registry()
    found = check_rule(engine, named_rule(engine, rule))
    if as_json:
        print_json(_check_as_json(found))
        return
    from orchestrator.cli.render import console

    _print_check(console(), found)


def _check_as_json(found: Check) -> dict[str, Any]:
    def listed(ones: Sequence[Checked]) -> list[dict[str, Any]]:
        return [{"run_id": o.subject, "label": o.label, "facts": list(o.finding.facts)} for o in ones]

    return {
        "rule": found.rule.name, "version": found.rule.header.version, "status": found.rule.header.status,
        "disposition": found.rule.header.disposition, "matches": listed(found.of("match")),
        "unknown": listed(found.of("unknown")), "clean": listed(found.of("clean")), "no_such_run": list(found.idle),
    }  # fmt: skip


MOST_ROWS = 50


def _print_check(screen: Console, found: Check) -> None:
    from rich.padding import Padding
    from rich.text import Text

    header = found.rule.header
    screen.print(Text.assemble((header.bug, "bold"), f"  version {header.version}, {header.status}: {header.title}"))
    matches, unknown, clean = found.of("match"), found.of("unknown"), found.of("clean")
    screen.print(f"{len(matches)} affected, {len(unknown)} unknown, {len(clean)} clean")
    for title, ones, style in (("affected", matches, "magenta"), ("unknown", unknown, "yellow")):
        _print_facts(screen, title, [(o.label, o.subject, o.finding.facts) for o in ones], style)
    if found.idle:
        screen.print(Text(f"its lists name what nobody is called: {', '.join(found.idle)}", style="yellow"))
    groups: dict[tuple[str, ...], list[str]] = {}
    for one in clean:
        groups.setdefault(one.finding.facts, []).append(one.label)
    if groups:
        screen.print(Text("\nclean", style="bold"))
        for facts, labels in list(groups.items())[:MOST_ROWS]:
            names = ", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else "")
            screen.print(Padding(Text.assemble(names, (f": {'; '.join(facts)}", "dim")), (0, 0, 0, 2)))


def _print_facts(screen: Console, title: str, rows: Sequence[tuple[str, str, Sequence[str]]], style: str) -> None:
    """Label, id and the facts that decided; what all of them share stands once, below."""
    from rich.padding import Padding
    from rich.text import Text

    if not rows:
        return
    shared = [fact for fact in rows[0][2] if len(rows) > 1 and all(fact in facts for _, _, facts in rows)]
    screen.print(Text(f"\n{title}", style="bold"))
    width = max(len(label) for label, _, _ in rows[:MOST_ROWS])
    for label, subject, facts in rows[:MOST_ROWS]:
        own = "; ".join(fact for fact in facts if fact not in shared)
        screen.print(Text.assemble("  ", (f"{label:<{width}}", style), f"  {subject}  ", (own, "dim")))
    if len(rows) > MOST_ROWS:
        screen.print(f"  and {len(rows) - MOST_ROWS} more (--json lists all)")
    if shared:
        screen.print(Padding(Text(f"all of them: {'; '.join(shared)}", style="dim"), (0, 0, 0, 2)))


@app.command()
def apply(
    rule: RuleName,
    because: Annotated[str, typer.Option("--because", help="Why; the rule's own reason by default.")] = "",
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Mark the runs and claims that a rule affects. Again: judges anew what has come since. Nothing is deleted."""
    from orchestrator.bugs.engine import check as check_rule
    from orchestrator.bugs.engine import check_version, named_rule
    from orchestrator.cli.common import registry

    engine = registry()
    found = named_rule(engine, rule)
    check_version(engine, found)
    known = _applied(engine, found.name)
    if known is not None and known.version < found.header.version:
        typer.echo(
            f"version {known.version} is applied; `aqn bugs amend {rule}` shows what version {found.header.version}"
            " changes, and applies it",
            err=True,
        )
        raise typer.Exit(2)
    if dry_run:
        _show_changes(engine, check_rule(engine, found), as_json=as_json, written=False)
        return
    _write(engine, found, because or found.header.because, as_json=as_json)


@app.command()
def amend(
    rule: RuleName,
    because: Annotated[str, typer.Option("--because", help="Why; the rule's own reason by default.")] = "",
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Replace an applied rule by a later version: shows what changes for whom, and writes it with --yes."""
    from experiment_specs.bug_rules import find_rule

    _amend(find_rule(rule), because, yes=yes, as_json=as_json)


def _amend(rule: Rule, because: str, *, yes: bool, as_json: bool) -> None:
    from experiment_specs.errors import SpecError
    from orchestrator.bugs.engine import check as check_rule
    from orchestrator.bugs.engine import check_version
    from orchestrator.cli.common import registry

    engine = registry()
    known = known_bug(engine, rule.name)
    check_version(engine, rule)
    if rule.header.version == known.version:
        raise SpecError(
            "is the version that is applied; an amended rule has a higher one",
            file=str(rule.source), key="version", value=rule.header.version,
        )  # fmt: skip
    if yes:
        _write(engine, rule, because or rule.header.because, as_json=as_json)
        return
    _show_changes(engine, check_rule(engine, rule), as_json=as_json, written=False)
    if not as_json:
        typer.echo("nothing is written; --yes does")


def _write(engine: Engine, rule: Rule, why: str, *, as_json: bool) -> None:
    from orchestrator.bugs.engine import apply as apply_rule
    from orchestrator.bugs.engine import changes
    from orchestrator.bugs.engine import check as check_rule

    before = changes(engine, check_rule(engine, rule))
    counts, _ = apply_rule(engine, rule, why)
    _tell_mlflow(engine)
    if as_json:
        print_json({"bug": rule.name, "version": rule.header.version, "marks": counts, "changes": _listed(before)})
        return
    _print_changes(before, rule, written=True)
    shown = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"
    typer.echo(f"marks of {rule.name}: {shown}")
    if counts.get("affected") and rule.header.disposition == "rerun":
        typer.echo(f"next:  aqn rerun-tagged {rule.name} --dry-run")


def _tell_mlflow(engine: Engine) -> None:
    """Tags of runs whose marks changed; whoever schedules does it otherwise."""
    from orchestrator.cli.submit import project_the_rest
    from orchestrator.settings import load_settings

    project_the_rest(load_settings(), engine)


def _show_changes(engine: Engine, found: Check, *, as_json: bool, written: bool) -> None:
    from orchestrator.bugs.engine import changes

    changed = changes(engine, found)
    if as_json:
        header = found.rule.header
        print_json({"bug": header.bug, "version": header.version, "written": written, "changes": _listed(changed)})
    else:
        _print_changes(changed, found.rule, written=written)


def _listed(changes: Sequence[Change]) -> list[dict[str, Any]]:
    return [
        {"run_id": c.subject, "label": c.label, "from": c.before, "to": c.after, "facts": list(c.facts)}
        for c in changes
    ]


def _print_changes(changes: Sequence[Change], rule: Rule, *, written: bool) -> None:
    from rich.text import Text

    from orchestrator.cli.render import console

    screen = console()
    verb = "changes" if written else "would change"
    header = rule.header
    screen.print(Text.assemble((rule.name, "bold"), f"  version {header.version}, {header.status}: {header.title}"))
    if not changes:
        screen.print("no mark " + verb)
    groups: dict[tuple[str | None, str | None], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.before, change.after), []).append(change)
    for (before, after), group in groups.items():
        title = f"{before or 'not marked'} → {after or 'not marked'}"
        style = {"affected": "magenta", "unknown": "yellow"}.get(after or "", "")
        _print_facts(screen, title, [(c.label, c.subject, c.facts) for c in group], style)
    if rule.effect == "none" and changes:
        screen.print(
            Text(f"a {header.status} rule of disposition {header.disposition} makes no score invalid", style="dim")
        )


@app.command()
def waive(
    bug: BugName,
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Ids or labels.", show_default=False, autocompletion=completing.runs),
    ],
    because: Because,
    undo: Annotated[bool, typer.Option("--undo", help="Take a waiver back.")] = False,
    as_json: Json = False,
) -> None:
    """Say of marked runs that the bug does not count for them, and why. It outlasts amendments of the rule."""
    from db import bug_writes
    from orchestrator.bugs.engine import apply as apply_rule
    from orchestrator.bugs.engine import parsed, user
    from orchestrator.cli.common import registry

    engine = registry()
    known = known_bug(engine, bug)
    subjects = [_marked(engine, bug, name, "waived" if undo else "") for name in runs]
    done = bug_writes.waive(engine, bug, [s.id for s in subjects], user(), because, undo=undo)
    if undo and done:
        apply_rule(engine, parsed(known.text), because)  # what the applied version says of it by now
    _tell_mlflow(engine)
    if as_json:
        print_json({"bug": bug, "waived": [] if undo else done, "unwaived": done if undo else []})
    for subject in subjects:
        if subject.id not in done:
            typer.echo(f"{subject.label} has no {'waived' if undo else 'open'} mark of {bug}", err=True)
        elif not as_json:
            typer.echo(f"{subject.label} ({subject.id}): {'judged again' if undo else 'waived'}")
    if not done:
        raise typer.Exit(NOTHING_MATCHED)


def _marked(engine: Engine, bug: str, name: str, state: str) -> Run | Claim:
    """The run or claim that is meant: of several with this label, the one with such a mark."""
    from db import bug_reads, reads
    from orchestrator.cli.common import find_subject

    labels = bug_reads.names(engine)
    marked = [m.subject for m in bug_reads.marks(engine, bug).values() if (m.state == state if state else m.open)]
    for subject in marked:
        if labels.get(subject) == name:
            found = reads.runs(engine, ids=[subject]) or bug_reads.claims(engine, ids=[subject])
            return found[0]
    return find_subject(engine, name)


@app.command()
def retract(bug: BugName, because: Because, yes: Yes = False, as_json: Json = False) -> None:
    """The bug was none: a new version of the rule that matches nothing. Its marks are withdrawn, and stay on record."""
    _with_status(bug, "retracted", because, yes=yes, as_json=as_json)


@app.command()
def dispute(bug: BugName, because: Because, yes: Yes = False, as_json: Json = False) -> None:
    """Say that the bug is doubted. Its marks stand until it is retracted, amended or confirmed."""
    _with_status(bug, "disputed", because, yes=yes, as_json=as_json)


@app.command()
def confirm(bug: BugName, because: Because, yes: Yes = False, as_json: Json = False) -> None:
    """Say that the bug is one: after a dispute, or of one that was proposed or retracted."""
    _with_status(bug, "confirmed", because, yes=yes, as_json=as_json)


def _with_status(bug: str, status: Status, because: str, *, yes: bool, as_json: bool) -> None:
    import tempfile

    from experiment_specs.bug_rules import rule_from_text, with_status
    from experiment_specs.errors import SpecError
    from orchestrator.cli.common import registry

    known = known_bug(registry(), bug)
    if known.status == status or (known.status == "retracted" and status == "disputed"):
        raise SpecError(f"is {known.status} already; `aqn bugs confirm` says otherwise", key="BUG", value=bug)
    with tempfile.TemporaryDirectory() as folder:
        rule = rule_from_text(with_status(known.text, status, known.version + 1), Path(folder) / f"{bug}.yaml")
    _amend(rule, because, yes=yes, as_json=as_json)


def _applied(engine: Engine, name: str) -> Bug | None:
    from db import bug_reads

    return {bug.bug: bug for bug in bug_reads.bugs(engine)}.get(name)


def known_bug(engine: Engine, name: str) -> Bug:
    """The applied bug of that name; exits with 3 and the nearest name where there is none."""
    from db import bug_reads
    from experiment_specs.errors import nearest

    bug = _applied(engine, name)
    if bug is None:
        close = nearest(name, [known.bug for known in bug_reads.bugs(engine)])
        hint = f"; did you mean {close!r}?" if close else f"; `aqn bugs apply {name}` applies a rule"
        typer.echo(f"no bug {name!r} is applied{hint}", err=True)
        raise typer.Exit(NOTHING_MATCHED)
    return bug
