"""What of the registry is about SQLite, or about no database yet; the rest is in ``test_registry_contract.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from db.engine import RegistryError, open_registry


def test_sqlite_is_in_wal_mode_and_writes_begin_immediate(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL


def test_a_missing_registry_and_a_bad_url_are_told(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="there is no registry"):
        open_registry(f"sqlite:///{tmp_path}/none.db", create=False)
    with pytest.raises(RegistryError, match="not a database URL"):
        open_registry("nonsense")
    assert not list(tmp_path.iterdir())
