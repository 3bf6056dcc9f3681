"""Keeps one enclave running: launch, control connection, liveness, restart with back-off, stop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from geumgo import vsock
from geumgo._base import GeumgoError
from geumgo.api import Description, ask_describe
from geumgo.backends import EnclaveSpec, Exit, Launcher, RunningEnclave
from geumgo.channel import Connection, Handler, Role
from geumgo.manager._restart import Restarts, RestartSettings
from geumgo.manager._state_file import EnclaveState, State

__all__ = ("Supervisor", "SupervisorSettings")

Report = Callable[..., None]
"""Logs an event: `report(code, level="info", **fields)`."""


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """Times of supervision; seconds."""

    control: float = 20.0
    """From the heartbeat to the control connection: the program inside imports and listens."""
    probe: float = 5.0
    """Between two liveness probes."""
    starting_probe: float = 0.1
    """The same while the enclave waits for its key, so that readiness is seen soon."""
    probe_timeout: float = 10.0
    """For one probe: an enclave under full load still answers within it."""
    probes_lost: int = 3
    """Probes in a row without an answer, after which the enclave counts as dead."""
    grace: float = 20.0
    """For a graceful stop, drain included; below Kubernetes' 30 s."""
    restart: RestartSettings = field(default_factory=RestartSettings)


class Supervisor:
    """One enclave's life. `run` ends when `stop` was called."""

    def __init__(
        self,
        launcher: Launcher,
        spec: EnclaveSpec,
        *,
        handler: Handler,
        publish: Callable[[EnclaveState], None],
        report: Report,
        settings: SupervisorSettings | None = None,
    ) -> None:
        self._launcher = launcher
        self._spec = spec
        self._handler = handler
        self._publish = publish
        self._report = report
        self._settings = settings or SupervisorSettings()
        self._restarts = Restarts(self._settings.restart)
        self._stopping = asyncio.Event()
        self._connection: Connection | None = None
        self.state = EnclaveState(spec.name, State.STARTING, launcher.name)
        self.described: Description | None = None
        """The enclave's last word on itself."""

    def __repr__(self) -> str:
        return f"<Supervisor {self._spec.name}: {self.state.state}, {self.state.restarts} restarts>"

    @property
    def connection(self) -> Connection | None:
        """The control connection, while there is one."""
        connection = self._connection
        return connection if connection and not connection.closed else None

    def stop(self) -> None:
        """Begin a graceful stop; `run` returns when it is over."""
        self._stopping.set()

    async def run(self) -> None:
        """Launch, supervise and restart until `stop`."""
        while not self._stopping.is_set():
            began = time.monotonic()
            reason = await self._life()
            if self._stopping.is_set():
                break
            self._restarts = self._restarts.died(time.monotonic() - began)
            state = State.CRASH_LOOP if self._restarts.looping else State.BACKOFF
            self._set(state, restarts=self._restarts.total, reason=reason, address=None, pid=None, cid=None)
            self._report(
                "enclave_restart_scheduled",
                "warn",
                reason=reason,
                seconds=self._restarts.delay,
                total=self._restarts.total,
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._restarts.delay)
        self._set(State.STOPPED, address=None, pid=None, cid=None)

    async def _life(self) -> str:
        """Run one enclave from launch to death and return why it died."""
        self._set(State.STARTING)
        launching = asyncio.create_task(self._launcher.launch(self._spec))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((launching, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not launching.done():
                launching.cancel()
                await asyncio.gather(launching, return_exceptions=True)
                return "stopped"
            enclave = launching.result()
        except GeumgoError as error:
            self._report("enclave_launch_failed", "error", error=error.code, message=error.diagnostics())
            return error.code
        finally:
            stopping.cancel()
        try:
            return await self._supervise(enclave)
        finally:
            self._connection = None
            await enclave.terminate(self._settings.grace)

    async def _supervise(self, enclave: RunningEnclave) -> str:
        self._report("enclave_started", cid=enclave.cid, pid=enclave.pid, sandbox=enclave.sandbox)
        died = asyncio.create_task(enclave.wait())
        console = asyncio.create_task(self._console(enclave)) if enclave.debug else None
        serving = asyncio.create_task(self._serve(enclave))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait((died, serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if stopping in done and died not in done:
                self._set(State.STOPPING)
                await self._graceful(died)
                return "stopped"
            # What the channel noticed is often only the enclave's death, seen from the other side.
            if died not in done:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(died), 1.0)
            if died.done():
                return self._death(died.result())
            error = serving.exception()
            return error.code if isinstance(error, GeumgoError) else "channel_lost"
        finally:
            for task in (died, serving, stopping, console):
                if task:
                    task.cancel()
            await asyncio.gather(
                *(t for t in (died, serving, stopping, console) if t), return_exceptions=True
            )

    async def _serve(self, enclave: RunningEnclave) -> None:
        """Hold the control connection and probe it; returns or raises when the enclave is lost."""
        connection = await self._dial(enclave)
        self._connection = connection
        address = enclave.address(vsock.ENCLAVE_PORT)
        self._set(
            State.RUNNING,
            address=str(address),
            cid=enclave.cid,
            pid=enclave.pid,
            sandbox=enclave.sandbox,
            debug=enclave.debug,
            measurements=enclave.measurements,
            reason=None,
        )
        try:
            await self._probe(connection)
        finally:
            await connection.aclose()

    async def _dial(self, enclave: RunningEnclave) -> Connection:
        """Connect as soon as the program inside listens."""
        deadline = time.monotonic() + self._settings.control
        while True:
            try:
                socket = await vsock.connect(enclave.address(vsock.ENCLAVE_PORT))
                connection = await Connection.dial(socket, role=Role.CONTROL, handler=self._handler)
            except (GeumgoError, OSError) as error:
                if time.monotonic() > deadline:
                    raise GeumgoError(
                        f"the enclave answers its heartbeat but not port {vsock.ENCLAVE_PORT}",
                        why=str(error),
                        code="no_channel",
                    ) from None
                await asyncio.sleep(0.02)
                continue
            if connection.role is Role.CONTROL:
                return connection
            # Somebody on this node was quicker. The role is free again when that connection closes.
            await connection.aclose()
            if time.monotonic() > deadline:
                raise GeumgoError("another connection holds the control role", code="control_taken")
            await asyncio.sleep(0.2)

    async def _probe(self, connection: Connection) -> None:
        lost = 0
        closed = asyncio.create_task(connection.wait_closed())
        try:
            while lost < self._settings.probes_lost:
                try:
                    self.described = await ask_describe(connection, timeout=self._settings.probe_timeout)
                    lost = 0
                except GeumgoError as error:
                    lost += 1
                    self._report("enclave_probe_lost", "warn", error=error.code, in_a_row=lost)
                ready = self.described is not None and self.described.state == "ready"
                pause = self._settings.probe if ready else self._settings.starting_probe
                await asyncio.wait((closed,), timeout=pause)
                if closed.done():
                    raise GeumgoError("the channel to the enclave closed", code="channel_lost")
            raise GeumgoError("the enclave stopped answering", code="unresponsive")
        finally:
            self.described = None
            closed.cancel()

    async def _graceful(self, died: asyncio.Task[Exit]) -> None:
        """Ask the enclave to finish what it has and end; `terminate` follows in any case."""
        connection = self.connection
        if connection is None:
            return
        with contextlib.suppress(GeumgoError, TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await connection.call("shutdown", timeout=self._settings.grace)
                await asyncio.shield(died)

    def _death(self, ended: Exit) -> str:
        self._report("enclave_died", "error", exit_code=ended.code, reason=ended.reason)
        return ended.reason

    async def _console(self, enclave: RunningEnclave) -> None:
        async for chunk in enclave.console():
            for line in chunk.decode("utf-8", "replace").splitlines():
                self._report("console", text=line[:1024])

    def _set(self, state: State, **changes: Any) -> None:
        self.state = replace(self.state, state=state, **changes)
        self._publish(self.state)
