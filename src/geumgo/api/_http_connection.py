"""One HTTP/1.1 connection: httptools parses, this bounds sizes and times and keeps the order.

Two things go on at once: reading (idle, head, body) and answering (one request at a time; pipelined ones wait).
Each has its own time. What is late is found by the server's sweep, which calls :meth:`HttpConnection.expire`;
a timer for each request would cost more than the parser.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from geumgo.api._errors import ApiError
from geumgo.api._http_message import Request, Response, new_request_id, problem_response

if TYPE_CHECKING:
    from geumgo.api._http_server import HttpServer

__all__ = ("HttpConnection",)

HANDLER_GRACE = 2.0
"""Seconds that a backend may be late in noticing a deadline before the connection answers for it."""

SKIPPABLE = 256 << 10
"""Bytes of a refused body that are read and dropped to keep the connection; a larger one closes it."""

FRAMING_ALLOWANCE = 64 << 10
"""Bytes of chunk headers, extensions and trailers that a body may have however small it is."""

FRAMING_FACTOR = 16
"""And per byte of body: one-byte chunks take six."""


COUNTED_ANSWER = 64 << 10
"""Bytes of an answer whose unread part counts against the memory for bodies at once; that of smaller ones does
with the server's next sweep."""


DRAIN_IDLE = 0.5
"""Seconds that an idle connection stays open while the server drains: a request may be on its way."""


_UPGRADE = (b"connection", b"upgrade", b"http2-settings")


NEVER = float("inf")


class _Phase(enum.Enum):
    IDLE = 0
    HEAD = 1
    BODY = 2
    DEAF = 3  # refused: what still comes is thrown away


class HttpConnection(asyncio.Protocol):
    """Speaks HTTP/1.1 with one client of `server`."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._settings = server.settings
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made
        self._phase = _Phase.IDLE
        self._request: Request | None = None
        self._refusal: ApiError | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._head_size = 0
        self._head_fields = 0
        self._fed = 0
        self._waiting: deque[tuple[Request, Response | None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._answering = False
        self._current: Request | None = None
        self._paused_reading = False
        self._paused_writing = False
        self._unread = 0
        self._closing = False
        self._read_by = time.monotonic() + self._settings.head_timeout
        self._done_by = NEVER

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.connected(self):
            request = Request(time.monotonic(), request_id=new_request_id(None))
            self._refuse(request, ApiError("Too many connections", code="busy", status=503))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._server.disconnected(self)
        self._set_unread(0)
        self._cancel()
        self._forget()

    def eof_received(self) -> bool:
        return False  # the transport closes; a client that has gone needs no answer

    def data_received(self, data: bytes) -> None:
        while data and not self._deaf:
            self._fed += len(data)
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                if not self._deaf:
                    self._refuse_now(ApiError("This is not HTTP/1.1", code="malformed"))
                return
        if self._phase is _Phase.HEAD and self._fed > self._settings.max_head:
            self._refuse_now(ApiError("The request's head is too large", code="too_large", status=431))
        elif (
            self._phase is _Phase.BODY
            and self._fed - self._size > FRAMING_ALLOWANCE + FRAMING_FACTOR * self._size
        ):
            self._refuse_now(ApiError("The body's chunks are almost all framing", code="malformed"))

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        self.count_unread()
        if not self._closing:
            self._done_by = NEVER
            self._next()

    # What the parser calls, from inside data_received.

    def on_message_begin(self) -> None:
        self._phase = _Phase.HEAD if self._phase is not _Phase.DEAF else self._phase
        self._request = Request(time.monotonic())
        self._refusal = None
        self._head_size = self._head_fields = self._size = self._fed = 0
        self._read_by = self._request.started + self._settings.head_timeout

    def on_url(self, url: bytes) -> None:
        assert self._request is not None
        self._request.target += url
        self._head_size += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        if request is None or self._phase is not _Phase.HEAD:
            return  # a trailer: nothing of ours is in one
        self._head_size += len(name) + len(value)
        self._head_fields += 1
        request.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        request = self._request
        if request is None or self._phase is not _Phase.HEAD:
            return
        request.method = self._parser.get_method().decode("latin-1")
        if request.method == "CONNECT":
            self._refuse_now(ApiError("This is not a proxy", code="malformed", status=405))
            return
        if self._parser.should_upgrade():
            return  # the parser stops here, and the request is parsed once more without its wish
        self._phase = _Phase.BODY
        self._fed = 0
        request.keep_alive = self._parser.should_keep_alive()
        request.old = self._parser.get_http_version() == "1.0"
        length = int(request.headers.get(b"content-length", b"0"))
        chunked = b"transfer-encoding" in request.headers
        try:
            if self._head_size > self._settings.max_head or self._head_fields > self._settings.max_headers:
                raise ApiError("The request's head is too large", code="too_large", status=431)
            self._server.routes.begin(request)
            if length > request.max_body:
                raise _too_large(request)
            self._server.admit(request)
        except ApiError as refusal:
            if chunked or length > SKIPPABLE:
                self._refuse_now(refusal)
            else:
                self._refusal = refusal
        if length or chunked:
            self._read_by = time.monotonic() + self._settings.body_grace
        expects = b"expect" in request.headers and self._phase is _Phase.BODY and self._refusal is None
        if expects and self._task is None and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = self._request
        if request is None or self._phase is not _Phase.BODY:
            return
        size = len(body)
        self._size += size
        if self._refusal is not None:
            return
        if self._size > request.max_body:
            self._refuse_now(_too_large(request))
        elif not self._server.take(request, size):
            self._refuse_now(ApiError("The server holds as many bytes of bodies as it may", code="busy"))
        else:
            self._chunks.append(body)
            self._read_by += size / self._settings.min_rate

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or self._phase is not _Phase.BODY:
            return
        chunks = self._chunks
        request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        request.size = self._size
        self._chunks = []
        self._request = None
        self._size = self._fed = 0
        self._phase = _Phase.IDLE
        self._read_by = NEVER
        if not request.keep_alive:
            self._phase = _Phase.DEAF
        self._enqueue(request, None if self._refusal is None else problem_response(self._refusal))
        if len(self._waiting) > self._settings.max_pipelined:
            self._refuse_now(ApiError("Too many requests wait on this connection", code="busy"))

    # Answering, one request after the other.

    def _enqueue(self, request: Request, response: Response | None) -> None:
        self._waiting.append((request, response))
        if self._task is None and not self._paused_writing:
            self._next()
        elif not self._paused_reading and not self._transport.is_closing():
            self._paused_reading = True
            self._read_by = NEVER
            self._transport.pause_reading()

    def _next(self) -> None:
        """Begin the next answer, where one waits and the client reads."""
        while self._waiting and self._task is None and not self._paused_writing and not self._closing:
            request, response = self._waiting.popleft()
            if response is None:
                self._done_by = request.deadline + HANDLER_GRACE
                self._current = request
                self._task = asyncio.get_running_loop().create_task(self._answer(request))
            else:
                self._write(request, response)
        if self._paused_reading and not self._waiting and not self._closing:
            self._paused_reading = False
            if self._phase in (_Phase.HEAD, _Phase.BODY):  # part of the next one came with the last
                self._read_by = time.monotonic() + self._settings.head_timeout
            self._transport.resume_reading()

    async def _answer(self, request: Request) -> None:
        self._answering = True
        response = None
        try:
            response = await self._server.routes.answer(request)
        except asyncio.CancelledError:
            if not self._transport.is_closing():  # overdue, not abandoned
                response = problem_response(_overdue())
        finally:
            self._task = None
            self._answering = False
            request.body = b""
        if response is None or self._transport.is_closing():
            self._server.abandoned(request)
            return
        self._write(request, response)
        self._next()

    def _write(self, request: Request, response: Response) -> None:
        close = not request.keep_alive or self._server.draining
        self._transport.write(response.encode(request, self._server.date, close=close))
        self._server.answered(request, response)
        if len(response.body) >= COUNTED_ANSWER:
            self.count_unread()
        now = time.monotonic()
        self._done_by = now + self._settings.write_timeout if self._paused_writing else NEVER
        if close:
            self._finish(now)
        elif self._phase is _Phase.IDLE:
            self._read_by = now + self._settings.keep_alive

    # Ends.

    def late(self, now: float) -> bool:
        """Return whether the client or the backend has let its time pass."""
        return self._done_by < now or self._read_by < now

    def expire(self, now: float) -> None:
        """Do what is due when :meth:`late`."""
        if self._done_by < now:
            if self._closing or self._paused_writing:
                self._transport.abort()
            else:
                self._done_by = now + HANDLER_GRACE
                self._cancel()
        elif self._phase is _Phase.IDLE:
            self._transport.close()
        elif self._phase is not _Phase.DEAF:
            late = ApiError("The request did not arrive in time", code="deadline_exceeded", status=408)
            self._refuse_now(late)

    def count_unread(self) -> None:
        """Count what the client has not read of its answers: it may not hold memory that nobody counts."""
        self._set_unread(self._transport.get_write_buffer_size())

    def _set_unread(self, size: int) -> None:
        if size != self._unread:
            self._server.count_unread(size - self._unread)
            self._unread = size

    def drain(self) -> None:
        """Close soon where nothing is going on; whatever is answered from now on says that it is the last."""
        if self.idle:
            self._read_by = min(self._read_by, time.monotonic() + DRAIN_IDLE)

    def abort(self) -> asyncio.Task[None] | None:
        """Close at once; return the answer that is being made, which is cancelled."""
        self._transport.abort()
        return self._task

    @property
    def _deaf(self) -> bool:
        return self._phase is _Phase.DEAF

    @property
    def idle(self) -> bool:
        """Whether nothing is being read or answered."""
        return self._closing or (self._phase is _Phase.IDLE and self._task is None and not self._waiting)

    def _without_upgrade(self, rest: bytes) -> bytes:
        """Return the request's head without its wish for another protocol, and what followed it.

        We know no other protocol, and RFC 9110 7.8 lets a server go on in this one; Java's client asks for h2c
        in its first request. The parser can't go on behind such a head, so a new one begins with it.
        """
        request, self._request = self._request, None
        if request is None or self._deaf:
            return b""
        self._parser = httptools.HttpRequestParser(self)
        close = b"close" in request.headers.get(b"connection", b"").lower()
        lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.target)]
        lines += [b"%b: %b" % item for item in request.headers.items() if item[0] not in _UPGRADE]
        lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
        return b"\r\n".join(lines) + rest

    def _refuse_now(self, error: ApiError) -> None:
        """Answer `error` after what is before it, hear nothing more, and close."""
        request = self._request or Request(time.monotonic())
        request.size = self._size
        if not request.request_id:
            request.request_id = new_request_id(None)
        self._refuse(request, error)

    def _refuse(self, request: Request, error: ApiError) -> None:
        self._chunks = []
        self._server.release(request)
        self._phase = _Phase.DEAF
        self._read_by = NEVER
        self._request = None
        request.keep_alive = False
        self._waiting.append((request, problem_response(error)))
        self._next()

    def _cancel(self) -> None:
        """Cancel the answer that is being made; a task that never ran can't clean up after itself."""
        task = self._task
        if task is None:
            return
        task.cancel()
        if not self._answering:
            self._task = None
            if self._current is not None:
                self._server.abandoned(self._current)

    def _finish(self, now: float) -> None:
        """Close; where the client may still be sending, half-close, so that it sees the answer before a reset."""
        self._closing = True
        self._forget()
        if self._transport.is_closing():
            return
        unread = self._transport.get_write_buffer_size() > 0
        self._done_by = now + (self._settings.write_timeout if unread else self._settings.linger)
        if self._phase is _Phase.DEAF:
            self._transport.write_eof()
        else:
            self._transport.close()

    def _forget(self) -> None:
        """Give back what requests hold that will not be answered."""
        for request, _ in self._waiting:
            self._server.abandoned(request)
        self._waiting.clear()
        self._chunks = []
        if self._request is not None:
            self._server.release(self._request)
            self._request = None


def _overdue() -> ApiError:
    return ApiError("The operation gave no answer in time", code="deadline_exceeded")


def _too_large(request: Request) -> ApiError:
    return ApiError(
        f"The body is over the limit of {request.max_body} bytes",
        fix="Send smaller batches",
        code="too_large",
    )
