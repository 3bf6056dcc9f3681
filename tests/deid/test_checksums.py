"""Check digits against numbers worked out by hand and by a second implementation (conftest)."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.deid._checksums import (
    birth_date,
    brn_is_valid,
    crn_is_valid,
    frn_is_valid,
    luhn_is_valid,
    rrn_is_valid,
)

digits = st.text("0123456789", min_size=1)


def exactly(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=count, max_size=count)


@pytest.mark.parametrize(
    ("seven", "born"),
    [
        pytest.param("9601011", date(1996, 1, 1), id="man of the 1900s"),
        pytest.param("0002294", date(2000, 2, 29), id="leap day"),
        pytest.param("9912319", date(1899, 12, 31), id="G=9 is the 1800s"),
        pytest.param("0001010", date(1800, 1, 1), id="G=0 is the 1800s"),
        pytest.param("8501015", date(1985, 1, 1), id="foreigner of the 1900s"),
        pytest.param("0501018", date(2005, 1, 1), id="foreigner of the 2000s"),
        pytest.param("9602311", None, id="31 February"),
        pytest.param("9702291", None, id="29 February of no leap year"),
        pytest.param("9613011", None, id="month 13"),
        pytest.param("9600101", None, id="month 0"),
        pytest.param("9601001", None, id="day 0"),
        pytest.param("960101", None, id="no seventh digit"),
    ],
)
def test_birth_date(seven, born):
    assert birth_date(seven) == born


def test_known_numbers():
    # 900101-1: 2·9+3·0+4·0+5·1+6·0+7·1+8·1+9·2+2·3+3·4+4·5+5·6 = 124, 124 mod 11 = 3, 11 − 3 = 8
    assert rrn_is_valid("9001011234568")
    assert not rrn_is_valid("9001011234567")
    assert not rrn_is_valid("9001011964568")  # region 96 does not exist
    assert luhn_is_valid("4111111111111111")
    assert luhn_is_valid("378282246310005")
    assert not luhn_is_valid("4111111111111112")
    assert not luhn_is_valid("0000000000000000")
    assert brn_is_valid("1208147521")
    assert not brn_is_valid("1208147522")
    assert crn_is_valid("1101110000002")


@pytest.mark.parametrize(
    ("name", "is_valid", "size"),
    [
        ("rrn", rrn_is_valid, 12),
        ("rrn", frn_is_valid, 12),
        ("brn", brn_is_valid, 9),
        ("crn", crn_is_valid, 12),
    ],
)
def test_exactly_one_check_digit_is_valid(check, name, is_valid, size):
    @given(exactly(size))
    def holds(first: str) -> None:
        if is_valid in (rrn_is_valid, frn_is_valid):
            first = first[:6] + ("5" if is_valid is frn_is_valid else "1") + "00" + first[9:]
        valid = [d for d in "0123456789" if is_valid(first + d)]
        assert valid == [check[name](first)[-1]]

    holds()


@given(exactly(15))
def test_luhn_catches_every_single_error(first):
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(first))
    number = first + str(-total % 10)
    if len(set(number)) == 1:
        return
    assert luhn_is_valid(number)
    for place in range(16):
        wrong = number[:place] + str((int(number[place]) + 1) % 10) + number[place + 1 :]
        assert not luhn_is_valid(wrong)
