#!/usr/bin/env python3
"""Writes customers.ko.csv: synthetic Korean customers, the same bytes on every machine.

    python examples/deid/make_customers.py [OUTPUT] [RECORDS]

Nobody here exists: every value is drawn from a fixed seed by a counter and SHA-256. Numbers carry
correct check digits, so that detectors are put to the test; a number may belong to someone by chance.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TextIO, TypeVar

T = TypeVar("T")

SEED = b"geumgo/examples/customers/v1"
RECORDS = 10_000
COLUMNS = ("id", "name", "rrn", "phone", "email", "address", "card", "account", "birth_date", "memo")

SURNAMES = "김김김김이이이박박최정강조윤장임한오서신권황안송류홍전고문양손배백허남심노하"
COMPOUND = ("남궁", "황보", "제갈", "선우", "독고")
FIRST = "민서지도예하주수현은준시유태승재영성정윤다가나라혜경진연보소희상동건우"
SECOND = "준서윤우현민진원영수아은빈연희호석훈주경나람솔별림혁철길순자숙미옥"
ROMAN = (
    "min",
    "seo",
    "ji",
    "do",
    "ye",
    "ha",
    "ju",
    "su",
    "hyun",
    "eun",
    "jun",
    "woo",
    "tae",
    "jae",
    "bora",
    "sol",
)
DISTRICTS = (
    "서울특별시 강남구", "서울특별시 마포구", "서울특별시 종로구", "서울특별시 노원구", "서울특별시 관악구",
    "부산광역시 해운대구", "부산광역시 수영구", "대구광역시 수성구", "인천광역시 연수구", "광주광역시 서구",
    "대전광역시 유성구", "울산광역시 남구", "세종특별자치시", "경기도 성남시 분당구", "경기도 수원시 영통구",
    "경기도 고양시 일산동구", "경기도 양평군", "강원특별자치도 춘천시", "강원도 강릉시", "충청북도 청주시 흥덕구",
    "충청남도 천안시 서북구", "전북특별자치도 전주시 완산구", "전라남도 여수시", "경상북도 포항시 남구",
    "경상남도 창원시 성산구", "제주특별자치도 제주시",
)  # fmt: skip
ROADS = (
    "가온로",
    "나래로",
    "다솜길",
    "라온로",
    "마루길",
    "미리내로",
    "바람로",
    "새벽길",
    "아라로",
    "한빛로",
    "누리길",
    "은하로",
)
BANKS = (
    ("농협", "302-####-####-##"),
    ("국민", "######-##-######"),
    ("신한", "110-###-######"),
    ("우리", "1002-###-######"),
    ("하나", "###-######-#####"),
    ("기업", "###-######-##-###"),
    ("카카오뱅크", "3333-##-#######"),
    ("토스뱅크", "1000-####-####"),
)
PLATES = "가나다라마거너더러머버서어저고노도로모보소오조구누두루무부수우주하허호"

FULL_WIDTH = str.maketrans("0123456789-", "０１２３４５６７８９－")


class Draw:
    """Numbers from SHA-256 of a counter: no library's generator, so no library's version matters."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._counter = 0

    def below(self, limit: int) -> int:
        """Return a number from 0 to limit - 1."""
        self._counter += 1
        digest = hashlib.sha256(self._seed + self._counter.to_bytes(8, "big")).digest()
        return int.from_bytes(digest[:8], "big") % limit

    def of(self, items: Sequence[T]) -> T:
        """Return one of `items`."""
        return items[self.below(len(items))]

    def digits(self, count: int) -> str:
        """Return that many digits."""
        return f"{self.below(10**count):0{count}d}"

    def fill(self, pattern: str) -> str:
        """Return `pattern` with every # replaced by a digit."""
        return "".join(self.digits(1) if c == "#" else c for c in pattern)


def rrn(draw: Draw, born: date, man: bool) -> str:
    """Return a resident registration number of before October 2020, with its check digit."""
    century = 0 if born.year < 2000 else 2
    first = f"{born:%y%m%d}{1 + century + (not man)}{draw.below(96):02d}{draw.digits(3)}"
    total = sum(w * int(d) for w, d in zip((2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), first, strict=True))
    return f"{first[:6]}-{first[6:]}{(11 - total % 11) % 10}"


def card(draw: Draw) -> str:
    """Return a sixteen-digit card number that passes Luhn's check."""
    first = draw.of(("4", "5", "9")) + draw.digits(14)
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(first))
    number = first + str(-total % 10)
    return "-".join(number[i : i + 4] for i in range(0, 16, 4))


def brn(draw: Draw) -> str:
    """Return a business registration number with its check digit."""
    first = f"{100 + draw.below(800)}{draw.digits(6)}"
    total = (
        sum(w * int(d) for w, d in zip((1, 3, 7, 1, 3, 7, 1, 3, 5), first, strict=True))
        + int(first[8]) * 5 // 10
    )
    return f"{first[:3]}-{first[3:5]}-{first[5:]}{-total % 10}"


def memo(draw: Draw, person: dict[str, str], bank: str) -> str:
    """Return a note as a call centre writes them: half of them repeat some of the person's identifiers."""
    notes = (
        "{name} 고객 통화. 본인 확인에 주민번호 {rrn} 불러 줌.",
        "주민등록번호가 {rrn}이라고 하심, 재발급 서류 안내.",
        "채팅으로 {rrn_wide}이야 하고 보냄. 지우라고 안내함.",
        "{rrn_bare} 로 조회되지 않아 다시 확인 예정",
        "연락처는 {phone}이고 문자로 안내 바람.",
        "전화번호 {phone_dots} 로 바꿈. 예전 번호는 해지.",
        "{phone_bare}로 오후에 다시 전화하기로 함.",
        "해외 체류 중, {phone_abroad} 로 연락 요청.",
        "카드 {card}로 결제했다가 취소, 환불은 {bank} 계좌 {account}.",
        "카드번호 {card_spaced} 분실 신고 접수.",
        "영수증은 {email}로 보냄, 수신 확인.",
        "배송지는 {address}, 문 앞에 두기.",
        "{bank} {account} 입금 확인. 예금주 {name}.",
        "세금계산서는 사업자등록번호 {brn}으로 발행 요청.",
        "여권 {passport} 사본 받음.",
        "운전면허 {licence} 으로 본인 확인함.",
        "방문 차량 {plate} 주차 등록.",
        "가족 휴대폰 {other}도 함께 등록해 달라고 함.",
        "상품 만족도 높음. 다음 분기 재구매 의향 있음.",
        "포인트 소멸 안내 완료.",
        "오전 통화 안 됨. 오후 3시 이후 다시 연락.",
        "특이 사항 없음.",
        "사은품 2개 누락, 10일 안에 재발송하기로 함.",
        "요금제 문의: 49,000원에서 35,000원으로 변경, 2026년 2월부터 적용.",
        "",
    )
    values = person | {
        "bank": bank,
        "rrn_wide": person["rrn"].translate(FULL_WIDTH),
        "rrn_bare": person["rrn"].replace("-", ""),
        "phone_dots": person["phone"].replace("-", "."),
        "phone_bare": person["phone"].replace("-", ""),
        "phone_abroad": "+82 " + person["phone"][1:].replace("-", " "),
        "card_spaced": person["card"].replace("-", " "),
        "brn": brn(draw),
        "passport": f"M{draw.digits(3)}{draw.of('ABCDEFGHJKLMNP')}{draw.digits(4)}",
        "licence": f"{11 + draw.below(16)}-{draw.digits(2)}-{draw.digits(6)}-{draw.digits(2)}",
        "plate": f"{100 + draw.below(700)}{draw.of(PLATES)}{draw.digits(4)}",
        "other": f"010-{2000 + draw.below(8000)}-{draw.digits(4)}",
    }
    first = draw.of(notes).format_map(values)
    second = draw.of(notes).format_map(values) if draw.below(3) == 0 else ""
    return " ".join(part for part in (first, second) if part)


def customers(count: int) -> Iterator[tuple[str, ...]]:
    """Yield the records."""
    draw = Draw(SEED)
    oldest = date(1936, 1, 1)
    span = (date(2007, 12, 31) - oldest).days
    for number in range(1, count + 1):
        surname = draw.of(COMPOUND) if draw.below(100) == 0 else draw.of(SURNAMES)
        given = draw.of(FIRST) + (draw.of(SECOND) if draw.below(20) else "")
        born = oldest + timedelta(days=draw.below(span))
        bank, pattern = draw.of(BANKS)
        building = (
            f", {101 + draw.below(20)}동 {100 * (1 + draw.below(25)) + 1 + draw.below(6)}호"
            if draw.below(3)
            else ""
        )
        person = {
            "name": surname + given,
            "rrn": rrn(draw, born, bool(draw.below(2))),
            "phone": f"010-{2000 + draw.below(8000)}-{draw.digits(4)}",
            "email": f"{draw.of(ROMAN)}.{draw.of(ROMAN)}{draw.below(10000)}@{draw.of(('example.com', 'example.kr'))}",
            "address": f"{draw.of(DISTRICTS)} {draw.of(ROADS)} {1 + draw.below(400)}{building}",
            "card": card(draw),
            "account": draw.fill(pattern),
            "birth_date": born.isoformat(),
        }
        yield (f"C{number:06d}", *person.values(), memo(draw, person, bank))


def write(file: TextIO, count: int = RECORDS) -> None:
    """Write the CSV: UTF-8, comma, LF."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(customers(count))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("customers.ko.csv")
    with target.open("w", encoding="utf-8", newline="") as out:
        write(out, int(sys.argv[2]) if len(sys.argv) > 2 else RECORDS)
