"""Every way in which a value may stand somewhere is a pattern, and nothing that is too short."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.testing.leaks import MIN_LENGTH, LeakSearchError, patterns

NUMBERS = st.from_regex(r"[0-9]{3}-[0-9]{4}-[0-9]{4}", fullmatch=True)
TEXTS = st.text(min_size=MIN_LENGTH, max_size=40).filter(lambda text: text.isprintable())


def data(value):
    return {pattern.data for pattern in patterns([value])}


def in_some(value, haystack):
    return any(needle in haystack for needle in data(value))


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", b"010-1234-5678"),
        ("utf-8", b"01012345678"),
        ("utf-16-le", "010-1234-5678".encode("utf-16-le")),
        ("utf-16-be", "01012345678".encode("utf-16-be")),
        ("utf-32-le", "01012345678".encode("utf-32-le")),
        ("hex", b"3031302d313233342d35363738"),
        ("hex", b"3031302D313233342D35363738"),
        ("base64+0", b"MDEwLTEyMzQtNTY3O"),
        ("base64+1", b"AxMC0xMjM0LTU2Nz"),
        ("base64+2", b"wMTAtMTIzNC01Njc4"),
    ],
)
def test_forms_of_a_number(encoding, expected):
    assert (encoding, expected) in {(p.encoding, p.data) for p in patterns(["010-1234-5678"])}


@given(NUMBERS, st.binary(max_size=5), st.binary(max_size=5))
def test_base64_of_whatever_surrounds_it(number, before, after):
    whole = before + number.encode() + after
    assert in_some(number, base64.b64encode(whole))
    assert in_some(number, base64.urlsafe_b64encode(whole))
    assert in_some(number, base64.b64encode(before + number.replace("-", "").encode() + after))


@given(TEXTS, st.text(max_size=5))
def test_any_text_in_any_encoding(text, around):
    whole = around + text + around
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"):
        assert in_some(text, whole.encode(encoding))
    assert in_some(text, whole.encode().hex().encode())
    assert in_some(text, json.dumps(whole).encode()), "JSON escapes what is not ASCII"
    assert in_some(text, base64.b64encode(whole.encode()))


@given(st.binary(min_size=MIN_LENGTH, max_size=40), st.binary(max_size=5))
def test_keys_are_bytes(key, around):
    whole = around + key + around
    for haystack in (whole, whole.hex().encode(), whole.hex().upper().encode(), base64.b64encode(whole)):
        assert in_some(key, haystack)


def test_nothing_is_searched_for_twice():
    found = [pattern.data for pattern in patterns(["0101234567890"])]
    assert len(found) == len(set(found))


def test_compact_form_only_where_enough_is_left():
    assert b"021234567" not in data("02-123-4567")
    assert b"02-123-4567" in data("02-123-4567")


@pytest.mark.parametrize("value", ["", "010-1234", b"short"])
def test_short_values_are_refused_not_passed_over(value):
    with pytest.raises(LeakSearchError) as caught:
        list(patterns(["0101234567890", value]))
    assert caught.value.code == "value_too_short"
    assert "value 1 " in str(caught.value)


def test_a_pattern_does_not_show_its_value():
    shown = repr(list(patterns(["010-1234-5678"])))
    assert "1234" not in shown
    assert "base64+2" in shown
