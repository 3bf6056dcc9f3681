"""The channel beside a bare yardstick: ``python benchmarks/channel.py [--seconds 3] [--json]``.

The yardstick is what a length-prefixed echo costs at the least: asyncio protocols on a Unix socket, uvloop
on both sides, and 100 tasks that each write one frame and await their own answer by its id. The channel
does the same with 100 tasks that each `call`, or each exchange messages on a stream of their own. Client
and server are processes of their own; every figure is the best of its rounds, which alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from geumgo.channel import Connection, Stream

__all__ = ("TASKS", "Figure", "channel", "main", "measure", "yardstick")

TASKS = 100
PAYLOAD = 1024
_HEAD = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: requests (or messages) a second, and latencies in microseconds."""

    per_second: float
    p50_us: float
    p99_us: float


# ---- running -------------------------------------------------------------------------------------------


def _run(main: Coroutine[Any, Any, None], loop: str) -> None:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _serve(target: Callable[[str], Coroutine[Any, Any, None]], path: str, loop: str) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        _run(target(path), loop)


@contextlib.contextmanager
def _server(target: Callable[[str], Coroutine[Any, Any, None]], loop: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "s")
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(target, path, loop), daemon=True
        )
        process.start()
        try:
            yield path
        finally:
            process.terminate()
            process.join()


async def _connected(path: str) -> socket.socket:
    """Connect as soon as the server listens."""
    for _ in range(1000):
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(path)
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            await asyncio.sleep(0.01)
    raise TimeoutError(path)


async def _load(once: Callable[[int], Awaitable[Callable[[], Awaitable[object]]]], seconds: float) -> Figure:
    """Let each of the tasks repeat its request for `seconds`, after a short warm-up."""
    clock = time.perf_counter
    samples: list[float] = []

    async def worker(index: int, until: float, keep: bool) -> int:
        request = await once(index)
        count = 0
        while True:
            start = clock()
            if start >= until:
                return count
            await request()
            count += 1
            if keep and count & 15 == 1:  # a sample in 16, so that measuring costs little
                samples.append(clock() - start)

    await asyncio.gather(*(worker(index, clock() + seconds / 10, False) for index in range(TASKS)))
    start = clock()
    counts = await asyncio.gather(*(worker(index, start + seconds, True) for index in range(TASKS)))
    rate = sum(counts) / (clock() - start)
    samples.sort()
    return Figure(
        rate, samples[len(samples) // 2] * 1e6, samples[min(len(samples) - 1, len(samples) * 99 // 100)] * 1e6
    )


# ---- the yardstick ----------------------------------------------------------------------------------------


class _Frames(asyncio.Protocol):
    """u32 length of what follows, u32 id, payload."""

    def __init__(self) -> None:
        self.pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self.pending:
            data = self.pending + data
        position, size = 0, len(data)
        while size - position >= 8:
            length, number = _HEAD.unpack_from(data, position)
            stop = position + 4 + length
            if stop > size:
                break
            self.frame(number, data[position + 8 : stop])
            position = stop
        self.pending = data[position:]

    def frame(self, number: int, payload: bytes) -> None:
        raise NotImplementedError


class _EchoServer(_Frames):
    def frame(self, number: int, payload: bytes) -> None:
        self.transport.write(_HEAD.pack(4 + len(payload), number) + payload)


class _EchoClient(_Frames):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.waiting: dict[int, asyncio.Future[bytes]] = {}
        self.number = 0

    def frame(self, number: int, payload: bytes) -> None:
        self.waiting.pop(number).set_result(payload)

    async def request(self, payload: bytes) -> bytes:
        self.number = number = self.number + 1
        self.waiting[number] = future = self.loop.create_future()
        self.transport.write(_HEAD.pack(4 + len(payload), number) + payload)
        return await future


async def _yardstick_server(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_EchoServer, path)
    await server.serve_forever()


def yardstick(seconds: float) -> Figure:
    """Measure the bare echo."""
    result: list[Figure] = []

    async def client(path: str) -> None:
        loop = asyncio.get_running_loop()
        (await _connected(path)).close()
        transport, protocol = await loop.create_unix_connection(_EchoClient, path)
        payload = os.urandom(PAYLOAD)

        async def once(index: int) -> Callable[[], Awaitable[object]]:
            return lambda: protocol.request(payload)

        result.append(await _load(once, seconds))
        transport.close()

    with _server(_yardstick_server, "uvloop") as path:
        _run(client(path), "uvloop")
    return result[0]


# ---- the channel ----------------------------------------------------------------------------------------------


async def _echo(stream: Stream) -> None:
    if stream.kind == "echo":
        await stream.reply(await stream.receive() or b"")
    else:
        async for message in stream:
            await stream.send(message)


async def _channel_server(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(path)
    listener.listen(8)
    loop = asyncio.get_running_loop()
    open_connections = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        with contextlib.suppress(Exception):  # the client's probe for whether anyone listens
            open_connections.add(await Connection.accept(sock, handler=_echo))


def channel(
    seconds: float,
    mode: str,
    *,
    client_loop: str = "uvloop",
    server_loop: str = "asyncio",
    timeout: bool = False,
) -> Figure:
    """Measure the channel.

    Args:
        seconds: how long.
        mode: `call` or `stream`.
        client_loop: `uvloop` or `asyncio`.
        server_loop: the same; inside an enclave it is asyncio.
        timeout: whether each call has a deadline.
    """
    result: list[Figure] = []

    async def client(path: str) -> None:
        payload = os.urandom(PAYLOAD)
        connection = await Connection.dial(await _connected(path))
        metadata = {"name": "echo", "sealed": False}

        async def call(index: int) -> Callable[[], Awaitable[object]]:
            limit = 30.0 if timeout else None
            return lambda: connection.call("echo", payload, metadata=metadata, timeout=limit)

        async def stream(index: int) -> Callable[[], Awaitable[object]]:
            stream = await connection.open("stream", metadata=metadata)

            async def exchange() -> None:
                await stream.send(payload)
                await stream.receive()

            return exchange

        result.append(await _load(call if mode == "call" else stream, seconds))
        await connection.aclose()

    with _server(_channel_server, server_loop) as path:
        _run(client(path), client_loop)
    return result[0]


# ---- the table --------------------------------------------------------------------------------------------------

_CASES: dict[str, dict[str, Any]] = {
    "call, uvloop to asyncio": {"mode": "call"},
    "call with deadline, uvloop to asyncio": {"mode": "call", "timeout": True},
    "call, asyncio to asyncio": {"mode": "call", "client_loop": "asyncio"},
    "call, uvloop to uvloop": {"mode": "call", "server_loop": "uvloop"},
    "stream, uvloop to asyncio": {"mode": "stream"},
    "stream, asyncio to asyncio": {"mode": "stream", "client_loop": "asyncio"},
    "stream, uvloop to uvloop": {"mode": "stream", "server_loop": "uvloop"},
}


def measure(seconds: float = 3.0, rounds: int = 3) -> dict[str, Figure]:
    """Return the best figure of each case; `yardstick` first."""
    cases: dict[str, Callable[[float], Figure]] = {"yardstick": yardstick}
    for name, options in _CASES.items():
        cases[name] = lambda seconds, options=options: channel(seconds, **options)  # type: ignore[misc]
    best: dict[str, Figure] = {}
    for _ in range(rounds):
        for name, run in cases.items():
            figure = run(seconds / rounds)
            if name not in best or figure.per_second > best[name].per_second:
                best[name] = figure
    return best


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=3.0, help="a case, all rounds together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = measure(options.seconds, options.rounds)
    base = figures["yardstick"].per_second
    if options.json:
        print(
            json.dumps(
                {
                    name: {**asdict(figure), "ratio": figure.per_second / base}
                    for name, figure in figures.items()
                }
            )
        )
        return
    print(f"{TASKS} tasks, {PAYLOAD} bytes{'':18}per second   ratio   p50 µs   p99 µs")
    for name, figure in figures.items():
        print(
            f"{name:40}{figure.per_second:12,.0f}{figure.per_second / base:8.2f}"
            f"{figure.p50_us:9,.0f}{figure.p99_us:9,.0f}"
        )


if __name__ == "__main__":
    main()
