"""Questions by their place in recorded outcomes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.asked import questions
from tests.unit.test_remaining import attempt, run


@pytest.fixture
def asked(tmp_path: Path):
    """A run whose test file has these ids."""

    def made(*ids: int | str):
        rows = [
            {
                "prompt": [{"role": "user", "content": f"question {i}"}],
                "reward_model": {"ground_truth": f"answer {i}"},
                "extra_info": {"index": i},
            }
            for i in ids
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
        (tmp_path / "verl.yaml").write_text(f"data: {{val_files: {tmp_path / 'test.parquet'}}}\n")
        return run("succeeded", attempt(0, 1, run_dir=str(tmp_path)))

    return made


def test_they_come_in_the_order_in_which_outcomes_are_packed(asked) -> None:
    """As the trainer packs them (workers.verl.trainer.eval_facts): 2 before 10."""
    from workers.verl.trainer import eval_facts

    ids = [10, 2, 1, 33]
    found = questions(asked(*ids))
    assert found is not None
    assert [(q.number, q.text, q.answer) for q in found][:2] == [
        ("1", "question 1", "answer 1"), ("2", "question 2", "answer 2"),
    ]  # fmt: skip
    fact = eval_facts(0, {"qid": ids, "acc": [1.0, 0.0, 0.0, 0.0]})  # only question 10 was answered right
    import base64

    bits = int.from_bytes(base64.b64decode(fact["outcomes"]), "little")
    assert [q.number for i, q in enumerate(found) if bits >> i & 1] == ["10"]


def test_what_is_not_here_is_not_guessed(asked, tmp_path) -> None:
    asked(1)
    assert questions(run("queued")) is None
    assert questions(run("succeeded", attempt(0, 1, run_dir=str(tmp_path / "elsewhere")))) is None
    (tmp_path / "test.parquet").write_text("no parquet")
    assert questions(run("succeeded", attempt(0, 1, run_dir=str(tmp_path)))) is None
    (tmp_path / "verl.yaml").write_text("data: {}\n")
    assert questions(run("succeeded", attempt(0, 1, run_dir=str(tmp_path)))) is None
