"""Modules that an order names for every process of its run (carried by ``AQN_WORKER_PLUGINS``)."""

from __future__ import annotations

import os
from importlib import import_module

from workers.launch import PLUGINS_VARIABLE


def worker_plugins() -> list[str]:
    return [name for name in os.environ.get(PLUGINS_VARIABLE, "").split(",") if name]


def load_worker_plugins() -> list[str]:
    """Import them; an import error ends the process, because a treatment that is not there must not go unnoticed."""
    for name in worker_plugins():
        import_module(name)
    return worker_plugins()
