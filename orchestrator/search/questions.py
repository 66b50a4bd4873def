"""Are the questions that trials are selected on other ones than those that are reported, and than those trained on?"""

from __future__ import annotations

from pathlib import Path

from experiment_specs.language import TINY_PREFIX
from experiment_specs.search import Search


def check_apart(search: Search) -> None:
    """Raises SpecError where files share questions. What is made locally is apart by construction."""
    settings = search.settings
    selection = search.baseline(settings.objective.questions).data
    reported = search.baseline(settings.confirm.questions).data
    asked = _questions(selection.test)
    for what, path, where in (
        ("that are reported", reported.test, ("confirm", "questions")),
        ("that its trials are trained on", selection.train, ("objective", "questions")),
    ):
        if shared := len(asked & _questions(path)):
            raise search.sweep.error(
                f"{shared} of the {len(asked)} questions of {selection.test}, which trials are selected on, are among "
                f"those {what} ({path})",
                where,
            )


def _questions(path: str) -> set[str]:
    if path.startswith(TINY_PREFIX) or not Path(path).is_file():
        return set()
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        return {
            str(prompt[0]["content"])
            for batch in table.iter_batches(columns=["prompt"])
            for prompt in batch.column(0).to_pylist()
        }
