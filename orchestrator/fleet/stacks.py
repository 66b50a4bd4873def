"""Where the processes of a run that is stuck stand: py-spy's view of each, from outside, without their help."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

STACKS_NAME = "stacks.txt"
SECONDS_EACH = 20.0


def capture_stacks(run_dir: Path, pids: Sequence[int]) -> Path:
    """Append a dump of every process to the run directory's file; one that cannot be looked at says why there."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    target = run_dir / STACKS_NAME
    with target.open("a", encoding="utf-8") as out:
        for pid in pids:
            out.write(f"=== process {pid}\n{_dump(program, pid)}\n")
    return target


def _dump(program: str | None, pid: int) -> str:
    if program is None:
        return "py-spy is not installed"
    try:
        done = subprocess.run(
            [program, "dump", "--pid", str(pid), "--nonblocking"],
            capture_output=True, text=True, timeout=SECONDS_EACH, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"py-spy could not look at it: {error}"
    return done.stdout if done.returncode == 0 else f"py-spy could not look at it: {done.stderr.strip()}"
