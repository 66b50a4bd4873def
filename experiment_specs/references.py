"""Published work that a study is compared with: its settings and results, as its authors have them. Data, not code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from experiment_specs.claims import Percent, Setting, Texts
from experiment_specs.language import Value
from experiment_specs.presets import PACKAGE
from experiment_specs.reader import Reader
from experiment_specs.yaml_source import read_yaml


class Row(Value):
    method: str
    percent: Annotated[tuple[Percent, ...], Field(strict=False)]


class Results(Value):
    """A published table of scores. ``questions``: how many, a column."""

    title: str
    columns: Texts
    rows: Annotated[tuple[Row, ...], Field(strict=False)]
    questions: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False)]

    @model_validator(mode="after")
    def _square(self) -> Results:
        if any(len(row.percent) != len(self.columns) for row in self.rows) or len(self.questions) != len(self.columns):
            raise ValueError("every row has one percentage a column, and every column its number of questions")
        return self


class Reference(Value):
    reference: str
    source: str
    settings: Annotated[tuple[Setting, ...], Field(strict=False)]
    results: Results | None = None


def load_reference(path: Path) -> Reference:
    """Raises :class:`SpecError` for what is wrong with it, with its line."""
    source = read_yaml(path)
    return Reader(source.data, source.marks, path).value_at((), source.data, Reference)


def shipped_references() -> list[Reference]:
    return [load_reference(path) for path in sorted((PACKAGE / "references").glob("*.yaml"))]
