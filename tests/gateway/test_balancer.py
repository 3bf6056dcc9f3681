from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.api import ApiError, Description, Operation
from geumgo.gateway._balancer import Balancer, Wanted
from geumgo.gateway._member import Member, MemberState
from geumgo.gateway._settings import GatewaySettings


@dataclass
class Link:
    closed: bool = False
    draining: bool = False


@dataclass(eq=False)
class StubMember:
    name: str
    weight: float = 1.0
    capacity: int = 2
    in_flight: int = 0
    state: MemberState = MemberState.READY
    key_id: bytes | None = b"k"
    operations: tuple[str, ...] = ("echo",)
    connection: Any = field(default_factory=Link)

    @property
    def description(self) -> Description:
        known = {name: Operation(True, True) for name in self.operations}
        return Description("pool", self.key_id, "ready", None, 0, "1", known)


def balancer(*members: StubMember, **changes: Any) -> Balancer:
    made = Balancer(GatewaySettings(**changes))
    made.members = {member.name: cast(Member, member) for member in members}
    return made


ECHO = Wanted("echo", None)


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


async def test_the_one_with_the_fewest_calls_gets_the_next() -> None:
    a, b = StubMember("a", in_flight=1), StubMember("b")
    assert cast(Any, await balancer(a, b).acquire(ECHO, soon())) is b


async def test_weights_share_the_calls() -> None:
    a, b = StubMember("a", weight=1, capacity=100), StubMember("b", weight=3, capacity=300)
    both = balancer(a, b)
    for _ in range(80):
        await both.acquire(ECHO, soon())
    assert (a.in_flight, b.in_flight) == (20, 60)


@pytest.mark.parametrize(
    "unfit",
    [
        StubMember("b", state=MemberState.STARTING),
        StubMember("b", state=MemberState.LEAVING),
        StubMember("b", connection=None),
        StubMember("b", connection=Link(closed=True)),
        StubMember("b", connection=Link(draining=True)),
        StubMember("b", operations=("other",)),
    ],
)
async def test_an_enclave_that_can_not_do_it_is_passed_over(unfit: StubMember) -> None:
    a = StubMember("a", in_flight=1)
    assert cast(Any, await balancer(a, unfit).acquire(ECHO, soon())) is a


async def test_the_key_decides_while_there_are_two() -> None:
    old, new = StubMember("a", key_id=b"old"), StubMember("b", key_id=b"new", in_flight=1)
    both = balancer(old, new)
    assert cast(Any, await both.acquire(Wanted("echo", b"new"), soon())) is new
    with pytest.raises(ApiError) as caught:
        await both.acquire(Wanted("echo", b"gone"), soon())
    assert caught.value.code == "reattest"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ((), "unavailable"),
        ((StubMember("a", state=MemberState.STARTING),), "starting"),
        ((StubMember("a", state=MemberState.CONNECTING),), "starting"),
        ((StubMember("a", state=MemberState.FAILED),), "unavailable"),
        ((StubMember("a", state=MemberState.LEAVING),), "unavailable"),
        ((StubMember("a", operations=()),), "unknown_operation"),
        ((StubMember("a", connection=Link(closed=True)),), "unavailable"),
        ((StubMember("a", operations=()), StubMember("b", state=MemberState.STARTING)), "unknown_operation"),
    ],
)
async def test_why_nobody_can(members: tuple[StubMember, ...], code: str) -> None:
    with pytest.raises(ApiError) as caught:
        await balancer(*members).acquire(ECHO, soon())
    assert caught.value.code == code


async def test_those_tried_already_are_passed_over() -> None:
    a, b = StubMember("a"), StubMember("b", in_flight=1)
    both = balancer(a, b)
    assert cast(Any, await both.acquire(Wanted("echo", None, (cast(Member, a),)), soon())) is b
    with pytest.raises(ApiError) as caught:
        await both.acquire(Wanted("echo", None, (cast(Member, a), cast(Member, b))), soon())
    assert (caught.value.code, caught.value.retryable) == ("unavailable", True)


async def waiting(made: Balancer, count: int, **keywords: Any) -> list[asyncio.Task[Member]]:
    tasks = [asyncio.ensure_future(made.acquire(ECHO, soon(), **keywords)) for _ in range(count)]
    while made.queued < count:
        await asyncio.sleep(0)
    return tasks


async def test_calls_wait_their_turn() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a)
    await made.acquire(ECHO, soon())
    tasks = await waiting(made, 3)
    for number, task in enumerate(tasks):
        assert not task.done()
        made.release(cast(Member, a))
        assert cast(Any, await task) is a
        assert made.queued == 2 - number
        assert a.in_flight == 1


async def test_a_newcomer_does_not_pass_those_who_wait() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a)
    await made.acquire(ECHO, soon())
    (first,) = await waiting(made, 1)
    a.capacity = 2  # a place comes free without anyone saying so
    second = asyncio.ensure_future(made.acquire(ECHO, soon()))
    assert cast(Any, await first) is a
    assert not second.done()
    made.release(cast(Member, a))
    await second


async def test_a_full_queue_is_busy_at_once() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a, max_queue=2)
    await made.acquire(ECHO, soon())
    tasks = await waiting(made, 2)
    with pytest.raises(ApiError) as caught:
        await made.acquire(ECHO, soon())
    assert (caught.value.code, caught.value.retryable) == ("busy", True)
    for _ in tasks:
        made.release(cast(Member, a))
    await asyncio.gather(*tasks)


async def test_waiting_has_an_end() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a, queue_wait=0.05)
    await made.acquire(ECHO, soon())
    with pytest.raises(ApiError) as caught:
        await made.acquire(ECHO, soon())
    assert caught.value.code == "busy"
    assert (made.queued, a.in_flight) == (0, 1)


async def test_a_deadline_ends_the_waiting() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a)
    await made.acquire(ECHO, soon())
    with pytest.raises(ApiError) as caught:
        await made.acquire(ECHO, soon(0.05))
    assert caught.value.code == "deadline_exceeded"
    assert made.queued == 0


async def test_one_who_leaves_the_queue_takes_no_place() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a)
    await made.acquire(ECHO, soon())
    first, second = await waiting(made, 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    made.release(cast(Member, a))
    assert cast(Any, await second) is a
    assert a.in_flight == 1


async def test_one_who_leaves_as_the_place_comes_gives_it_on() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a)
    await made.acquire(ECHO, soon())
    first, second = await waiting(made, 2)
    made.release(cast(Member, a))  # the place is the first one's, who does not know yet
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert cast(Any, await second) is a
    assert a.in_flight == 1


async def test_nobody_waits_for_an_enclave_that_is_gone() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a)
    await made.acquire(ECHO, soon())
    (task,) = await waiting(made, 1)
    made.members.clear()
    made.changed()
    with pytest.raises(ApiError) as caught:
        await task
    assert caught.value.code == "unavailable"
    assert made.queued == 0


async def test_a_new_enclave_takes_those_who_wait() -> None:
    a = StubMember("a", capacity=1)
    made = balancer(a)
    await made.acquire(ECHO, soon())
    tasks = await waiting(made, 2)
    b = StubMember("b", capacity=2)
    made.members["b"] = cast(Member, b)
    made.changed()
    assert cast(Any, await asyncio.gather(*tasks)) == [b, b]


async def test_one_who_waits_for_a_full_enclave_does_not_stop_others() -> None:
    a = StubMember("a", capacity=1, operations=("echo",))
    b = StubMember("b", capacity=1, operations=("other",))
    made = balancer(a, b)
    await made.acquire(ECHO, soon())
    (task,) = await waiting(made, 1)
    assert cast(Any, await made.acquire(Wanted("other", None), soon())) is b
    made.release(cast(Member, a))
    await task


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["call", "end", "cancel", "drop", "add"]), max_size=60), st.data())
def test_places_are_never_lost_nor_given_twice(steps: list[str], data: st.DataObject) -> None:
    async def run() -> None:
        members = [StubMember("a"), StubMember("b")]
        made = balancer(*members, max_queue=4)
        open_calls: list[asyncio.Task[Member]] = []
        for step in steps:
            if step == "call":
                open_calls.append(asyncio.ensure_future(made.acquire(ECHO, soon())))
            elif step in ("end", "cancel") and open_calls:
                task = open_calls.pop(data.draw(st.integers(0, len(open_calls) - 1)))
                if step == "cancel" and not task.done():
                    task.cancel()
                    await asyncio.wait((task,))
                elif task.done() and task.exception() is None:
                    made.release(task.result())
                else:
                    open_calls.append(task)
            elif step == "drop":
                made.members.pop("b", None)
                made.changed()
            elif step == "add":
                made.members["b"] = cast(Member, members[1])
                made.changed()
            for _ in range(3):
                await asyncio.sleep(0)
            held = [t.result() for t in open_calls if t.done() and t.exception() is None]
            for member in members:
                assert member.in_flight == sum(cast(Any, h) is member for h in held)
                assert 0 <= member.in_flight <= member.capacity
            waiting_calls = [t for t in open_calls if not t.done()]
            assert made.queued == len(waiting_calls)
        for task in open_calls:
            task.cancel()
        await asyncio.gather(*open_calls, return_exceptions=True)

    asyncio.run(run())
