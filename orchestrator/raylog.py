"""Lines as Ray prints them of its workers: coloured, prefixed with their writer, counted where they came often."""

from __future__ import annotations

import re

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
WRITER = re.compile(r"\((?:[^()]{1,80} )?pid=\d+(?:, ip=[^()]+)?\) ?|\((?:raylet|gcs_server|autoscaler)[^()]*\) ?")
"""At the beginning of a line."""
REPEATED = re.compile(r"\s*\[repeated \d+x across cluster\].*$")


def plain(line: str) -> str:
    """What the worker itself had written."""
    bare = ANSI.sub("", line).strip()
    return REPEATED.sub("", bare[writer.end() :] if (writer := WRITER.match(bare)) else bare).strip()
