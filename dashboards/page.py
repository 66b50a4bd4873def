"""What pages share: the registry, opened for one look at it; what is said when it cannot be read; links; tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import streamlit as st
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from db.engine import NoRegistryError, open_registry
from db.records import Run
from db.states import OPEN
from experiment_specs.errors import AqnError
from orchestrator.report.document import Cell, Table, table
from orchestrator.report.html import table_as_html
from orchestrator.settings import load_settings

Draw = Callable[[Engine], None]
REFRESH_SECONDS = 10
"""Of pages that show what runs, while something runs."""


@contextmanager
def registry() -> Iterator[Engine]:
    """For reading, as it is now: a file that was moved away or replaced is seen as such."""
    engine = open_registry(load_settings().registry_url, create=False, migrate=False)
    try:
        yield engine
    finally:
        engine.dispose()


def guarded(draw: Draw) -> Callable[[], None]:
    """A page that says in a sentence why there is nothing to see, instead of how Python failed."""

    def run() -> None:
        try:
            with registry() as engine:
                draw(engine)
        except NoRegistryError as error:
            st.info(f"{error}", icon=":material/inbox:")
        except AqnError as error:
            st.error(f"{error}", icon=":material/error:")
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            st.error(f"The registry cannot be read: {cause}", icon=":material/error:")
        except Exception as error:
            logging.getLogger(__name__).exception("the page %s could not be drawn", draw.__module__)
            st.error(
                f"This page could not be drawn, which is a fault of it and not of what was recorded ({error!r}). The"
                " terminal of `aqn ui` says where.",
                icon=":material/error:",
            )

    run.__name__ = draw.__module__.rsplit(".", 1)[-1]
    return run


def living(draw: Draw) -> Callable[[], None]:
    """A page that looks again by itself while anything runs."""
    shown = guarded(draw)

    def run() -> None:
        st.fragment(shown, run_every=REFRESH_SECONDS if _anything_runs() else None)()

    run.__name__ = shown.__name__
    return run


def _anything_runs() -> bool:
    from db import reads

    try:
        with registry() as engine:
            counts = reads.state_counts(engine)
    except (AqnError, SQLAlchemyError):
        return False
    return any(counts.get(state) for state in OPEN)


def styled() -> None:
    st.html(f"<style>{resources.files(__package__).joinpath('style.css').read_text(encoding='utf-8')}</style>")


def lead(text: str, href: str) -> None:
    """A line that leads elsewhere."""
    st.html(f'<div class="aqn"><a href="{escape(href)}" target="_self">{escape(text)}</a></div>')


def link(page: str, **parameters: Any) -> str:
    """To another page: ``run?run=…``. Seen from any page, and shareable."""
    return f"{page}?{urlencode(parameters)}" if parameters else page


def run_link(run: Run) -> Cell:
    return Cell(run.label, href=link("run", run=run.id))


def show(block: Table) -> None:
    st.html(f'<div class="aqn">{table_as_html(block)}</div>')


def facts(entries: Sequence[tuple[str, Cell | str]]) -> None:
    """A few numbers in large letters, each under its name."""
    shown = []
    for name, value in entries:
        cell = value if isinstance(value, Cell) else Cell(value)
        text = f"<s>{escape(cell.text)}</s>" if cell.struck else escape(cell.text)
        shown.append(f"<div><dt>{escape(name)}</dt><dd>{text}</dd></div>")
    st.html(f'<div class="aqn"><dl>{"".join(shown)}</dl></div>')


def pairs(rows: Sequence[tuple[str, str]], columns: tuple[str, str]) -> None:
    show(table(columns, rows))


def chart(figure: Any, key: str) -> None:
    st.plotly_chart(figure, theme=None, width="stretch", key=key, config={"displaylogo": False})


def chosen(parameter: str, options: Sequence[str], label: str, *, help_text: str | None = None) -> str | None:
    """One of ``options`` by a box that stands in the address too; None where there is nothing to choose."""
    if not options:
        return None
    named = st.query_params.get(parameter)
    known = list(options) if named is None or named in options else [named, *options]
    found = st.selectbox(label, known, index=known.index(named) if named else 0, help=help_text)
    if found != named and (named is not None or found != known[0]):
        st.query_params[parameter] = found
    return found
