"""What the enclave may reach through its parent: an allowlist, and the bytes carried both ways.

The parent resolves the name, so an address proves nothing to the enclave; TLS that ends inside does.
The list protects the parent's network from the enclave, and is the parent's own decision.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from geumgo._base import GeumgoError
from geumgo.channel import Stream

__all__ = ("Destination", "Egress", "EgressError", "load_allowlist", "parse_destination")

CHUNK = 64 << 10
"""Bytes read from the network at a time, one message of the stream."""
CONNECT_TIMEOUT = 10.0
"""Seconds to reach a destination."""
IDLE_TIMEOUT = 300.0
"""Seconds without a byte in either direction, after which a connection is given up."""
MAX_CONNECTIONS = 64
"""Connections of one enclave at a time: it talks to a key service, not to a crowd."""
MAX_LIST = 1 << 20
"""Bytes of an allowlist file."""


class EgressError(GeumgoError):
    """Raised when a destination is refused, can't be reached, or an allowlist can't be read."""

    code = "egress"


@dataclass(frozen=True, slots=True)
class Destination:
    """A host (name or address, lower case) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_destination(text: str) -> Destination:
    """Return the destination that `host:port` or `[v6]:port` names.

    Raises:
        EgressError: it names none.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").lower().rstrip(".")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise EgressError(
            f"{text!r} is not host:port", fix="For example kms.ap-northeast-2.amazonaws.com:443."
        )
    return Destination(host, int(port))


def load_allowlist(path: Path) -> frozenset[Destination]:
    """Read the allowlist of AWS's vsock-proxy: `allowlist: [{address: host, port: n}]` in YAML.

    Raises:
        EgressError: the file can't be read or is not such a list.
    """
    import yaml  # a sidecar without such a file should not pay for the parser

    try:
        text = path.read_bytes()[: MAX_LIST + 1]
    except OSError as error:
        raise EgressError(f"{path} can't be read: {error.strerror}", code="bad_allowlist") from None
    if len(text) > MAX_LIST:
        raise EgressError(f"{path} is over {MAX_LIST} bytes", code="bad_allowlist")
    try:
        entries = yaml.safe_load(text)["allowlist"]
        pairs = [(entry["address"], entry["port"]) for entry in entries or ()]
    except (yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError):
        raise EgressError(
            f"{path} is not an allowlist",
            fix="It needs `allowlist:` with entries `- {address: HOST, port: NUMBER}`.",
            code="bad_allowlist",
        ) from None
    found = set()
    for host, port in pairs:
        if not isinstance(host, str) or type(port) is not int:
            raise EgressError(f"{path}: an entry has no address or no port number", code="bad_allowlist")
        found.add(parse_destination(f"{host}:{port}"))
    return frozenset(found)


class Egress:
    """Serves the enclave's `egress` streams."""

    def __init__(self, allowed: frozenset[Destination]) -> None:
        self.allowed = allowed
        self.open = 0
        self.refused = 0
        self.bytes_out = 0
        self.bytes_in = 0

    async def serve(self, stream: Stream) -> None:
        """Carry one stream to the destination that its metadata names, until both sides ended.

        Raises:
            EgressError: the destination is not on the list, can't be reached, or too many are open.
        """
        destination = self._permitted(stream)
        if self.open >= MAX_CONNECTIONS:
            raise EgressError(f"over {MAX_CONNECTIONS} connections are open", code="busy", retryable=True)
        self.open += 1
        try:
            await self._carry(stream, destination)
        finally:
            self.open -= 1

    def _permitted(self, stream: Stream) -> Destination:
        host, port = stream.metadata.get("host"), stream.metadata.get("port")
        if not isinstance(host, str) or type(port) is not int:
            raise EgressError("an egress stream names no host and port", code="malformed")
        destination = Destination(host.lower().rstrip("."), port)
        if destination not in self.allowed:
            self.refused += 1
            raise EgressError(
                f"the enclave asked for {destination!s}, which is not on the allowlist",
                fix="Allow it with --egress or in the allowlist file, if it should be reached.",
                code="forbidden",
            )
        return destination

    async def _carry(self, stream: Stream, destination: Destination) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(
                    destination.host, destination.port, limit=CHUNK
                )
        except (OSError, TimeoutError):
            raise EgressError(
                f"{destination!s} can't be reached", code="unavailable", retryable=True
            ) from None
        try:
            last_byte = asyncio.get_running_loop().time()

            async def outwards() -> None:
                nonlocal last_byte
                while (chunk := await stream.receive()) is not None:
                    writer.write(chunk)
                    await writer.drain()
                    self.bytes_out += len(chunk)
                    last_byte = asyncio.get_running_loop().time()
                if writer.can_write_eof():
                    writer.write_eof()

            async def inwards() -> None:
                nonlocal last_byte
                while chunk := await reader.read(CHUNK):
                    await stream.send(chunk)
                    self.bytes_in += len(chunk)
                    last_byte = asyncio.get_running_loop().time()
                await stream.send(b"", end=True)

            async def watch() -> None:
                loop = asyncio.get_running_loop()
                while (left := last_byte + IDLE_TIMEOUT - loop.time()) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(left)
                raise EgressError(f"{destination!s} was idle", code="deadline_exceeded")

            watcher = asyncio.create_task(watch())
            ways = [asyncio.create_task(outwards()), asyncio.create_task(inwards())]
            try:
                await _first_failure_or_all(ways, watcher)
            finally:
                for task in (*ways, watcher):
                    task.cancel()
                await asyncio.gather(*ways, watcher, return_exceptions=True)
        except OSError:
            raise EgressError(
                f"the connection to {destination!s} broke", code="unavailable", retryable=True
            ) from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _first_failure_or_all(ways: list[asyncio.Task[None]], watcher: asyncio.Task[None]) -> None:
    """Wait until all `ways` are done, and raise as soon as one of them or the watcher fails."""
    waiting = set(ways)
    while waiting:
        done, _ = await asyncio.wait((*waiting, watcher), return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        waiting -= done
