"""A relay that keeps every byte: what somebody on the way can see."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from geumgo.testing.leaks._errors import LeakSearchError

__all__ = ("Tap",)

MAX_RECORDED = 256 << 20
"""Bytes that one tap keeps; beyond it relaying goes on, and :meth:`Tap.recorded` raises."""
_READ = 64 << 10


class Tap:
    """Relays stream connections to a TCP address or a Unix socket and keeps the bytes of both directions.

    Args:
        target: a host with `port`, or the path of a Unix socket without.
        port: TCP port.
        at: the path of the Unix socket to listen on; a TCP port of the loopback interface by default.
    """

    def __init__(self, target: str | Path, port: int | None = None, *, at: Path | None = None) -> None:
        self._target = (str(target), port)
        self._at = at
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._streams: list[bytearray] = []
        self._size = 0

    async def __aenter__(self) -> Self:
        if self._at is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        else:
            self._server = await asyncio.start_unix_server(self._accept, self._at)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        assert self._server is not None
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    @property
    def address(self) -> str:
        """Where HTTP clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that came so far."""
        return len(self._streams) // 2

    def recorded(self) -> dict[str, bytes]:
        """Return the bytes of each connection and direction, the caller's first.

        Raises:
            LeakSearchError: ``recorded_too_much``: something is missing.
        """
        if self._size > MAX_RECORDED:
            raise LeakSearchError(
                f"more than {MAX_RECORDED >> 20} MiB passed by; not all of them were kept",
                code="recorded_too_much",
            )
        host, port = self._target
        name = host if port is None else f"{host}:{port}"
        return {
            f"connection {number // 2} {'from' if number % 2 else 'to'} {name}": bytes(stream)
            for number, stream in enumerate(self._streams)
        }

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.CancelledError):
            return  # asyncio would report a cancelled handler as an error of its own
        finally:
            self._relays.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target
        if port is None:
            far_reader, far_writer = await asyncio.open_unix_connection(host)
        else:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        there, back = bytearray(), bytearray()
        self._streams += (there, back)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, far_writer, there))
                group.create_task(self._carry(far_reader, writer, back))
        finally:
            far_writer.close()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray) -> None:
        with contextlib.suppress(OSError):
            while part := await source.read(_READ):
                self._size += len(part)
                if self._size <= MAX_RECORDED:
                    kept += part
                sink.write(part)
                await sink.drain()
        # The other direction may go on: a half-closed connection stays one.
        with contextlib.suppress(OSError):
            if sink.can_write_eof():
                sink.write_eof()
