"""Kind and metadata of a stream, as bytes and back (docs/spec/channel.md §4).

Most streams of a connection carry the same few kinds and metadata, so both directions remember what they
encoded and decoded; a unary call then costs no CBOR at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from types import MappingProxyType

import msgspec

from geumgo.channel._errors import MessageTooLarge, ProtocolError, UsageError
from geumgo.channel._settings import MAX_KIND, MAX_METADATA, MAX_METADATA_ITEMS
from geumgo.codec import cbor

__all__ = ("EMPTY", "Metadata", "OpenCodec", "Value")

Value = str | int | bool | bytes
Metadata = Mapping[str, Value]
EMPTY: Metadata = MappingProxyType({})

_CACHED_ENTRIES = 128
"""Different openings that are remembered a connection and direction; then all are forgotten at once."""
_CACHED_SIZE = 512
"""Bytes of an opening that is remembered, so that a peer can't fill memory through the cache."""
_SIZES = Struct(">BH")
_pack = msgspec.msgpack.Encoder().encode  # faster by far than tuples of items
_INT_MIN, _INT_MAX = -(1 << 63), (1 << 63) - 1


class OpenCodec:
    """Encodes and decodes the part of an OPEN between its deadline and its message."""

    __slots__ = ("_decoded", "_encoded")

    def __init__(self) -> None:
        self._encoded: dict[tuple[str, bytes], bytes] = {}
        self._decoded: dict[bytes, tuple[str, Metadata]] = {}

    def encode(self, kind: str, metadata: Metadata) -> bytes:
        """Return the sizes, the kind and the metadata.

        Raises:
            UsageError: the kind is empty or the metadata has other types than text, int, bool, bytes.
            MessageTooLarge: kind or metadata are over their limit.
        """
        key = kind, (_key(metadata) if metadata else b"")
        found = self._encoded.get(key)
        if found is None:
            found = _encode(kind, metadata)
            if len(found) <= _CACHED_SIZE:
                if len(self._encoded) >= _CACHED_ENTRIES:
                    self._encoded.clear()
                self._encoded[key] = found
        return found

    def decode(self, opening: bytes) -> tuple[str, Metadata]:
        """Return kind and metadata (read only) of the bytes that :meth:`encode` makes.

        Raises:
            ProtocolError: the bytes aren't such an opening.
        """
        found = self._decoded.get(opening)
        if found is None:
            found = _decode(opening)
            if len(opening) <= _CACHED_SIZE:
                if len(self._decoded) >= _CACHED_ENTRIES:
                    self._decoded.clear()
                self._decoded[opening] = found
        return found


def _key(metadata: Metadata) -> bytes:
    """Return bytes that differ where metadata differ, types included (True and 1 are equal as dict keys)."""
    try:
        return _pack(metadata)
    except (TypeError, ValueError, OverflowError):  # a mapping that isn't a dict; or not legal, said later
        return repr(sorted(metadata.items(), key=repr)).encode("utf-8", "backslashreplace")


def _encode(kind: str, metadata: Metadata) -> bytes:
    try:
        name = kind.encode()
        legal = all(type(key) is str and _is_value(value) for key, value in metadata.items())
        packed = cbor.dumps(dict(metadata)) if metadata and legal else b""
    except (UnicodeEncodeError, cbor.CborError):
        raise UsageError("kind or metadata hold text that is not Unicode") from None
    if not legal or not name:
        raise UsageError(
            "a stream has an empty kind, or metadata that is not text to text, integer, boolean or bytes"
        )
    if len(name) > MAX_KIND or len(packed) > MAX_METADATA or len(metadata) > MAX_METADATA_ITEMS:
        raise MessageTooLarge(
            f"a stream's kind is over {MAX_KIND} bytes or its metadata over {MAX_METADATA}",
            fix="Send content as messages.",
        )
    return _SIZES.pack(len(name), len(packed)) + name + packed


def _decode(opening: bytes) -> tuple[str, Metadata]:
    name_size, packed_size = _SIZES.unpack_from(opening)
    name = opening[_SIZES.size : _SIZES.size + name_size]
    packed = opening[_SIZES.size + name_size :]
    if not 1 <= name_size <= MAX_KIND or packed_size != len(packed) or packed_size > MAX_METADATA:
        raise ProtocolError("an OPEN's kind or metadata are out of range")
    try:
        kind = name.decode()
    except UnicodeDecodeError:
        raise ProtocolError("an OPEN's kind is not UTF-8") from None
    if not packed:
        return kind, EMPTY
    try:
        metadata = cbor.loads(packed, max_depth=2, max_size=MAX_METADATA)
    except cbor.CborError:
        raise ProtocolError("an OPEN's metadata is not strict CBOR") from None
    if (
        type(metadata) is not dict
        or len(metadata) > MAX_METADATA_ITEMS
        or not all(type(key) is str and _is_value(value) for key, value in metadata.items())
    ):
        raise ProtocolError("an OPEN's metadata is not a map of text to text, integer, boolean or bytes")
    return kind, MappingProxyType(metadata)


def _is_value(value: object) -> bool:
    kind = type(value)
    if kind is int:
        return _INT_MIN <= value <= _INT_MAX  # type: ignore[operator]
    return kind is str or kind is bool or kind is bytes
