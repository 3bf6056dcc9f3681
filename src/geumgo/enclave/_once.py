"""A bounded cache of awaited values in which equal questions that come together are asked once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from geumgo.enclave._errors import Refused

__all__ = ("OnceCache",)

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class OnceCache(Generic[_K, _V]):
    """Least-recently-used values with an age limit; failures are not kept.

    Args:
        capacity: values kept.
        max_age: seconds that a value is kept; None for ever.
        at_once: questions asked at a time; others wait.
        time: monotonic seconds.
        waiting: questions that are asked or wait, at most; one goes on when all who asked have given up.
    """

    def __init__(
        self,
        capacity: int,
        max_age: float | None,
        at_once: int,
        time: Callable[[], float],
        waiting: int = 1024,
    ) -> None:
        self._capacity = capacity
        self._waiting = waiting
        self._max_age = max_age
        self._slots = asyncio.Semaphore(at_once)
        self._time = time
        self._values: OrderedDict[_K, tuple[_V, float]] = OrderedDict()
        self._asking: dict[_K, asyncio.Task[_V]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def peek(self, key: _K) -> _V | None:
        """Return the value where it is known and fresh."""
        entry = self._values.get(key)
        if entry is None:
            return None
        value, since = entry
        if self._max_age is not None and self._time() - since > self._max_age:
            del self._values[key]
            return None
        self._values.move_to_end(key)
        return value

    async def get(self, key: _K, ask: Callable[[], Awaitable[_V]]) -> _V:
        """Return the value of `key`, asking for it if it isn't known; raises what `ask` raises.

        One asker's cancellation does not disturb the others that wait for the same answer.

        Raises:
            Refused: `busy`, too many questions wait.
        """
        value = self.peek(key)
        if value is not None:
            return value
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= self._waiting:
                raise Refused("busy")
            task = asyncio.create_task(self._ask(key, ask))
            self._asking[key] = task
            task.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(task)

    async def _ask(self, key: _K, ask: Callable[[], Awaitable[_V]]) -> _V:
        async with self._slots:
            value = await ask()
        self._values[key] = (value, self._time())
        self._values.move_to_end(key)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return value

    def _asked(self, key: _K, task: asyncio.Task[_V]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # seen, whether or not somebody still waits for it

    async def aclose(self) -> None:
        """Cancel what is being asked."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
