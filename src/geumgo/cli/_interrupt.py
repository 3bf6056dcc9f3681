"""Ending in good order: a command that has started processes stops them before it goes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import TypeVar

from geumgo.cli import _output

__all__ = ("run",)

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Coroutine[None, None, T]) -> T:
    """Run `main`; the first Ctrl-C, SIGTERM or hang-up cancels it, later ones leave its clean-up alone.

    Raises:
        SystemExit: there was such a signal; 128 plus its number, as shells count.
    """
    received: list[signal.Signals] = []

    async def guarded() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def stop(number: signal.Signals) -> None:
            if not received:
                _output.err.print("\nstopping …")
                task.cancel()
            received.append(number)

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does
                loop.add_signal_handler(number, stop, number)
        return await main

    try:
        return asyncio.run(guarded())
    except BaseException:
        # What fails because it was stopped is no news.
        if received:
            sys.exit(128 + received[0])
        raise
