"""What the demo's policy promises of the demo's customers: no number comes through in any spelling."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.client.policy import compile_policy
from geumgo.deid import Engine

NUMBERS = {"rrn": 2, "phone": 3, "card": 6, "account": 7}


def bare(text: str | None) -> str:
    """Return the digits of a text, of any script, without anything between them."""
    return "".join(str(unicodedata.digit(c)) for c in text or "" if c.isdecimal())


@pytest.fixture(scope="module")
def hidden(demo_policy, customers):
    import hashlib
    import os

    made = Engine(demo_policy, lambda p, u: hashlib.sha256(f"{p}/{u}".encode()).digest(), random=os.urandom)
    header, rows = customers
    batches = [made.deidentify(header, rows[i : i + 500]) for i in range(0, len(rows), 500)]
    assert [r for batch in batches for r in batch.rejected] == []
    return made, [row for batch in batches for row in batch.rows]


def test_no_customer_is_lost(hidden, customers):
    assert [row[0] for row in hidden[1]] == [row[0] for row in customers[1]]


def test_no_number_comes_through(hidden, customers):
    for before, after in zip(customers[1], hidden[1], strict=True):
        numbers = {before[i].replace("-", "") for i in NUMBERS.values()}
        # In the memo also the numbers of others: whatever has as many digits as a phone or more.
        numbers |= {
            run for run in map(bare, re.findall(r"[\d０-９][\d０-９ .－-]{8,}", before[9])) if len(run) >= 9
        }
        for value in after[1:]:
            shown = bare(value)
            assert not any(number in shown for number in numbers), after[0]


def test_no_name_address_or_mail_comes_through(hidden, customers):
    for before, after in zip(customers[1], hidden[1], strict=True):
        rest = "\n".join(value or "" for value in after[1:])
        for index in (1, 4, 5, 8):
            assert before[index] not in rest, after[0]


def test_equal_phones_have_equal_tokens_in_column_and_memo(hidden, customers):
    seen = 0
    for before, after in zip(customers[1], hidden[1], strict=True):
        if before[3] in before[9]:
            seen += 1
            assert after[3] in after[9]
    assert seen > 100


def test_reversible_fields_come_back(hidden, customers):
    made, rows = hidden
    header = customers[0]
    shown = made.reidentify(header, rows[:500])
    assert shown.rejected == []
    for before, after, middle in zip(customers[1], shown.rows, rows, strict=False):
        for index, name in enumerate(header):
            expected = before if name in ("id", "rrn", "phone", "card", "account", "email") else middle
            assert after[index] == expected[index]


SPELLINGS = [
    lambda s: s,
    lambda s: s.replace("-", ""),
    lambda s: s.replace("-", " "),
    lambda s: s.replace("-", "."),
    lambda s: s.replace("-", " - "),
    lambda s: s.replace("-", "–"),
    lambda s: s.replace("-", "ㅡ"),
    lambda s: s.replace("-", "\u00a0"),
    lambda s: s.replace("-", "\u200b-\u200b"),
    lambda s: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() or c == "-" else c for c in s),
]
FRAMES = ["{}", "{}이야", "번호는{}입니다", "({})", "A{}", "1. {}", "{}/{}", "{},{}", "{} {}", "\n{}\n"]

rrn = st.builds(
    lambda d, g, rest: f"{d:%y%m%d}-{g if d.year < 2000 else g + 2}{rest:06d}",
    st.dates(
        min_value=__import__("datetime").date(1930, 1, 1), max_value=__import__("datetime").date(2025, 12, 31)
    ),
    st.integers(1, 2),
    st.integers(0, 999_999),
)
phone = st.builds(lambda a, b: f"010-{a:04d}-{b:04d}", st.integers(2000, 9999), st.integers(0, 9999))


def luhn(first: str) -> str:
    total = sum(sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(first))
    number = first + str(-total % 10)
    return "-".join(number[i : i + 4] for i in range(0, 16, 4))


card = st.builds(lambda a, b: luhn(f"{a}{b:014d}"), st.sampled_from("4569"), st.integers(1, 10**14 - 1))

POLICY = compile_policy("""
version: 1
name: memo
purpose: customers
fields:
  memo: {technique: text, others: {technique: replace, with: "[{entity}]"}}
""")
ENGINE = Engine(POLICY, lambda purpose, use: bytes(32), random=bytes)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(rrn, phone, card),
    st.sampled_from(range(len(SPELLINGS))),
    st.sampled_from(FRAMES),
    st.sampled_from(["", "고객 "]),
)
def test_any_number_in_any_spelling_anywhere(number, spelling, frame, before):
    """Numbers with a right check digit, or written apart; a bare 13-digit run may be anything else."""
    written = SPELLINGS[spelling](number)
    apart = bare(written) != written
    text = before + frame.format(written, written)
    out = ENGINE.deidentify(["memo"], [[text]]).rows[0][0]
    if not apart and len(number) == 14:
        text = "주민번호 " + text  # without separators and with a failed check digit a word is needed
        out = ENGINE.deidentify(["memo"], [[text]]).rows[0][0]
    assert bare(number) not in bare(out), out
