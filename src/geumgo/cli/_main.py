"""Puts the command groups together and turns errors into words and exit codes."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import TYPE_CHECKING

from geumgo._base import GeumgoError

if TYPE_CHECKING:
    import typer

__all__ = ("main",)

SERVERS = {
    "manager": "geumgo.manager",
    "gateway": "geumgo.gateway",
    "kms-emulator": "geumgo.testing.kms",
}
"""Commands that replace this process: a sidecar must not carry the command line's libraries in memory."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed with a message, 2 wrong usage, 130 interrupted."""
    if len(sys.argv) > 1 and sys.argv[1] in SERVERS:
        os.execv(sys.executable, [sys.executable, "-m", SERVERS[sys.argv[1]], *sys.argv[2:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Hangul gets question marks, not a crash
    try:
        _app()()
    except GeumgoError as error:
        from geumgo.cli._output import show_error

        show_error(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output left, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _app() -> typer.Typer:
    try:
        found: typer.Typer = importlib.import_module("geumgo.cli._app").app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.exit("geumgo: the command line needs two more packages\ninstall them: pip install 'geumgo[cli]'")
    return found
