"""Nothing leaves the process by accident: no traceback, no print, no core dump.

Outside debug stdout and stderr go nowhere already; this holds even where a launcher would read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import io
import logging
import resource
import sys
import threading
import traceback
import warnings
from typing import Any

from geumgo.enclave._events import exception_name
from geumgo.enclave._log import EventLog

__all__ = ("hush", "watch_loop")


class _Nowhere(io.TextIOBase):
    """Takes text and forgets it."""

    def write(self, text: str) -> int:
        return len(text)


def hush(*, debug: bool) -> None:
    """Close the ways by which a program's memory or text leaves without being asked for.

    Args:
        debug: leave stdout, stderr and tracebacks as they are. An enclave's measurements say that it is
            in debug mode, so no key is released to one.
    """
    faulthandler.disable()
    with contextlib.suppress(OSError, ValueError):  # a sandbox that denies the call has set the limit itself
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if debug:
        return
    sys.stdout = sys.stderr = _Nowhere()
    sys.excepthook = _ignore
    sys.unraisablehook = _ignore
    threading.excepthook = _ignore
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def _ignore(*_: Any) -> None:
    """Forget an exception that nobody caught."""


def watch_loop(loop: asyncio.AbstractEventLoop, log: EventLog, *, debug: bool) -> None:
    """Log what the loop would print: that something failed, and a built-in exception's name."""

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        name = exception_name(error) if isinstance(error, BaseException) else "other"
        log.emit("internal_error", place="loop", exception=name)
        if debug and isinstance(error, BaseException):
            traceback.print_exception(error)

    loop.set_exception_handler(handle)
