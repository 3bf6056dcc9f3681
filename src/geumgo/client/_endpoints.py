"""One gateway or manager over HTTP, and the choice among several."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from geumgo._base import CODES
from geumgo.client.errors import ClientError, GatewayError, Unreachable

__all__ = ("MAX_ANSWER", "SEALED", "Endpoint", "Endpoints", "NotDelivered")

SEALED = "application/vnd.geumgo.sealed"
MAX_ANSWER = 16 << 20
"""Bytes of an answer that a client reads; the channel's own cap on one message."""
MAX_PROBLEM = 64 << 10
"""Bytes of a problem document that a client reads."""


class NotDelivered(Unreachable):
    """Raised when no connection could be made, so the request was certainly not carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a status below 400."""

    body: bytes
    content_type: str


class Endpoint:
    """One base address: `http://host:port`, `https://…` or `unix:/path/to/enclave.sock`."""

    def __init__(self, address: str, *, connections: int) -> None:
        self.address = address
        transport: httpx2.AsyncHTTPTransport | None = None
        base = address
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        if address.startswith("unix:"):
            transport = httpx2.AsyncHTTPTransport(uds=address.removeprefix("unix:"), limits=limits)
            base = "http://localhost"
        elif not address.startswith(("http://", "https://")):
            raise ClientError(
                f"{address!r} is not the address of a gateway",
                fix="Use http://host:port, https://host:port or unix:/run/geumgo/enclave.sock.",
                code="bad_address",
            )
        # Proxies from the environment would see which operations are called; a gateway is dialled as named.
        self._http = httpx2.AsyncClient(
            base_url=base,
            transport=transport,
            limits=limits,
            trust_env=False,
            # Sealed bytes can't be compressed, and unpacking a stranger's archive is a risk for nothing.
            headers={"accept-encoding": "identity"},
        )

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}>"

    async def request(
        self,
        method: str,
        path: str,
        *,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; `timeout` seconds are for all of it, up to the answer's last byte.

        Raises:
            NotDelivered: no connection could be made.
            Unreachable: the connection broke or time ran out; the request may have been carried out.
            GatewayError: the answer is a problem document.
            ClientError: ``too_large``, or ``malformed`` for an answer that is compressed.
        """
        try:
            # httpx's own timeout is for each read: a byte now and then would hold the call for ever.
            async with (
                asyncio.timeout(timeout),
                self._http.stream(
                    method, path, content=body, headers=headers, params=params, timeout=timeout
                ) as response,
            ):
                cap = MAX_ANSWER if response.status_code < 400 else MAX_PROBLEM
                content = await _read(response, cap, self.address)
                if response.status_code >= 400:
                    raise _problem(response, content, self.address)
                return Answer(content, response.headers.get("content-type", ""))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise NotDelivered(
                f"{self.address} can't be reached ({type(error).__name__})",
                fix="Is the gateway running there?",
            ) from None
        except (httpx2.TimeoutException, TimeoutError):
            raise Unreachable(
                f"{self.address} gave no answer within {timeout:.1f} s",
                fix="Give the call more time, send smaller batches, or add enclaves.",
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise Unreachable(
                f"the connection to {self.address} broke ({type(error).__name__})",
                fix="Try again; if it stays so, look at the gateway and at what stands before it.",
            ) from None

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()


class Endpoints:
    """Several endpoints in turn: the one that answered last is asked first."""

    def __init__(self, addresses: tuple[str, ...], *, connections: int) -> None:
        if not addresses:
            raise ClientError("no gateway is named", fix="Pass at least one address.", code="bad_address")
        self._all = [Endpoint(address, connections=connections) for address in addresses]
        self._preferred = 0

    def order(self) -> list[Endpoint]:
        """Return all endpoints, the preferred one first."""
        return self._all[self._preferred :] + self._all[: self._preferred]

    def prefer(self, endpoint: Endpoint) -> None:
        """Ask `endpoint` first from now on."""
        self._preferred = self._all.index(endpoint)

    async def aclose(self) -> None:
        """Close all endpoints."""
        for endpoint in self._all:
            await endpoint.aclose()


async def _read(response: httpx2.Response, cap: int, where: str) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ClientError(
            f"{where} compressed its answer, which was not asked for",
            fix="Switch compression off in what stands between this client and the gateway.",
            code="malformed",
        )
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > cap:
            raise ClientError(
                f"the answer of {where} is over {cap} bytes",
                fix="No operation answers with so much: look at what answers there, or send smaller batches.",
                code="too_large",
            )
        parts.append(part)
    return b"".join(parts)


def _problem(response: httpx2.Response, content: bytes, where: str) -> GatewayError:
    """Read an RFC 9457 document; whatever is not one becomes `internal` or `unavailable`."""
    code = "unavailable" if response.status_code in (502, 503, 504) else "internal"
    retryable = code == "unavailable"
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        try:
            document = httpx2.Response(200, content=content).json()
        except ValueError:
            document = None
        if isinstance(document, dict) and isinstance(document.get("code"), str) and document["code"] in CODES:
            code = document["code"]
            retryable = document.get("retryable") is True
    try:
        retry_after = min(max(float(response.headers.get("retry-after", "")), 0.0), 60.0)
    except ValueError:
        retry_after = None
    return GatewayError(code, retryable=retryable, where=where, retry_after=retry_after)
