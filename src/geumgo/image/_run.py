"""Other programs, run with a time limit and without our standard input."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from geumgo.image._errors import BuildError

__all__ = ("run",)

DOWNLOAD_TIMEOUT = 600.0
"""Seconds for one call of apt or pip: 40 MB over a slow line."""
_LAST_LINES = 5


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
    try:
        done = subprocess.run(
            command, cwd=cwd, env=variables, input=given, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise error(f"{Path(command[0]).name} took longer than {timeout:.0f} s") from None
    except OSError as problem:
        raise error(f"{Path(command[0]).name} can't be run: {problem.strerror}") from None
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        raise error(f"{Path(command[0]).name} failed with status {done.returncode}", why="\n".join(lines))
    return done.stdout
