"""What the enclave asks of its parent: AWS credentials and connections to the world (egress).

Both go over whichever connection holds the control role at the moment. The parent may lie about all of
it: credentials only let the enclave ask, and TLS to the key service ends inside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from geumgo._base import GeumgoError
from geumgo.codec import cbor
from geumgo.enclave._errors import EnclaveError
from geumgo.enclave._limits import Limits
from geumgo.keys import Credentials

if TYPE_CHECKING:
    from geumgo.channel import Connection, Stream

__all__ = ("ControlLink", "EgressStream")

_CHUNK = 64 << 10  # bytes of one egress message: as much as one frame of the channel carries
_MAX_CREDENTIALS = 16 << 10  # a session token has some hundred bytes to a few kilobytes
_REFRESH_MS = 60_000  # new credentials are asked for this long before the old ones end


class ControlLink:
    """The control connection of the moment, waited for where there is none.

    Args:
        egress: `host:port` names that the measured configuration lists.
        limits: bounds of streams and times.
        now_ms: trusted time.
    """

    def __init__(self, egress: tuple[str, ...], limits: Limits, now_ms: Callable[[], int]) -> None:
        self._egress = frozenset(_parse(entry) for entry in egress)
        self._limits = limits
        self._now_ms = now_ms
        self._connection: Connection | None = None
        self._arrived = asyncio.Event()
        self._streams = asyncio.Semaphore(limits.egress_streams)
        self._credentials: Credentials | None = None

    @property
    def connection(self) -> Connection | None:
        """The connection that holds the control role, while there is one."""
        return self._connection

    def gained(self, connection: Connection) -> None:
        """Use `connection` from now on."""
        self._connection = connection
        self._credentials = None  # another manager may run as somebody else
        self._arrived.set()

    def lost(self, connection: Connection) -> None:
        """Stop using `connection`."""
        if self._connection is connection:
            self._connection = None
            self._arrived.clear()

    async def pause(self, seconds: float) -> None:
        """Sleep, or return as soon as another control connection arrives."""
        self._arrived.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def wait(self) -> Connection:
        """Return the control connection as soon as there is one."""
        while self._connection is None:
            await self._arrived.wait()
        return self._connection

    async def _within(self, seconds: float, awaitable: Awaitable[Any], code: str) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await awaitable
        except TimeoutError:
            raise EnclaveError("the parent did not answer in time", code=code, retryable=True) from None
        except GeumgoError as error:
            raise EnclaveError(f"the parent answered {error.code}", code=code, retryable=True) from None

    async def credentials(self) -> Credentials:
        """Return AWS credentials from the parent, kept until shortly before they expire.

        Raises:
            EnclaveError: `no_control` or `credentials_unavailable`, retryable.
        """
        held = self._credentials
        if held is not None and (held.expires_ms is None or self._now_ms() < held.expires_ms - _REFRESH_MS):
            return held
        connection = await self._within(self._limits.credentials, self.wait(), "no_control")
        answer = await self._within(
            self._limits.credentials + 1,
            connection.call("credentials", timeout=self._limits.credentials),
            "credentials_unavailable",
        )
        self._credentials = _credentials(answer)
        return self._credentials

    def forget_credentials(self) -> None:
        """Ask the parent anew next time: the key service refused the ones at hand."""
        self._credentials = None

    async def dial(self, host: str, port: int) -> EgressStream:
        """Connect to `host:port` through the parent.

        Raises:
            EnclaveError: `egress_forbidden` (the measured configuration does not list it), `no_control` or
                `egress_unavailable`.
        """
        if (host.lower(), port) not in self._egress:
            raise EnclaveError(
                "the measured configuration does not list this destination for egress",
                fix=f'Add "{host}:{port}" to `egress` and build the image anew.',
                code="egress_forbidden",
            )
        await self._streams.acquire()
        try:
            connection = await self._within(self._limits.connect, self.wait(), "no_control")
            stream = await self._within(
                self._limits.connect,
                connection.open("egress", metadata={"host": host, "port": port}),
                "egress_unavailable",
            )
        except BaseException:
            self._streams.release()
            raise
        return EgressStream(stream, self._streams.release)


class EgressStream:
    """Bytes to and from one destination, as :class:`geumgo.keys.ByteStream`."""

    def __init__(self, stream: Stream, closed: Callable[[], None]) -> None:
        self._stream = stream
        self._closed: Callable[[], None] | None = closed

    async def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            EnclaveError: the stream or the control connection is gone.
        """
        try:
            for start in range(0, len(data), _CHUNK):
                await self._stream.send(data[start : start + _CHUNK])
        except GeumgoError as error:
            raise _broken(error) from None

    async def receive(self) -> bytes:
        """Return some bytes, `b""` at the end.

        Raises:
            EnclaveError: the stream or the control connection is gone.
        """
        while True:
            try:
                chunk = await self._stream.receive()
            except GeumgoError as error:
                raise _broken(error) from None
            if chunk is None:
                return b""
            if chunk:  # an empty message is no end
                return chunk

    async def aclose(self) -> None:
        """Give the connection up. Idempotent."""
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()
            self._stream.reset("cancelled")


def _broken(error: GeumgoError) -> EnclaveError:
    # `forbidden` here is the parent's allowlist, `unavailable` the network behind it: both worth telling apart.
    return EnclaveError(
        "the connection through the parent broke", code=f"egress_{error.code}", retryable=True
    )


def _parse(entry: str) -> tuple[str, int]:
    host, _, port = entry.rpartition(":")
    return host.strip("[]").lower(), int(port)


def _credentials(answer: bytes) -> Credentials:
    try:
        fields = cbor.loads(answer, max_size=_MAX_CREDENTIALS, max_depth=2)
    except GeumgoError:
        fields = None
    if not isinstance(fields, dict):
        fields = {}
    key, secret = fields.get("access_key_id"), fields.get("secret_access_key")
    token, expires = fields.get("session_token"), fields.get("expires_ms")
    if (
        not isinstance(key, str)
        or not isinstance(secret, str)
        or not (token is None or isinstance(token, str))
        or not (expires is None or type(expires) is int)
    ):
        raise EnclaveError(
            "the parent sent something else than credentials", code="credentials_unavailable", retryable=True
        )
    return Credentials(access_key_id=key, secret_access_key=secret, session_token=token, expires_ms=expires)
