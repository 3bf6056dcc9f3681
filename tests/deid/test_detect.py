"""Detectors: what is found, what isn't, how it may be written, and that no text makes them slow."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.deid import ENTITIES, Finding, InputError, detect
from geumgo.deid._detect import resolve
from geumgo.deid._limits import MAX_TEXT_CHARS


def found(text: str, **options: float) -> list[tuple[str, str]]:
    return [(f.entity, text[f.start : f.end]) for f in detect(text, **options)]


RRN = "900101-1234568"  # valid check digit

FOUND = [
    pytest.param("RRN", RRN, id="resident"),
    pytest.param("RRN", "9001011234568", id="resident without a dash"),
    pytest.param("RRN", "９００１０１－１２３４５６８", id="resident in full width"),
    pytest.param("RRN", "900101 1234568", id="resident with a space"),
    pytest.param("RRN", "900101.1234568", id="resident with a dot"),
    pytest.param("RRN", "900101–1234568", id="resident with an en dash"),
    pytest.param("RRN", "900101ㅡ1234568", id="resident with the vowel eu for a dash"),
    pytest.param("RRN", "900101 - 1234568", id="resident with a spaced dash"),
    pytest.param("RRN", "900101\u00a01234568", id="resident with a no-break space"),
    pytest.param("RRN", "900101-\u200b1234568", id="resident with an invisible space"),
    pytest.param("RRN", "९००१०१-१२३४५६८", id="resident in Devanagari digits"),
    pytest.param("RRN", "960101-1234567", id="resident with a failed check digit"),
    pytest.param("RRN", "210315-3123456", id="resident born after October 2020, random digits"),
    pytest.param("RRN", "2103153123456", id="the same without a dash"),
    pytest.param("RRN", "991231-9234567", id="resident born in the 1800s"),
    pytest.param("RRN", "000101-0234567", id="resident with G=0"),
    pytest.param("RRN", "900101-1******", id="resident, masked in part"),
    pytest.param("FRN", "850101-5123456", id="foreigner"),
    pytest.param("PHONE", "010-1234-5678", id="mobile"),
    pytest.param("PHONE", "010.1234.5678", id="mobile with dots"),
    pytest.param("PHONE", "010 1234 5678", id="mobile with spaces"),
    pytest.param("PHONE", "01012345678", id="mobile without separators"),
    pytest.param("PHONE", "０１０－１２３４－５６７８", id="mobile in full width"),
    pytest.param("PHONE", "+82 10-1234-5678", id="mobile from abroad"),
    pytest.param("PHONE", "+82-(0)10-1234-5678", id="mobile from abroad with (0)"),
    pytest.param("PHONE", "+821012345678", id="mobile from abroad without separators"),
    pytest.param("PHONE", "0082-10-1234-5678", id="mobile from abroad with 00"),
    pytest.param("PHONE", "011-234-5678", id="old mobile"),
    pytest.param("PHONE", "02-123-4567", id="Seoul"),
    pytest.param("PHONE", "02)1234-5678", id="Seoul with a bracket"),
    pytest.param("PHONE", "031-123-4567", id="area"),
    pytest.param("PHONE", "070-1234-5678", id="internet"),
    pytest.param("PHONE", "0507-1234-5678", id="safe number"),
    pytest.param("PHONE", "1588-1234", id="representative"),
    pytest.param("EMAIL", "hong.gildong+x@example.co.kr", id="e-mail"),
    pytest.param("EMAIL", "hong＠example.com", id="e-mail with a full-width at"),
    pytest.param("CARD", "4111-1111-1111-1111", id="card"),
    pytest.param("CARD", "4111 1111 1111 1111", id="card with spaces"),
    pytest.param("CARD", "4111111111111111", id="card without separators"),
    pytest.param("CARD", "3782-822463-10005", id="fifteen-digit card"),
    pytest.param("BRN", "120-81-47521", id="business"),
    pytest.param("ACCOUNT", "302-1234-5678-91", id="NongHyup"),
    pytest.param("ACCOUNT", "123456-01-123456", id="Kookmin"),
    pytest.param("ACCOUNT", "110-123-456789", id="Shinhan"),
    pytest.param("ACCOUNT", "1002-123-456789", id="Woori"),
    pytest.param("ACCOUNT", "123-456789-01234", id="Hana"),
    pytest.param("ACCOUNT", "123-456789-01-234", id="Industrial Bank"),
    pytest.param("ACCOUNT", "3333-01-1234567", id="Kakao"),
    pytest.param("PASSPORT", "M123A4567", id="passport"),
    pytest.param("PASSPORT", "M12345678", id="older passport"),
    pytest.param("DRIVER_LICENCE", "11-95-123456-78", id="driver licence"),
    pytest.param("DRIVER_LICENCE", "28-95-123456-78", id="driver licence of region 28"),
    pytest.param("VEHICLE", "12가3456", id="plate"),
    pytest.param("VEHICLE", "123가3456", id="plate of three digits"),
    pytest.param("ADDRESS", "서울특별시 강남구 테헤란로 152, 101동 1502호", id="address"),
    pytest.param("ADDRESS", "경기도 성남시 분당구 판교역로 166", id="address in a ward"),
    pytest.param("ADDRESS", "제주특별자치도 제주시 첨단로 242", id="address on Jeju"),
    pytest.param("ADDRESS", "서울 종로구 청운동 1-2번지", id="address by lot"),
    pytest.param("IP", "192.168.10.24", id="IPv4"),
    pytest.param("IP", "2001:db8::1", id="IPv6"),
]


@pytest.mark.parametrize(("entity", "value"), FOUND)
@pytest.mark.parametrize("frame", ["{}", "고객 {}이야", "({})", "번호: {}.", "{}로 바꿈, 끝", "앞 {}\n뒤"])
def test_found_wherever_it_stands(entity, value, frame):
    assert found(frame.format(value)) == [(entity, value)]


CONTEXT = [
    pytest.param("ACCOUNT", "계좌 1234567890123으로 입금", "1234567890123", id="account without separators"),
    pytest.param("ACCOUNT", "신한은행 123-45-678901", "123-45-678901", id="account of an unknown shape"),
    pytest.param("BRN", "사업자번호 1208147521", "1208147521", id="business without dashes"),
    pytest.param("PHONE", "전화 0212345678", "0212345678", id="Seoul without separators"),
    pytest.param("PHONE", "15881234로 전화", "15881234", id="representative without a dash, word behind"),
    pytest.param(
        "CARD", "카드번호 4111-1111-1111-1112", "4111-1111-1111-1112", id="card with a failed check"
    ),
    pytest.param("DRIVER_LICENCE", "운전면허 119512345678", "119512345678", id="licence without dashes"),
    pytest.param("HEALTH_INSURANCE", "건강보험증 번호 12345678901", "12345678901", id="health insurance"),
    pytest.param("BIRTH_DATE", "생년월일 1990-01-01", "1990-01-01", id="birth date"),
    pytest.param("BIRTH_DATE", "생년월일: 900101", "900101", id="birth date of six digits"),
    pytest.param("RRN", "주민번호 9601011234567", "9601011234567", id="resident, no dash, failed check"),
    pytest.param("VEHICLE", "차량 12가 3456 주차", "12가 3456", id="plate with a space"),
]


@pytest.mark.parametrize(("entity", "text", "value"), CONTEXT)
def test_found_by_the_words_around(entity, text, value):
    assert found(text) == [(entity, value)]
    assert found(f"비고 {value} 끝") == []


NOT_FOUND = [
    pytest.param("960231-1234560", id="31 February"),
    pytest.param("961301-1234560", id="month 13"),
    pytest.param("4111-1111-1111-1112", id="card with a failed check digit"),
    pytest.param("120-81-47522", id="business number with a failed check digit"),
    pytest.param("12345678901234567890123", id="a long number"),
    pytest.param("1900101-12345689", id="a longer number around a resident's"),
    pytest.param("2026-01-01", id="a date"),
    pytest.param("2026.01.01 13:45:10", id="a time"),
    pytest.param("₩1,234,567원", id="an amount"),
    pytest.param("3.14159265", id="a fraction"),
    pytest.param("27-95-123456-78", id="no such licence region"),
    pytest.param("A12345678", id="no passport letter"),
    pytest.param("XM12345678", id="a letter before a passport"),
    pytest.param("M123A45678", id="a digit behind a passport"),
    pytest.param("256.1.1.1", id="no IP address"),
    pytest.param("1.2.3.4", id="a version"),
    pytest.param("hong@localhost", id="no domain"),
    pytest.param("@example.com", id="no local part"),
    pytest.param("서울은 맑음", id="a city alone"),
    pytest.param("12개 3456원", id="no plate letter"),
    pytest.param("", id="nothing"),
]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_not_found(text):
    assert found(text) == []


def test_scores_order_what_is_known():
    def score(text: str) -> float:
        return max((f.score for f in detect(text, min_score=0.05)), default=0.0)

    assert score("900101-1234568") > score("210315-3123456") > score("960101-1234567") >= 0.5
    assert score("9001011234568") > score("9601011234567")
    assert score("주민번호 960101-1234567") > score("960101-1234567")
    assert 0 < score("9601011234567") < 0.5, "a failed check digit lowers the score, it doesn't zero it"


def test_an_account_is_not_taken_for_a_phone_and_a_phone_not_for_an_account():
    assert found("계좌번호 010-1234-5678") == [("PHONE", "010-1234-5678")]
    assert found("농협 302-1234-5678-91 입금") == [("ACCOUNT", "302-1234-5678-91")]


def test_a_plate_behind_a_short_number():
    assert found("3 12가3456") == [("VEHICLE", "12가3456")]
    assert found("No.3-123가3456") == [("VEHICLE", "123가3456")]


def test_several_in_one_text():
    text = f"{RRN} 010-1234-5678 hong@example.com, 4111 1111 1111 1111 / 120-81-47521"
    assert [entity for entity, _ in found(text)] == ["RRN", "PHONE", "EMAIL", "CARD", "BRN"]


def test_offsets_are_those_of_the_original_text():
    text = "\u200b가\u200b나 010\u200b-1234-\u200d5678\u200b 끝"
    (finding,) = detect(text)
    assert text[finding.start : finding.end] == "010\u200b-1234-\u200d5678"


def test_min_score():
    assert found("비고 1208147521", min_score=0.3) == [("BRN", "1208147521")]
    assert found("비고 1208147521", min_score=0.9) == []


def test_a_text_over_the_limit_is_refused():
    with pytest.raises(InputError) as caught:
        detect("a" * (MAX_TEXT_CHARS + 1))
    assert caught.value.code == "too_large"


# Overlaps


def test_overlaps_are_resolved_by_score_and_cover_everything():
    phone, card = Finding("PHONE", 0, 9, 0.9), Finding("CARD", 5, 24, 0.95)
    assert resolve([phone, card]) == [Finding("CARD", 0, 24, 0.95)]
    assert resolve([card, phone]) == [Finding("CARD", 0, 24, 0.95)]


def test_ties_are_resolved_by_length_then_by_entity():
    assert resolve([Finding("CRN", 0, 14, 0.7), Finding("RRN", 0, 14, 0.7)]) == [Finding("RRN", 0, 14, 0.7)]
    assert resolve([Finding("RRN", 0, 5, 0.7), Finding("CRN", 0, 6, 0.7)]) == [Finding("CRN", 0, 6, 0.7)]


spans = st.tuples(
    st.sampled_from(sorted(ENTITIES)),
    st.integers(0, 60),
    st.integers(1, 20),
    st.sampled_from([0.5, 0.7, 0.9]),
).map(lambda x: Finding(x[0], x[1], x[1] + x[2], x[3]))


@given(st.lists(spans, max_size=12), st.randoms(use_true_random=False))
def test_resolution_is_deterministic_disjoint_and_complete(findings, shuffle):
    resolved = resolve(list(findings))
    assert [f.start for f in resolved] == sorted(f.start for f in resolved)
    assert all(a.end <= b.start for a, b in itertools.pairwise(resolved))
    covered = {i for f in findings for i in range(f.start, f.end)}
    assert {i for f in resolved for i in range(f.start, f.end)} == covered
    again = list(findings)
    shuffle.shuffle(again)
    assert resolve(again) == resolved


# Any text


@settings(max_examples=200)
@given(
    st.text(alphabet=st.sampled_from("0123456789０１-. ()+@가나다라로서울시구ABMx:*\n\u200b"), max_size=80)
)
def test_any_text_gives_sound_findings(text):
    findings = detect(text, min_score=0.01)
    for f in findings:
        assert f.entity in ENTITIES
        assert 0 <= f.start < f.end <= len(text)
        assert 0 < f.score <= 1
    assert all(a.end <= b.start for a, b in itertools.pairwise(findings))


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_any_unicode_is_taken(text):
    assert all(0 <= f.start < f.end <= len(text) for f in detect(text, min_score=0.01))


MEGABYTE = 1 << 20

HOSTILE = [
    pytest.param("1", id="digits"),
    pytest.param("1 ", id="single digits"),
    pytest.param("1-", id="dashes"),
    pytest.param("123-", id="a chain"),
    pytest.param("1234-", id="a chain of fours"),
    pytest.param("010-1234-5678-", id="a chain of phones"),
    pytest.param("900101-", id="half a number"),
    pytest.param("1 . ( ", id="separators"),
    pytest.param("@", id="at signs"),
    pytest.param("a@", id="letters and at signs"),
    pytest.param("a" * 64 + "@" + "a" * 63 + ".", id="long e-mail parts"),
    pytest.param("a.", id="dots"),
    pytest.param("서울 ", id="cities"),
    pytest.param("서울 가나다라마바구 ", id="districts"),
    pytest.param("서울 가동", id="towns"),
    pytest.param("가로", id="roads"),
    pytest.param("서울 강남구 1로1길1동1리", id="half addresses"),
    pytest.param("서울 강남구 가로 1-1, ", id="addresses"),
    pytest.param("1:", id="colons"),
    pytest.param("::", id="double colons"),
    pytest.param("a:b::", id="half IPv6"),
    pytest.param("M123A", id="half passports"),
    pytest.param("12가", id="half plates"),
    pytest.param("계좌 1234567890 ", id="context everywhere"),
    pytest.param("\u200b1", id="invisible characters"),
    pytest.param("９", id="full-width digits"),
    pytest.param("(", id="brackets"),
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_linear_time(unit):
    """Eight times the text may take about eight times as long, not sixty-four."""

    def seconds(size: int) -> float:
        text = (unit * (size // len(unit) + 1))[:size]
        begin = time.process_time()
        detect(text)
        return time.process_time() - begin

    seconds(1000)
    part, whole = seconds(1 << 15), seconds(1 << 18)
    assert whole < 10
    assert whole < 24 * max(part, 0.02)


@pytest.mark.parametrize("unit", ["900101-", "서울 강남구 가로 1-1, ", "a@", "1 . ( "])
def test_a_hostile_megabyte(unit):
    text = (unit * (MEGABYTE // len(unit) + 1))[:MEGABYTE]
    begin = time.process_time()
    detect(text)
    assert time.process_time() - begin < 30
