"""A launcher whose enclaves are channel servers on a hybrid vsock socket: real sockets, no sandbox."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from geumgo import vsock
from geumgo._base import GeumgoError
from geumgo.backends import EnclaveSpec, Exit
from geumgo.channel import Connection, ControlSlot, Role, Stream
from geumgo.codec import cbor


class FakeEnclave:
    """One enclave; `die` ends it like a crash."""

    def __init__(self, spec: EnclaveSpec, cid: int) -> None:
        self.enclave_id, self.name, self.cid, self.pid = "i-0-enc0", spec.name, cid, 4711
        self.sandbox, self.debug = "none", spec.debug
        self.measurements: Mapping[str, str] = {"PCR0": "00"}
        self.state = "ready"
        self.deaf = False
        self.control: Connection | None = None
        self.seen: list[Stream] = []
        self.shut_down = asyncio.Event()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._uds = spec.runtime_dir / "vsock.sock"
        self._slot = ControlSlot()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: vsock.HybridServer | None = None
        self.controlled = asyncio.Event()

    async def start(self) -> None:
        async def take(sock: socket.socket) -> None:
            task = asyncio.create_task(self._accept(sock))
            self._tasks.add(task)

        async def connect(port: int) -> vsock.HandOver | None:
            return take if port == vsock.ENCLAVE_PORT else None

        self._server = vsock.HybridServer(self._uds, connect)
        await self._server.start()

    async def _accept(self, sock: socket.socket) -> None:
        connection = await Connection.accept(sock, handler=self._serve, control=self._slot)
        self._connections.add(connection)
        if connection.role is Role.CONTROL:
            self.control = connection
            self.controlled.set()

    async def _serve(self, stream: Stream) -> None:
        self.seen.append(stream)
        message = await stream.receive() or b""
        if stream.kind == "describe":
            if self.deaf:
                await asyncio.Event().wait()
            operations = {"echo": {"open": True, "idempotent": True}}
            await stream.reply(
                cbor.dumps(
                    {
                        "pool": "p",
                        "key_id": b"\x01" * 32,
                        "state": self.state,
                        "reason": None,
                        "operations": operations,
                        "in_flight": 0,
                        "version": "1",
                    }
                )
            )
        elif stream.kind == "operation" and stream.metadata["name"] == "fail":
            raise GeumgoError("no", code="forbidden")
        elif stream.kind == "operation" and stream.metadata["name"] == "hang":
            await asyncio.Event().wait()
        elif stream.kind == "operation":
            await stream.reply(message.upper())
        elif stream.kind == "attest":
            await stream.reply(cbor.dumps({"kind": "nitro", "document": message, "statement": b"s"}))
        elif stream.kind == "shutdown":
            self.shut_down.set()
            await stream.reply(b"")
            self.die(Exit(0, "ended"))

    def address(self, port: int) -> vsock.Address:
        return vsock.Address(self.cid, port, self._uds)

    async def console(self) -> AsyncIterator[bytes]:
        yield b"hello from the console\n"

    def die(self, how: Exit | None = None) -> None:
        if not self._exit.done():
            self._exit.set_result(how or Exit(None, "killed"))

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def terminate(self, grace: float) -> Exit:
        self.die(Exit(None, "terminated"))
        if self._server:
            await self._server.close()
        for connection in self._connections:
            await connection.aclose()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return self._exit.result()


@dataclass
class FakeLauncher:
    """Makes `FakeEnclave`s; `failures` are raised by the next launches."""

    name: str = "fake"
    launched: list[FakeEnclave] = field(default_factory=list)
    failures: list[GeumgoError] = field(default_factory=list)
    prepare: Callable[[FakeEnclave], None] = lambda enclave: None
    launches: asyncio.Queue[FakeEnclave] = field(default_factory=asyncio.Queue)

    async def launch(self, spec: EnclaveSpec) -> FakeEnclave:
        if self.failures:
            raise self.failures.pop(0)
        enclave = FakeEnclave(spec, cid=16 + len(self.launched))
        self.prepare(enclave)
        await enclave.start()
        self.launched.append(enclave)
        self.launches.put_nowait(enclave)
        return enclave


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def spec(tmp_path: Path) -> EnclaveSpec:
    return EnclaveSpec(
        name="one", eif=tmp_path / "x.eif", cid=None, memory_mib=64, cpus=1, debug=False, runtime_dir=tmp_path
    )
