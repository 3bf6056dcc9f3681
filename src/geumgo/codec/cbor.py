"""Strict, deterministic CBOR (RFC 8949).

cbor2 alone ignores trailing bytes and accepts duplicate keys; evidence and sealed requests must have
exactly one reading.
"""

from __future__ import annotations

import io
from typing import Any

import cbor2

from geumgo._base import GeumgoError

__all__ = ("MAX_DEPTH", "CborError", "dumps", "loads")

MAX_DEPTH = 16
"""Nesting that a decoder follows; every format of ours needs fewer than eight levels."""


class CborError(GeumgoError):
    """Raised when bytes are not one strict CBOR item."""

    code = "malformed"


def dumps(value: Any) -> bytes:
    """Return the deterministic encoding of `value` (RFC 8949 §4.2.1, keys sorted bytewise)."""
    return cbor2.dumps(value, canonical=True)


def loads(data: bytes | bytearray | memoryview, *, max_depth: int = MAX_DEPTH, max_size: int = 16 << 20) -> Any:
    """Return the one CBOR item that `data` holds.

    Raises:
        CborError: more than `max_size` bytes, nested deeper than `max_depth`, trailing bytes, duplicate
            keys, indefinite lengths, or not CBOR at all.
    """
    if len(data) > max_size:
        raise CborError(f"CBOR of {len(data)} bytes is over the limit of {max_size}", code="too_large")
    stream = io.BytesIO(data)
    try:
        decoder = cbor2.CBORDecoder(
            stream, max_depth=max_depth, allow_indefinite=False, allow_duplicate_keys=False
        )
        value = decoder.decode()
    except (cbor2.CBORError, ValueError, OverflowError, RecursionError, TypeError, MemoryError) as error:
        raise CborError(f"not strict CBOR ({type(error).__name__})") from None
    if stream.read(1):
        raise CborError("bytes follow the CBOR item")
    return value
