#!/usr/bin/env bash
# pandas 3.1.1: read_json turns text answers and identifiers into numbers; datasets 5.2.0 keeps them.
#
# Why it matters: questions and reference answers for language models are kept as JSON lines and prepared with either
# library. With pandas, the text "1.50" becomes the number 1.5 and the identifier "007" becomes 7.0, and a long
# identifier loses digits, so that two questions can get the same one. A scorer that compares the model's text with the
# reference then gives another score for the same file. With dtype=False pandas keeps the text.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  pandas==3.1.1 datasets==5.2.0 huggingface-hub==1.33.0 pyarrow==25.0.1

echo 'expected: numbers from pandas.read_json, one of them for two identifiers; the text from dtype=False and datasets'

HF_UPDATE_DOWNLOAD_COUNTS=0 HF_HUB_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" - "$work" <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from datasets import disable_progress_bars, load_dataset

print("pandas", version("pandas"), "datasets", version("datasets"), "pyarrow", version("pyarrow"))
disable_progress_bars()
folder = Path(sys.argv[1])
file = folder / "questions.jsonl"
answers = ["1.50", "18", "5"]
names = ["007", "12345678901234567890", "12345678901234567891"]
file.write_text("".join(json.dumps({"id": n, "answer": a}) + "\n" for n, a in zip(names, answers, strict=True)))

plain = pd.read_json(file, lines=True)
text = pd.read_json(file, lines=True, dtype=False)
loaded = load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / "cache"))
print("pandas.read_json:", plain["answer"].tolist(), plain["id"].tolist())
print("pandas.read_json, dtype=False:", text["answer"].tolist(), text["id"].tolist())
print("datasets.load_dataset:", list(loaded["answer"]), list(loaded["id"]))

holds = (
    plain["answer"].tolist() == [1.5, 18.0, 5.0]
    and plain["id"].tolist()[0] == 7.0
    and plain["id"].nunique() == 2
    and (text["answer"].tolist(), text["id"].tolist()) == (answers, names)
    and (list(loaded["answer"]), list(loaded["id"])) == (answers, names)
)
print("behaves as described" if holds else "the behaviour changed")
sys.exit(0 if holds else 1)
PYTHON
