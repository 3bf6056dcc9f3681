"""A real enclave program in this process, over socket pairs, with a software NSM and a fake key service."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from geumgo._base import GeumgoError
from geumgo.channel import Connection, Role, Stream
from geumgo.codec import cbor
from geumgo.enclave import Enclave
from geumgo.enclave._limits import Limits
from geumgo.enclave.operations import app as builtin
from geumgo.enclave.program import EnclaveProgram
from geumgo.keys import CallerKey, MeasuredConfiguration, PoolPublicKey, seal_request
from geumgo.nitro import NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm
from geumgo.vsock import VsockError

KEY_ARN = "arn:aws:kms:ap-northeast-2:111122223333:key/11111111-2222-3333-4444-555555555555"
DATA_ARN = "arn:aws:kms:ap-northeast-2:111122223333:key/99999999-2222-3333-4444-555555555555"
POOL = "demo"


class PairListener:
    """Connections made by `dial`, in this process."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[socket.socket | None] = asyncio.Queue()

    async def accept(self) -> tuple[socket.socket, int | None]:
        sock = await self._queue.get()
        if sock is None:
            raise VsockError("closed", code="closed", retryable=False)
        return sock, 3

    def close(self) -> None:
        self._queue.put_nowait(None)

    def dial(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._queue.put_nowait(theirs)
        return ours


class FakeKms:
    """Wraps and unwraps keys; refuses while `error` is set. Remembers which keys were asked for."""

    def __init__(self) -> None:
        self.error: GeumgoError | None = None
        self.asked: list[tuple[str, str]] = []
        self.gate: asyncio.Event | None = None
        self._known: dict[bytes, tuple[bytes, str, dict[str, str]]] = {}

    def asked_for_data(self) -> int:
        return sum(key_id != KEY_ARN for key_id, _ in self.asked)

    def wrap(self, key_id: str, context: Mapping[str, str], plaintext: bytes | None = None) -> bytes:
        blob = secrets.token_bytes(40)
        self._known[blob] = (plaintext or secrets.token_bytes(32), key_id, dict(context))
        return blob

    def plaintext(self, blob: bytes) -> bytes:
        return self._known[blob][0]

    async def decrypt(self, ciphertext: bytes, *, key_id: str, context: Mapping[str, str]) -> bytes:
        self.asked.append((key_id, context.get("geumgo:purpose", "")))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        known = self._known.get(ciphertext)
        if known is None or known[1:] != (key_id, dict(context)):
            raise GeumgoError("refused", code="invalid_ciphertext")
        return known[0]


@dataclass
class Parent:
    """What a manager does: holds the control role, answers the enclave's streams, keeps its log."""

    connection: Connection
    events: list[dict[str, Any]] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def event(self, code: str, count: int = 1) -> dict[str, Any]:
        """Wait for the `count`-th event of this code."""
        while True:
            found = [event for event in self.events if event["code"] == code]
            if len(found) >= count:
                return found[count - 1]
            self.arrived.clear()
            await self.arrived.wait()


@dataclass
class Running:
    """A running enclave and ways to talk to it."""

    program: EnclaveProgram
    listener: PairListener
    callers: dict[str, CallerKey]
    kms: FakeKms
    task: asyncio.Task[int]
    credentials: bytes | None
    _stack: contextlib.AsyncExitStack
    egress: Callable[[Stream], Awaitable[None]] | None = None

    async def connect(self, role: Role = Role.CALL) -> Connection:
        connection = await Connection.dial(self.listener.dial(), role=role)
        self._stack.push_async_callback(connection.aclose)
        return connection

    async def parent(self) -> Parent:
        parent: Parent | None = None

        async def handle(stream: Stream) -> None:
            assert parent is not None
            if stream.kind == "log":
                while (message := await stream.receive()) is not None:
                    parent.events.append(cbor.loads(message))
                    parent.arrived.set()
            elif stream.kind == "credentials" and self.credentials is not None:
                await stream.reply(self.credentials)
            elif stream.kind == "egress" and self.egress is not None:
                await self.egress(stream)
            else:
                raise GeumgoError("no", code="unavailable", retryable=True)

        connection = await Connection.dial(self.listener.dial(), role=Role.CONTROL, handler=handle)
        self._stack.push_async_callback(connection.aclose)
        parent = Parent(connection)
        return parent

    async def ready(self) -> None:
        await self.program.lifecycle.wait_ready()

    def pool_key(self) -> PoolPublicKey:
        return self.program.lifecycle.require().public

    def seal(self, caller: str | CallerKey, operation: str, body: bytes, **options: Any) -> Any:
        key = self.callers[caller] if isinstance(caller, str) else caller
        options.setdefault("deadline_ms", int(time.time() * 1000) + 30_000)
        pool = options.pop("pool", None) or self.pool_key()
        return seal_request(pool, key, operation=operation, body=body, **options)

    async def call(
        self, connection: Connection, caller: str | CallerKey, operation: str, body: bytes, **options: Any
    ) -> bytes:
        timeout = options.pop("timeout", None)
        sealed = self.seal(caller, operation, body, **options)
        answer = await send(connection, operation, sealed.request, sealed=True, timeout=timeout)
        return sealed.answer_opener.open(answer)


async def send(
    connection: Connection, name: str, message: bytes, *, sealed: bool = False, timeout: float | None = None
) -> bytes:
    return await connection.call(
        "operation", message, metadata={"name": name, "sealed": sealed}, timeout=timeout
    )


async def describe(connection: Connection) -> dict[str, Any]:
    return cbor.loads(await connection.call("describe"))


def ask(nonce: bytes, use: str = "seal") -> bytes:
    return cbor.dumps({"nonce": nonce, "use": use})


@pytest.fixture
def kit() -> ModuleType:
    """This module: its constants, classes and functions."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def authority() -> NsmAuthority:
    return NsmAuthority.generate()


@pytest.fixture
def nsm(authority: NsmAuthority) -> SoftwareNsm:
    return SoftwareNsm(authority, {0: b"\x01" * 48, 1: b"\x02" * 48, 2: b"\x03" * 48})


@pytest.fixture
def kms() -> FakeKms:
    return FakeKms()


@pytest.fixture
def callers() -> dict[str, CallerKey]:
    return {name: CallerKey.generate(name) for name in ("records", "dpo", "app")}


@pytest.fixture
def configure(kms: FakeKms, callers: dict[str, CallerKey]) -> Callable[..., MeasuredConfiguration]:
    """Make a configuration; keyword arguments replace whole entries."""

    def make(*, pooled: bool = True, **changes: Any) -> MeasuredConfiguration:
        def wrapped(purpose: str) -> dict[str, Any]:
            context = {"geumgo:pool": POOL, "geumgo:purpose": purpose}
            blob = kms.wrap(KEY_ARN, context)
            return {
                "key_id": KEY_ARN,
                "ciphertext": base64.b64encode(blob).decode(),
                "context": context,
            }

        def caller(name: str, **more: Any) -> dict[str, Any]:
            return {"public_key": base64.b64encode(callers[name].public_bytes).decode(), **more}

        content: dict[str, Any] = {
            "version": 1,
            "pool": POOL,
            "operations": {
                "deidentify": {"callers": ["records"]},
                "reidentify": {"callers": ["dpo"]},
                "decrypt": {"callers": ["dpo"]},
                "echo": {"open": True},
            },
            "callers": {
                "records": caller("records", purposes=["customers"], policies="any"),
                "dpo": caller(
                    "dpo",
                    purposes=["customers"],
                    policies="any",
                    keys=[{"key_id": DATA_ARN, "context": {"app": "crm"}}],
                ),
                "app": caller("app"),
            },
            "kms": {"endpoint": "https://localhost:8443", "region": "ap-northeast-2", "ca": ""},
            "pool_key": wrapped("seed") if pooled else None,
            "purposes": {"customers": wrapped("customers"), "research": wrapped("research")},
            "egress": ["localhost:8443"],
        }
        content.update(changes)
        return MeasuredConfiguration.from_json(json.dumps(content).encode())

    return make


@pytest.fixture
async def start(
    nsm: SoftwareNsm,
    kms: FakeKms,
    callers: dict[str, CallerKey],
    configure: Callable[..., MeasuredConfiguration],
) -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    async with contextlib.AsyncExitStack() as stack:

        async def start_one(
            app: Enclave | None = None,
            configuration: MeasuredConfiguration | GeumgoError | None = None,
            *,
            limits: Limits | None = None,
            transport: Any = None,
            service: Any = None,
            ready: bool = True,
        ) -> Running:
            whole = Enclave()
            whole.include(builtin)
            if app is not None:
                whole.include(app)
            program = EnclaveProgram(
                whole,
                configuration or configure(),
                NsmClient(transport or nsm),
                limits=limits,
                key_service=kms if service is None else service or None,
            )
            await program.synchronise()
            listener = PairListener()
            task = asyncio.create_task(program.run(listener))
            credentials = cbor.dumps(
                {"access_key_id": "AKIA", "secret_access_key": "s", "session_token": None, "expires_ms": None}
            )
            running = Running(program, listener, callers, kms, task, credentials, stack)

            async def end() -> None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(end)
            if ready:
                await running.parent()
                await running.ready()
            return running

        yield start_one
