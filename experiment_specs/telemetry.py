"""Usage reports that libraries send to their makers: off in every process that this project starts.

A user who sets one of the variables keeps that value. Nothing here imports a library: each reads its variable itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Switch:
    """One environment variable of one library."""

    library: str
    variable: str
    off: str
    """The value that turns the report off."""
    source: str
    """Where the library says so: its documentation, or the module that reads the variable."""


SWITCHES = (
    Switch("MLflow", "MLFLOW_DISABLE_TELEMETRY", "true", "mlflow.org/docs/latest/community/usage-tracking"),
    Switch("Ray", "RAY_USAGE_STATS_ENABLED", "0", "docs.ray.io/en/latest/cluster/usage-stats.html"),
    Switch("vLLM", "VLLM_NO_USAGE_STATS", "1", "docs.vllm.ai/en/latest/usage/usage_stats"),
    Switch(
        "Hugging Face libraries", "HF_HUB_DISABLE_TELEMETRY", "1",
        "huggingface.co/docs/huggingface_hub/package_reference/environment_variables",
    ),
    # Counts loads of files on this disk too: verl reads its Parquet files with datasets.load_dataset.
    Switch("Hugging Face datasets", "HF_UPDATE_DOWNLOAD_COUNTS", "0", "datasets.config"),
    Switch("Streamlit", "STREAMLIT_BROWSER_GATHER_USAGE_STATS", "false",
           "docs.streamlit.io/develop/api-reference/configuration/config.toml"),
    Switch("W&B", "WANDB_ERROR_REPORTING", "false", "docs.wandb.ai/models/track/environment-variables"),
)  # fmt: skip


def telemetry_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Every variable with its value in a process whose user's environment is ``environment``: the user's, else off."""
    return {switch.variable: environment.get(switch.variable, switch.off) for switch in SWITCHES}


def turn_telemetry_off() -> None:
    """In this process and its children. Call before a library of :data:`SWITCHES` is imported: most read it then."""
    os.environ.update(telemetry_variables(os.environ))
