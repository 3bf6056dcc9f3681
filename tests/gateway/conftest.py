"""Fake enclaves, in this process and in processes of their own, and gateways over them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from geumgo.api import JsonLog
from geumgo.gateway import Gateway, GatewaySettings

PROGRAM = Path(__file__).with_name("enclave_program.py")
_spec = importlib.util.spec_from_file_location("geumgo_test_enclave_program", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
enclave_program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(enclave_program)

QUICK = GatewaySettings(
    poll=0.02,
    redial_least=0.02,
    redial_most=0.1,
    describe_starting=0.02,
    describe_ready=0.05,
    describe_timeout=0.5,
    queue_wait=1.0,
)


@pytest.fixture
def runtime() -> Iterator[Path]:
    # Below /tmp and short: a Unix socket's path has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="gw") as directory:
        yield Path(directory)


@pytest.fixture
def log() -> Iterator[JsonLog]:
    descriptor = os.open(os.devnull, os.O_WRONLY)
    yield JsonLog(descriptor)
    os.close(descriptor)


class Site:
    """Enclaves and gateways of one test, in this process."""

    def __init__(self, runtime: Path, log: JsonLog) -> None:
        self.runtime = runtime
        self.log = log
        self.enclaves: list[Any] = []
        self.gateways: list[Gateway] = []

    async def enclave(self, name: str, **description: Any) -> Any:
        enclave = enclave_program.FakeEnclave(name, self.runtime)
        enclave.description.update(description)
        await enclave.start()
        self.enclaves.append(enclave)
        return enclave

    async def gateway(self, *ready: str, **options: Any) -> Gateway:
        """Start a gateway and wait until the enclaves named are ready."""
        options.setdefault("settings", QUICK)
        gateway = await Gateway(self.runtime, log=self.log, **options).__aenter__()
        self.gateways.append(gateway)
        await self.until(gateway, lambda states: all(states.get(name) == "ready" for name in ready))
        return gateway

    async def until(self, gateway: Gateway, check: Callable[[dict[str, str]], bool]) -> None:
        """Wait until the gateway's view of its enclaves is as wanted."""
        while not check({str(e["name"]): str(e["state"]) for e in gateway.enclaves()}):
            await asyncio.sleep(0.005)

    async def aclose(self) -> None:
        for gateway in self.gateways:
            await gateway.__aexit__()
        for enclave in self.enclaves:
            await enclave.stop()


@pytest.fixture
async def site(runtime: Path, log: JsonLog) -> AsyncIterator[Site]:
    made = Site(runtime, log)
    yield made
    await made.aclose()


class Processes:
    """Programs of one test; every one is ended by its own id."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self._started: list[asyncio.subprocess.Process] = []
        self._drains: list[asyncio.Task[bytes]] = []

    async def enclave(self, name: str, delay: float = 0.05) -> asyncio.subprocess.Process:
        process = await self._start(str(PROGRAM), name, str(self.runtime), str(delay))
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async def gateway(
        self, *arguments: str, **environ: str
    ) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
        process = await self._start(
            "-m", "geumgo.gateway", "--runtime-dir", str(self.runtime), *arguments, **environ
        )
        assert process.stdout is not None
        line = await process.stdout.readline()
        assert line, (await self.stderr(process)).decode()
        return process, json.loads(line)

    async def _start(self, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **environ},
            limit=1 << 20,
        )
        assert process.stderr is not None
        self._started.append(process)
        drain = asyncio.get_running_loop().create_task(process.stderr.read())
        self._drains.append(drain)
        return process

    async def stderr(self, process: asyncio.subprocess.Process) -> bytes:
        """Return all that an ended process wrote to stderr."""
        return await self._drains[self._started.index(process)]

    async def aclose(self) -> None:
        for process in self._started:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            await process.wait()
        await asyncio.gather(*self._drains)


@pytest.fixture
async def processes(runtime: Path) -> AsyncIterator[Processes]:
    made = Processes(runtime)
    yield made
    await made.aclose()
