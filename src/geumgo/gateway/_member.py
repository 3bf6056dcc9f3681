"""One enclave of the gateway: dial it, ask what it is, keep the connection, notice when it is gone or hung."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import socket
from collections.abc import Awaitable, Callable

from geumgo import vsock
from geumgo._base import GeumgoError
from geumgo.api import Description, JsonLog, ask_describe
from geumgo.channel import Connection, Role
from geumgo.gateway._enclave_file import EnclaveFile
from geumgo.gateway._settings import GatewaySettings

__all__ = ("Dial", "Member", "MemberState")

Dial = Callable[[vsock.Address], Awaitable[socket.socket]]


class MemberState(enum.StrEnum):
    """How the gateway sees one enclave."""

    CONNECTING = "connecting"
    """It can't be reached yet, or not any more."""
    STARTING = "starting"
    """It answers, and says that it is not ready."""
    READY = "ready"
    """It gets calls."""
    FAILED = "failed"
    """It says that it will not become ready."""
    LEAVING = "leaving"
    """It or its manager says that it stops; what was begun goes on."""
    GONE = "gone"
    """The gateway has dropped it."""


class Member:
    """An enclave that a manager runs, with at most one connection to it.

    Args:
        file: what the manager says.
        weight: its share of the calls against others'.
        settings: limits and times.
        dial: makes a socket to an address.
        changed: called after every change of state.
        log: where changes of state are said.

    Attributes:
        in_flight: calls that the gateway has given to it; the balancer counts.
        capacity: how many it may have.
    """

    def __init__(
        self,
        file: EnclaveFile,
        *,
        weight: float,
        settings: GatewaySettings,
        dial: Dial,
        changed: Callable[[], None],
        log: JsonLog,
    ) -> None:
        self.file = file
        self.weight = weight
        self.capacity = max(1, round(settings.enclave_in_flight * weight))
        self.in_flight = 0
        self.state = MemberState.CONNECTING
        self.reason: str | None = None
        self.description: Description | None = None
        self.connection: Connection | None = None
        self._settings = settings
        self._dial = dial
        self._changed = changed
        self._log = log
        self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def name(self) -> str:
        """The enclave's name, unique in the folder."""
        return self.file.name

    def leave(self) -> None:
        """Give it nothing new: its manager stops it."""
        if self.state is not MemberState.GONE:
            self._set(MemberState.LEAVING, "its manager stops it")

    async def aclose(self) -> None:
        """Drop it at once; calls in flight fail with `unavailable`."""
        self._set(MemberState.GONE, self.reason)
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def __repr__(self) -> str:
        return f"<Member {self.name} {self.state.value}, {self.in_flight} in flight>"

    async def _run(self) -> None:
        """Connect again and again until the gateway drops this member."""
        pause = self._settings.redial_least
        while True:
            try:
                connection = await self._connect()
            except GeumgoError as error:
                self._set(MemberState.CONNECTING, error.code)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, self._settings.redial_most)
                continue
            pause = self._settings.redial_least
            try:
                await self._attend(connection)
            finally:
                # Calls must not find a connection that is closing, nor wait for one that says nothing.
                self.connection = None
                if self.state is not MemberState.GONE:
                    self._set(MemberState.CONNECTING, "the connection closed")
                await connection.aclose()

    async def _connect(self) -> Connection:
        assert self.file.address is not None, "the gateway makes members of running enclaves only"
        try:
            async with asyncio.timeout(self._settings.dial_timeout):
                sock = await self._dial(self.file.address)
                connection = await Connection.dial(sock, role=Role.CALL)
        except TimeoutError:
            raise GeumgoError("The enclave does not answer", code="unavailable") from None
        try:
            self._describe(
                await ask_describe(connection, timeout=self._settings.describe_timeout), connection
            )
        except BaseException:
            await connection.aclose()
            raise
        return connection

    async def _attend(self, connection: Connection) -> None:
        """Ask for news until the connection is gone or the enclave hangs."""
        misses = 0
        closed = asyncio.get_running_loop().create_task(connection.wait_closed())
        try:
            while True:
                ready = self.state is MemberState.READY
                pause = self._settings.describe_ready if ready else self._settings.describe_starting
                await asyncio.wait((closed,), timeout=pause)
                if closed.done():
                    return
                try:
                    news = await ask_describe(connection, timeout=self._settings.describe_timeout)
                    misses = 0
                    self._describe(news, connection)
                except GeumgoError as error:
                    if connection.closed:
                        return
                    if error.code == "draining":
                        self._set(MemberState.LEAVING, "draining")
                        await closed
                        return
                    misses += 1
                    if misses >= self._settings.describe_misses:
                        self._log.warning("enclave_hangs", enclave=self.name, code=error.code)
                        return
        finally:
            closed.cancel()

    def _describe(self, news: Description, connection: Connection) -> None:
        self.description = news
        self.connection = connection
        if self.state not in (MemberState.LEAVING, MemberState.GONE):
            self._set(MemberState(news.state), news.reason)

    def _set(self, state: MemberState, reason: str | None) -> None:
        if (state, reason) == (self.state, self.reason):
            return
        before, self.state, self.reason = self.state, state, reason
        if state is not before:
            self._log.info(
                "enclave", enclave=self.name, state=state.value, before=before.value, reason=reason
            )
        self._changed()
