"""Public data sets of questions in verl's parquet layout, from local files or from the Hugging Face hub.

Part of the contract (no torch): `aqn data prepare` is a thin skin over :func:`prepare`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiment_specs.errors import AqnError

Row = dict[str, Any]


class DataError(AqnError):
    """A source is missing, or its rows are not what the data set's rows are."""


@dataclass(frozen=True)
class Split:
    """Where a split comes from: (repository, configuration, split) on the hub; words of its file's name in a folder."""

    hub: tuple[str, str | None, str]
    words: tuple[str, ...]
    rows: int
    """As published, duplicates removed."""


@dataclass(frozen=True)
class Kind:
    """A data set that can be prepared."""

    about: str
    train: Split
    test: Split
    instruction: str
    """Appended to every question; empty where the questions have their own."""
    convert: Callable[[Row, str, int, str], Row]
    """(raw row, split, index, instruction) → row in verl's layout. Raises KeyError, TypeError or ValueError."""


_GSM8K_ANSWER = re.compile(r"####\s*(-?[\d.,]+)\s*$")


def _gsm8k(raw: Row, split: str, index: int, instruction: str) -> Row:
    found = _GSM8K_ANSWER.search(raw["answer"])
    if found is None:
        raise ValueError('the answer does not end in "#### NUMBER"')
    return {
        "data_source": "openai/gsm8k",  # verl finds the scorer by it
        "prompt": [{"role": "user", "content": " ".join(filter(None, (raw["question"], instruction)))}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": found.group(1).replace(",", "")},
        "extra_info": {"split": split, "index": index, "question": raw["question"], "answer": raw["answer"]},
    }


def _dapo_math(raw: Row, split: str, index: int, instruction: str) -> Row:
    """Published in verl's layout; what is left to do is an id that is the question's own."""
    content = raw["prompt"][-1]["content"]
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": " ".join(filter(None, (content, instruction)))}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(raw["reward_model"]["ground_truth"])},
        "extra_info": {"split": split, "index": index, "question": content, "answer": ""},
    }


KINDS = {
    "gsm8k": Kind(
        about="grade-school word problems, 7,473 to train on and 1,319 to test",
        train=Split(("openai/gsm8k", "main", "train"), ("train",), 7473),
        test=Split(("openai/gsm8k", "main", "test"), ("test",), 1319),
        instruction='Let\'s think step by step and output the final answer after "####".',
        convert=_gsm8k,
    ),
    "dapo-math": Kind(
        about="DAPO's 17k competition problems, published a hundred times over, and the 30 of AIME 2024 to test",
        train=Split(("BytedTsinghua-SIA/DAPO-Math-17k", None, "train"), ("dapo", "train"), 17398),
        test=Split(("BytedTsinghua-SIA/AIME-2024", None, "train"), ("aime", "test"), 30),
        instruction="",
        convert=_dapo_math,
    ),
}


@dataclass(frozen=True)
class Prepared:
    """One written file."""

    path: Path
    rows: int
    repeated: int
    """Rows of the source that were left out: their question had been there before."""
    published: int
    shared: int
    """Questions that are in train and test: what a score on them shows is memory."""
    sha256: str


HELD_OUT, REST = "held-out", "train-rest"


def prepare(
    kind: str, source: Path | None, out: Path, *, instruction: str | None = None, hold_out: int = 0
) -> dict[str, Prepared]:
    """Write ``train.parquet``, ``test.parquet`` and ``fingerprints.json`` under ``out``; the same source gives the
    same bytes. ``source``: a folder of parquet or JSON-lines files; the hub where None. ``hold_out``: so many training
    questions, picked by their hash and not in the test set, are written to ``held-out.parquet`` besides, to select
    treatments by, and the others to ``train-rest.parquet``.

    Raises :class:`DataError`. Nothing is written before all of it is ready.
    """
    what = KINDS[kind]
    told = what.instruction if instruction is None else instruction
    tables = {}
    for name, split in (("train", what.train), ("test", what.test)):
        raws, origin = _from_folder(source, split) if source is not None else _from_hub(split)
        tables[name] = (*_converted(raws, origin, name, what, told), split.rows)
    tested = {_question(r) for r in tables["test"][0]}
    shared = len({_question(r) for r in tables["train"][0]} & tested)
    if hold_out:
        held, rest = _held_out(tables["train"][0], tested, hold_out)
        tables |= {HELD_OUT: (held, 0, hold_out), REST: (rest, 0, len(rest))}
    if source is not None and out.resolve().is_relative_to(source.resolve()):
        raise DataError(f"{out} is in {source}: what is read would be written over")
    try:
        files = {name: _parquet(rows) for name, (rows, *_) in tables.items()}
        written = {
            name: Prepared(
                out / f"{name}.parquet", len(rows), repeated, published, shared, hashlib.sha256(files[name]).hexdigest()
            )
            for name, (rows, repeated, published) in tables.items()
        }
        prints = {
            "data": kind,
            "instruction": told,
            "questions_in_both": shared,
            "files": {p.path.name: {"rows": p.rows, "sha256": p.sha256} for p in written.values()},
        }
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            _replace(out / f"{name}.parquet", data)
        _replace(out / "fingerprints.json", (json.dumps(prints, indent=1, ensure_ascii=False) + "\n").encode())
    except (OSError, ValueError) as error:
        raise DataError(f"{out} cannot be written: {str(error).splitlines()[0]}") from error
    return written


def _held_out(rows: list[Row], tested: set[str], count: int) -> tuple[list[Row], list[Row]]:
    """By the hash of the question: whatever the order of the source is, and whatever is added to it later."""
    able = [row for row in rows if _question(row) not in tested]
    if not 0 < count < len(able):
        raise DataError(f"{count} questions cannot be held out of {len(able)} that are not in the test set")
    picked = sorted(able, key=lambda row: hashlib.sha256(_question(row).encode()).digest())[:count]
    chosen = {_question(row) for row in picked}
    return [row for row in rows if _question(row) in chosen], [row for row in rows if _question(row) not in chosen]


def _question(row: Row) -> str:
    return str(row["prompt"][0]["content"])


def _converted(raws: Iterable[Row], origin: str, name: str, kind: Kind, instruction: str) -> tuple[list[Row], int]:
    """Each question once, in the source's order; how many rows repeated one."""
    rows: list[Row] = []
    seen: set[str] = set()
    number = 0
    for number, raw in enumerate(raws, 1):
        try:
            row = kind.convert(raw, name, len(rows), instruction)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            missing = isinstance(error, KeyError)
            text = f"has no {error}; it has {', '.join(sorted(map(str, raw)))}" if missing else str(error)
            raise DataError(f"{origin}, row {number}: {text}") from error
        question = _question(row)
        if question not in seen:
            seen.add(question)
            rows.append(row)
    if not rows:
        raise DataError(f"{origin} has no rows")
    return rows, number - len(rows)


def _from_folder(folder: Path, split: Split) -> tuple[Iterable[Row], str]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one with {' or '.join(split.words)} in its files' names")
    inside = folder / "main" if (folder / "main").is_dir() else folder
    files = sorted(p for p in inside.rglob("*") if p.suffix in (".parquet", ".jsonl"))
    found = next((some for word in split.words if (some := [p for p in files if word in p.name.lower()])), [])
    if not found:
        names = ", ".join(p.name for p in files) or "no parquet or jsonl file"
        raise DataError(f"{inside} has no file with {' or '.join(split.words)} in its name: it has {names}")
    return (row for path in found for row in _rows_of(path)), ", ".join(map(str, found))


def _rows_of(path: Path) -> Iterable[Row]:
    try:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8", newline="\n") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
            return
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as table:  # in batches: DAPO-Math is published with 1.8 million rows
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's and json's errors are ValueErrors
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def _from_hub(split: Split) -> tuple[Iterable[Row], str]:
    repository, configuration, name = split.hub
    origin = f"https://huggingface.co/datasets/{repository}"
    try:
        from datasets import load_dataset

        return load_dataset(repository, configuration, split=name), origin
    except ImportError as error:
        raise DataError("the package datasets is not installed; give a folder of files") from error
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{origin} cannot be loaded ({cause}); give a folder that holds its files") from error


def _parquet(rows: list[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
