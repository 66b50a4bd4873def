"""The test questions themselves, by their place in recorded outcomes, where their file can be read on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from db.records import Run


@dataclass(frozen=True)
class Question:
    """``number``: its id in the file. ``answer``: the right one, as the file has it."""

    number: str
    text: str
    answer: str


def questions(run: Run) -> tuple[Question, ...] | None:
    """Of the run's test file, in the order in which outcomes are packed (by length of the id, then by the id); None
    where the run's resolved configuration or that file is not here, or is not verl's layout."""
    import pyarrow.parquet as pq
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from pyarrow.lib import ArrowException

    if run.attempt is None:
        return None
    try:
        config = OmegaConf.load(Path(run.attempt.run_dir) / "verl.yaml")
        named = OmegaConf.select(config, "data.val_files")
        file = Path(str(named if isinstance(named, str) else named[0]))
        rows = pq.read_table(file, columns=["prompt", "reward_model", "extra_info"]).to_pylist()
        found = [
            Question(
                str(row["extra_info"]["index"]), str(row["prompt"][-1]["content"]),
                str(row["reward_model"]["ground_truth"]),
            )
            for row in rows
        ]  # fmt: skip
    except (OSError, ArrowException, OmegaConfBaseException, KeyError, IndexError, TypeError):
        return None
    return tuple(sorted(found, key=lambda question: (len(question.number), question.number)))
