"""Asks a process of its own which sandbox works: trying one forks, which a program with threads must not."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from geumgo.backends._api import SandboxUnavailable

__all__ = ("PROBE_TIMEOUT", "probe", "require")

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


def require(sandbox: str) -> None:
    """Ask before anything else is started whether an enclave could be.

    Args:
        sandbox: `auto`, `namespaces` or `landlock`.

    Raises:
        SandboxUnavailable: no such sandbox works here; the message says what to enable.
    """
    from geumgo.backends.process import _sandboxes  # a manager has no use for it

    wanted = _sandboxes.candidates(sandbox)
    found = probe()
    refused = [(one, why) for one in wanted if (why := found[one.value]) is not None]
    if len(refused) == len(wanted):
        raise _sandboxes.unavailable([_sandboxes.Probe(one, why) for one, why in refused])
