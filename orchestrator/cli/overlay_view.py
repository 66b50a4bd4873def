"""What lies over a run or a claim, for `aqn show`: marks with their history, links, what places say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from db import bug_reads
from db.records import Claim
from orchestrator.cli.common import print_json
from orchestrator.cli.render import VERDICT_STYLES, clock, console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from sqlalchemy import Engine

    from db.records import Run

_OUT = {
    "supersedes": "in the place of", "extends": "extends", "depends-on": "compared with",
    "re-evaluation-of": "re-evaluates", "replicate-of": "replicate of", "attempt-of": "attempt of",
    "alias-of": "alias of",
}  # fmt: skip
_IN = {
    "supersedes": "superseded by", "extends": "extended by", "depends-on": "compared against by",
    "re-evaluation-of": "re-evaluated by", "replicate-of": "replicated by", "attempt-of": "attempted by",
    "alias-of": "also known as",
}  # fmt: skip


def changes_as_json(engine: Engine, subject: str) -> list[dict[str, Any]]:
    """Every change of a mark, oldest first."""
    return [
        {"at": at, "bug": bug, "from": before, "to": after, "by": by, "why": why}
        for at, bug, before, after, by, why in bug_reads.mark_changes(engine, subject)
    ]


def print_overlay(screen: Console, engine: Engine, of: Run | Claim) -> None:
    """Marks, how they came about, and links. Nothing where there are none."""
    history = bug_reads.mark_changes(engine, of.id)
    if of.marks:
        screen.print(
            Text.assemble(("\nbugs", "bold"), "  this score is ", (of.validity, VERDICT_STYLES.get(of.validity, "")))
        )
    for mark in of.marks:
        screen.print(Text.assemble("  ", (mark.bug, "magenta" if mark.open else "dim"), f": {mark.state}"))
        screen.print(Padding(Text("; ".join(mark.facts), style="dim"), (0, 0, 0, 4)))
        for at, bug, before, after, by, why in history:
            if bug == mark.bug:
                change = f"{clock(at)}  {before or '–'} → {after}, {by}: {why}"
                screen.print(Padding(Text(change, style="dim"), (0, 0, 0, 4)))
    labels = {}
    if of.links:
        labels = bug_reads.names(engine)
        screen.print(Text("\nlinks", style="bold"))
    for link in of.links:
        outward = link.source == of.id
        other = link.target if outward else link.source
        word = (_OUT if outward else _IN)[link.kind]
        screen.print(f"  {word} {labels.get(other, other)} ({other})", markup=False)


def show_claim(engine: Engine, claim: Claim, *, as_json: bool) -> None:
    from orchestrator.claims import claims_as_json, comparisons, contradictions

    others = {other.label: other for other in bug_reads.claims(engine, history=claim.history)}
    compared = comparisons(claim, others)
    row = claims_as_json(engine, [claim], curves=True)[0]
    against = [c for c in contradictions(engine, claim.history) if claim.label in c.runs]
    if as_json:
        versions = [
            {"version": version, "imported_at": at, "claim": body["claim"]}
            for version, at, body in bug_reads.claim_versions(engine, claim.id)
        ]
        print_json(
            row
            | {
                "marks": changes_as_json(engine, claim.id),
                "versions": versions,
                "contradictions": [{"check": c.check, "text": c.text} for c in against],
                "comparisons": compared,
                "tracker": claim.body.get("tracker"),
                "config": claim.body.get("config"),
                "attempts": [],
                "evidence": [],
            }
        )
        return
    screen = console()
    screen.print(Text.assemble((claim.label, "bold"), f"  claim {claim.id}, history {claim.history}"))
    screen.print(Text(row["reasons"][0], style="yellow"))
    if row["score"]:
        score = row["score"]
        whole = f" = {score['k']} of {score['n'] * score['samples']}" if score["k"] is not None else ""
        at = f" at step {score['step']}" if score["step"] is not None else ""
        style = "" if claim.validity == "unverified" else "strike"
        screen.print(Text.assemble((f"{score['percent']:.2f} %", style), f"{whole}{at}, as written; {claim.validity}"))
    print_overlay(screen, engine, claim)
    screen.print(Text("\nwhat its places say", style="bold"))
    for said in row["said"]:
        rest = {k: v for k, v in said.items() if k not in ("place", "better")}
        parts = [f"{key} {_plain(value)}" for key, value in rest.items()]
        screen.print(Padding(Text.assemble(f"{said['place']}: ", (", ".join(parts), "dim")), (0, 0, 0, 2)))
    if config := claim.body.get("config"):
        _print_config(screen, config)
    if compared:
        screen.print(Text("\ncomparisons", style="bold"))
    for one in compared:
        line = Text.assemble((f"{one['points']:+.2f} over {one['than']}", "" if one["stands"] else "strike"))
        line.append(f" ({one['place']})", style="dim")
        line.append("" if one["stands"] else f": does not stand, {' and '.join(one['because'])}")
        screen.print(Padding(line, (0, 0, 0, 2)))
    if claim.version > 1:
        screen.print(Text(f"\nversion {claim.version}; --json has the earlier ones", style="dim"))
    if against:
        screen.print(Text("\ncontradictions", style="bold"))
        for contradiction in against:
            screen.print(Padding(Text(f"{contradiction.check}: {contradiction.text}"), (0, 0, 0, 2)))


def _print_config(screen: Console, config: Mapping[str, Any]) -> None:
    """The fields of a condition that a tracker's configuration tells; all others are not known."""
    told = [f"{name} {'none' if value is None else _plain(value)}" for name, value in config["fields"].items()]
    rest = f"{len(config['text'])} keys kept as text (--json has them)"
    screen.print(Text("\nwhat its configuration says", style="bold"))
    screen.print(Padding(Text(", ".join(told) or "no field of a condition"), (0, 0, 0, 2)))
    screen.print(Padding(Text(rest, style="dim"), (0, 0, 0, 2)))


def _plain(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
