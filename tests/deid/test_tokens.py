"""Tokens keep length, form, separators and kept ends, and come back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.deid._errors import BadValue
from geumgo.deid._rules import ALPHABETS, MAX_SYMBOLS, Token
from geumgo.deid._tokens import SEPARATORS, Tokeniser

KEY = bytes(range(32))


def tokeniser(alphabet="digits", first=0, last=0, least=None, most=None, scope="x", key=KEY):
    least = least or {"digits": 6, "upper": 4, "alphanumeric": 4}[alphabet]
    return Tokeniser(Token(alphabet, first, last, least, most or MAX_SYMBOLS[alphabet], scope), key)


@pytest.mark.parametrize(
    ("options", "value", "form"),
    [
        ({}, "900101-1234568", r"\d{6}-\d{7}"),
        ({"first": 3}, "010-1234-5678", r"010-\d{4}-\d{4}"),
        ({"last": 4}, "4111-1111-1111-1111", r"\d{4}-\d{4}-\d{4}-1111"),
        ({"first": 6, "last": 4}, "4111 1111 1111 1111", r"4111 11\d\d \d{4} 1111"),
        ({}, "+82 (0)10.1234.5678", r"\+\d\d \(\d\)\d\d\.\d{4}\.\d{4}"),
        ({}, "９００１０１－１２３４５６８", r"[０-９]{6}－[０-９]{7}"),
        ({}, "010–1234–5678", r"\d{3}–\d{4}–\d{4}"),
        ({"alphabet": "upper"}, "M123A4567", r"[0-9A-Z]{9}"),
        ({"alphabet": "upper", "first": 1}, "M123-A4567", r"M[0-9A-Z]{3}-[0-9A-Z]{5}"),
        ({"alphabet": "alphanumeric"}, "aB3_xyZ.9", r"[0-9A-Za-z]{3}_[0-9A-Za-z]{3}\.[0-9A-Za-z]"),
        ({"alphabet": "upper"}, "ＡＢＣ１２３", r"[０-９Ａ-Ｚ]{6}"),
    ],
)
def test_form(options, value, form):
    work = tokeniser(**options)
    token = work.encrypt(value)
    assert re.fullmatch(form, token)
    assert token != value
    assert work.decrypt(token) == value
    assert work.encrypt_many([value, value]) == [token, token]


@pytest.mark.parametrize(
    ("options", "value", "code"),
    [
        ({}, "12345", "bad_length"),
        ({}, "1" * 57, "bad_length"),
        ({"first": 3}, "12345678", "bad_length"),
        ({"first": 9, "last": 9}, "1234", "bad_length"),
        ({"least": 13, "most": 13}, "123456789012", "bad_length"),
        ({}, "---", "bad_length"),
        ({}, "12345a", "bad_character"),
        ({}, "홍길동 010-1234-5678", "bad_character"),
        ({}, "010-1234-5678\n", "bad_character"),
        ({"alphabet": "upper"}, "m123a4567", "bad_character"),
        ({}, "१२३४५६७", "bad_character"),
        ({}, "12" + "-" * 65 + "345678", "bad_character"),
        ({}, "1" * 5000, "too_long"),
    ],
)
def test_what_is_not_taken_is_said_and_nothing_of_it_passes(options, value, code):
    work = tokeniser(**options)
    for function in (work.encrypt, work.decrypt):
        with pytest.raises(BadValue) as caught:
            function(value)
        assert caught.value.code == code
    (error,) = work.encrypt_many([value])
    assert isinstance(error, BadValue)
    assert error.code == code


def values(alphabet: str) -> st.SearchStrategy[str]:
    symbols = st.sampled_from(ALPHABETS[alphabet])
    separator = st.sampled_from(["", "", "", *SEPARATORS, "－", "–"])
    return st.lists(st.tuples(separator, symbols), min_size=10, max_size=24).map(
        lambda parts: "".join(a + b for a, b in parts)
    )


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    alphabet=st.sampled_from(sorted(ALPHABETS)),
    first=st.integers(0, 2),
    last=st.integers(0, 2),
)
def test_tokens_come_back_with_their_form(data, alphabet, first, last):
    work = tokeniser(alphabet, first, last)
    batch = data.draw(st.lists(values(alphabet), min_size=1, max_size=8))
    tokens = work.encrypt_many(batch)
    for value, token in zip(batch, tokens, strict=True):
        assert work.encrypt(value) == token
        assert work.decrypt(token) == value
        assert len(token) == len(value)
        index = ALPHABETS[alphabet]
        assert [c for c in token if c not in index] == [c for c in value if c not in index]
        inner = [c for c in token if c in index], [c for c in value if c in index]
        assert inner[0][:first] == inner[1][:first]
        assert inner[0][len(inner[0]) - last :] == inner[1][len(inner[1]) - last :]


def test_tokens_depend_on_key_scope_alphabet_and_kept_ends():
    value = "4111111111111111"
    tokens = {
        tokeniser().encrypt(value),
        tokeniser(scope="y").encrypt(value),
        tokeniser(key=bytes(32)).encrypt(value),
        tokeniser("upper").encrypt(value),
        tokeniser("alphanumeric").encrypt(value),
    }
    assert len(tokens) == 5
    work = tokeniser(first=4, last=4)
    one, two = work.encrypt("4111-2222-3333-4444"), work.encrypt("4112-2222-3333-4444")
    assert one[5:14] != two[5:14], "equal middles of different cards must not show"


def test_separators_do_not_change_the_token():
    work = tokeniser()
    assert work.encrypt("010-1234-5678").replace("-", "") == work.encrypt("01012345678")


def test_different_values_have_different_tokens():
    work = tokeniser()
    tokens = work.encrypt_many([f"{n:06d}" for n in range(2000)])
    assert len(set(tokens)) == 2000


def test_many_layouts_do_not_pile_up():
    work = tokeniser()
    for n in range(1, 3000):
        spaced = f"{'-' * (n % 50)}{n:06d}{'-' * (n // 50 % 14)}123456"
        assert work.decrypt(work.encrypt(spaced)) == spaced
    assert len(work._layouts) <= 1024
