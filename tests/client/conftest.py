"""A gateway that is real to the client: the production HTTP edge over a socket, in front of an enclave in miniature."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from geumgo import attestation, keys
from geumgo._base import GeumgoError, SystemClock
from geumgo.api import Attested, Call, HttpServer
from geumgo.client import AsyncClient, ClientSettings
from geumgo.nitro import NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

PCRS = {0: b"\x11" * 48, 1: b"\x22" * 48, 2: b"\x33" * 48}
CONFIGURATION = b"\x44" * 48


@dataclass
class MiniEnclave:
    """Answers like an enclave: evidence from a software NSM, sealed requests opened and answered.

    `fault` is asked before each answer and may raise; `tamper` changes an answer on its way out.
    """

    authority: NsmAuthority
    caller: keys.CallerKey
    operation: Callable[[keys.OpenedRequest], bytes] = lambda opened: opened.body.upper()
    fault: Callable[[str], None] = lambda what: None
    tamper: Callable[[bytes], bytes] = lambda answer: answer
    pair: keys.PoolKeyPair = field(default_factory=lambda: keys.PoolKeyPair.generate())
    use: attestation.Use = attestation.Use.SEAL
    pcrs: Mapping[int, bytes] = field(default_factory=lambda: PCRS)
    opened: list[keys.OpenedRequest] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    gate: asyncio.Event | None = None
    in_flight: int = 0
    most_in_flight: int = 0

    async def call(self, call: Call, body: bytes) -> bytes:
        self.requests.append(body)
        self.fault(call.operation)
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            if self.gate:
                await self.gate.wait()
            await asyncio.sleep(0)
            if not call.sealed:
                return body.upper()
            opened = keys.open_request(
                body, self.pair, {self.caller.name: self.caller.public_bytes}, now_ms=SystemClock().now_ms()
            )
            self.opened.append(opened)
            try:
                return self.tamper(keys.seal_answer(opened, self.operation(opened)))
            except GeumgoError as error:
                return keys.seal_failure(opened, error.code, str(error), error.retryable)
        finally:
            self.in_flight -= 1

    async def stream(self, call: Call, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for message in messages:
            yield await self.call(call, message)

    async def attest(self, nonce: bytes, use: str, *, deadline: float) -> Attested:
        self.fault("attest")
        statement = attestation.Statement(
            use=self.use, suite=keys.SUITE, key=self.pair.public.raw, pool="test", configuration=CONFIGURATION
        )
        nsm = SoftwareNsm(self.authority, self.pcrs, clock=SystemClock())
        document = NsmClient(nsm).attest(public_key=statement.key, user_data=statement.digest(), nonce=nonce)
        return Attested("nitro", document, statement.to_bytes())

    def enclaves(self) -> Sequence[Mapping[str, object]]:
        return [{"name": "mini"}]

    def ready(self) -> str | None:
        return None


@pytest.fixture(scope="session")
def authority() -> NsmAuthority:
    return NsmAuthority.generate()


@pytest.fixture
def caller() -> keys.CallerKey:
    return keys.CallerKey.generate("records")


@pytest.fixture
def enclave(authority: NsmAuthority, caller: keys.CallerKey) -> MiniEnclave:
    return MiniEnclave(authority, caller)


Serve = Callable[[MiniEnclave], "asyncio.Future[str]"]


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., object]]:
    """Start an HTTP edge for an enclave; returns its address and the server."""
    servers: list[HttpServer] = []

    async def start(enclave: MiniEnclave, port: int = 0) -> tuple[str, HttpServer]:
        server = HttpServer(enclave)
        servers.append(server)
        host, bound = await server.listen_tcp("127.0.0.1", port)
        return f"http://{host}:{bound}", server

    yield start
    for server in servers:
        await server.aclose()


@pytest.fixture
async def make_client(
    authority: NsmAuthority, caller: keys.CallerKey
) -> AsyncIterator[Callable[..., AsyncClient]]:
    clients: list[AsyncClient] = []

    def make(
        *addresses: str,
        policy: attestation.Policy | None = None,
        roots: attestation.TrustRoots | None = None,
        key: keys.CallerKey | None = caller,
        **settings: float,
    ) -> AsyncClient:
        client = AsyncClient(
            addresses,
            roots=roots or attestation.TrustRoots.from_pem(authority.root_pem, simulated=True),
            policy=policy
            or attestation.Policy(measurements={"pcr0": frozenset({PCRS[0].hex()})}, allow_simulated=True),
            caller=key,
            settings=ClientSettings(**{"backoff": 0.01, **settings}),  # type: ignore[arg-type]
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()
