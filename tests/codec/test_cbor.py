"""Strict CBOR: one reading for accepted bytes, one error for all others."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geumgo.codec import cbor

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.binary(max_size=20)
    | st.text(max_size=20)
    | st.floats(allow_nan=False)
)
KEYS = st.sampled_from(
    [st.text(max_size=12), st.binary(max_size=12), st.integers(0, 1 << 40), st.integers(-(1 << 40), -1)]
)


def _containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    maps = KEYS.flatmap(lambda keys: st.dictionaries(keys, children, max_size=4))
    return st.lists(children, max_size=4) | maps


VALUES = st.recursive(SCALARS, _containers, max_leaves=12)


@given(VALUES)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert cbor.loads(cbor.dumps(value), deterministic=True) == value


@given(VALUES)
def test_the_encoding_does_not_depend_on_the_order_of_a_map(value: Any) -> None:
    assert cbor.dumps(_reversed(value)) == cbor.dumps(value)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(item) for key, item in reversed(value.items())}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=40), st.integers(0, 9), max_size=8))
def test_keys_are_sorted_bytewise_as_rfc_8949_wants(value: dict[str, int]) -> None:
    keys = [cbor2.dumps(key) for key in cbor2.loads(cbor.dumps(value))]
    assert keys == sorted(keys)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(type(k) in (str, int, bytes) and _is_plain(v) for k, v in value.items())
    return type(value) in (type(None), bool, int, float, bytes, str)


@settings(max_examples=400)
@given(st.binary(max_size=64))
@example(b"\xf8\xff")
@example(b"\xd9\xd9\xf7\x00")
@example(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff")
def test_any_bytes_give_plain_values_or_our_error(data: bytes) -> None:
    with contextlib.suppress(cbor.CborError):
        assert _is_plain(cbor.loads(data))


@settings(max_examples=200)
@given(VALUES, st.data())
def test_damaged_items_give_plain_values_or_our_error(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(cbor.dumps(value))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(cbor.CborError):
        assert _is_plain(cbor.loads(bytes(encoded)))


@given(VALUES, st.binary(min_size=1, max_size=3))
def test_nothing_may_follow_the_item(value: Any, rest: bytes) -> None:
    with pytest.raises(cbor.CborError):
        cbor.loads(cbor.dumps(value) + rest)


@given(VALUES)
def test_every_shorter_piece_is_refused(value: Any) -> None:
    encoded = cbor.dumps(value)
    for size in range(len(encoded)):
        with pytest.raises(cbor.CborError):
            cbor.loads(encoded[:size])


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param("", id="nothing"),
        pytest.param("0000", id="two items"),
        pytest.param("a2616100616101", id="duplicate text key"),
        pytest.param("a2010061", id="truncated map"),
        pytest.param("a201f50100", id="duplicate integer key"),
        pytest.param("9f00ff", id="indefinite array"),
        pytest.param("bf616100ff", id="indefinite map"),
        pytest.param("5f4100ff", id="indefinite bytes"),
        pytest.param("7f6161ff", id="indefinite text"),
        pytest.param("ff", id="break alone"),
        pytest.param("61ff", id="text that is not UTF-8"),
        pytest.param("63eda080", id="text with a surrogate"),
        pytest.param("1c", id="reserved length"),
        pytest.param("f7", id="undefined"),
        pytest.param("81f7", id="undefined inside"),
        pytest.param("a16161f7", id="undefined as a value"),
        pytest.param("e0", id="unassigned simple value"),
        pytest.param("f820", id="simple value of two bytes"),
        pytest.param("f818", id="reserved simple value"),
        pytest.param("a1f500", id="boolean key"),
        pytest.param("a1f600", id="null key"),
        pytest.param("a1f93c0000", id="float key"),
        pytest.param("a18000", id="array key"),
        pytest.param("a1a000", id="map key"),
    ],
)
def test_what_has_no_one_reading_is_refused(encoded: str) -> None:
    with pytest.raises(cbor.CborError) as caught:
        cbor.loads(bytes.fromhex(encoded))
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param("c074323031332d30332d32315432303a30343a30305a", id="0 date text"),
        pytest.param("c11a514b67b0", id="1 epoch"),
        pytest.param("c24101", id="2 big number"),
        pytest.param("c34101", id="3 negative big number"),
        pytest.param("c48221196ab3", id="4 decimal fraction"),
        pytest.param("d280", id="18 COSE_Sign1"),
        pytest.param("d81901", id="25 string reference"),
        pytest.param("d81c80", id="28 shareable"),
        pytest.param("d81c81d81d00", id="29 reference to itself"),
        pytest.param("d9010080", id="256 string namespace"),
        pytest.param("d9010280", id="258 set"),
        pytest.param("d9d9f700", id="55799 self-described"),
        pytest.param("db7fffffffffffffff00", id="one that nobody knows"),
        pytest.param("81d280", id="inside an array"),
        pytest.param("a16161d280", id="inside a map"),
    ],
)
def test_tags_are_refused_unless_allowed(encoded: str) -> None:
    with pytest.raises(cbor.CborError):
        cbor.loads(bytes.fromhex(encoded))


def test_an_allowed_tag_arrives_as_it_stands_also_one_that_cbor2_would_follow() -> None:
    value = cbor.loads(bytes.fromhex("d2d81c80"), tags=frozenset({18, 28}))
    assert (value.tag, value.value.tag, value.value.value) == (18, 28, [])
    with pytest.raises(cbor.CborError):
        cbor.loads(bytes.fromhex("d2d81c80"), tags=frozenset({18}))


def test_plain_values_are_demanded_behind_an_allowed_tag_too() -> None:
    with pytest.raises(cbor.CborError):
        cbor.loads(bytes.fromhex("d281f7"), tags=frozenset({18}))


@pytest.mark.parametrize("head", [b"\x81", b"\xd2", b"\xa1\x00"], ids=["arrays", "tags", "maps"])
def test_depth_is_bounded(head: bytes) -> None:
    tags = frozenset({18})
    cbor.loads(head * 15 + b"\x80", tags=tags)
    for depth in (17, 1000, 200_000):
        with pytest.raises(cbor.CborError):
            cbor.loads(head * depth + b"\x80", tags=tags)


def test_depth_can_be_set_lower() -> None:
    assert cbor.loads(b"\x81\x81\x00", max_depth=2) == [[0]]
    with pytest.raises(cbor.CborError):
        cbor.loads(b"\x81\x81\x81\x00", max_depth=2)


def test_size_is_bounded_and_says_so() -> None:
    assert cbor.loads(b"\x43abc", max_size=4) == b"abc"
    with pytest.raises(cbor.CborError) as caught:
        cbor.loads(b"\x44abcd", max_size=4)
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(kind: type) -> None:
    assert cbor.loads(kind(b"\x83\x01\x02\x03")) == [1, 2, 3]


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param("1800", id="integer in more bytes than needed"),
        pytest.param("580161", id="length in more bytes than needed"),
        pytest.param("a2616200616100", id="keys out of order"),
        pytest.param("a262616100616200", id="longer key first"),
        pytest.param("fb3ff0000000000000", id="float in more bytes than needed"),
    ],
)
def test_the_deterministic_form_can_be_demanded(encoded: str) -> None:
    data = bytes.fromhex(encoded)
    cbor.loads(data)
    with pytest.raises(cbor.CborError):
        cbor.loads(data, deterministic=True)


def test_floats_take_their_shortest_form() -> None:
    assert cbor.dumps(1.5) == bytes.fromhex("f93e00")
    assert math.isnan(cbor.loads(cbor.dumps(math.nan)))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({1: 0, "a": 0}, id="integer and text keys"),
        pytest.param({-1: 0, 1: 0}, id="negative and positive keys"),
        pytest.param({b"a": 0, "a": 0}, id="bytes and text keys"),
        pytest.param([{"x": {1: 0, "a": 0}}], id="deep inside"),
        pytest.param({True: 0}, id="boolean key"),
        pytest.param({None: 0}, id="null key"),
        pytest.param({1.5: 0}, id="float key"),
        pytest.param({(): 0}, id="tuple key"),
        pytest.param(object(), id="no CBOR type"),
        pytest.param({"a": [object()]}, id="no CBOR type inside"),
        pytest.param("\ud800", id="text that is not Unicode"),
    ],
)
def test_what_has_no_deterministic_encoding_is_refused(value: Any) -> None:
    with pytest.raises(cbor.CborError):
        cbor.dumps(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(cbor.CborError):
        cbor.dumps(value)


def test_errors_do_not_repeat_the_data() -> None:
    for data in (cbor2.dumps(cbor2.CBORTag(99, "s3cret")), cbor2.dumps("s3cret") + b"\x00", b"\x66s3cre"):
        with pytest.raises(cbor.CborError) as caught:
            cbor.loads(data)
        assert "s3cr" not in caught.value.diagnostics()
