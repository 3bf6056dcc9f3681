"""A strict reader of BER (X.690) for small structures such as CMS, and the few writers that tests and simulators need.

It follows definite and indefinite lengths, which is what AWS KMS sends, and refuses everything that no format
of ours uses: tags above 30, lengths of more than four octets, end-of-contents out of place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from geumgo._base import GeumgoError

__all__ = (
    "BIT_STRING",
    "INTEGER",
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "NULL",
    "OCTET_STRING",
    "OID",
    "SEQUENCE",
    "SET",
    "BerError",
    "Element",
    "context",
    "encode",
    "encode_indefinite",
    "encode_oid",
    "loads",
)

MAX_DEPTH = 16
"""Nesting that the reader follows; CMS EnvelopedData needs eight levels."""

MAX_ELEMENTS = 4096
"""Elements in one structure; a CiphertextForRecipient has about thirty."""

MAX_LENGTH_OCTETS = 4
"""Octets of a length; four give 4 GiB, far over every size limit."""

CONSTRUCTED = 0x20
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OID = 0x06
SEQUENCE = 0x30
SET = 0x31

_END_OF_CONTENTS = b"\x00\x00"


class BerError(GeumgoError):
    """Raised when bytes are not one BER element, or not the element that was expected."""

    code = "malformed"


def context(number: int, *, constructed: bool = True) -> int:
    """Return the identifier octet of the context-specific tag ``[number]``."""
    return 0x80 | (CONSTRUCTED if constructed else 0) | number


@dataclass(frozen=True, slots=True)
class Element:
    """One element.

    Attributes:
        tag: identifier octet, with class and constructed bit.
        content: contents of a primitive element.
        children: elements of a constructed one.
    """

    tag: int
    content: bytes
    children: tuple[Element, ...]

    def __repr__(self) -> str:
        return f"Element(tag=0x{self.tag:02x}, {len(self.children)} children, {len(self.content)} bytes)"

    @property
    def constructed(self) -> bool:
        """Whether it holds elements instead of bytes."""
        return bool(self.tag & CONSTRUCTED)

    def items(self, tag: int, least: int, most: int | None = None) -> tuple[Element, ...]:
        """Return the children of a constructed element of this tag, `least` to `most` (default `least`) of them.

        Raises:
            BerError: it is another element or has another number of children.
        """
        if self.tag != tag or not least <= len(self.children) <= (least if most is None else most):
            raise BerError(f"expected an element 0x{tag:02x} with at least {least} parts")
        return self.children

    def primitive(self, tag: int) -> bytes:
        """Return the contents of a primitive element of this tag.

        Raises:
            BerError: it is another element.
        """
        if self.tag != tag:
            raise BerError(f"expected an element 0x{tag:02x}")
        return self.content

    def octets(self, tag: int = OCTET_STRING) -> bytes:
        """Return the octets of an OCTET STRING, or of an implicitly tagged one, in either form (X.690 §8.7).

        Args:
            tag: identifier octet of the primitive form.

        Raises:
            BerError: it is another element; or segments that are themselves in segments.
        """
        if self.tag == tag:
            return self.content
        if self.tag != tag | CONSTRUCTED:
            raise BerError(f"expected octets of tag 0x{tag:02x}")
        return b"".join(child.primitive(OCTET_STRING) for child in self.children)

    def integer(self) -> int:
        """Return a small unsigned INTEGER.

        Raises:
            BerError: it is another element, negative, longer than needed or over 8 octets.
        """
        content = self.primitive(INTEGER)
        if not 1 <= len(content) <= 8 or content[0] & 0x80:
            raise BerError("expected a small unsigned INTEGER")
        if len(content) > 1 and content[0] == 0 and not content[1] & 0x80:
            raise BerError("an INTEGER is longer than needed")
        return int.from_bytes(content, "big")


def loads(data: bytes, *, max_size: int) -> Element:
    """Return the one element that `data` holds.

    Raises:
        BerError: more than `max_size` bytes, bytes that follow it, nested too deeply, too many elements,
            or not BER as this module reads it.
    """
    if len(data) > max_size:
        raise BerError(f"BER of {len(data)} bytes is over the limit of {max_size}", code="too_large")
    reader = _Reader(data)
    element = reader.element(len(data), 0)
    if reader.at != len(data):
        raise BerError("bytes follow the BER element")
    return element


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._elements = 0
        self.at = 0

    def element(self, end: int, depth: int) -> Element:
        self._elements += 1
        if depth > MAX_DEPTH or self._elements > MAX_ELEMENTS:
            raise BerError("BER is nested too deeply or has too many elements")
        tag = self._octet(end)
        if tag & 0x1F == 0x1F or tag == 0:
            raise BerError("BER has a tag that no format of ours uses")
        length = self._length(end)
        if tag & CONSTRUCTED:
            return Element(tag, b"", self._children(end, length, depth))
        if length is None:
            raise BerError("a primitive element has no length")
        content = self._data[self.at : self.at + length]
        self.at += length
        return Element(tag, content, ())

    def _children(self, end: int, length: int | None, depth: int) -> tuple[Element, ...]:
        children = []
        if length is not None:
            inner = self.at + length
            while self.at < inner:
                children.append(self.element(inner, depth + 1))
            return tuple(children)
        while self._data[self.at : min(self.at + 2, end)] != _END_OF_CONTENTS:
            children.append(self.element(end, depth + 1))
        self.at += 2
        return tuple(children)

    def _length(self, end: int) -> int | None:
        first = self._octet(end)
        if first == 0x80:
            return None
        if first < 0x80:
            length = first
        else:
            count = first & 0x7F
            if count > MAX_LENGTH_OCTETS:
                raise BerError("BER has a length of too many octets")
            length = 0
            for _ in range(count):
                length = length << 8 | self._octet(end)
        if length > end - self.at:
            raise BerError("BER ends within an element")
        return length

    def _octet(self, end: int) -> int:
        if self.at >= end:
            raise BerError("BER ends within an element")
        octet = self._data[self.at]
        self.at += 1
        return octet


def encode(tag: int, *parts: bytes) -> bytes:
    """Return an element of definite length (DER's form) whose contents are `parts`."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def encode_indefinite(tag: int, *parts: bytes) -> bytes:
    """Return a constructed element of indefinite length around the encoded elements `parts`."""
    return bytes((tag, 0x80)) + b"".join(parts) + _END_OF_CONTENTS


def encode_oid(dotted: str) -> bytes:
    """Return the element of an object identifier such as ``1.2.840.113549.1.7.1``."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    return encode(OID, b"".join(_base128((first * 40 + second, *rest))))


def _base128(arcs: Iterable[int]) -> Iterable[bytes]:
    for arc in arcs:
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(0x80 | arc & 0x7F)
        yield bytes(reversed(octets))
