"""The asynchronous client: verify → seal → call, on whichever gateway answers."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from geumgo import attestation, keys
from geumgo._base import Clock, SystemClock
from geumgo.client._endpoints import SEALED, Endpoint, Endpoints, NotDelivered
from geumgo.client.errors import AnswerRejected, ClientError, GatewayError, Unreachable

__all__ = ("IDEMPOTENT", "AsyncClient", "ClientSettings")

NONCE_SIZE = 32
"""Bytes of the nonce in a request for evidence: nobody guesses it and no answer was made before it."""

IDEMPOTENT: frozenset[str] = frozenset({"deidentify", "reidentify", "decrypt", "echo"})
"""Operations of Geumgo's own enclave that may be repeated; for others the caller of `call` says so."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The client's limits; times are seconds."""

    timeout: float = 30.0
    """A call's deadline where the call names none."""
    attempts: int = 8
    """Tries of an idempotent call, over all gateways, before the deadline."""
    backoff: float = 0.05
    """Wait before the second try; it doubles with each, with jitter, up to `max_backoff`."""
    max_backoff: float = 1.0
    start_wait: float = 30.0
    """How long a call waits for an enclave that is still starting, within its own deadline."""
    evidence_lifetime: float = 3600.0
    """How long a verified pool key is used before the client asks for evidence anew."""
    window: int = 4
    """Batches of a stream under way at a time: enough to keep two enclaves busy, and bounded memory."""
    connections: int = 64
    """Connections to one gateway."""


@dataclass(slots=True)
class _Pool:
    key: keys.PoolPublicKey
    claims: attestation.Claims
    verified_at: float = field(default_factory=time.monotonic)


class AsyncClient:
    """Calls operations of an enclave pool through any of its gateways.

    Nothing is sent before the pool's evidence satisfies `policy` under `roots`, and nothing that any
    gateway answers makes the client send plaintext.

    Args:
        gateways: addresses: `http://host:port`, `https://host:port`, `unix:/run/geumgo/enclave.sock`.
        roots: the roots that evidence must lead to.
        policy: what the evidence must say.
        caller: the key that the pool's measured configuration lists; None for open operations only.
        clock: for deadlines and the age of evidence.
        settings: limits.
    """

    def __init__(
        self,
        gateways: str | Sequence[str],
        *,
        roots: attestation.TrustRoots,
        policy: attestation.Policy,
        caller: keys.CallerKey | None = None,
        clock: Clock | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ClientSettings()
        addresses = (gateways,) if isinstance(gateways, str) else tuple(gateways)
        self._endpoints = Endpoints(addresses, connections=self.settings.connections)
        self._roots = roots
        self._policy = policy
        self._caller = caller
        self._clock = clock or SystemClock()
        self._pool: _Pool | None = None
        self._attesting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._endpoints.aclose()

    async def attest(self, *, timeout: float | None = None) -> attestation.Claims:
        """Ask for evidence with a fresh nonce, verify it, and keep the pool key that it vouches for.

        Raises:
            VerificationError, PolicyDenied: the evidence is not acceptable; its code says why.
            Unreachable, GatewayError: nobody gave evidence.
        """
        return (await self._verified_pool(self._deadline(timeout), renew=True)).claims

    async def call(
        self,
        operation: str,
        body: bytes,
        *,
        policy: bytes = b"",
        sequence: int = 0,
        last: bool = True,
        request_id: bytes | None = None,
        timeout: float | None = None,
        idempotent: bool | None = None,
    ) -> bytes:
        """Seal `body` to the pool, call `operation`, and return the opened answer.

        An idempotent operation (`idempotent`, or one of `IDEMPOTENT`) is repeated on other gateways
        until the deadline, with the same sealed bytes, and sealed anew once where another pool answers. Any
        other is repeated only if it was certainly not carried out, or with bytes that no enclave takes twice.

        Raises:
            OperationFailed: the enclave's own answer is a failure; its detail came inside the seal.
            GatewayError: an error code from outside the seal.
            AnswerRejected: the answer was not made by the enclave for this request.
            Unreachable: no answer before the deadline.
        """
        if self._caller is None:
            raise ClientError(
                "this client has no caller's key", fix="Pass `caller`, or use `call_open`.", code="no_caller"
            )
        repeat = operation in IDEMPOTENT if idempotent is None else idempotent
        deadline = self._deadline(timeout)
        request_id = request_id or secrets.token_bytes(16)
        for renewed in (False, True):
            pool = await self._verified_pool(deadline, renew=renewed)
            sealed = keys.seal_request(
                pool.key,
                self._caller,
                operation=operation,
                body=body,
                policy=policy,
                sequence=sequence,
                last=last,
                deadline_ms=self._clock.now_ms() + int(1000 * (deadline - time.monotonic())),
                request_id=request_id,
            )
            try:
                return await self._exchange(operation, sealed, deadline, repeat=repeat)
            except GatewayError as error:
                # Another pool answers now: its evidence is verified like the first one's, once.
                if error.code != "reattest" or renewed:
                    raise
                if not repeat:
                    # Whoever says so may have had it carried out; another enclave would do it once more.
                    await self._verified_pool(deadline, renew=True)
                    raise
        raise AssertionError("unreachable")

    async def call_open(self, operation: str, body: bytes, *, timeout: float | None = None) -> bytes:
        """Call an operation that the pool declares open, unsealed: everybody on the way reads it."""
        deadline = self._deadline(timeout)
        path = f"/v1/operations/{operation}"
        headers = {"content-type": "application/octet-stream"}
        return await self._ask(
            "POST", path, deadline, body=body, headers=headers, repeat=operation in IDEMPOTENT
        )

    async def stream(
        self,
        operation: str,
        bodies: Iterable[bytes] | AsyncIterable[bytes],
        *,
        policy: bytes = b"",
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """Call `operation` for each body and yield the answers in the bodies' order.

        At most `settings.window` bodies are under way, so memory stays bounded. Each is a sealed request
        of its own with its place in the stream; `timeout` is each one's deadline. The operation must be
        idempotent. The first failure ends the stream.
        """
        stream_id = secrets.token_bytes(12)
        waiting: asyncio.Queue[asyncio.Task[bytes]] = asyncio.Queue()
        source = _with_last(bodies)
        exhausted = False
        sequence = 0
        try:
            while True:
                while not exhausted and waiting.qsize() < self.settings.window:
                    item = await anext(source, None)
                    if item is None:
                        exhausted = True
                        break
                    body, last = item
                    call = self.call(
                        operation,
                        body,
                        policy=policy,
                        sequence=sequence,
                        last=last,
                        request_id=stream_id + sequence.to_bytes(4, "big"),
                        timeout=timeout,
                        idempotent=True,
                    )
                    waiting.put_nowait(asyncio.create_task(call))
                    sequence += 1
                if waiting.empty():
                    return
                yield await waiting.get_nowait()
        finally:
            tasks = [waiting.get_nowait() for _ in range(waiting.qsize())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def enclaves(self, *, timeout: float | None = None) -> list[Mapping[str, object]]:
        """Return what a gateway says of its enclaves. It is the gateway's word, not evidence."""
        answer = await self._ask("GET", "/v1/enclaves", self._deadline(timeout), repeat=True)
        try:
            listed = json.loads(answer)
        except ValueError:
            listed = None
        if isinstance(listed, dict):
            listed = listed.get("enclaves")
        if not isinstance(listed, list):
            raise ClientError("the gateway's list of enclaves can't be read", code="malformed")
        return listed

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.settings.timeout if timeout is None else timeout)

    async def _verified_pool(self, deadline: float, *, renew: bool) -> _Pool:
        async with self._attesting:
            pool = self._pool
            if pool and not renew and time.monotonic() - pool.verified_at < self.settings.evidence_lifetime:
                return pool
            nonce = secrets.token_bytes(NONCE_SIZE)
            params = {"nonce": nonce.hex(), "use": attestation.Use.SEAL.value}
            answer = await self._ask("GET", "/v1/attestation", deadline, params=params, repeat=True)
            evidence = attestation.Evidence.from_json(answer)
            now_ms = self._clock.now_ms()
            claims = attestation.verify(
                evidence, self._roots, now_ms=now_ms, nonce=nonce, use=attestation.Use.SEAL
            )
            self._policy.require(claims, now_ms=now_ms)
            if claims.statement is None or claims.statement.suite != keys.SUITE:
                raise ClientError(
                    "the enclave seals with a suite that this client does not have",
                    fix="Use a client of the enclave's version.",
                    code="unknown_suite",
                )
            self._pool = _Pool(keys.PoolPublicKey(claims.statement.key), claims)
            return self._pool

    async def _exchange(self, operation: str, sealed: keys.Sealed, deadline: float, *, repeat: bool) -> bytes:
        headers = {"content-type": SEALED}
        path = f"/v1/operations/{operation}"
        for chance in (1, 2, 3):
            answer = await self._ask(
                "POST", path, deadline, body=sealed.request, headers=headers, repeat=repeat
            )
            try:
                return sealed.answer_opener.open(answer)
            except keys.AnswerError:
                # Somebody on the way changed it. Asking again for what is idempotent costs nothing.
                if not repeat or chance == 3:
                    raise AnswerRejected(
                        "the answer was not made by the enclave for this request",
                        why="A gateway, a manager or the network changed or swapped it.",
                        fix="Nothing of it was used. Look at what stands between this client and the enclave.",
                    ) from None
        raise AssertionError("unreachable")

    async def _ask(
        self,
        method: str,
        path: str,
        deadline: float,
        *,
        repeat: bool,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """Ask one endpoint after the other until one answers or the deadline passes."""
        began = time.monotonic()
        failure: ClientError | None = None
        attempt = 0
        while True:
            for endpoint in self._endpoints.order():
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise failure or Unreachable(
                        "the deadline passed before a gateway answered", fix="Give the call more time."
                    )
                timed = {"geumgo-timeout-ms": str(max(1, int(remaining * 1000))), **(headers or {})}
                try:
                    answer = await endpoint.request(
                        method, path, timeout=remaining, body=body, headers=timed, params=params
                    )
                except ClientError as error:
                    failure = self._worth_repeating(error, endpoint, repeat=repeat, began=began)
                else:
                    self._endpoints.prefer(endpoint)
                    return answer.body
            attempt += 1
            starting = failure is not None and failure.code in ("starting", "busy")
            if attempt >= self.settings.attempts and not starting:
                raise failure or Unreachable("no gateway answered", fix="Are the gateways running?")
            await asyncio.sleep(self._pause(attempt, failure, deadline))

    def _worth_repeating(
        self, error: ClientError, endpoint: Endpoint, *, repeat: bool, began: float
    ) -> ClientError:
        """Return `error` if another try makes sense, else raise it."""
        if isinstance(error, NotDelivered):
            return error
        if isinstance(error, GatewayError):
            if error.code in ("starting", "draining", "busy"):
                # These refuse before anything is carried out, so any operation may be tried again.
                if error.code == "starting" and time.monotonic() - began > self.settings.start_wait:
                    raise error
                return error
            if error.retryable and repeat:
                return error
        elif isinstance(error, Unreachable) and repeat:
            return error
        raise error

    def _pause(self, attempt: int, failure: ClientError | None, deadline: float) -> float:
        wait = min(self.settings.max_backoff, self.settings.backoff * 2.0 ** min(attempt - 1, 16))
        if isinstance(failure, GatewayError) and failure.retry_after is not None:
            wait = max(wait, failure.retry_after)
        # Jitter: clients that were refused together must not come back together.
        wait *= 0.5 + random.random() / 2
        return max(0.0, min(wait, deadline - time.monotonic()))


async def _with_last(bodies: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Yield each body with whether it is the last."""
    held: bytes | None = None
    if isinstance(bodies, AsyncIterable):
        async for body in bodies:
            if held is not None:
                yield held, False
            held = body
    else:
        for body in bodies:
            if held is not None:
                yield held, False
            held = body
    if held is not None:
        yield held, True
