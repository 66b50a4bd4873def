#!/usr/bin/env bash
# datasets 5.2.0: loading a parquet file from the local disk looks up an outside host.
#
# Why it matters: load_dataset("parquet", data_files=…) is how a training set or an eval set of a language model is
# read from disk. The library counts the load at an outside host, although nothing there is needed. Without network the
# load can wait for the attempt, up to 3 seconds; where outside requests are watched, the attempt is an event.
# HF_HUB_DISABLE_TELEMETRY=1, the variable that people set to avoid such requests, does not stop it.
# HF_UPDATE_DOWNLOAD_COUNTS=0 does.
# The script works without network: a lookup that fails is ignored by the library and still counted here.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  datasets==5.2.0 huggingface-hub==1.33.0 pyarrow==25.0.1

"$work/venv/bin/python" - "$work/train.parquet" <<'PYTHON'
import sys
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq

print("datasets", version("datasets"), "huggingface-hub", version("huggingface-hub"), "pyarrow", version("pyarrow"))
pq.write_table(pa.table({"question": ["1+1"], "answer": ["2"]}), sys.argv[1])
PYTHON

cat >"$work/load.py" <<'PYTHON'
"""Load a local parquet file and print how many lookups of, or connections to, an outside host the load attempts."""

import ipaddress
import socket
import sys

outside = 0


def is_local(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host is None or host in ("", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def watch(event: str, arguments: tuple) -> None:
    """Count attempts before they are made; the name of the host is neither kept nor printed."""
    global outside
    if event == "socket.getaddrinfo":
        outside += not is_local(arguments[0])
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        outside += not is_local(arguments[1][0])


sys.addaudithook(watch)

from datasets import load_dataset  # noqa: E402

rows = load_dataset("parquet", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])
assert rows[0] == {"question": "1+1", "answer": "2"}
print(outside)
PYTHON

# Each load has its own cache and home folder, and none of the settings of the caller that concern the library. The
# caller's proxy settings go too: with a proxy, the lookup would be that of the proxy.
count() {
  local name=$1
  shift
  env -i PATH="$PATH" HOME="$work/home-$name" HF_HUB_DISABLE_PROGRESS_BARS=1 "$@" \
    "$work/venv/bin/python" "$work/load.py" "$work/train.parquet" "$work/cache-$name" 2>"$work/log" ||
    { tail -n 20 "$work/log" >&2; exit 1; }
}

echo 'expected: attempts to reach an outside host by default and without telemetry, none without download counts'
default=$(count default)
telemetry=$(count telemetry HF_HUB_DISABLE_TELEMETRY=1)
counts=$(count counts HF_UPDATE_DOWNLOAD_COUNTS=0)
echo "attempts to reach an outside host: default $default, HF_HUB_DISABLE_TELEMETRY=1 $telemetry," \
  "HF_UPDATE_DOWNLOAD_COUNTS=0 $counts"

if ((default > 0 && telemetry > 0 && counts == 0)); then
  echo 'behaves as described'
else
  echo 'the behaviour changed'
  exit 1
fi
