"""Document → one HTML file that needs nothing else: style and pictures are in it, and no script. Pure."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

from orchestrator.report.document import Document


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.from_string((resources.files(__package__) / "report.html.j2").read_text(encoding="utf-8"))


def as_html(document: Document) -> str:
    return str(_template().render(document=document))
