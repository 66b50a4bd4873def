#!/usr/bin/env bash
# mlflow 3.17.2 with a SQLite store: the metric history is not what was logged.
#
# Why it matters: MLflow is where many projects keep the scores of their language models.
# 1. An infinite value, such as a loss or a perplexity that diverged, comes back as the largest finite float. A mean or
#    a plot over it looks like a number. A reader must treat ±1.797…e308 as "not finite".
# 2. Two values with the same step and the same timestamp (milliseconds) come back ordered by value. Which of them was
#    logged later is lost.
# 3. The run's latest value is the larger of the two, even when the smaller was logged later. A score that was corrected
#    downwards in the same millisecond, or with an explicit timestamp, is still shown as the higher one.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3.11 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check mlflow==3.17.2

echo 'expected: +inf and -inf come back as ±1.7976931348623157e+308; ties come back by value; the latest is the larger'

cd "$work"
cat >check.py <<'PYTHON'
import math
import sqlite3
import sys
from importlib.metadata import version

from mlflow.tracking import MlflowClient

print("mlflow", version("mlflow"), "SQLite", sqlite3.sqlite_version)
client = MlflowClient(tracking_uri="sqlite:///mlflow.db")
run = client.create_run(client.create_experiment("evals", artifact_location="artifacts")).info.run_id

client.log_metric(run, "loss", math.inf, timestamp=1000, step=1)
client.log_metric(run, "loss", -math.inf, timestamp=2000, step=2)
infinite = [point.value for point in client.get_metric_history(run, "loss")]
print("logged [inf, -inf], history:", infinite)

for value in (0.9, 0.5, 0.7):
    client.log_metric(run, "accuracy", value, timestamp=3000, step=1)
tied = [point.value for point in client.get_metric_history(run, "accuracy")]
latest = client.get_run(run).data.metrics["accuracy"]
print("logged [0.9, 0.5, 0.7] with one step and timestamp, history:", tied, "latest:", latest)

limit = sys.float_info.max
holds = infinite == [limit, -limit] and tied == [0.5, 0.7, 0.9] and latest == 0.9
print("behaves as described" if holds else "the behaviour changed")
sys.exit(0 if holds else 1)
PYTHON

# The store reports the creation of its tables on stderr; that is shown only if the check fails.
if ! MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true "$work/venv/bin/python" check.py 2>log; then
  tail -n 20 log >&2
  exit 1
fi
