"""Channels between real processes: one is killed; and the benchmark runs."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from geumgo.channel import ChannelClosed, Connection

SERVER = """
import asyncio, socket, sys
from geumgo.channel import Connection

async def handler(stream):
    if stream.kind == "hang":
        await asyncio.Event().wait()
    await stream.reply(await stream.receive())

async def main():
    connection = await Connection.accept(socket.socket(fileno=int(sys.argv[1])), handler=handler)
    await connection.wait_closed()

asyncio.run(main())
"""


@pytest.mark.system
async def test_killing_the_server_fails_what_is_in_flight() -> None:
    ours, theirs = socket.socketpair()
    with subprocess.Popen(  # noqa: ASYNC220 (nothing else runs yet)
        [sys.executable, "-c", SERVER, str(theirs.fileno())], pass_fds=[theirs.fileno()]
    ) as process:
        theirs.close()
        connection = await Connection.dial(ours)
        assert await connection.call("echo", b"x" * 100_000) == b"x" * 100_000
        hanging = [asyncio.ensure_future(connection.call("hang", timeout=30)) for _ in range(50)]
        await connection.ping()
        os.kill(process.pid, signal.SIGKILL)
        for error in await asyncio.gather(*hanging, return_exceptions=True):
            assert isinstance(error, ChannelClosed)
            assert (error.code, error.retryable) == ("unavailable", True)
        await connection.wait_closed()
        with pytest.raises(ChannelClosed):
            await connection.call("echo")


@pytest.mark.system
def test_the_benchmark_measures_both() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "channel.py"
    done = subprocess.run(
        [sys.executable, str(path), "--seconds", "0.1", "--rounds", "1", "--json"],
        capture_output=True,
        check=True,
        text=True,
        timeout=50,
    )
    assert '"yardstick"' in done.stdout
    assert '"call, uvloop to asyncio"' in done.stdout
