"""Each technique on one column: what it makes of good values, and what it says of bad ones."""

from __future__ import annotations

import math
import re
import statistics
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.deid._addresses import SIDO
from geumgo.deid._amounts import round_controlled, show
from geumgo.deid._dates import age_on, parse_date
from geumgo.deid._rules import Round


def test_suppress_keep_replace_and_missing_values(column):
    values = ["a", "", None]
    assert column({"technique": "suppress"}, values) == [None, None, None]
    assert column({"technique": "keep"}, values) == ["a", "", None]
    assert column({"technique": "replace", "with": "x"}, values) == ["x", "x", "x"]
    assert column({"technique": "mask"}, values) == ["*", "", None]


def test_replace_by_one_of_several(column):
    names = ["홍길동", "임꺽정", "성춘향"]
    got = column({"technique": "replace", "one_of": names}, ["누구"] * 200)
    assert set(got) == set(names)


MASKS = [
    pytest.param({}, "010-1234-5678", "***-****-****", id="all that is alphanumeric"),
    pytest.param({"keep_last": 4}, "010-1234-5678", "***-****-5678", id="last four"),
    pytest.param({"keep_first": 3, "keep_last": 2}, "010-1234-5678", "010-****-**78", id="both ends"),
    pytest.param({"keep_first": 6}, "900101-1234568", "900101-*******", id="first six"),
    pytest.param({"keep_last": 4}, "5678", "****", id="no longer than what is kept: all is covered"),
    pytest.param({"keep_first": 9, "keep_last": 9}, "5678", "****", id="shorter than what is kept"),
    pytest.param({"classes": ["digits"]}, "강남구 12번지 A동", "강남구 **번지 A동", id="digits only"),
    pytest.param({"classes": ["letters"]}, "강남구 12", "*** 12", id="letters only"),
    pytest.param({"classes": ["symbols", "digits", "letters"]}, "a-1 나", "*****", id="everything"),
    pytest.param({"with": "●"}, "홍길동", "●●●", id="another character"),
    pytest.param({"length": 3}, "12345678", "***", id="hidden length"),
    pytest.param({"length": 3, "keep_first": 1}, "hong gildong", "h***", id="hidden length and first"),
    pytest.param({"positions": [[1, 2], [5, 99]]}, "123-45678", "**3-4****", id="positions"),
    pytest.param({"positions": [[20, 21]]}, "12", "12", id="positions behind the end"),
    pytest.param({"classes": ["digits"], "keep_last": 1}, "가나", "가나", id="nothing of the class"),
    pytest.param({"as": "name"}, "홍길동", "홍*동", id="name of three"),
    pytest.param({"as": "name"}, "김철", "김*", id="name of two"),
    pytest.param({"as": "name"}, "남궁민수", "남**수", id="name of four"),
    pytest.param({"as": "name"}, "김", "*", id="name of one"),
    pytest.param({"as": "name", "length": 1}, "남궁민수", "남*수", id="name with hidden length"),
    pytest.param({"as": "name"}, "John Smith", "J*** S****", id="name in Latin letters"),
    pytest.param({"as": "name"}, "J Smith", "* S****", id="an initial"),
    pytest.param({"as": "email"}, "hong@example.com", "h***@example.com", id="e-mail"),
    pytest.param({"as": "email"}, "h@example.com", "*@example.com", id="e-mail of one letter"),
    pytest.param({"as": "email"}, "hong", "****", id="no e-mail"),
    pytest.param({"as": "email"}, "@example.com", "************", id="no local part"),
]


@pytest.mark.parametrize(("options", "value", "expected"), MASKS)
def test_mask(column, options, value, expected):
    assert column({"technique": "mask"} | options, [value]) == [expected]


@given(st.text(min_size=1, max_size=30), st.integers(0, 5), st.integers(0, 5))
def test_a_mask_never_shows_more_than_it_says(value, first, last):
    from geumgo.deid._masking import masker
    from geumgo.deid._options import Options
    from geumgo.deid._rules import Mask, Place

    rule = Mask.read(Options({"keep_first": first, "keep_last": last, "with": "●"}, ()), Place("x"))
    masked = masker(rule)(value)
    assert len(masked) == len(value)
    shown = sum(a == b and a.isalnum() for a, b in zip(value, masked, strict=True))
    assert shown <= first + last


DATES = [
    ("1996-02-03", "month", "1996-02"),
    ("1996.2.3", "quarter", "1996-Q1"),
    ("1996/07/03", "half", "1996-H2"),
    ("19960203", "year", "1996"),
    ("1996년 2월 3일", "decade", "1990s"),
    ("２００３－０５－０１", "year", "2003"),
    ("1996-02-03T10:11:12+09:00", "month", "1996-02"),
]


@pytest.mark.parametrize(("value", "to", "expected"), DATES)
def test_generalise_a_date(column, value, to, expected):
    assert column({"technique": "generalise", "as": "date", "to": to}, [value]) == [expected]


@pytest.mark.parametrize(
    "value",
    ["1996-02-30", "1996-13-01", "96-01-01", "yesterday", "1996-0203", "1996-02.03", "9" * 100, "3.5"],
)
def test_what_is_no_date_is_said(column, value):
    assert column({"technique": "generalise", "as": "date", "to": "year"}, [value]) == ["not_a_date"]
    assert column(
        {"technique": "generalise", "as": "date", "to": "year", "on_invalid": "suppress"}, [value]
    ) == [None]


AGES = [
    ({}, "1996-01-01", "30-39"),
    ({}, "1996-01-02", "20-29"),
    ({"band": 5}, "1996-01-02", "25-29"),
    ({"top": 80}, "1946-01-01", "80+"),
    ({"top": 80}, "1946-01-02", "70-79"),
    ({"bottom": 20}, "2010-01-01", "<20"),
    ({"source": "rrn"}, "960102-1234567", "20-29"),
    ({"source": "rrn"}, "0601013234567", "20-29"),
    ({"source": "age"}, "37세", "30-39"),
    ({"source": "age"}, "7", "0-9"),
    ({}, "2027-01-01", "out_of_range"),
    ({}, "1800-01-01", "out_of_range"),
    ({"source": "rrn"}, "961301-1234567", "not_a_registration_number"),
    ({"source": "rrn"}, "9601", "not_a_registration_number"),
    ({"source": "age"}, "old", "not_an_age"),
    ({"source": "age"}, "-3", "not_an_age"),
    ({"source": "age"}, "999", "out_of_range"),
]


@pytest.mark.parametrize(("options", "value", "expected"), AGES)
def test_generalise_an_age(column, options, value, expected):
    rule = {"technique": "generalise", "as": "age"} | options
    assert column(rule, [value], reference_date="2026-01-01") == [expected]


def test_age_on_birthdays():
    assert age_on(date(2000, 2, 29), date(2001, 2, 28)) == 0
    assert age_on(date(2000, 2, 29), date(2001, 3, 1)) == 1


ADDRESSES = [
    ("서울특별시 강남구 테헤란로 1", "서울특별시", "서울특별시 강남구"),
    ("서울 강남구 테헤란로 1", "서울특별시", "서울특별시 강남구"),
    ("(06236) 서울시  강남구, 테헤란로", "서울특별시", "서울특별시 강남구"),
    ("대한민국 경기도 성남시 분당구 판교역로", "경기도", "경기도 성남시"),
    ("강원도 춘천시", "강원특별자치도", "강원특별자치도 춘천시"),
    ("전라북도 전주시 완산구", "전북특별자치도", "전북특별자치도 전주시"),
    ("세종특별자치시 한누리대로 1", "세종특별자치시", "세종특별자치시"),
    ("경기도 양평군 양평읍", "경기도", "경기도 양평군"),
    ("강남구 테헤란로 1", "unknown_address", "unknown_address"),
    ("서울특별시", "서울특별시", "unknown_address"),
    ("서울역 앞", "unknown_address", "unknown_address"),
    ("nowhere", "unknown_address", "unknown_address"),
]


@pytest.mark.parametrize(("value", "sido", "sigungu"), ADDRESSES)
def test_generalise_an_address(column, value, sido, sigungu):
    assert column({"technique": "generalise", "as": "address", "to": "sido"}, [value]) == [sido]
    assert column({"technique": "generalise", "as": "address", "to": "sigungu"}, [value]) == [sigungu]


def test_there_are_seventeen_provinces():
    assert len(set(SIDO.values())) == 17
    assert all(SIDO[name] == name for name in SIDO.values())


AMOUNTS = [
    ({"width": 1_000_000}, "3,500,000원", "[3000000,4000000)"),
    ({"width": 1_000_000}, "4000000", "[4000000,5000000)"),
    ({"width": 1_000_000}, "-1", "[-1000000,0)"),
    ({"width": 100, "bottom": 100, "top": 500}, "99.9", "<100"),
    ({"width": 100, "bottom": 100, "top": 500}, "500", ">=500"),
    ({"width": 100, "bottom": 100, "top": 500}, "499", "[400,500)"),
    ({"width": "0.5"}, "1.25", "[1,1.5)"),
    ({"bounds": [0, 100, 1000]}, "100", "[100,1000)"),
    ({"bounds": [0, 100, 1000]}, "-5", "<0"),
    ({"bounds": [0, 100, 1000]}, "1000", ">=1000"),
    ({"bounds": [0]}, "₩ 7", ">=0"),
    ({"width": 10}, "many", "not_a_number"),
    ({"width": 10}, "1e5", "not_a_number"),
    ({"width": 10}, "1,23", "not_a_number"),
    ({"width": 10}, "9" * 50, "not_a_number"),
]


@pytest.mark.parametrize(("options", "value", "expected"), AMOUNTS)
def test_generalise_an_amount(column, options, value, expected):
    assert column({"technique": "generalise", "as": "amount"} | options, [value]) == [expected]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("plain", "1,499", "1000"),
        ("plain", "1500", "2000"),
        ("plain", "-1500", "-2000"),
        ("plain", "-1", "0"),
        ("down", "1999.9", "1000"),
        ("down", "-1", "-1000"),
        ("up", "1001", "2000"),
        ("up", "1000", "1000"),
        ("random", "3000", "3000"),
        ("plain", "x", "not_a_number"),
        ("controlled", "x", "not_a_number"),
    ],
)
def test_round(column, mode, value, expected):
    assert column({"technique": "round", "to": 1000, "mode": mode}, [value]) == [expected]


def test_random_rounding_goes_to_a_neighbour_and_is_right_on_average(column):
    got = [int(x) for x in column({"technique": "round", "to": 1000, "mode": "random"}, ["1250"] * 2000)]
    assert set(got) == {1000, 2000}
    assert 1200 < statistics.mean(got) < 1300


@given(
    st.lists(st.decimals(-(10**9), 10**9, places=2, allow_nan=False), max_size=50),
    st.sampled_from([1, 7, 1000]),
)
def test_controlled_rounding_keeps_the_total(numbers, unit):
    rule = Round(Decimal(unit), "controlled")
    rounded = [Decimal(x) for x in round_controlled(rule, numbers)]
    assert abs(sum(rounded) - sum(numbers)) <= Decimal(unit) / 2
    for number, to in zip(numbers, rounded, strict=True):
        assert to % unit == 0
        assert abs(to - number) < unit


def test_controlled_rounding_of_a_column(column):
    rule = {"technique": "round", "to": 10, "mode": "controlled", "on_invalid": "suppress"}
    assert column(rule, ["4", "4", None, "bad", "4", ""]) == ["0", "10", None, None, "0", ""]


@pytest.mark.parametrize("distribution", ["uniform", "laplace", "normal"])
def test_noise_is_centred_and_as_wide_as_it_says(column, distribution):
    rule = {"technique": "noise", "distribution": distribution, "scale": 100}
    got = [int(x) - 5000 for x in column(rule, ["5,000"] * 3000)]
    deviation = {"uniform": 100 / math.sqrt(3), "laplace": 100 * math.sqrt(2), "normal": 100}[distribution]
    assert abs(statistics.mean(got)) < 12
    assert 0.9 < statistics.pstdev(got) / deviation < 1.1
    if distribution == "uniform":
        assert max(map(abs, got)) <= 100


def test_noise_keeps_decimals_and_limits(column):
    rule = {"technique": "noise", "scale": 5}
    assert all(re.fullmatch(r"-?\d+\.\d\d", x) for x in column(rule, ["1.25"] * 50))
    assert all(re.fullmatch(r"-?\d+\.\d", x) for x in column(rule | {"decimals": 1}, ["7"] * 50))
    limited = column(rule | {"minimum": 0, "maximum": 3}, ["1"] * 200)
    assert {int(x) for x in limited} == {0, 1, 2, 3}
    assert column(rule, ["none"]) == ["not_a_number"]


@pytest.mark.parametrize(
    ("options", "value", "expected"),
    [
        ({"top": 100}, "250", ">=100"),
        ({"top": 100}, "100", ">=100"),
        ({"top": 100}, "99.50", "99.5"),
        ({"bottom": 10}, "3", "<=10"),
        ({"bottom": 10, "top": 100, "label": False}, "3", "10"),
        ({"bottom": 10, "top": 100, "label": False}, "1,000", "100"),
        ({"top": 100}, "?", "not_a_number"),
    ],
)
def test_top_and_bottom_coding(column, options, value, expected):
    assert column({"technique": "top_bottom"} | options, [value]) == [expected]


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=4))
def test_numbers_are_shown_without_exponents(number):
    assert Decimal(show(number)) == number
    assert re.fullmatch(r"-?\d+(\.\d*[1-9])?", show(number))


@settings(max_examples=50)
@given(
    st.dates(date(1000, 1, 1), date(2999, 12, 31)),
    st.sampled_from(["{:%Y-%m-%d}", "{:%Y%m%d}", "{:%Y/%m/%d}"]),
)
def test_dates_are_read_as_they_are_written(day, form):
    text = f"{day.year:04d}" + form.replace("%Y", "").format(day)
    written = parse_date(text)
    assert written.day == day
    assert written.write(day) == text
