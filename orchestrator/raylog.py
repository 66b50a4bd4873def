"""Lines as Ray prints them of its workers: coloured, prefixed with their writer, counted where they came often."""

from __future__ import annotations

import re

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
WRITER = re.compile(r"\((?:[^()]{1,80} )?pid=\d+(?:, ip=[^()]+)?\) ?|\((?:raylet|gcs_server|autoscaler)[^()]*\) ?")
"""At the beginning of a line; more than one where a worker has processes of its own, as vLLM's server has."""
REPEATED = re.compile(r"(?<!\s)\s*\[repeated \d+x across cluster\].*$")
"""At the end of a line. Tried once for each run of spaces, not from each of its spaces: a blank line may be long."""


def plain(line: str) -> str:
    """What the worker itself had written."""
    bare, begin = ANSI.sub("", line).strip(), 0
    while (writer := WRITER.match(bare, begin)) is not None:
        begin = writer.end()
    return REPEATED.sub("", bare[begin:]).strip()
