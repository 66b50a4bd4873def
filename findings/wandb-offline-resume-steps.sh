#!/usr/bin/env bash
# wandb 0.31.0 offline: a run that is resumed begins again at step 0.
#
# Why it matters: training runs of language models on clusters without network log offline and are resumed after they
# were stopped, with the same id and resume="allow" or "must". Offline, wandb does not look at the files of the earlier
# attempt: each attempt has a file of its own, its "_step" starts at 0, and the run says that it was not resumed. A
# reader that joins the files by "_step" mixes up the attempts. It has to use a step that the trainer logs itself.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check wandb==0.31.0 protobuf==7.36.2

cat >"$work/train.py" <<'PYTHON'
"""Log three values offline, as one attempt of the run "finetune", in a folder that the attempts share."""

import sys

import wandb

quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
run = wandb.init(
    mode="offline", project="evals", id="finetune", resume=sys.argv[2], dir=sys.argv[1], settings=quiet
)
for _ in range(3):
    run.log({"accuracy": 0.5})
print(f'resume="{sys.argv[2]}": run.resumed is {run.resumed}, run.step after three calls of log is {run.step}')
run.finish()
wandb.teardown()
PYTHON

cat >"$work/read.py" <<'PYTHON'
"""Print the steps in each attempt's file, and check them."""

import struct
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER, RECORD_HEADER, BLOCK = 7, 7, 32 * 1024
FULL, LAST = 1, 4


def records(data: bytes) -> Iterator[Record]:
    """The records of a .wandb file: each is one part, or several, and no part crosses the border of a block."""
    place, whole = FILE_HEADER, b""
    while place + RECORD_HEADER <= len(data):
        if BLOCK - place % BLOCK < RECORD_HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        place += RECORD_HEADER
        whole += data[place : place + length]
        place += length
        if kind in (FULL, LAST):
            yield Record.FromString(whole)
            whole = b""


def name(item) -> str:
    return item.key or "/".join(item.nested_key)


print("wandb", version("wandb"), "protobuf", version("protobuf"))
found = []
for path in sorted(Path(sys.argv[1]).glob("wandb/offline-run-*/run-finetune.wandb")):
    lines = [record.history.item for record in records(path.read_bytes()) if record.HasField("history")]
    steps = [int(item.value_json) for line in lines for item in line if name(item) == "_step"]
    found.append(steps)
    print(f"file {len(found)}: _step {steps}")

holds = found == [[0, 1, 2]] * 3
print("behaves as described" if holds else "the behaviour changed")
sys.exit(0 if holds else 1)
PYTHON

echo 'expected: three files, each with the steps 0, 1, 2; no attempt says that it was resumed'
mkdir "$work/runs"
for resume in allow allow must; do
  # None of the caller's settings, keys included. The folder of an attempt is named after the second of its start.
  env -i PATH="$PATH" HOME="$work" WANDB_ERROR_REPORTING=false \
    "$work/venv/bin/python" "$work/train.py" "$work/runs" "$resume"
  sleep 1
done
"$work/venv/bin/python" "$work/read.py" "$work/runs"
