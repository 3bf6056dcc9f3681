"""Strict, deterministic CBOR (RFC 8949).

cbor2 alone ignores trailing bytes, accepts duplicate keys, follows tags (shared references, big
numbers, dates) and hands out values that no format of ours uses; evidence and sealed requests must
have exactly one reading.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cbor2

from geumgo._base import GeumgoError

__all__ = ("MAX_DEPTH", "MAX_SIZE", "CborError", "Tag", "dumps", "loads")

MAX_DEPTH = 16
"""Nesting that a decoder follows; every format of ours needs fewer than eight levels."""

MAX_SIZE = 16 << 20
"""Bytes that a decoder looks at unless told otherwise: the largest message of a channel."""

Tag = cbor2.CBORTag
"""A tagged value (`.tag`, `.value`); `loads` returns it for the tags that the caller allowed, only."""

_SCALARS = frozenset({type(None), bool, int, float, bytes, str})


class CborError(GeumgoError):
    """Raised when bytes are not one strict CBOR item, or a value has no deterministic encoding."""

    code = "malformed"


class _Tags(Mapping[int, Callable[..., Any]]):
    """What the decoder asks for every tag it meets, cbor2's own tags included."""

    __slots__ = ("_allowed",)

    def __init__(self, allowed: frozenset[int]) -> None:
        self._allowed = allowed

    def __getitem__(self, tag: int) -> Callable[..., Any]:
        if tag not in self._allowed:
            return _refuse_tag
        return lambda value, *_: Tag(tag, value)

    def __iter__(self) -> Iterator[int]:
        return iter(self._allowed)

    def __len__(self) -> int:
        return len(self._allowed)


def _refuse_tag(*_: object) -> Any:
    raise cbor2.CBORDecodeError("tag")


_NO_TAGS: frozenset[int] = frozenset()
_REFUSE_ALL = _Tags(_NO_TAGS)


def dumps(value: Any) -> bytes:
    """Return the deterministic encoding of `value` (RFC 8949 §4.2.1, map keys sorted bytewise).

    Raises:
        CborError: a map has keys of different major types (cbor2 sorts by length first, which is the same
            order only within one major type), or a value is of a type that CBOR lacks.
    """
    try:
        _check_keys(value, 0)
        return cbor2.dumps(value, canonical=True)
    except CborError:
        raise
    except (cbor2.CBORError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise CborError(f"no CBOR for this value ({type(error).__name__})") from None


def loads(
    data: bytes | bytearray | memoryview,
    *,
    max_depth: int = MAX_DEPTH,
    max_size: int = MAX_SIZE,
    tags: frozenset[int] = _NO_TAGS,
    deterministic: bool = False,
) -> Any:
    """Return the one CBOR item that `data` holds, made of None, bool, int, float, bytes, str, list and dict.

    Args:
        data: the whole item.
        max_depth: containers and tags that may nest; an empty one at the bottom is not counted.
        max_size: bytes that `data` may have.
        tags: tag numbers that may occur; their values arrive as :data:`Tag`.
        deterministic: also demand that `data` is what :func:`dumps` makes of the value.

    Raises:
        CborError: more than `max_size` bytes, nested deeper than `max_depth`, trailing bytes, duplicate
            keys, keys that are neither text, bytes nor integers, indefinite lengths, a tag that isn't
            allowed, `undefined` or another simple value, or not CBOR at all.
    """
    if len(data) > max_size:
        raise CborError(f"CBOR of {len(data)} bytes is over the limit of {max_size}", code="too_large")
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            max_depth=max_depth,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            semantic_decoders=_Tags(tags) if tags else _REFUSE_ALL,
        ).decode()
    except (cbor2.CBORError, ValueError, OverflowError, RecursionError, TypeError, MemoryError) as error:
        raise CborError(f"not strict CBOR ({type(error).__name__})") from None
    if stream.read(1):
        raise CborError("bytes follow the CBOR item")
    _check_plain(value)
    if deterministic and dumps(value) != data:
        raise CborError("the CBOR is not in its deterministic form")
    return value


def _check_plain(value: Any) -> None:
    # The decoder bounded the depth, so this recursion is bounded too.
    kind = type(value)
    if kind in _SCALARS:
        return
    if kind is list:
        for item in value:
            if type(item) not in _SCALARS:
                _check_plain(item)
    elif kind is dict:
        for key, item in value.items():
            if type(key) not in (str, int, bytes):
                raise CborError("a CBOR map key is neither text, bytes nor an integer")
            if type(item) not in _SCALARS:
                _check_plain(item)
    elif kind is Tag:
        _check_plain(value.value)
    else:
        raise CborError("the CBOR holds an undefined or unassigned simple value")


def _check_keys(value: Any, depth: int) -> None:
    kind = type(value)
    if kind in _SCALARS:
        return
    if kind is dict or isinstance(value, Mapping):
        if len({_major_type(key) for key in value}) > 1:
            raise CborError("a map has keys of different types; their order would not be deterministic")
        children: Any = value.values()
    elif isinstance(value, list | tuple):
        children = value
    elif isinstance(value, Tag):
        children = (value.value,)
    else:
        return
    if depth >= MAX_DEPTH:
        raise CborError(f"the value nests deeper than {MAX_DEPTH}")
    for child in children:
        if type(child) not in _SCALARS:
            _check_keys(child, depth + 1)


def _major_type(key: Any) -> int:
    if isinstance(key, str):
        return 3
    if isinstance(key, bytes):
        return 2
    if isinstance(key, int) and not isinstance(key, bool):
        return 1 if key < 0 else 0
    raise CborError("a map key is neither text, bytes nor an integer")
