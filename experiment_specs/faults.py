"""Named places in production code where a process can be made to end itself, for tests of what survives it.

``AQN_FAULT=name`` or ``AQN_FAULT=name:n`` in a process's environment kills it with SIGKILL when it comes to that place
for the n-th time. Where the variable is not set, a place is an empty function: nothing is looked up, nothing counted.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "AQN_FAULT"


def _armed(wish: str) -> Callable[[str], None]:
    name, _, number = wish.partition(":")
    left = int(number or 1)

    def passing(place: str) -> None:
        nonlocal left
        if place == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return passing


def _off(_place: str) -> None:
    """Nothing is wished for."""


fault_point = _armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else _off
