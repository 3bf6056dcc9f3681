"""Other programs, run with a time limit and without our standard input."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from geumgo.image._errors import BuildError

__all__ = ("end_programs", "run")

DOWNLOAD_TIMEOUT = 600.0
"""Seconds for one call of apt or pip: 40 MB over a slow line."""
_LAST_LINES = 5
_running: set[subprocess.Popen[bytes]] = set()
_guard = threading.Lock()


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    only: bool = False,
    given: bytes = b"",
    timeout: float = DOWNLOAD_TIMEOUT,
    error: type[BuildError] = BuildError,
) -> bytes:
    """Run a program and return its standard output.

    Args:
        command: program and arguments.
        cwd: its folder.
        environment: variables to set.
        only: whether `environment` is the whole environment.
        given: its standard input.
        timeout: seconds.
        error: what to raise.

    Raises:
        BuildError: it can't be started, takes too long, or exits with another status than 0; the message
            has the last lines of its standard error.
    """
    variables = dict(environment or {})
    if not only:
        variables = {**os.environ, **variables}
    name, pipe = Path(command[0]).name, subprocess.PIPE
    try:
        # In a session of its own: Ctrl-C is for us to act on, not for apt.
        process = subprocess.Popen(
            command, cwd=cwd, env=variables, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as problem:
        raise error(f"{name} can't be run: {problem.strerror}") from None
    with process:
        with _guard:
            _running.add(process)
        try:
            output, complaints = process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            raise error(f"{name} took longer than {timeout:.0f} s") from None
        finally:
            with _guard:
                _running.discard(process)
            _signal(process, signal.SIGKILL)
    if process.returncode != 0:
        lines = complaints.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise error(f"{name} failed with status {process.returncode}", why="\n".join(lines))
    return output


def end_programs() -> None:
    """End the programs that builds in this process run now; those builds fail.

    For a process that was told to end: a build in a thread can't be cancelled, and apt may take minutes.
    """
    with _guard:
        running = list(_running)
    for process in running:
        _signal(process, signal.SIGTERM)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a program and its children, if it has not ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
