"""Asks a process of its own which sandbox works: trying one forks, which a program with threads must not."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from geumgo.backends._api import SandboxUnavailable

__all__ = ("PROBE_TIMEOUT", "probe")

PROBE_TIMEOUT = 30.0
"""Seconds; it takes a third of one on an idle machine."""


def probe() -> dict[str, str | None]:
    """Return for `namespaces` and `landlock` why this machine refuses it, or None where it works.

    Raises:
        SandboxUnavailable: the question can't be asked.
    """
    command = (sys.executable, "-P", "-m", "geumgo.backends.process", "--probe")
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT, check=True
        )
        return msgspec.json.decode(done.stdout, type=dict[str, str | None])
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        raise SandboxUnavailable(f"the sandboxes can't be tried out ({type(error).__name__})") from None
