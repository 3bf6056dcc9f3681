"""The parts, each alone: clock, ledger, events and log, admission, cache, bucket, workers, access."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.codec import cbor
from geumgo.enclave import EnclaveError, Refused
from geumgo.enclave._access import Grant
from geumgo.enclave._admission import Admission
from geumgo.enclave._clock import TrustedClock
from geumgo.enclave._events import EVENTS, exception_name, word
from geumgo.enclave._ledger import RequestLedger
from geumgo.enclave._log import EventLog
from geumgo.enclave._once import OnceCache
from geumgo.enclave._rate import TokenBucket
from geumgo.enclave._workers import Workers

SECRET = "900101-1234568"


class Ticks:
    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


def test_clock_is_not_set_at_first():
    clock = TrustedClock()
    assert not clock.synchronised
    with pytest.raises(Refused) as caught:
        clock.now_ms()
    assert caught.value.code == "starting"


def test_clock_takes_the_middle_of_the_exchange_and_runs_on():
    ticks = Ticks()
    clock = TrustedClock(ticks)
    assert clock.synchronise(50_000, before=900, after=1_000) == 0
    assert clock.now_ms() == 50_050
    ticks.now += 250
    assert clock.now_ms() == 50_300


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(-5000, 5000)), min_size=1, max_size=20))
def test_clock_never_goes_back(steps):
    ticks = Ticks()
    clock = TrustedClock(ticks)
    clock.synchronise(1_000_000, before=ticks.now, after=ticks.now)
    seen = clock.now_ms()
    for passed, drift in steps:
        ticks.now += passed
        clock.synchronise(1_000_000 + ticks.now + drift, before=ticks.now, after=ticks.now)
        now = clock.now_ms()
        assert now >= seen
        seen = now


def claim(ledger: RequestLedger, key: bytes, deadline: int, now: int, caller: str = "a") -> str:
    try:
        ledger.claim(caller, key, deadline_ms=deadline, now_ms=now)
    except Refused as error:
        return error.code
    return "ok"


def test_ledger_remembers_until_the_deadline():
    ledger = RequestLedger(10, 10, 1000)
    assert claim(ledger, b"a", 100, 0) == "ok"
    assert claim(ledger, b"a", 100, 50) == "duplicate"
    assert claim(ledger, b"a", 100, 100) == "duplicate"  # at the deadline itself it is still remembered
    assert claim(ledger, b"a", 100, 101) == "deadline_exceeded"
    assert claim(ledger, b"b", 5000, 101) == "invalid_request"
    assert len(ledger) == 0


def test_ledger_gives_each_caller_its_share_and_back_again():
    ledger = RequestLedger(10, 2, 1000)
    assert [claim(ledger, bytes([n]), 100, 0) for n in range(3)] == ["ok", "ok", "busy"]
    assert claim(ledger, b"\0", 100, 0, "b") == "ok"  # the same id of another caller is another request
    assert claim(ledger, b"\0", 100, 0) == "duplicate"
    assert claim(ledger, b"\3", 300, 101) == "ok"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50), st.integers(0, 10)), max_size=100))
def test_ledger_never_admits_a_key_twice_before_its_deadline(steps):
    ledger, now, admitted = RequestLedger(3, 3, 1000), 0, {}
    for name, ahead, passed in steps:
        now += passed
        key = bytes([name])
        outcome = claim(ledger, key, now + ahead, now)
        if outcome == "ok":
            assert admitted.get(key, -1) < now
            admitted[key] = now + ahead
        alive = sum(deadline >= now for deadline in admitted.values())
        assert len(ledger) <= 3
        assert alive <= 3
        if outcome == "busy":
            assert alive == 3


def sample(event_fields):
    from geumgo.enclave._events import Field

    samples = {
        Field.COUNT: 3,
        Field.OFFSET: -3,
        Field.FLAG: True,
        Field.WORD: "deidentify",
        Field.EXCEPTION: "ValueError",
    }
    return {name: samples[kind] for name, kind in event_fields.items()}


@pytest.mark.parametrize("code", EVENTS)
def test_every_event_takes_its_fields_and_nothing_else(code):
    event = EVENTS[code]
    good = sample(event.fields)
    assert event.admits(good)
    assert not event.admits({**good, "more": 1})
    for name in good:
        assert not event.admits({key: value for key, value in good.items() if key != name})
        for bad in (SECRET + " is a value", "홍길동", "a b", b"x", None, 1.5, [1], "", "x" * 65, 1 << 60):
            if not (isinstance(bad, int) and isinstance(good[name], str)):
                assert not event.admits({**good, name: bad})


def test_events_never_carry_text_of_exceptions():
    class Own(Exception):
        pass

    Own.__name__ = Own.__qualname__ = SECRET
    assert exception_name(Own(SECRET)) == "other"
    assert exception_name(ValueError(SECRET)) == "ValueError"
    pretending = type("ValueError", (Exception,), {"__module__": "builtins"})
    assert exception_name(pretending(SECRET)) == "ValueError"  # the name itself says nothing else
    assert word("홍길동") == word(SECRET + " ") == word("") == "other"


class Now:
    def now_ms(self) -> int:
        return 7


async def collect(log: EventLog, count: int) -> list[dict]:
    got: list[dict] = []

    async def send(message: bytes) -> None:
        got.append(cbor.loads(message))

    pump = asyncio.create_task(log.pump(send))
    while len(got) < count:
        await asyncio.sleep(0)
    pump.cancel()
    return got


async def test_log_keeps_order_and_counts_what_it_drops():
    log = EventLog(Now(), 3)
    for number in range(5):
        log.emit("connections_full", connections=number)
    got = await collect(log, 4)
    assert [event["fields"].get("connections") for event in got] == [0, 1, 2, None]
    assert got[3] == {"t": 7, "code": "log_dropped", "level": "warn", "fields": {"count": 2}}
    log.emit("control_opened")
    assert (await collect(log, 1))[0]["code"] == "control_opened"


async def test_log_loses_nothing_when_a_connection_breaks():
    log = EventLog(Now(), 10)
    log.emit("connections_full", connections=1)
    log.emit("connections_full", connections=2)

    async def broken(message: bytes) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await log.pump(broken)
    assert [event["fields"]["connections"] for event in await collect(log, 2)] == [1, 2]


async def test_log_refuses_what_is_not_in_the_table_without_repeating_it():
    log = EventLog(Now(), 3)
    for code, fields in (("nonesuch", {}), ("ready", {}), ("nsm_failed", {"reason": SECRET + " x"})):
        with pytest.raises(EnclaveError) as caught:
            log.emit(code, **fields)
        assert SECRET not in str(caught.value)


async def test_closed_log_ends_its_pump_when_empty():
    log = EventLog(Now(), 3)
    log.emit("control_opened")
    log.close()
    sent: list[bytes] = []

    async def send(message: bytes) -> None:
        sent.append(message)

    await log.pump(send)
    assert len(sent) == 1


async def test_admission_bounds_requests_and_bytes():
    admission = Admission(2, 100)
    admission.enter(60)
    with pytest.raises(Refused):
        admission.enter(50)
    admission.enter(40)
    waiting = asyncio.create_task(admission.wait(10))
    await asyncio.sleep(0)
    with pytest.raises(Refused):
        admission.enter(0)
    admission.leave(60)
    await waiting
    assert (admission.in_flight, admission.bytes) == (2, 50)
    admission.leave(40)
    admission.leave(10)
    assert (admission.in_flight, admission.bytes) == (0, 0)
    await admission.idle()


async def test_admission_survives_any_order_of_cancellation():
    chance = random.Random(5)
    admission = Admission(3, 100)
    most = 0

    async def one() -> None:
        nonlocal most
        size = chance.randrange(1, 60)
        await admission.wait(size)
        try:
            most = max(most, admission.in_flight)
            assert admission.bytes <= 100
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            admission.leave(size)

    tasks = []
    for _ in range(100):
        tasks.append(asyncio.create_task(one()))
        tasks[-1].add_done_callback(lambda task: task.cancelled() or task.exception())
        if chance.random() < 0.4:
            chance.choice(tasks).cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (admission.in_flight, admission.bytes, len(admission._waiting)) == (0, 0, 0)
    assert 1 < most <= 3


async def test_cache_asks_once_forgets_failures_and_ages():
    now = 0.0
    cache: OnceCache[str, bytes] = OnceCache(2, 10.0, 4, lambda: now)
    asked: list[str] = []
    gate = asyncio.Event()

    async def ask() -> bytes:
        asked.append("x")
        await gate.wait()
        return b"v"

    waiting = [asyncio.create_task(cache.get("a", ask)) for _ in range(5)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who started the question goes; the others still get the answer
    gate.set()
    assert await asyncio.gather(*waiting[1:]) == [b"v"] * 4
    assert len(asked) == 1

    async def fail() -> bytes:
        asked.append("f")
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):
            await cache.get("b", fail)
    assert asked == ["x", "f", "f"]
    now = 11.0
    assert cache.peek("a") is None
    for key in ("1", "2", "3"):
        await cache.get(key, ask)
    assert len(cache) == 2
    assert cache.peek("1") is None
    await cache.aclose()


async def test_cache_bounds_questions_at_a_time():
    cache: OnceCache[int, int] = OnceCache(100, None, 3, lambda: 0.0)
    running = most = 0

    async def ask() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return 1

    await asyncio.gather(*(cache.get(key, ask) for key in range(20)))
    assert most == 3


def test_bucket_gives_a_burst_then_a_rate():
    now = 0.0
    bucket = TokenBucket(2.0, 3, lambda: now)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now = 0.4
    assert not bucket.take()
    now = 0.6
    assert bucket.take()
    now = 100.0
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


async def test_workers_forget_cancelled_work_and_keep_running_work_counted():
    workers = Workers(1, "test")
    gate, ran = threading.Event(), []
    first = asyncio.create_task(workers.run(gate.wait, 10))
    await asyncio.sleep(0)
    second = asyncio.create_task(workers.run(ran.append, 2))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    third = asyncio.create_task(workers.run(ran.append, 3))
    await asyncio.sleep(0.01)
    assert ran == []
    gate.set()
    await third
    assert ran == [3]
    workers.close()


class Facts:
    def __init__(self, **facts) -> None:
        self.purposes = frozenset(facts.get("purposes", ()))
        self.encrypted_fields = frozenset(facts.get("encrypted", ()))
        self.deterministic = facts.get("deterministic", False)
        self.reversible = facts.get("reversible", False)


D = b"d" * 32


@pytest.mark.parametrize(
    ("grant", "facts", "allowed"),
    [
        pytest.param({"policies": None}, {}, True, id="any"),
        pytest.param({"policies": None}, {"encrypted": ["x"]}, False, id="any, encrypted"),
        pytest.param({"policies": frozenset({D})}, {"encrypted": ["x"]}, True, id="listed, encrypted"),
        pytest.param({"policies": frozenset({b"e" * 32})}, {}, False, id="not listed"),
        pytest.param({}, {}, False, id="none listed"),
        pytest.param(
            {"policies": None, "purposes": frozenset({"p"})}, {"purposes": ["p"]}, True, id="purpose"
        ),
        pytest.param(
            {"policies": frozenset({D}), "purposes": frozenset({"p"})},
            {"purposes": ["p", "q"]},
            False,
            id="a purpose too many, though the policy is listed",
        ),
        pytest.param({"open": True, "policies": None}, {}, True, id="open"),
        pytest.param(
            {"open": True, "policies": None}, {"deterministic": True}, False, id="open, deterministic"
        ),
        pytest.param({"open": True, "policies": None}, {"reversible": True}, False, id="open, reversible"),
        pytest.param({"open": True, "policies": None}, {"encrypted": ["x"]}, False, id="open, encrypted"),
        pytest.param({"open": True, "policies": None}, {"purposes": ["p"]}, False, id="open, purpose"),
    ],
)
def test_which_policies_a_caller_may_bring(grant, facts, allowed):
    made = Grant(**{"caller": "c", "operation": "o", "open": False, **grant})
    if allowed:
        made.check_policy(D, Facts(**facts))
    else:
        with pytest.raises(Refused) as caught:
            made.check_policy(D, Facts(**facts))
        assert caught.value.code == "forbidden"


def test_keys_need_exactly_their_context():
    made = Grant("c", "o", False, keys=frozenset({("k", frozenset({("a", "1")}))}))
    made.check_key("k", {"a": "1"})
    for key, context in (("k", {}), ("k", {"a": "1", "b": "2"}), ("k", {"a": "2"}), ("j", {"a": "1"})):
        with pytest.raises(Refused):
            made.check_key(key, context)
    with pytest.raises(Refused):
        Grant("c", "o", True, keys=made.keys).check_key("k", {"a": "1"})
