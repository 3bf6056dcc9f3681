"""The enclave API over HTTP: which request does what. No sockets here."""

from __future__ import annotations

import asyncio
import json
import re
from urllib.parse import parse_qsl

from geumgo.api._backend import Backend, Call
from geumgo.api._errors import ApiError
from geumgo.api._http_message import JSON, OCTETS, Request, Response, new_request_id, problem_response
from geumgo.api._metrics import CONTENT_TYPE, EdgeMetrics
from geumgo.api._settings import ApiSettings

__all__ = ("NONCE_SIZES", "OPERATION_NAME", "SEALED_TYPE", "USES", "HttpRoutes")

SEALED_TYPE = "application/vnd.geumgo.sealed"
OPERATION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NONCE_SIZES = range(16, 65)
"""Bytes of an asker's nonce: too short can be guessed or collected, 64 is what every hardware's field holds."""
USES = ("seal", "channel")
"""Uses that someone outside may ask for; `kms` evidence is made for the key service only."""

_SEALED = SEALED_TYPE.encode()
_OPERATIONS = "/v1/operations/"
_PAGES = {
    "/v1/attestation": "attestation",
    "/v1/enclaves": "enclaves",
    "/livez": "livez",
    "/readyz": "readyz",
    "/metrics": "metrics",
}
_METRICS = CONTENT_TYPE.encode()
_QUERY = "The query is not nonce= and use=seal or use=channel"


class HttpRoutes:
    """Answers parsed requests from a :class:`~geumgo.api.Backend`.

    Args:
        backend: what stands behind.
        settings: limits and times.
        metrics: what `/metrics` shows.
    """

    def __init__(self, backend: Backend, settings: ApiSettings, metrics: EdgeMetrics) -> None:
        self._backend = backend
        self._settings = settings
        self._metrics = metrics

    def begin(self, request: Request) -> None:
        """Decide from the head alone: route, largest body, deadline. The request id is set in any case.

        Raises:
            ApiError: no such page, wrong method, a header that can't be used.
        """
        given = request.headers.get(b"x-request-id")
        request.request_id = new_request_id(None if given is None else given.decode("latin-1"))
        request.deadline = request.started + self._settings.default_timeout
        try:
            target = request.target.decode("ascii")
        except UnicodeDecodeError:
            raise ApiError("The request target is not ASCII", code="malformed") from None
        request.path, _, request.query = target.partition("?")
        if request.path.startswith(_OPERATIONS):
            request.route = "operation"
            self._expect(request, "POST")
            name = request.path[len(_OPERATIONS) :]
            if not OPERATION_NAME.fullmatch(name):
                raise ApiError("No operation can have this name", code="unknown_operation")
            request.operation = name
            request.max_body = self._settings.max_body
            timeout = request.headers.get(b"geumgo-timeout-ms")
            if timeout is not None:
                request.deadline = request.started + self._timeout(timeout)
            return
        route = _PAGES.get(request.path)
        if route is None:
            raise ApiError("There is no such page", code="not_found")
        request.route = route
        self._expect(request, "GET")

    async def answer(self, request: Request) -> Response:
        """Return the answer to a whole request; every error is a problem document."""
        try:
            if request.route == "operation":
                return await self._operation(request)
            if request.route == "attestation":
                return await self._attestation(request)
            return self._page(request.route)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return problem_response(error)

    async def _operation(self, request: Request) -> Response:
        content_type = request.headers.get(b"content-type", OCTETS).partition(b";")[0].strip().lower()
        sealed = content_type == _SEALED
        call = Call(request.operation, sealed, request.deadline, request.request_id)
        body = await self._backend.call(call, request.body)
        # What is unsealed is answered in the form that was asked in: JSON operations speak JSON both ways.
        return Response(200, _SEALED if sealed else JSON if content_type == JSON else OCTETS, body)

    async def _attestation(self, request: Request) -> Response:
        try:
            query = dict(parse_qsl(request.query, keep_blank_values=True, max_num_fields=2))
        except ValueError:
            raise ApiError(_QUERY, code="malformed") from None
        try:
            nonce = bytes.fromhex(query.pop("nonce", ""))
        except ValueError:
            nonce = b""
        if len(nonce) not in NONCE_SIZES:
            raise ApiError(
                "The nonce is not 16 to 64 bytes in hexadecimal",
                fix="Ask with ?nonce= and 32 to 128 hexadecimal digits of your own random bytes",
                code="malformed",
            )
        use = query.pop("use", "seal")
        if use not in USES or query:
            raise ApiError(_QUERY, code="malformed")
        evidence = await self._backend.attest(nonce, use, deadline=request.deadline)
        return Response(200, JSON, evidence.to_json())

    def _page(self, route: str) -> Response:
        if route == "livez":
            return Response(200, JSON, b'{"live":true}')
        if route == "metrics":
            return Response(200, _METRICS, self._metrics.render())
        if route == "readyz":
            reason = self._backend.ready()
            if reason is not None:
                raise ApiError("Not ready", code=reason, retryable=True)
            return Response(200, JSON, b'{"ready":true}')
        body = json.dumps(
            {"enclaves": list(self._backend.enclaves())}, ensure_ascii=False, separators=(",", ":")
        )
        return Response(200, JSON, body.encode())

    def _expect(self, request: Request, method: str) -> None:
        if request.method != method:
            raise ApiError(f"This page answers {method} only", code="malformed", status=405, allow=method)

    def _timeout(self, text: bytes) -> float:
        milliseconds = int(text) if text.isdigit() and len(text) <= 9 else 0
        if milliseconds < 1:
            raise ApiError("Geumgo-Timeout-Ms is not a positive number of milliseconds", code="malformed")
        return min(milliseconds / 1000, self._settings.max_timeout)
