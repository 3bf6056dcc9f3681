"""Words near a finding that make it more certain, as a person would read them."""

from __future__ import annotations

import re

from geumgo.deid._limits import MAX_CONTEXT_CHARS
from geumgo.deid._numbers import CERTAIN

__all__ = ("context_of",)

_AFTER = 12
"""How far behind a finding words count: "010-1234-5678로 전화"."""

_WORDS: dict[str, tuple[float, str]] = {
    "RRN": (0.3, r"주민|resident|rrn|ssn"),
    "FRN": (0.3, r"외국인|거소|주민|foreigner|alien|frn|arc"),
    "CARD": (0.35, r"카드|card|visa|master|amex|결제"),
    "PHONE": (0.4, r"전화|연락|휴대|핸드폰|폰|팩스|문자|통화|tel|phone|mobile|cell|fax|call|h\.?p"),
    "PASSPORT": (0.35, r"여권|passport"),
    "DRIVER_LICENCE": (0.45, r"면허|licen[cs]e"),
    "BRN": (0.4, r"사업자|business|brn"),
    "CRN": (0.35, r"법인|corporat|crn"),
    "ACCOUNT": (
        0.55,
        r"계좌|입금|송금|이체|통장|예금|환불|account|bank|은행|농협|축협|수협|신협|새마을|우체국|국민|신한|우리|하나"
        r"|기업|카카오뱅크|토스|케이뱅크|산업|씨티",
    ),
    "HEALTH_INSURANCE": (0.65, r"건강보험|보험증|의료보험"),
    "BIRTH_DATE": (0.6, r"생년|생일|출생|birth|dob|born"),
    "VEHICLE": (0.35, r"차량|번호판|자동차|차번호|주차|vehicle|plate"),
    "ADDRESS": (0.1, r"주소|거주|배송|address"),
    "IP": (0.35, r"ip|접속|서버|주소|host"),
}

_NEAR = {entity: (boost, re.compile(words)) for entity, (boost, words) in _WORDS.items()}


def context_of(text: str, entity: str, start: int, end: int, score: float) -> float:
    """Return the score of a finding; one that isn't certain is raised where a word of its kind is near."""
    near = _NEAR.get(entity)
    if near is None or score >= CERTAIN:
        return score
    boost, words = near
    # Lower-cased text and no IGNORECASE: that lets the regex engine skip by first characters.
    around = f"{text[max(0, start - MAX_CONTEXT_CHARS) : start]}\n{text[end : end + _AFTER]}"
    if words.search(around.lower()) is None:
        return score
    return min(1.0, round(score + boost, 4))
