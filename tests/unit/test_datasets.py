"""Published data sets, in small files of the same shape, become verl's layout: what its scorers then read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.datasets import DataError, prepare
from workers.verl.reward import compute_score

GSM8K = [
    {"question": "Ann has 3 apples and buys 4. How many?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
    {"question": "A car costs 1000 and then 72 more.", "answer": "It is 1072.\n#### 1,072"},
    {"question": "It was 2 and fell by 5.", "answer": "2 - 5 = -3\n#### -3"},
]


def folder(tmp_path: Path, **files: list[dict[str, Any]]) -> Path:
    for name, rows in files.items():
        path = tmp_path / name.replace("__", "/").replace("_", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return tmp_path


def dapo(number: int, answer: str) -> dict[str, Any]:
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": f"Solve problem {number}. Answer: $Answer"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": f"uuid-{number}"},
    }


def test_gsm8k_as_published_becomes_what_verls_scorer_reads(tmp_path) -> None:
    source = folder(
        tmp_path / "raw", main__train_00000_of_00001=GSM8K, main__test_00000_of_00001=GSM8K[:2], socratic__train=GSM8K
    )
    written = prepare("gsm8k", source, tmp_path / "out")
    assert (written["train"].rows, written["test"].rows) == (3, 2)
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert rows[0]["prompt"] == [
        {
            "role": "user",
            "content": 'Ann has 3 apples and buys 4. How many? Let\'s think step by step and output the final answer after "####".',
        }
    ]
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["7", "1072", "-3"]
    assert [row["extra_info"]["index"] for row in rows] == [0, 1, 2]
    for row, answer, right in ((rows[1], "so #### 1,072", 1.0), (rows[2], "#### 3", 0.0), (rows[0], "#### 7", 1.0)):
        scored = compute_score(row["data_source"], answer, row["reward_model"]["ground_truth"], row["extra_info"])
        assert (scored["acc"], scored["qid"]) == (right, str(row["extra_info"]["index"]))


def test_the_same_source_gives_the_same_bytes_and_its_fingerprint(tmp_path) -> None:
    source = folder(tmp_path / "raw", train=GSM8K, test=GSM8K)
    first = prepare("gsm8k", source, tmp_path / "one", instruction="")
    again = prepare("gsm8k", source, tmp_path / "two", instruction="")
    assert {n: p.sha256 for n, p in first.items()} == {n: p.sha256 for n, p in again.items()}
    told = json.loads((tmp_path / "one" / "fingerprints.json").read_text())
    assert told["files"]["train.parquet"] == {"rows": 3, "sha256": first["train"].sha256}
    assert (told["questions_in_both"], first["test"].shared) == (3, 3)  # the same rows in both
    plain = pq.read_table(tmp_path / "one" / "train.parquet").to_pylist()[0]["prompt"][0]["content"]
    assert plain == GSM8K[0]["question"]


def test_dapo_math_is_published_a_hundred_times_over_and_written_once(tmp_path) -> None:
    train = [dapo(n, str(10 * n)) for _ in range(100) for n in range(4)]
    source = folder(tmp_path / "raw", dapo_math_17k=train, aime_2024=[dapo(9, "204")] * 32)
    written = prepare("dapo-math", source, tmp_path / "out")
    assert (written["train"].rows, written["train"].repeated) == (4, 396)
    assert (written["test"].rows, written["test"].repeated) == (1, 31)
    row = pq.read_table(tmp_path / "out" / "test.parquet").to_pylist()[0]
    scored = compute_score(row["data_source"], "Answer: 204", row["reward_model"]["ground_truth"], row["extra_info"])
    assert (scored["acc"], scored["score"]) == (1.0, 1.0)
    assert compute_score("math_dapo", "Answer: 7", "204", row["extra_info"])["acc"] == 0.0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has no file with train in its name: it has no parquet or jsonl file"),
        ({"train": GSM8K}, "has no file with test in its name: it has train.parquet"),
        ({"train": [{"problem": "?"}], "test": GSM8K}, "train.parquet, row 1: has no 'answer'; it has problem"),
        ({"train": [*GSM8K, {"question": "?", "answer": "seven"}], "test": GSM8K}, "row 4: the answer does not end in"),
        ({"train": [{"question": "?", "answer": None}], "test": GSM8K}, "row 1: "),
    ],
)
def test_a_source_of_another_shape_is_told_and_nothing_is_written(tmp_path, files, words) -> None:
    source = folder(tmp_path / "raw", **files)
    source.mkdir(exist_ok=True)
    with pytest.raises(DataError) as caught:
        prepare("gsm8k", source, tmp_path / "out")
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_json_lines_are_read_and_what_is_neither_is_told(tmp_path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in ("train", "test"):
        (raw / f"{name}.jsonl").write_text("\n".join(map(json.dumps, GSM8K)))
    assert prepare("gsm8k", raw, tmp_path / "out")["train"].rows == 3
    with pytest.raises(DataError, match="would be written over"):
        prepare("gsm8k", raw, raw)
    odd = [{"question": "one\u2028line", "answer": "#### 1"}]
    (raw / "train.jsonl").write_text(json.dumps(odd[0], ensure_ascii=False))
    assert prepare("gsm8k", raw, tmp_path / "odd")["train"].rows == 1
    (raw / "train.jsonl").write_text('{"question": "half \\ud800", "answer": "#### 1"}')
    with pytest.raises(DataError, match="cannot be written"):
        prepare("gsm8k", raw, tmp_path / "half")
    assert not (tmp_path / "half").exists()
    (raw / "train.jsonl").write_text("{no json")
    with pytest.raises(DataError, match="cannot be read"):
        prepare("gsm8k", raw, tmp_path / "out")
    with pytest.raises(DataError, match="is no folder"):
        prepare("gsm8k", tmp_path / "nowhere", tmp_path / "out")
