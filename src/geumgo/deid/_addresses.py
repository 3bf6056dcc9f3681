"""Korean addresses: the seventeen provinces with their older and shorter names, and the district after them."""

from __future__ import annotations

import re
from collections.abc import Callable

from geumgo.deid._errors import BadValue
from geumgo.deid._rules import GeneraliseAddress

__all__ = ("SIDO", "SIDO_PATTERN", "generalise_address")

SIDO: dict[str, str] = {}
"""Every written form of a province, and its present name."""

for _name, *_others in (
    ("서울특별시", "서울시", "서울"),
    ("부산광역시", "부산시", "부산"),
    ("대구광역시", "대구시", "대구"),
    ("인천광역시", "인천시", "인천"),
    ("광주광역시", "광주시", "광주"),
    ("대전광역시", "대전시", "대전"),
    ("울산광역시", "울산시", "울산"),
    ("세종특별자치시", "세종시", "세종"),
    ("경기도", "경기"),
    ("강원특별자치도", "강원도", "강원"),
    ("충청북도", "충북"),
    ("충청남도", "충남"),
    ("전북특별자치도", "전라북도", "전북"),
    ("전라남도", "전남"),
    ("경상북도", "경북"),
    ("경상남도", "경남"),
    ("제주특별자치도", "제주도", "제주"),
):
    for _form in (_name, *_others):
        SIDO[_form] = _name

SIDO_PATTERN = "|".join(sorted(SIDO, key=len, reverse=True))
"""Alternation of all forms, longest first."""

_ADDRESS = re.compile(
    rf"(?:대한민국 ?)?(?:[(\[]?[0-9]{{5}}[)\]]?,? ?)?({SIDO_PATTERN})(?=[ ,]|$)[ ,]*"
    r"(?:([가-힣]{1,6}[시군구])(?=[ ,]|$))?"
)


def generalise_address(rule: GeneraliseAddress) -> Callable[[str], str]:
    """Return the technique that keeps province (`sido`), or province and self-governing district (`sigungu`).

    A ward of a city (성남시 분당구) is not self-governing: the city is kept, the coarser of the two.
    """
    district = rule.to == "sigungu"

    def generalise(value: str) -> str:
        match = _ADDRESS.match(" ".join(value[:256].split()))
        if match is None:
            raise BadValue("unknown_address")
        province = SIDO[match[1]]
        if not district or province == "세종특별자치시":
            return province
        if match[2] is None:
            raise BadValue("unknown_address")
        return f"{province} {match[2]}"

    return generalise
