"""One enclave's life under the supervisor, with crashes at every moment."""

from __future__ import annotations

import asyncio

import pytest

from geumgo._base import GeumgoError
from geumgo.backends import Exit
from geumgo.channel import Stream
from geumgo.manager._restart import RestartSettings
from geumgo.manager._state_file import EnclaveState, State
from geumgo.manager._supervisor import Supervisor, SupervisorSettings

QUICK = SupervisorSettings(
    control=5.0,
    probe=0.02,
    starting_probe=0.01,
    probe_timeout=0.1,
    probes_lost=2,
    grace=2.0,
    restart=RestartSettings(first=0.01, longest=0.05, healthy=60.0, loop=3),
)


class Watch:
    """Collects published states and events, and waits for them."""

    def __init__(self) -> None:
        self.states: list[EnclaveState] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self._changed = asyncio.Event()

    def publish(self, state: EnclaveState) -> None:
        self.states.append(state)
        self._changed.set()

    def report(self, code: str, level: str = "info", **fields: object) -> None:
        self.events.append((code, fields))
        self._changed.set()

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def state(self, state: State, times: int = 1) -> None:
        await self.until(lambda: [s.state for s in self.states].count(state) >= times)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def supervise(launcher, spec, watch):
    tasks = []

    async def handler(stream: Stream) -> None:
        await stream.reply(b"from the parent")

    def start(settings: SupervisorSettings = QUICK) -> Supervisor:
        supervisor = Supervisor(
            launcher, spec, handler=handler, publish=watch.publish, report=watch.report, settings=settings
        )
        tasks.append((supervisor, asyncio.create_task(supervisor.run())))
        return supervisor

    yield start
    for supervisor, task in tasks:
        supervisor.stop()
        await task


async def test_launch_to_running(supervise, watch, launcher):
    supervisor = supervise()
    await watch.state(State.RUNNING)
    state = watch.states[-1]
    assert state.cid == 16
    assert state.address is not None
    assert state.address.startswith("hybrid:")
    assert state.measurements == {"PCR0": "00"}
    await watch.until(lambda: supervisor.described or True)
    while not supervisor.described:
        await asyncio.sleep(0)
    assert supervisor.described.state == "ready"
    assert "running" in repr(supervisor)


async def test_the_enclave_can_ask_its_parent(supervise, watch, launcher):
    supervise()
    await watch.state(State.RUNNING)
    enclave = launcher.launched[0]
    await enclave.controlled.wait()
    assert await enclave.control.call("credentials") == b"from the parent"


async def test_a_crash_is_restarted(supervise, watch, launcher):
    supervise()
    await watch.state(State.RUNNING)
    launcher.launched[0].die(Exit(1, "crashed"))
    await watch.state(State.RUNNING, times=2)
    assert len(launcher.launched) == 2
    backoff = next(s for s in watch.states if s.state is State.BACKOFF)
    assert backoff.reason == "crashed"
    assert backoff.address is None, "nobody dials a dead enclave"
    assert watch.states[-1].restarts == 1


async def test_failing_launches_end_in_a_crash_loop_and_recover(supervise, watch, launcher):
    launcher.failures += [GeumgoError("no memory", code="launch_failed") for _ in range(4)]
    supervise()
    await watch.state(State.CRASH_LOOP)
    await watch.state(State.RUNNING)
    assert [s.state for s in watch.states].count(State.BACKOFF) == 2
    assert watch.states[-1].restarts == 4


async def test_a_silent_enclave_is_replaced(supervise, watch, launcher):
    supervise()
    await watch.state(State.RUNNING)
    launcher.launched[0].deaf = True
    await watch.state(State.RUNNING, times=2)
    assert any(s.reason == "unresponsive" for s in watch.states)


async def test_a_lost_channel_is_a_lost_enclave(supervise, watch, launcher):
    supervise()
    await watch.state(State.RUNNING)
    await launcher.launched[0].controlled.wait()
    await launcher.launched[0].control.aclose()
    await watch.state(State.RUNNING, times=2)
    assert any(s.reason == "channel_lost" for s in watch.states)


async def test_stop_is_graceful(supervise, watch, launcher):
    supervisor = supervise()
    await watch.state(State.RUNNING)
    supervisor.stop()
    await watch.state(State.STOPPED)
    assert launcher.launched[0].shut_down.is_set()
    assert State.STOPPING in [s.state for s in watch.states]


async def test_stop_while_launching(launcher, spec, watch):
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def slow(spec):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    launcher.launch = slow
    supervisor = Supervisor(
        launcher, spec, handler=None, publish=watch.publish, report=watch.report, settings=QUICK
    )
    running = asyncio.create_task(supervisor.run())
    await started.wait()
    supervisor.stop()
    await running
    assert cancelled.is_set()


async def test_stop_during_back_off_does_not_wait(launcher, spec, watch):
    launcher.failures += [GeumgoError("x", code="launch_failed")]
    settings = SupervisorSettings(restart=RestartSettings(first=3600.0, longest=3600.0))
    supervisor = Supervisor(
        launcher, spec, handler=None, publish=watch.publish, report=watch.report, settings=settings
    )
    running = asyncio.create_task(supervisor.run())
    await watch.state(State.BACKOFF)
    supervisor.stop()
    async with asyncio.timeout(5):
        await running


async def test_the_control_role_may_be_taken_for_a_while(supervise, watch, launcher, spec):
    from geumgo import vsock
    from geumgo.channel import Connection, Role

    thieves = []

    def start_then_steal(enclave):
        original = enclave.start

        async def start():
            await original()
            sock = await vsock.connect(enclave.address(vsock.ENCLAVE_PORT))
            thieves.append(await Connection.dial(sock, role=Role.CONTROL))

        enclave.start = start

    launcher.prepare = start_then_steal
    supervise()
    await launcher.launches.get()
    assert State.RUNNING not in [s.state for s in watch.states]
    await thieves[0].aclose()
    await watch.state(State.RUNNING)


async def test_console_is_reported_in_debug_only(launcher, spec, watch, supervise):
    supervise()
    await watch.state(State.RUNNING)
    assert "console" not in [code for code, _ in watch.events]
    launcher.prepare = lambda enclave: setattr(enclave, "debug", True)
    launcher.launched[0].die()
    await watch.until(lambda: ("console", {"text": "hello from the console"}) in watch.events)
