"""What tests of `aqn ui` share: ports, and waiting for its servers."""

from __future__ import annotations

import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def free_ports(many: int) -> list[int]:
    """Different ones, on which nothing listens."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(many)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def wait_for(port: int, server: subprocess.Popen[Any]) -> None:
    """Until something listens there; the test fails where ``server`` ends before."""
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert server.poll() is None, "it ended before it listened"
        signal.sigtimedwait([], 0.1)
