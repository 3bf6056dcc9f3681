"""The gateway's edges beside themselves: ``python benchmarks/edges.py [--seconds 6] [--rounds 3] [--json]``.

What does it cost to go through a gateway and an enclave, compared with the same HTTP stack, or grpc.aio,
answering by itself? Every part is a process of its own: the load client, the gateway (`python -m
geumgo.gateway`, as installed, request log on), the enclave program (plain asyncio as inside an enclave; an
`open` echo operation; no sandbox). The HTTP stack by itself is the gateway's own edge with an echo behind
it; grpc.aio by itself is a bare server with the generated stubs. 1 KiB bodies; the client of HTTP keeps 100
connections, that of gRPC 100 calls on one channel. A figure is the best of its rounds, which alternate.
`cpu_us` is what the server in front burns for a request, which says more on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ("CLIENTS", "Figure", "main", "measure")

CLIENTS = 100
PAYLOAD = 1024
WARM_UP = 0.2
"""Seconds of load that are not counted."""

TARGET = 0.5
"""Share of its own speed that an edge keeps through gateway and enclave."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement: requests a second, latencies and the front server's CPU time in microseconds."""

    per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float


# ---- servers ---------------------------------------------------------------------------------------------


class _Echo:
    """A backend without an enclave."""

    async def call(self, call: Any, body: bytes) -> bytes:
        return body

    def ready(self) -> str | None:
        return None


async def _serve_http(_: str) -> None:
    from geumgo.api import HttpServer, configure_logging

    server = HttpServer(_Echo(), log=configure_logging("benchmark"))  # type: ignore[arg-type]
    host, port = await server.listen_tcp("127.0.0.1", 0)
    print(json.dumps({"http": f"{host}:{port}"}), flush=True)
    await asyncio.Event().wait()


async def _serve_grpc(_: str) -> None:
    import grpc.aio

    from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc

    class Servicer(enclave_pb2_grpc.EnclaveServicer):
        async def Call(self, request: Any, context: Any) -> Any:  # noqa: N802
            return enclave_pb2.CallResponse(body=request.body)

    server = grpc.aio.server()
    enclave_pb2_grpc.add_EnclaveServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"grpc": f"127.0.0.1:{port}"}), flush=True)
    await asyncio.Event().wait()


async def _serve_enclave(folder: str) -> None:
    """The enclave program behind a hybrid vsock socket, and the file that a manager would write."""
    import socket

    from geumgo.enclave.operations import app
    from geumgo.enclave.program import EnclaveProgram
    from geumgo.keys import MeasuredConfiguration
    from geumgo.nitro import NsmClient
    from geumgo.testing.nsm import NsmAuthority, SoftwareNsm
    from geumgo.vsock import HybridServer

    configuration = {
        "version": 1,
        "pool": "bench",
        "operations": {"echo": {"open": True}},
        "callers": {},
        "kms": None,
        "pool_key": None,
        "purposes": {},
        "egress": [],
    }
    nsm = SoftwareNsm(NsmAuthority.generate(), {number: bytes(48) for number in range(3)})
    program = EnclaveProgram(
        app, MeasuredConfiguration.from_json(json.dumps(configuration).encode()), NsmClient(nsm)
    )
    await program.synchronise()
    arrived: asyncio.Queue[socket.socket] = asyncio.Queue()

    class Arriving:
        async def accept(self) -> tuple[socket.socket, int | None]:
            return await arrived.get(), 3

        def close(self) -> None:
            return

    async def connect(port: int) -> Callable[[socket.socket], Any]:
        return arrived.put

    server = HybridServer(Path(folder) / "v.sock", connect)
    await server.start()
    state = {"version": 1, "name": "a", "state": "running", "address": f"hybrid:{folder}/v.sock:7007"}
    (Path(folder) / "enclave.json").write_text(json.dumps(state))
    print("{}", flush=True)
    await program.run(Arriving())


# ---- load ------------------------------------------------------------------------------------------------


async def _load_http(address: str, seconds: float, front: int) -> Figure:
    import httptools

    host, port = address.rsplit(":", 1)
    body = os.urandom(PAYLOAD)
    request = b"POST /v1/operations/echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    clock = time.perf_counter
    meter = _Meter(seconds, front)

    class Client(asyncio.Protocol):
        def __init__(self) -> None:
            self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.parser = httptools.HttpResponseParser(self)

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport: asyncio.Transport = transport  # type: ignore[assignment]
            self.begin()

        def begin(self) -> None:
            self.begun = clock()
            self.transport.write(request)

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_message_complete(self) -> None:
            if self.parser.get_status_code() != 200:
                self.done.set_exception(RuntimeError(f"status {self.parser.get_status_code()}"))
            elif meter.count(self.begun):
                self.begin()
            else:
                self.transport.close()
                self.done.set_result(None)

        def connection_lost(self, error: Exception | None) -> None:
            if not self.done.done():
                self.done.set_exception(error or EOFError("the server closed"))

    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(Client, host, int(port)))[1] for _ in range(CLIENTS)]
    await asyncio.gather(*(client.done for client in clients))
    return meter.figure()


async def _load_grpc(address: str, seconds: float, front: int) -> Figure:
    import grpc.aio

    from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc

    clock = time.perf_counter
    request = enclave_pb2.CallRequest(operation="echo", body=os.urandom(PAYLOAD))
    meter = _Meter(seconds, front)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = enclave_pb2_grpc.EnclaveStub(channel)  # type: ignore[no-untyped-call]

        async def one() -> None:
            while True:
                begun = clock()
                await stub.Call(request)
                if not meter.count(begun):
                    return

        await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return meter.figure()


class _Meter:
    """Counts answers between the warm-up and the end."""

    def __init__(self, seconds: float, front: int) -> None:
        self._front = front
        self._from = time.perf_counter() + WARM_UP
        self._until = self._from + seconds
        self._latencies: list[float] = []
        self._cpu: float | None = None

    def count(self, begun: float) -> bool:
        """Count one answer; return whether to go on."""
        now = time.perf_counter()
        if now >= self._from:
            if self._cpu is None:
                self._cpu = _cpu_seconds(self._front)
                self._from = now
            self._latencies.append(now - begun)
        return now < self._until

    def figure(self) -> Figure:
        """Return what was counted."""
        elapsed = time.perf_counter() - self._from
        samples = sorted(self._latencies)
        count = len(samples)
        return Figure(
            per_second=count / elapsed,
            p50_us=samples[count // 2] * 1e6,
            p99_us=samples[count * 99 // 100] * 1e6,
            cpu_us=(_cpu_seconds(self._front) - (self._cpu or 0.0)) / count * 1e6,
        )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- running ---------------------------------------------------------------------------------------------

_SERVERS = {"http": _serve_http, "grpc": _serve_grpc, "enclave": _serve_enclave}
_LOADS = {"http": _load_http, "grpc": _load_grpc}


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run Python with `arguments` until the end of the block; yield its id and its ready line."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{arguments} did not start")
        yield process.pid, json.loads(line)
    finally:
        process.kill()
        process.wait()


def _load(edge: str, address: str, seconds: float, front: int) -> Figure:
    done = subprocess.run(
        [sys.executable, __file__, "--part", f"load-{edge}", address, str(seconds), str(front)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Figure(**json.loads(done.stdout))


def measure(seconds: float = 6.0, rounds: int = 3) -> dict[str, Figure]:
    """Return the best figure of each case: `http alone`, `http`, `grpc alone`, `grpc`.

    Args:
        seconds: of load a case, all rounds together.
        rounds: how often each case is run, in turn with the others.
    """
    best: dict[str, Figure] = {}
    with contextlib.ExitStack() as stack:
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gw")))
        (runtime / "a").mkdir()
        stack.enter_context(_process(__file__, "--part", "enclave", str(runtime / "a")))
        gateway = stack.enter_context(
            _process(
                *("-m", "geumgo.gateway", "--runtime-dir", str(runtime)),
                *("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"),
            )
        )
        cases = {
            "http alone": ("http", stack.enter_context(_process(__file__, "--part", "http", ""))),
            "http": ("http", gateway),
            "grpc alone": ("grpc", stack.enter_context(_process(__file__, "--part", "grpc", ""))),
            "grpc": ("grpc", gateway),
        }
        _until_ready(gateway[1]["http"])
        for _ in range(rounds):
            for name, (edge, (pid, addresses)) in cases.items():
                figure = _load(edge, addresses[edge], seconds / rounds, pid)
                if name not in best or figure.per_second > best[name].per_second:
                    best[name] = figure
    return best


def _until_ready(address: str) -> None:
    import http.client

    for _ in range(500):
        connection = http.client.HTTPConnection(address, timeout=5)
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
        connection.close()
        if status == 200:
            return
        time.sleep(0.02)
    raise TimeoutError("the gateway did not become ready")


def ratios(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Return each edge's speed through gateway and enclave as a share of its speed alone."""
    return {edge: figures[edge].per_second / figures[f"{edge} alone"].per_second for edge in ("http", "grpc")}


def _part(name: str, arguments: list[str]) -> None:
    import uvloop

    if name.startswith("load-"):
        address, seconds, front = arguments
        work = _LOADS[name.removeprefix("load-")](address, float(seconds), int(front))
        runner = uvloop.run if name == "load-http" else asyncio.run
        print(json.dumps(asdict(runner(work))))
    elif name == "enclave":
        asyncio.run(_serve_enclave(arguments[0]))
    else:
        uvloop.run(_SERVERS[name](arguments[0]))


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=6.0, help="load a case, all rounds together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        _part(options.part[0], options.part[1:])
        return
    figures = measure(options.seconds, options.rounds)
    shares = ratios(figures)
    if options.json:
        cases = {name: asdict(figure) for name, figure in figures.items()}
        print(json.dumps({"cases": cases, "ratios": shares, "target": TARGET}))
        return
    print(f"{CLIENTS} clients, {PAYLOAD} bytes   per second    p50 µs    p99 µs  CPU µs of the front")
    for name, figure in figures.items():
        print(
            f"{name:23}{figure.per_second:14,.0f}{figure.p50_us:10,.0f}{figure.p99_us:10,.0f}{figure.cpu_us:10.0f}"
        )
    for edge, share in shares.items():
        print(f"{edge}: {share:.2f} of itself alone (target {TARGET})")


if __name__ == "__main__":
    main()
