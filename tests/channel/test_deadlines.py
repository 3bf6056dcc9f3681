"""Deadlines by ticks: never early, at most a tick late, no growth."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

from geumgo.channel._deadlines import TICK_S, Deadlines


async def test_never_early_and_at_most_a_tick_late() -> None:
    loop = asyncio.get_running_loop()
    fired: dict[int, float] = {}
    deadlines = Deadlines(loop, lambda key: fired.setdefault(key, loop.time()))
    start = loop.time()
    due = {key: start + random.Random(key).random() / 5 for key in range(200)}
    for key, when in due.items():
        deadlines.add(key, when)
    while len(fired) < 200:
        await asyncio.sleep(0.005)
    assert all(fired[key] >= when for key, when in due.items())
    # A busy machine may run the timer late; the order shows that the ticks are kept apart.
    order = sorted(fired, key=lambda key: fired[key])
    assert all(due[later] > due[earlier] - TICK_S for earlier, later in pairwise(order))


async def test_discarded_keys_do_not_fire() -> None:
    loop = asyncio.get_running_loop()
    fired: list[int] = []
    deadlines = Deadlines(loop, fired.append)
    tick = deadlines.add(1, loop.time() + 0.01)
    deadlines.add(2, loop.time() + 0.06)
    deadlines.discard(1, tick)
    deadlines.discard(9, 9)
    while not fired:
        await asyncio.sleep(0.005)
    assert fired == [2]


async def test_a_later_deadline_does_not_delay_an_earlier_one() -> None:
    loop = asyncio.get_running_loop()
    fired: list[int] = []
    deadlines = Deadlines(loop, fired.append)
    deadlines.add(1, loop.time() + 3600)
    deadlines.add(2, loop.time() + 0.01)
    while not fired:
        await asyncio.sleep(0.005)
    assert fired == [2]
    deadlines.clear()
    assert deadlines._timer is None


async def test_ticks_chosen_by_a_peer_do_not_pile_up() -> None:
    loop = asyncio.get_running_loop()
    deadlines = Deadlines(loop, lambda key: None)
    for key in range(20_000):
        deadlines.discard(key, deadlines.add(key, loop.time() + 10 + key * TICK_S))
    assert len(deadlines._ticks) == 0
    assert len(deadlines._upcoming) < 200
    deadlines.clear()
