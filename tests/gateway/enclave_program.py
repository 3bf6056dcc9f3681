"""An enclave and its manager's file, as far as a gateway can see them; also a program of its own.

`python enclave_program.py NAME RUNTIME_DIR` serves until it is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from geumgo._base import GeumgoError
from geumgo.channel import Connection, Stream
from geumgo.codec import cbor

OPERATIONS = {
    "echo": {"open": True, "idempotent": True},
    "once": {"open": True, "idempotent": False},
    "slow": {"open": True, "idempotent": True},
    "slow-once": {"open": True, "idempotent": False},
    "fail": {"open": True, "idempotent": True},
}


class FakeEnclave:
    """Serves the channel's kinds on a hybrid vsock socket below `runtime`; everything can be changed."""

    def __init__(self, name: str, runtime: Path) -> None:
        self.name = name
        self.folder = runtime / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket = self.folder / "v.sock"
        self.description: dict[str, Any] = {
            "pool": "demo",
            "key_id": b"k" * 32,
            "state": "ready",
            "reason": None,
            "in_flight": 0,
            "operations": dict(OPERATIONS),
            "version": "0.1.0",
        }
        self.file: dict[str, Any] = {
            "version": 1,
            "name": name,
            "state": "running",
            "cid": 16,
            "port": 7007,
            "address": f"hybrid:{self.socket}:7007",
            "backend": "process",
            "sandbox": "namespaces",
            "debug": False,
            "pid": os.getpid(),
            "measurements": {"HashAlgorithm": "Sha384 { ... }", "PCR0": "00" * 48},
            "restarts": 0,
            "updated_ms": 0,
        }
        self.refuse: str | None = None
        """A code with which every operation is refused."""
        self.slow = asyncio.Event()
        """What the slow operations wait for."""
        self.silent = False
        """Whether nothing is answered any more."""
        self.entered = asyncio.Event()
        self.executed: list[bytes] = []
        self.connections: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    def write(self, **changes: Any) -> None:
        """Write enclave.json as a manager does."""
        self.file.update(changes)
        temporary = self.folder / ".enclave.new"
        temporary.write_text(json.dumps(self.file))
        temporary.replace(self.folder / "enclave.json")

    async def start(self) -> None:
        """Listen, and say so."""
        self.socket.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.socket))
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._spawn(self._accept())
        self.write()

    async def stop(self) -> None:
        """Be gone, as a killed process is."""
        for task in list(self._tasks):
            task.cancel()
        for connection in self.connections:
            await connection.aclose()
        self.connections.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.socket.unlink(missing_ok=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._listener is not None
        while True:
            sock, _ = await loop.sock_accept(self._listener)
            self._spawn(self._serve(sock))

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        line = b""
        while not line.endswith(b"\n"):
            line += await loop.sock_recv(sock, 1)
        await loop.sock_sendall(sock, b"OK 1\n")
        with contextlib.suppress(GeumgoError):
            connection = await Connection.accept(sock, handler=self._handle)
            self.connections.append(connection)
            await connection.wait_closed()

    async def _handle(self, stream: Stream) -> None:
        if self.silent:
            await asyncio.Event().wait()
        if stream.kind == "describe":
            await stream.reply(cbor.dumps(self.description))
        elif stream.kind == "attest":
            asked = cbor.loads(await stream.receive() or b"")
            await stream.reply(
                cbor.dumps({"kind": "nitro", "document": asked["nonce"], "statement": asked["use"].encode()})
            )
        elif stream.kind == "operation":
            await self._operation(str(stream.metadata["name"]), stream)

    async def _operation(self, name: str, stream: Stream) -> None:
        if self.refuse is not None:
            raise GeumgoError("refused", code=self.refuse, retryable=True)
        if name == "fail":
            raise GeumgoError("failed", code="invalid_request")
        async for message in stream:
            self.entered.set()
            self.ran(message)
            if name.startswith("slow"):
                await self.slow.wait()
            await stream.send(message)

    def ran(self, message: bytes) -> None:
        """Take note that an operation began."""
        self.executed.append(message)


async def main(name: str, runtime: Path, delay: float) -> None:
    enclave = FakeEnclave(name, runtime)
    log = (enclave.folder / "executed").open("ab", buffering=0)

    def ran(message: bytes) -> None:
        if not message.startswith(b"bulk"):
            log.write(message + b"\n")

    async def pace() -> None:
        while True:
            await asyncio.sleep(delay)
            enclave.slow.set()
            enclave.slow = asyncio.Event()

    enclave.ran = ran  # type: ignore[method-assign]
    await enclave.start()
    print("ready", flush=True)
    await pace()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.05))
