"""Runs the operation inside the real enclave program, in this process: no image, no launcher."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
from pathlib import Path

import pytest

from geumgo.channel import Connection, StreamReset
from geumgo.enclave import Enclave
from geumgo.enclave.program import EnclaveProgram
from geumgo.keys import MeasuredConfiguration
from geumgo.nitro import NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

HERE = Path(__file__).parent


def load() -> Enclave:
    spec = importlib.util.spec_from_file_location("hello", HERE / "hello.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app: Enclave = module.app
    return app


class Listener:
    """Hands one connection to the program."""

    def __init__(self, sock: socket.socket) -> None:
        self._queue: asyncio.Queue[socket.socket] = asyncio.Queue()
        self._queue.put_nowait(sock)

    async def accept(self) -> tuple[socket.socket, int | None]:
        return await self._queue.get(), None

    def close(self) -> None:
        """Nothing to close."""


async def test_hello() -> None:
    configuration = MeasuredConfiguration.from_json((HERE / "measured.json").read_bytes())
    nsm = NsmClient(SoftwareNsm(NsmAuthority.generate(), {0: b"\x01" * 48}))
    program = EnclaveProgram(load(), configuration, nsm)
    ours, theirs = socket.socketpair()
    serving = asyncio.create_task(program.run(Listener(theirs)))
    async with await Connection.dial(ours) as connection:
        call = {"name": "hello", "sealed": False}
        answer = await connection.call("operation", '{"name":"민수"}'.encode(), metadata=call)
        assert json.loads(answer) == {"text": "Hello, 민수!"}
        with pytest.raises(StreamReset, match="does not accept this body"):
            await connection.call("operation", b'{"name":7}', metadata=call)
    program.stop()
    assert await serving == 0
