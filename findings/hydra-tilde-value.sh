#!/usr/bin/env bash
# hydra-core 1.3.8: an override whose value begins with "~" is refused.
#
# Why it matters: training scripts for language models are often lists of Hydra overrides such as
# data.train_files=~/data/train.parquet. bash expands "~" only at the start of a word and after the "=" of an
# assignment. "data.train_files" is no variable name, because it has a dot, so Hydra gets the "~" itself. Its grammar
# reserves "~" for the deletion of a key. A launcher that reads such a script must report the value: the run cannot
# start, and a home folder must not be filled in silently.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  hydra-core==1.3.8 omegaconf==2.3.0 antlr4-python3-runtime==4.9.3

echo 'expected: bash leaves ~ as it is after a dotted key; Hydra refuses the unquoted value and takes the quoted one'
argument=$(HOME=/home/user bash -c "printf '%s' data.train_files=~/data/train.parquet")
echo "bash passes: $argument"

"$work/venv/bin/python" - "$argument" <<'PYTHON'
import sys
from importlib.metadata import version

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

print("hydra-core", version("hydra-core"))
parser = OverridesParser.create()
argument = sys.argv[1]

try:
    refused = False
    print(f"{argument}: parsed as {parser.parse_overrides([argument])[0].value()!r}")
except OverrideParseException as error:
    refused = True
    print(f"{argument}: refused:", " ".join(str(error).split()))

key, value = argument.split("=", 1)
quoted = f"{key}='{value}'"
text = parser.parse_overrides([quoted])[0].value()
print(f"{quoted}: parsed as {text!r}")

holds = argument == "data.train_files=~/data/train.parquet" and refused and text == "~/data/train.parquet"
print("behaves as described" if holds else "the behaviour changed")
sys.exit(0 if holds else 1)
PYTHON
