"""One HTTP request as the enclave API sees it, and one answer as bytes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

from geumgo.api._errors import PROBLEM_TYPE, ApiError, Problem

__all__ = ("JSON", "OCTETS", "Request", "Response", "http_date", "new_request_id", "problem_response")

JSON = b"application/json"
OCTETS = b"application/octet-stream"
_PROBLEM = PROBLEM_TYPE.encode()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_STATUS = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_STATUS[499] = b"HTTP/1.1 499 Client Closed Request\r\n"


@dataclass(slots=True, eq=False)
class Request:
    """One request, filled in while it arrives; `headers` has lower-case names."""

    started: float
    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    request_id: str = ""
    route: str = "other"
    operation: str = ""
    path: str = ""
    query: str = ""
    max_body: int = 0
    deadline: float = 0.0
    held: int = 0
    """Bytes of the body that count against the server's budget."""
    size: int = 0
    admitted: bool = False
    keep_alive: bool = True
    old: bool = False
    """HTTP/1.0: keeping the connection has to be said."""


@dataclass(slots=True, eq=False)
class Response:
    """One answer; `code` is "ok" or the problem's."""

    status: int
    content_type: bytes
    body: bytes
    headers: Mapping[str, str] | None = None
    code: str = "ok"

    def encode(self, request: Request, date: bytes, *, close: bool) -> bytes:
        """Return head and body as one buffer: one write, one packet where it is small."""
        lines = ""
        if self.headers:
            lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        if close:
            lines += "connection: close\r\n"
        elif request.old:
            lines += "connection: keep-alive\r\n"
        return (
            b"%bdate: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            b"cache-control: no-store\r\nx-content-type-options: nosniff\r\n%b\r\n%b"
            % (
                _STATUS[self.status],
                date,
                self.content_type,
                len(self.body),
                request.request_id.encode(),
                lines.encode(),
                self.body,
            )
        )


def problem_response(error: BaseException) -> Response:
    """Return the problem document for `error`."""
    problem = Problem.of(error)
    headers: dict[str, str] = {}
    if problem.retry_after_seconds is not None:
        headers["retry-after"] = str(problem.retry_after_seconds)
    if isinstance(error, ApiError) and error.allow is not None:
        headers["allow"] = error.allow
    return Response(problem.status, _PROBLEM, problem.to_json(), headers, problem.code)


_PREFIX = secrets.token_hex(6)
_count = 0


def new_request_id(given: str | None) -> str:
    """Return the client's own id where it is short and harmless in a log, else a new one.

    New ids are a random prefix of this process and a count: unique, and cheaper than random bytes each time.
    """
    global _count
    if given and _REQUEST_ID.fullmatch(given):
        return given
    _count += 1
    return f"{_PREFIX}-{_count:x}"


def http_date() -> bytes:
    """Return the Date header's value."""
    return formatdate(usegmt=True).encode()
