"""As much HTTP/1.1 as a POST to KMS needs: one request, one answer, the connection closed (RFC 9112)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from geumgo.keys.errors import KmsError

__all__ = ("MAX_BODY", "MAX_HEAD", "Reader", "Response", "encode_request", "read_response")

MAX_HEAD = 16 << 10
"""Bytes of a status line and its headers; KMS sends less than 1 KiB."""

MAX_BODY = 256 << 10
"""Bytes of an answer: KMS's largest, a page of keys, stays under 128 KiB."""

MAX_INFORMATIONAL = 4
"""1xx answers to skip; KMS sends none."""

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_HEX = re.compile(rb"[0-9a-fA-F]{1,8}")
_DIGITS = re.compile(r"[0-9]{1,10}", re.ASCII)


class Reader(Protocol):
    """Where the answer's bytes come from."""

    async def receive(self) -> bytes:
        """Return the next bytes, empty at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


def encode_request(headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the bytes of ``POST /`` with `headers`, a content-length and ``connection: close``.

    Raises:
        KmsError: ``invalid_kms_request``: a header that would not stay one line.
    """
    lines = ["POST / HTTP/1.1"]
    for name, value in headers.items():
        if not value.isascii() or not value.isprintable():
            raise KmsError(f"the header {name} has characters that HTTP forbids", code="invalid_kms_request")
        lines.append(f"{name}: {value}")
    lines += [f"content-length: {len(body)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode("ascii") + body


async def read_response(reader: Reader) -> Response:
    """Read one answer.

    Raises:
        KmsError: ``kms_protocol``: not HTTP, over a limit, or cut off.
    """
    buffer = _Buffer(reader)
    for _ in range(MAX_INFORMATIONAL + 1):
        status, headers = _parse_head(await buffer.until(b"\r\n\r\n", MAX_HEAD))
        if status >= 200:
            return Response(status, headers, await _read_body(buffer, headers))
    raise _protocol("too many informational answers")


async def _read_body(buffer: _Buffer, headers: Mapping[str, str]) -> bytes:
    encoding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if encoding is not None:
        if encoding.lower() != "chunked" or length is not None:
            raise _protocol("its length is ambiguous")
        return await _read_chunks(buffer)
    if length is None:
        return await buffer.rest(MAX_BODY)
    if _DIGITS.fullmatch(length) is None or int(length) > MAX_BODY:
        raise _protocol("its length is over the limit")
    return await buffer.exactly(int(length))


async def _read_chunks(buffer: _Buffer) -> bytes:
    chunks: list[bytes] = []
    total = 0
    while True:
        line = await buffer.until(b"\r\n", MAX_HEAD)
        digits = line.split(b";", 1)[0].strip()
        if _HEX.fullmatch(digits) is None:
            raise _protocol("a chunk has no length")
        size = int(digits, 16)
        total += size
        if total > MAX_BODY:
            raise _protocol("it is over the limit")
        if size == 0:
            while await buffer.until(b"\r\n", MAX_HEAD):  # trailers say nothing to us
                pass
            return b"".join(chunks)
        chunks.append(await buffer.exactly(size))
        if await buffer.exactly(2) != b"\r\n":
            raise _protocol("a chunk does not end")


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise _protocol("it is not HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise _protocol("a header is malformed")
        name = match[1].decode("ascii").lower()
        if name in headers and name in ("content-length", "transfer-encoding"):
            raise _protocol("its length is ambiguous")
        headers[name] = match[2].decode("latin-1")
    return int(status[1]), headers


def _protocol(what: str) -> KmsError:
    return KmsError(f"the key service's answer can't be read: {what}", code="kms_protocol", retryable=True)


class _Buffer:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._data = bytearray()

    async def until(self, mark: bytes, limit: int) -> bytes:
        """Return what precedes `mark` and step over it."""
        searched = 0
        while (at := self._data.find(mark, searched)) < 0:
            if len(self._data) > limit:
                raise _protocol("its head is over the limit")
            searched = max(0, len(self._data) - len(mark) + 1)
            await self._more()
        if at > limit:
            raise _protocol("its head is over the limit")
        return self._take(at, len(mark))

    async def exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            await self._more()
        return self._take(size, 0)

    async def rest(self, limit: int) -> bytes:
        while len(self._data) <= limit:
            data = await self._reader.receive()
            if not data:
                return self._take(len(self._data), 0)
            self._data += data
        raise _protocol("it is over the limit")

    async def _more(self) -> None:
        data = await self._reader.receive()
        if not data:
            raise _protocol("it was cut off")
        self._data += data

    def _take(self, size: int, skip: int) -> bytes:
        taken = bytes(self._data[:size])
        del self._data[: size + skip]
        return taken
