"""What several commands share: opening things, finding a run, printing JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from db.listing import Rows
    from db.records import Claim, Run

NOTHING_MATCHED = 3
FAILED = 1


def registry(*, create: bool = False) -> Engine:
    """The registry of ``AQN_HOME``; a missing one is an error unless it may be created."""
    from db.engine import open_registry
    from orchestrator.settings import load_settings

    return open_registry(load_settings().registry_url, create=create)


@contextmanager
def registry_rows() -> Iterator[Rows]:
    """One reading transaction on the registry, without SQLAlchemy where the registry is an SQLite file."""
    from db.listing import sqlite_rows
    from orchestrator.settings import load_settings

    with sqlite_rows(load_settings().registry_url) as rows:
        if rows is not None:
            yield rows
            return
    from db.bug_reads import reading

    with reading(registry()) as rows:
        yield rows


def known_sweep(engine: Engine, name: str) -> None:
    """Exits with 3 and the nearest name where no sweep is called so."""
    from db import reads

    known_among(reads.sweep_names(engine), name)


def known_among(names: Sequence[str], name: str) -> None:
    """Exits with 3 and the nearest name where none of the sweeps is called so."""
    from experiment_specs.errors import nearest

    if name not in names:
        close = nearest(name, names)
        typer.echo(f"no sweep is called {name!r}" + (f"; did you mean {close!r}?" if close else ""), err=True)
        raise typer.Exit(NOTHING_MATCHED)


def find_run(engine: Engine, name: str) -> Run:
    """The run of that id or label; exits with 3 where there is none, or only a claim, of which nothing is here."""
    from db.records import Claim

    found = find_subject(engine, name)
    if isinstance(found, Claim):
        typer.echo(f"{found.label} is a claim of {found.history}: this registry never ran it", err=True)
        raise typer.Exit(NOTHING_MATCHED)
    return found


def find_subject(engine: Engine, name: str) -> Run | Claim:
    """The run or claim of that id, label or alias; exits with 3 and the nearest name where there is none."""
    from db import bug_reads, reads
    from experiment_specs.errors import nearest

    found = (reads.run(engine, name) or bug_reads.claim(engine, name)) if name.strip() else None
    if found is None:
        close = nearest(name, [*reads.known_names(engine), *bug_reads.claim_names(engine)])
        typer.echo(f"no run is called {name!r}" + (f"; did you mean {close!r}?" if close else ""), err=True)
        raise typer.Exit(NOTHING_MATCHED)
    return found


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
