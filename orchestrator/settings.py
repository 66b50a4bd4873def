"""Where things live: ``AQN_HOME``, ``AQN_REGISTRY_URL`` and what follows from them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Paths of one installation. ``home`` is absolute."""

    home: Path
    registry_url: str

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def assets(self) -> Path:
        return self.home / "assets"

    @property
    def mlflow_url(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlflow-artifacts"

    @property
    def fleet_file(self) -> Path:
        return self.home / "fleet.json"

    @property
    def leader_lock(self) -> Path:
        """Beside the registry where it is a file: who shares a registry shares its one scheduler."""
        from sqlalchemy.engine import make_url  # not at the top: a list in the terminal needs none of it

        url = make_url(self.registry_url)
        if url.drivername.startswith("sqlite") and url.database:
            return Path(url.database).with_suffix(".leader")
        return self.home / "scheduler.lock"

    @property
    def reports(self) -> Path:
        return self.home / "reports"


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    home = Path(environment.get("AQN_HOME") or ".aqn").absolute()
    return Settings(home, environment.get("AQN_REGISTRY_URL") or f"sqlite:///{home / 'registry.db'}")
