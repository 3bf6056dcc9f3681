"""The gRPC edge: `geumgo.v1.Enclave`, health and reflection over :class:`~geumgo.api.Backend`.

Imported by the gateway only (27 MB). An error's code is in the status, exactly as in :data:`geumgo._base.CODES`;
`geumgo-code`, `geumgo-retryable`, `retry-after` and `geumgo-problem-bin` (a `geumgo.v1.Problem`) say the rest in
the trailing metadata.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from geumgo.api._backend import Backend
from geumgo.api._backend import Call as BackendCall
from geumgo.api._budget import ByteBudget
from geumgo.api._errors import ApiError, Problem
from geumgo.api._http_message import new_request_id
from geumgo.api._http_routes import NONCE_SIZES, OPERATION_NAME, USES
from geumgo.api._http_server import ListenError
from geumgo.api._log import JsonLog
from geumgo.api._metrics import EdgeMetrics
from geumgo.api._settings import ApiSettings
from geumgo.proto.v1 import enclave_pb2, enclave_pb2_grpc

__all__ = ("GrpcServer", "problem_metadata")

SERVICE = "geumgo.v1.Enclave"

ENVELOPE = 1 << 10
"""Bytes of a message beside its body: the operation's name and the field tags."""

MAX_METADATA = 16 << 10
"""As the head of an HTTP request."""

MAX_STREAMS = 1024
"""Calls at one time on one connection."""

KEEPALIVE_MS = 60_000
"""A client that has vanished without a word is noticed within two of these."""

MIN_PING_MS = 10_000
"""Clients may ping as often as this, also while they wait; oftener is answered with GOAWAY."""

HEALTH_SECONDS = 0.2
"""How often the health service looks whether the backend is ready."""

REFUSE_SECONDS = 0.5
"""How long a server that drains tells clients of open connections to go elsewhere."""

_STATUS = {status.name: status for status in grpc.StatusCode}


class GrpcServer:
    """Serves `geumgo.v1.Enclave` with health and reflection.

    Args:
        backend: what answers.
        settings: limits and times.
        metrics: counters, shared with the HTTP edge.
        log: request log, or None for silence.
        budget: bytes of bodies, shared with the HTTP edge.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        settings: ApiSettings | None = None,
        metrics: EdgeMetrics | None = None,
        log: JsonLog | None = None,
        budget: ByteBudget | None = None,
    ) -> None:
        self.settings = settings or ApiSettings()
        self._backend = backend
        largest = self.settings.max_body + ENVELOPE
        self._server = grpc.aio.server(
            maximum_concurrent_rpcs=self.settings.max_requests,
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", largest),
                ("grpc.max_send_message_length", largest),
                ("grpc.max_metadata_size", MAX_METADATA),
                ("grpc.max_concurrent_streams", MAX_STREAMS),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
            ],
        )
        self._servicer = _Servicer(backend, self.settings, metrics or EdgeMetrics(), log, budget)
        enclave_pb2_grpc.add_EnclaveServicer_to_server(self._servicer, self._server)  # type: ignore[no-untyped-call]
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        self._watcher: asyncio.Task[None] | None = None

    async def listen_tcp(self, host: str, port: int) -> tuple[str, int]:
        """Listen on `host` and `port` (0: any free one), begin to serve, and return what was bound.

        Raises:
            ListenError: the address can't be bound.
        """
        name = f"[{host}]" if ":" in host else host
        try:
            bound = self._server.add_insecure_port(f"{name}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise ListenError(
                f"Can't listen on {host} port {port} for gRPC", fix="Choose another address or port"
            )
        await self._set_health()
        await self._server.start()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        return host, bound

    async def begin_drain(self) -> None:
        """Let the health service say that nothing new should come; calls are still served."""
        await self._health.enter_graceful_shutdown()

    async def drain(self, timeout: float) -> bool:
        """Refuse new calls, answer what was begun within `timeout` seconds, cancel the rest.

        Returns:
            Whether all was answered in time.
        """
        if self._watcher is not None:
            self._watcher.cancel()
        # gRPC cancels what arrives once it stops, without a word of ours. So there is a while in which new calls
        # are refused in words, and clients go elsewhere, before it does.
        by = time.monotonic() + timeout
        self._servicer.refusing = True
        await asyncio.sleep(min(REFUSE_SECONDS, timeout))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(by - time.monotonic()):
                await self._servicer.idle.wait()
        done = not self._servicer.active
        await self._server.stop(max(0.0, by - time.monotonic()))
        return done

    async def aclose(self) -> None:
        """Stop at once."""
        if self._watcher is not None:
            self._watcher.cancel()
        await self._server.stop(0)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_SECONDS)
            await self._set_health()

    async def _set_health(self) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if self._backend.ready() is None else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", status)
        await self._health.set(SERVICE, status)


def problem_metadata(problem: Problem) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata that shows `problem`."""
    message = enclave_pb2.Problem(
        code=problem.code,
        retryable=problem.retryable,
        title=problem.title,
        detail=problem.detail,
        retry_after_ms=0 if problem.retry_after is None else round(problem.retry_after * 1000),
    )
    metadata: list[tuple[str, str | bytes]] = [
        ("geumgo-code", problem.code),
        ("geumgo-retryable", "true" if problem.retryable else "false"),
        ("geumgo-problem-bin", message.SerializeToString()),
    ]
    if problem.retry_after_seconds is not None:
        metadata.append(("retry-after", str(problem.retry_after_seconds)))
    return tuple(metadata)


class _Servicer(enclave_pb2_grpc.EnclaveServicer):
    """The three methods; gRPC cancels them when the client goes away or its deadline passes."""

    def __init__(
        self,
        backend: Backend,
        settings: ApiSettings,
        metrics: EdgeMetrics,
        log: JsonLog | None,
        budget: ByteBudget | None,
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._metrics = metrics
        metrics.watch("grpc", lambda: self.active)
        self._log = log
        self._budget = budget or ByteBudget(settings.max_bytes)
        self.active = 0
        self.refusing = False
        self.idle = asyncio.Event()
        self.idle.set()

    async def Call(self, request: Any, context: Any) -> Any:  # noqa: N802
        watch = self._begin("call", context)
        body = request.body
        watch.size_in = len(body)
        held = 0
        try:
            self._admit()
            call = self._call(request, watch)
            if not self._budget.take(len(body)):
                raise ApiError("The server holds as many bytes of bodies as it may", code="busy")
            held = len(body)
            answer = await self._backend.call(call, body)
            watch.size_out = len(answer)
            watch.code = "ok"
            return enclave_pb2.CallResponse(body=answer)
        except Exception as error:
            await self._abort(context, watch, error)
        finally:
            self._budget.give(held)
            self._end(watch)

    async def Stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        watch = self._begin("stream", context)
        try:
            self._admit()
            first = await anext(requests, None)
            if first is None:
                watch.code = "ok"
                return
            call = self._call(first, watch)
            messages = self._messages(first, requests, watch)
            answers = self._backend.stream(call, messages)
            async with contextlib.aclosing(messages), contextlib.aclosing(answers):
                async for answer in answers:
                    watch.size_out += len(answer)
                    yield enclave_pb2.CallResponse(body=answer)
            watch.code = "ok"
        except Exception as error:
            await self._abort(context, watch, error)
        finally:
            self._end(watch)

    async def Attest(self, request: Any, context: Any) -> Any:  # noqa: N802
        watch = self._begin("attestation", context)
        try:
            self._admit()
            use = request.use or "seal"
            if len(request.nonce) not in NONCE_SIZES:
                raise ApiError("The nonce is not 16 to 64 bytes", code="malformed")
            if use not in USES:
                raise ApiError("The use is neither seal nor channel", code="malformed")
            evidence = await self._backend.attest(request.nonce, use, deadline=watch.deadline)
            watch.code = "ok"
            return enclave_pb2.AttestResponse(
                kind=evidence.kind, document=evidence.document, statement=evidence.statement or b""
            )
        except Exception as error:
            await self._abort(context, watch, error)
        finally:
            self._end(watch)

    async def _messages(
        self, first: Any, requests: AsyncIterator[Any], watch: _Watch
    ) -> AsyncGenerator[bytes]:
        """Yield the bodies; each counts against the budget while the backend is busy with it."""
        request = first
        while True:
            body = request.body
            if request is not first and request.operation not in ("", first.operation):
                raise ApiError("A stream is for one operation", code="malformed")
            watch.size_in += len(body)
            if not self._budget.take(len(body)):
                raise ApiError("The server holds as many bytes of bodies as it may", code="busy")
            try:
                yield body
            finally:
                self._budget.give(len(body))
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return

    def _admit(self) -> None:
        if self.refusing:
            raise ApiError("This server takes no new calls", code="draining")

    def _call(self, request: Any, watch: _Watch) -> BackendCall:
        if not OPERATION_NAME.fullmatch(request.operation):
            raise ApiError("No operation can have this name", code="unknown_operation")
        watch.operation = request.operation  # not before: the log escapes nothing
        return BackendCall(request.operation, request.sealed, watch.deadline, watch.request_id)

    def _begin(self, route: str, context: Any) -> _Watch:
        now = time.monotonic()
        remaining = context.time_remaining()
        timeout = self._settings.default_timeout if remaining is None else remaining
        given = next(
            (value for key, value in context.invocation_metadata() or () if key == "x-request-id"), None
        )
        self.active += 1
        self.idle.clear()
        return _Watch(route, now, now + min(timeout, self._settings.max_timeout), new_request_id(given))

    async def _abort(self, context: Any, watch: _Watch, error: Exception) -> None:
        problem = Problem.of(error)
        watch.code = problem.code
        await context.abort(_STATUS[problem.grpc], problem.detail or problem.title, problem_metadata(problem))

    def _end(self, watch: _Watch) -> None:
        self.active -= 1
        if not self.active:
            self.idle.set()
        seconds = time.monotonic() - watch.started
        self._metrics.observe("grpc", watch.route, watch.code, seconds, watch.size_in, watch.size_out)
        if self._log is not None and (self._settings.log_requests or watch.code != "ok"):
            self._log.request(
                edge="grpc",
                request_id=watch.request_id,
                route=watch.route,
                operation=watch.operation,
                code=watch.code,
                seconds=seconds,
                size_in=watch.size_in,
                size_out=watch.size_out,
            )


class _Watch:
    """What is counted and logged of one call."""

    __slots__ = ("code", "deadline", "operation", "request_id", "route", "size_in", "size_out", "started")

    def __init__(self, route: str, started: float, deadline: float, request_id: str) -> None:
        self.route = route
        self.started = started
        self.deadline = deadline
        self.request_id = request_id
        self.operation = ""
        self.code = "cancelled"
        self.size_in = 0
        self.size_out = 0
