"""What pages share: the registry, opened for one look at it; what is said when it cannot be read; links; tables."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import streamlit as st
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from db import browse
from db.bug_reads import reading
from db.engine import NoRegistryError, open_registry
from db.records import Run
from experiment_specs.errors import AqnError
from orchestrator.mlflow_pages import ADDRESS_VARIABLE
from orchestrator.report.document import Cell, Table
from orchestrator.report.html import table_as_html
from orchestrator.settings import load_settings

Draw = Callable[[Engine], None]
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-!|~$:])")
REFRESH_SECONDS, IDLE_SECONDS = 10, 60
"""Of pages that show what runs: while something runs or waits, and while nothing does."""


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
            st.info(plain(str(error)), icon=":material/inbox:")
        except AqnError as error:
            st.error(plain(str(error)), icon=":material/error:")
        except SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            st.error(f"The registry cannot be read: {plain(cause)}", icon=":material/error:")
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
    """A page that looks again by itself."""
    shown = guarded(draw)

    def run() -> None:
        st.fragment(shown, run_every=REFRESH_SECONDS if _anything_is_open() else IDLE_SECONDS)()

    run.__name__ = shown.__name__
    return run


def _anything_is_open() -> bool:
    try:
        with registry() as engine, reading(engine) as rows:
            return browse.open_runs(rows) > 0
    except (AqnError, SQLAlchemyError):
        return False


def styled() -> None:
    st.html(f"<style>{resources.files(__package__).joinpath('style.css').read_text(encoding='utf-8')}</style>")


def lead(text: str, href: str) -> None:
    """A line that leads elsewhere."""
    st.html(f'<div class="aqn"><a href="{escape(href)}" target="_self">{escape(text)}</a></div>')


def link(page: str, **parameters: Any) -> str:
    """To another page: ``run?run=…``. Seen from any page, and shareable. The page of sweeps is the first: it has no
    name in an address."""
    where = "./" if page == "sweeps" else page
    return f"{where}?{urlencode(parameters)}" if parameters else where


def mlflow_link(of: Callable[[str, str], str], name: str) -> None:
    """A line that leads to MLflow, where `aqn ui` serves it for this page. ``of`` gives the address from the server's
    and ``name``."""
    if base := os.environ.get(ADDRESS_VARIABLE):
        lead("in MLflow", of(base, name))


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


def chart(figure: Any, key: str) -> None:
    st.plotly_chart(figure, theme=None, width="stretch", key=key, config={"displaylogo": False})


def box(place: Any, parameter: str, label: str, options: Sequence[str], default: str) -> str:
    """One of ``options``, by a box that stands in the address too; what is named there is an option, known or not."""
    key = f"box.{parameter}"
    if key not in st.session_state:
        st.session_state[key] = st.query_params.get(parameter, default)
    current = str(st.session_state[key])
    shown = list(options) if current in options else [current, *options]
    found = str(place.selectbox(label, shown, key=key))
    keep(parameter, "" if found == default else found)
    return found


def many(place: Any, parameter: str, label: str, options: Sequence[str]) -> list[str]:
    """Some of ``options``, likewise; in the address with bars between them."""
    key = f"many.{parameter}"
    if key not in st.session_state:
        st.session_state[key] = [value for value in st.query_params.get(parameter, "").split("|") if value]
    current = [str(value) for value in st.session_state[key]]
    shown = [*options, *(value for value in current if value not in options)]
    found = [str(value) for value in place.multiselect(label, shown, key=key)]
    keep(parameter, "|".join(found))
    return found


def keep(parameter: str, value: str) -> None:
    """In the address, so that it can be sent to somebody; nothing: not in it."""
    if value:
        if st.query_params.get(parameter) != value:
            st.query_params[parameter] = value
    elif parameter in st.query_params:
        del st.query_params[parameter]


def plain(text: str) -> str:
    """A user's text inside Markdown: as it is written."""
    return _MARKDOWN.sub(r"\\\1", text)
