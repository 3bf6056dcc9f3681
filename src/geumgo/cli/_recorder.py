"""A relay in front of a gateway that keeps every byte: what the gateway, or its administrator, can see."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

__all__ = ("Recorder",)


class Recorder:
    """Relays connections to `host`:`port` and remembers the bytes of both directions."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self.seen = bytearray()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """Where clients connect."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def request_body(self) -> bytes:
        """Return the body of the last POST that was seen, by its Content-Length."""
        start = self.seen.rindex(b"POST ")
        head, _, rest = bytes(self.seen[start:]).partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return rest[: int(line.partition(b":")[2])]
        return b""

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while part := await source.read(65536):
                    self.seen += part
                    sink.write(part)
                    await sink.drain()
            sink.close()

        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))
