"""Pseudonyms, encryption, date shifts: keyed, bound to purpose and scope."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.deid import Engine
from geumgo.deid._errors import BadValue
from geumgo.deid._keyed import Cipher, pseudonymiser
from geumgo.deid._rules import Encrypt, Pseudonym

KEY = bytes(range(32))
PSEUDONYM = {"technique": "pseudonym", "purpose": "p"}
ENCRYPT = {"technique": "encrypt", "purpose": "p"}


def test_a_pseudonym_is_what_the_specification_says():
    rule = Pseudonym("hex", 64, "", "none", "이름")
    scope = "이름".encode()
    message = b"geumgo/deid/pseudonym/v1\0" + len(scope).to_bytes(2, "big") + scope + "홍길동".encode()
    expected = hmac.new(KEY, message, hashlib.sha256)
    assert pseudonymiser(rule, KEY)("홍길동") == expected.hexdigest()
    rule = Pseudonym("base32", 51, "c-", "none", "이름")
    assert (
        pseudonymiser(rule, KEY)("홍길동") == "c-" + base64.b32encode(expected.digest())[:51].decode().lower()
    )


def test_pseudonym_formats(column):
    (name,) = column(PSEUDONYM, ["홍길동"])
    assert re.fullmatch(r"[a-z2-7]{20}", name)
    (name,) = column(PSEUDONYM | {"format": "hex", "length": 40, "prefix": "C"}, ["홍길동"])
    assert re.fullmatch(r"C[0-9a-f]{40}", name)


@pytest.mark.parametrize(
    ("normalise", "same", "different"),
    [
        ("none", ["a", "a"], ["a", "a "]),
        ("text", ["홍 길동", " 홍  길동 ", "홍　길동"], ["홍 길동", "홍길동"]),
        ("digits", ["010-1234-5678", "01012345678", "０１０ 1234 5678"], ["010-1234-5678", "010-1234-5679"]),
        ("alphanumeric", ["m-123", "M 123", "Ｍ１２３"], ["M123", "N123"]),
    ],
)
def test_pseudonym_normalisation(column, normalise, same, different):
    rule = PSEUDONYM | {"normalise": normalise}
    assert len(set(column(rule, same))) == 1
    assert len(set(column(rule, different))) == 2


def test_nothing_left_after_normalisation_is_said(column):
    assert column(PSEUDONYM | {"normalise": "digits"}, ["없음"]) == ["bad_character"]


def test_pseudonyms_differ_by_field_purpose_and_key_unless_the_scope_is_shared(engine, policy, random):
    fields = {
        "a": PSEUDONYM,
        "b": PSEUDONYM,
        "c": PSEUDONYM | {"purpose": "q"},
        "d": PSEUDONYM | {"scope": "a"},
    }
    columns = list(fields)
    ((a, b, c, d),) = engine(fields).deidentify(columns, [["홍길동"] * 4]).rows
    assert len({a, b, c}) == 3
    assert d == a
    other = Engine(policy(fields), lambda purpose, use: bytes(32), random=random)
    assert other.deidentify(columns, [["홍길동"] * 4]).rows[0][0] != a


def test_equal_values_are_equal_and_results_repeat(column):
    first = column(PSEUDONYM, ["a", "b", "a"])
    assert first[0] == first[2] != first[1]
    assert column(PSEUDONYM, ["a", "b", "a"]) == first


@given(
    st.text(min_size=1, max_size=50).filter(lambda s: s.isprintable()),
    st.sampled_from(["random", "deterministic"]),
)
def test_what_is_encrypted_comes_back(value, mode):
    nonces = iter(range(1000))
    cipher = Cipher(Encrypt(mode, 16, "x"), KEY, lambda n: next(nonces).to_bytes(n, "big"))
    sealed = cipher.encrypt(value)
    assert re.fullmatch(r"g1[rd]\.[A-Za-z0-9_-]+", sealed)
    assert value not in sealed or len(value) < 3
    assert cipher.decrypt(sealed) == value


def test_modes(column):
    one, two = column(ENCRYPT, ["a", "a"])
    assert one != two
    one, two = column(ENCRYPT | {"mode": "deterministic"}, ["a", "a"])
    assert one == two


def test_padding_hides_lengths(column):
    got = column(ENCRYPT, ["가", "가나다", "가나다라마"])
    assert len({len(x) for x in got}) == 1
    got = column(ENCRYPT | {"pad": 1}, ["가", "가나다", "가나다라마"])
    assert len({len(x) for x in got}) == 3


@pytest.mark.parametrize("mode", ["random", "deterministic"])
def test_changed_ciphertexts_do_not_open(mode):
    cipher = Cipher(Encrypt(mode, 16, "x"), KEY, lambda n: bytes(n))
    sealed = cipher.encrypt("홍길동")
    raw = base64.urlsafe_b64decode(sealed[4:] + "==")
    for i in range(len(raw)):
        changed = bytes(b ^ (1 if j == i else 0) for j, b in enumerate(raw))
        with pytest.raises(BadValue, match="does_not_open"):
            cipher.decrypt(sealed[:4] + base64.urlsafe_b64encode(changed).rstrip(b"=").decode())


def test_ciphertexts_open_only_under_their_scope_key_and_mode():
    rule = Encrypt("random", 16, "x")
    sealed = Cipher(rule, KEY, lambda n: bytes(n)).encrypt("a")
    others = [
        Cipher(Encrypt("random", 16, "y"), KEY, lambda n: bytes(n)),
        Cipher(rule, bytes(32), lambda n: bytes(n)),
    ]
    for cipher in others:
        with pytest.raises(BadValue):
            cipher.decrypt(sealed)
    with pytest.raises(BadValue):
        Cipher(rule, KEY, lambda n: bytes(n)).decrypt("g1d" + sealed[3:])


@given(st.one_of(st.text(max_size=60), st.text("ABCab01-_=", max_size=80).map(lambda s: "g1r." + s)))
def test_garbage_does_not_open(value):
    cipher = Cipher(Encrypt("random", 16, "x"), KEY, lambda n: bytes(n))
    with pytest.raises(BadValue, match="does_not_open"):
        cipher.decrypt(value)


def test_lone_surrogates_are_bad_characters(column):
    assert column(PSEUDONYM, ["\ud800"]) == ["bad_character"]
    assert column(ENCRYPT, ["\ud800"]) == ["bad_character"]


# Date shift

SHIFT = {"technique": "date_shift", "by": "id", "days": 30, "purpose": "p"}


def shifted(engine, rows, fields=None):
    fields = {"id": {"technique": "keep"}, "in": SHIFT, "out": SHIFT} | (fields or {})
    return engine(fields).deidentify(["id", "in", "out"], rows)


def test_all_dates_of_a_subject_move_together_and_keep_their_form(engine):
    result = shifted(engine, [["1", "2026-01-10", "2026년 1월 20일"], ["1", "2025.1.10", "20250120"]])
    moves = set()
    for (_, begin, end), (first, last) in zip(
        result.rows,
        [(date(2026, 1, 10), date(2026, 1, 20)), (date(2025, 1, 10), date(2025, 1, 20))],
        strict=True,
    ):
        moves |= {date(*map(int, re.findall(r"\d+", begin))) - first}
        parts = re.findall(r"\d+", end)
        day = date(*map(int, parts)) if len(parts) == 3 else date.fromisoformat(end)
        moves |= {day - last}
    assert len(moves) == 1
    (move,) = moves
    assert 1 <= abs(move.days) <= 30
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result.rows[0][1])
    assert re.fullmatch(r"\d{4}년 \d+월 \d+일", result.rows[0][2])
    assert re.fullmatch(r"\d{4}\.\d+\.\d+", result.rows[1][1])
    assert re.fullmatch(r"\d{8}", result.rows[1][2])


def test_subjects_move_differently_and_never_by_nothing(engine):
    result = shifted(engine, [[str(n), "2026-06-15", ""] for n in range(300)])
    days = [(date.fromisoformat(row[1]) - date(2026, 6, 15)).days for row in result.rows]
    assert 0 not in days
    assert min(days) >= -30
    assert max(days) <= 30
    assert len(set(days)) > 40


def test_date_shift_says_what_is_wrong(engine):
    result = shifted(
        engine, [["", "2026-01-01", ""], [None, "2026-01-01", ""], ["1", "soon", ""], ["1", "9999-12-31", ""]]
    )
    codes = [(r.row, r.field, r.code) for r in result.rejected]
    assert codes[:3] == [(0, "in", "no_subject"), (1, "in", "no_subject"), (2, "in", "not_a_date")]


def test_dates_at_the_end_of_the_calendar(engine):
    for text in ("1000-01-01",):
        assert shifted(engine, [["1", text, ""]]).rows[0][1] != text
