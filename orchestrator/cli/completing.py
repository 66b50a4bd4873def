"""Names for a shell to complete. Asked at every press of a key: light, silent, and empty where nothing can be read."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.browse import Named


def runs(incomplete: str) -> list[str]:
    """Labels, of claims too."""
    return _named("run", incomplete)


def sweeps(incomplete: str) -> list[str]:
    return _named("sweep", incomplete)


def bugs(incomplete: str) -> list[str]:
    """Bugs that were applied."""
    return _named("bug", incomplete)


def rules(incomplete: str) -> list[str]:
    """Shipped rules. Files are completed by the shell itself, where none of these begins so."""
    from experiment_specs.bug_rules import shipped_rules

    return sorted(name for name in shipped_rules() if name.startswith(incomplete))


def keys(incomplete: str) -> list[str]:
    """Of the language."""
    from experiment_specs.explain import keys as known

    return [key for key in known() if key.startswith(incomplete)]


def bases(incomplete: str) -> list[str]:
    from experiment_specs.load import shipped_bases

    return [name for name in shipped_bases() if name.startswith(incomplete)]


def dtypes(incomplete: str) -> list[str]:
    from experiment_specs.presets import presets

    return sorted(name for name in presets()["dtype"] if name.startswith(incomplete))


def _named(kind: Named, beginning: str) -> list[str]:
    from db.browse import names
    from orchestrator.cli.common import registry_rows

    with suppress(Exception), registry_rows() as rows:  # a shell that completes has no place for an error
        return names(rows, kind, beginning)
    return []
