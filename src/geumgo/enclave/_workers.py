"""Worker threads for CPU work and for calls that block, with a queue that forgets cancelled work."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ("Workers",)

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workers:
    """Runs functions in at most `threads` threads.

    Work waits in the event loop, not in the executor, so what is cancelled while it waits is gone with its
    arguments. A function that already runs can't be stopped: its thread stays taken until it returns.

    Args:
        threads: functions that run at a time.
        name: prefix of the threads' names.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = asyncio.Semaphore(threads)

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `function` returns."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        try:
            future = self._executor.submit(_contained, functools.partial(function, *args, **kwargs))
        except BaseException:
            self._free.release()
            raise

        def finished(_: Future[_T]) -> None:
            try:
                loop.call_soon_threadsafe(self._free.release)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

        future.add_done_callback(finished)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Take no more work; threads end when what they run returns."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _contained(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except StopIteration:
        # A future can't carry it: whoever waits would wait for ever.
        raise RuntimeError("StopIteration left a function") from None
