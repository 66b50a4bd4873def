"""Modules that an order names for every process of its run (carried by ``AQN_WORKER_PLUGINS``)."""

from __future__ import annotations

from importlib import import_module

from workers.launch import plugins


def load_worker_plugins() -> list[str]:
    """Import them; an import error ends the process, because a treatment that is not there must not go unnoticed."""
    names = list(plugins())
    for name in names:
        import_module(name)
    return names
