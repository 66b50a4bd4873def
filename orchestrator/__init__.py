"""The control plane: spec → plan → runs → verdicts → reports. Never imports torch, verl or vllm."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.frames import Registry


def open_registry(where: str | None = None) -> Registry:
    """The registry, for notebooks: ``open_registry().runs()`` and ``.curves()`` are pandas DataFrames.

    ``where``: a database URL, or the folder of an ``AQN_HOME``; by default that of the environment. Raises
    :class:`db.engine.RegistryError` where there is none.
    """
    import os

    from db.engine import open_registry as open_engine
    from orchestrator.frames import Registry
    from orchestrator.settings import load_settings

    if where is None:
        url = load_settings().registry_url
    elif "://" in where:
        url = where
    else:
        url = load_settings({**os.environ, "AQN_HOME": where, "AQN_REGISTRY_URL": ""}).registry_url
    return Registry(open_engine(url, create=False))
