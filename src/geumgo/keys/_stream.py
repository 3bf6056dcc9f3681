"""Byte streams: what carries TLS to the key service. The enclave brings one over its channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from geumgo.keys.errors import KmsError

__all__ = ("ByteStream", "Dial", "tcp_dial")

READ_SIZE = 64 << 10
"""Bytes asked of a socket at once: four TLS records."""


class ByteStream(Protocol):
    """An ordered stream of bytes both ways."""

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        ...

    async def receive(self) -> bytes:
        """Return the next bytes, empty at the end."""
        ...

    async def aclose(self) -> None:
        """Close both ways; never raises."""
        ...


Dial = Callable[[str, int], Awaitable[ByteStream]]
"""Opens a stream to a host and port."""


class _TcpStream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        return await self._reader.read(READ_SIZE)

    async def aclose(self) -> None:
        # abort, not close: TLS has ended by now, and nothing is owed to the peer.
        self._writer.transport.abort()


async def tcp_dial(host: str, port: int) -> ByteStream:
    """Open a TCP connection; for use outside an enclave.

    Raises:
        KmsError: ``kms_unavailable``.
    """
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except (OSError, UnicodeError) as error:
        raise KmsError(
            f"no connection to the key service at {host}:{port} ({type(error).__name__})",
            fix="Check that it runs and that its address is the one in the measured configuration.",
            retryable=True,
        ) from None
    return _TcpStream(reader, writer)
