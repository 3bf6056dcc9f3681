"""The gateway: a :class:`~geumgo.api.Backend` over all enclaves of its folder."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from geumgo import vsock
from geumgo._base import GeumgoError
from geumgo.api import ApiError, Attested, Call, EdgeMetrics, JsonLog, ask_attest, ask_call, ask_stream
from geumgo.channel import ChannelClosed, Connection, ProtocolError
from geumgo.gateway._balancer import Balancer, Wanted
from geumgo.gateway._enclave_file import EnclaveFile
from geumgo.gateway._member import Dial, Member
from geumgo.gateway._metrics import GatewayMetrics
from geumgo.gateway._settings import GatewaySettings
from geumgo.gateway._watch import FolderWatch
from geumgo.keys import RoutingHeader

__all__ = ("Gateway",)

T = TypeVar("T")

RETRIED = frozenset(("unavailable", "draining", "starting"))
"""Codes with which a call goes to another enclave, where it may be carried out twice."""

UNSURE = frozenset(("unavailable", "deadline_exceeded", "cancelled"))
"""Codes that leave open whether the enclave carried the call out."""


class Gateway:
    """Balances calls over the enclaves whose managers write into `runtime_dir`.

    Used as an asynchronous context manager: inside it, the folder is watched and connections are kept.

    Args:
        runtime_dir: the folder that managers and gateway share.
        only: names of the enclaves that are this gateway's; empty for all.
        weights: an enclave's share of the calls; 1 where it isn't named.
        settings: limits and times.
        metrics: the edges' metrics; the gateway adds its own.
        log: where changes are said.
        dial: makes a socket to an enclave's address.
    """

    def __init__(
        self,
        runtime_dir: Path,
        *,
        log: JsonLog,
        only: Collection[str] = (),
        weights: Mapping[str, float] | None = None,
        settings: GatewaySettings | None = None,
        metrics: EdgeMetrics | None = None,
        dial: Dial = vsock.connect,
    ) -> None:
        self.draining = False
        self._settings = settings or GatewaySettings()
        self._balancer = Balancer(self._settings)
        self._metrics = GatewayMetrics(self._balancer, (metrics or EdgeMetrics()).registry)
        self._watch = FolderWatch(runtime_dir, only=only, log=log)
        self._weights = weights or {}
        self._log = log
        self._dial = dial
        self._watcher: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Gateway:
        self._look()
        self._watcher = asyncio.get_running_loop().create_task(self._look_on())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        for member in list(self._balancer.members.values()):
            self._drop(member)
        await asyncio.gather(*self._closing)

    # What the edges call.

    async def call(self, call: Call, body: bytes) -> bytes:
        """Have an enclave carry out `call`; see :class:`~geumgo.api.Backend`."""
        wanted = Wanted(call.operation, self._key_id(call, body))
        return await self._try(wanted, call.deadline, lambda connection: ask_call(connection, call, body))

    async def stream(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Have one enclave answer all messages; an enclave that dies ends the stream, nothing is repeated."""
        wanted = Wanted(call.operation, None)
        member = await self._balancer.acquire(wanted, call.deadline)
        try:
            assert member.connection is not None
            answers = ask_stream(member.connection, call, messages)
            async with contextlib.aclosing(answers):
                async for answer in answers:
                    yield answer
        except ApiError:
            raise
        except GeumgoError as error:
            raise self._shown(error, idempotent=_idempotent(member, call.operation)) from None
        finally:
            self._balancer.release(member)

    async def attest(self, nonce: bytes, use: str, *, deadline: float) -> Attested:
        """Return fresh evidence of any enclave that is ready."""

        def ask(connection: Connection) -> Awaitable[Attested]:
            return ask_attest(connection, nonce, use, timeout=deadline - time.monotonic())

        return await self._try(Wanted(None, None), deadline, ask)

    def enclaves(self) -> list[dict[str, object]]:
        """Return what the gateway knows of each enclave."""
        return [_shown(member) for _, member in sorted(self._balancer.members.items())]

    def ready(self) -> str | None:
        """Return None where an enclave is ready and the gateway is not on its way out."""
        return "draining" if self.draining else self._balancer.not_ready()

    # Calls.

    async def _try(self, wanted: Wanted, deadline: float, ask: Callable[[Connection], Awaitable[T]]) -> T:
        """Ask one enclave, and others after it as long as that can do no harm."""
        attempt = 1
        while True:
            member = await self._balancer.acquire(wanted, deadline)
            idempotent = wanted.operation is None or _idempotent(member, wanted.operation)
            try:
                assert member.connection is not None
                return await ask(member.connection)
            except GeumgoError as error:
                # A connection that takes no new calls has not sent this one.
                unsent = isinstance(error, ChannelClosed) and error.code == "draining"
                again = error.code in RETRIED and (idempotent or unsent)
                again = again and attempt < self._settings.attempts and time.monotonic() < deadline
                wanted.tried = (*wanted.tried, member)
                if not again or self._alone(wanted):
                    raise self._shown(error, idempotent=idempotent) from None
                self._metrics.retries.labels(error.code).inc()
                attempt += 1
            finally:
                self._balancer.release(member)

    def _alone(self, wanted: Wanted) -> bool:
        """Return whether no other enclave could take the call."""
        return not any(wanted.fits(member) for member in self._balancer.members.values())

    def _key_id(self, call: Call, body: bytes) -> bytes | None:
        """Return which pool key a sealed request needs, while the enclaves here hold several (rotation)."""
        if not call.sealed:
            return None
        members = self._balancer.members.values()
        if len({m.description.key_id for m in members if m.description is not None}) < 2:
            return None
        try:
            return RoutingHeader.parse(body).key_id
        except GeumgoError as error:
            raise ApiError("This is not a sealed request", code=error.code) from None

    def _shown(self, error: GeumgoError, *, idempotent: bool) -> GeumgoError:
        """Return what the client is told: a lost enclave is `unavailable`, and whether to repeat is said."""
        code = "unavailable" if isinstance(error, ProtocolError) else error.code
        if idempotent or code not in UNSURE:
            if code == error.code:
                return error
            return ApiError("The enclave was lost during the call", code=code)
        return ApiError(
            "The enclave gave no answer; whether it carried out the operation is not known",
            fix="This operation is not idempotent: find out before you repeat it",
            code=code,
            retryable=False,
        )

    # Enclaves.

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll)
            try:
                self._look()
            except Exception as error:  # nothing in a folder may stop the gateway from looking on
                self._log.error("watch_failed", exception=type(error).__name__)

    def _look(self) -> None:
        """Bring the members in line with the files."""
        files = self._watch.look()
        members = self._balancer.members
        for name, member in list(members.items()):
            file = files.get(name)
            if file is not None and file.generation == member.file.generation:
                if file.state == "stopping":
                    member.leave()
                    continue
                if file.state == "running":
                    continue
            self._drop(member)
        for name, file in files.items():
            if name not in members and file.state == "running":
                self._add(file)
        self._balancer.changed()

    def _add(self, file: EnclaveFile) -> None:
        self._balancer.members[file.name] = Member(
            file,
            weight=self._weights.get(file.name, 1.0),
            settings=self._settings,
            dial=self._dial,
            changed=self._balancer.changed,
            log=self._log,
        )

    def _drop(self, member: Member) -> None:
        del self._balancer.members[member.name]
        task = asyncio.get_running_loop().create_task(member.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _idempotent(member: Member, operation: str) -> bool:
    known = member.description.operations.get(operation) if member.description else None
    return known is not None and known.idempotent


def _shown(member: Member) -> dict[str, object]:
    description = member.description
    shown: dict[str, object] = {
        "name": member.name,
        "state": member.state.value,
        "reason": member.reason,
        "in_flight": member.in_flight,
        "weight": member.weight,
        **member.file.shown,
    }
    if description is not None:
        shown["pool"] = description.pool
        shown["key_id"] = None if description.key_id is None else description.key_id.hex()
        shown["version"] = description.version
        shown["operations"] = {
            name: {"open": operation.open, "idempotent": operation.idempotent}
            for name, operation in sorted(description.operations.items())
        }
    return shown
