"""The strict BER reader, with asn1crypto as the second opinion."""

from __future__ import annotations

import pytest
from asn1crypto import core, parser
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.codec import ber
from geumgo.codec.ber import BerError, Element, loads


def read(data: bytes) -> Element:
    return loads(data, max_size=1 << 16)


def test_primitive() -> None:
    element = read(b"\x04\x03abc")
    assert (element.tag, element.content, element.children) == (ber.OCTET_STRING, b"abc", ())
    assert element.octets() == b"abc"
    assert not element.constructed


def test_definite_and_indefinite_are_one_value() -> None:
    parts = (ber.encode(ber.INTEGER, b"\x05"), ber.encode(ber.OCTET_STRING, b"x" * 200))
    assert read(ber.encode(ber.SEQUENCE, *parts)) == read(ber.encode_indefinite(ber.SEQUENCE, *parts))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_lengths(size: int) -> None:
    encoded = ber.encode(ber.OCTET_STRING, bytes(size))
    assert loads(encoded, max_size=1 << 17).content == bytes(size)
    assert core.OctetString(bytes(size)).dump() == encoded


@pytest.mark.parametrize(
    "oid", ["1.2.840.113549.1.7.3", "2.16.840.1.101.3.4.1.42", "2.5.4.3", "0.0", "1.3.6.1.4.1.99999999"]
)
def test_oid(oid: str) -> None:
    assert ber.encode_oid(oid) == core.ObjectIdentifier(oid).dump()


@pytest.mark.parametrize("value", [0, 1, 127, 128, 255, 256, 2**31, 2**62])
def test_integer(value: int) -> None:
    assert read(core.Integer(value).dump()).integer() == value


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x00\x01", b"\x01" * 9])
def test_bad_integer(content: bytes) -> None:
    with pytest.raises(BerError):
        read(ber.encode(ber.INTEGER, content)).integer()


def test_octets_in_segments() -> None:
    segments = (
        ber.encode(ber.OCTET_STRING, b"ab"),
        ber.encode(ber.OCTET_STRING, b""),
        ber.encode(ber.OCTET_STRING, b"c"),
    )
    for encoded in (ber.encode(0x24, *segments), ber.encode_indefinite(0x24, *segments)):
        assert read(encoded).octets() == b"abc"
    nested = ber.encode(0x24, ber.encode(0x24, *segments))
    with pytest.raises(BerError):
        read(nested).octets()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x04", id="no length"),
        pytest.param(b"\x04\x01", id="no content"),
        pytest.param(b"\x04\x00\x00", id="a byte too many"),
        pytest.param(b"\x04\x80\x00\x00", id="a primitive of indefinite length"),
        pytest.param(b"\x30\x80", id="no end of contents"),
        pytest.param(b"\x30\x80\x00", id="half an end of contents"),
        pytest.param(b"\x00\x00", id="end of contents alone"),
        pytest.param(b"\x30\x02\x00\x00", id="end of contents in a definite length"),
        pytest.param(b"\x30\x03\x30\x80\x00\x00\x00", id="end of contents past the parent's end"),
        pytest.param(b"\x1f\x81\x01\x00", id="a tag over 30"),
        pytest.param(b"\x04\x85\x00\x00\x00\x00\x00", id="a length of five octets"),
        pytest.param(b"\x04\xff", id="a reserved length"),
        pytest.param(b"\x04\x84\xff\xff\xff\xff", id="4 GiB"),
        pytest.param(b"\x30\x03\x04\x02a", id="a child longer than its parent"),
        pytest.param(b"\x30\x80" * 40 + b"\x00\x00" * 40, id="too deep"),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(BerError):
        read(data)


def test_element_limit() -> None:
    with pytest.raises(BerError):
        read(ber.encode(ber.SEQUENCE, b"\x05\x00" * (ber.MAX_ELEMENTS + 1)))


def test_size_limit() -> None:
    with pytest.raises(BerError) as caught:
        loads(bytes(11), max_size=10)
    assert caught.value.code == "too_large"


def test_expectations() -> None:
    element = read(ber.encode(ber.SEQUENCE, ber.encode(ber.NULL)))
    assert len(element.items(ber.SEQUENCE, 1)) == 1
    assert len(element.items(ber.SEQUENCE, 0, 2)) == 1
    for call in (
        lambda: element.items(ber.SET, 1),
        lambda: element.items(ber.SEQUENCE, 2),
        lambda: element.primitive(ber.SEQUENCE + 1),
        lambda: element.octets(),
        lambda: element.children[0].integer(),
    ):
        with pytest.raises(BerError):
            call()


@settings(max_examples=500)
@given(data=st.binary(max_size=60))
def test_garbage_is_read_or_refused_and_asn1crypto_agrees(data: bytes) -> None:
    try:
        element = read(data)
    except BerError:
        return
    # What we accept, asn1crypto must read as the same tag; the reverse need not hold, we are stricter.
    class_, method, tag, _, _, _ = parser.parse(data, strict=True)
    assert element.tag == class_ << 6 | method << 5 | tag


trees = st.recursive(
    st.binary(max_size=10).map(lambda content: ber.encode(ber.OCTET_STRING, content)),
    lambda inner: st.tuples(st.booleans(), st.lists(inner, max_size=4)).map(
        lambda made: (ber.encode_indefinite if made[0] else ber.encode)(ber.SEQUENCE, *made[1])
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(data=trees, cut=st.integers(1, 5))
def test_trees_are_read_whole_or_not(data: bytes, cut: int) -> None:
    def again(element: Element) -> bytes:
        return ber.encode(element.tag, element.content, *map(again, element.children))

    element = read(data)
    assert read(again(element)) == element
    with pytest.raises(BerError):
        read(data[:-cut])
