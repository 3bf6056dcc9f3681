"""The example's customers: the same bytes each time, and numbers that are what they say."""

from __future__ import annotations

import io
from pathlib import Path

from geumgo.deid._checksums import birth_date, luhn_is_valid, rrn_is_valid

EXAMPLES = Path(__file__).parents[2] / "examples" / "deid"


def test_the_generator_writes_the_committed_file(generator):
    out = io.StringIO()
    generator.write(out)
    assert out.getvalue().encode() == (EXAMPLES / "customers.ko.csv").read_bytes()


def test_there_are_ten_thousand_customers_with_valid_numbers(customers):
    header, rows = customers
    assert header == [
        "id",
        "name",
        "rrn",
        "phone",
        "email",
        "address",
        "card",
        "account",
        "birth_date",
        "memo",
    ]
    assert len(rows) == 10_000
    assert len({row[0] for row in rows}) == 10_000
    for row in rows:
        digits = row[2].replace("-", "")
        assert rrn_is_valid(digits)
        born = birth_date(digits)
        assert born is not None
        assert born.isoformat() == row[8]
        assert luhn_is_valid(row[6].replace("-", ""))
        assert row[4].endswith(("@example.com", "@example.kr"))


def test_memos_repeat_numbers_but_not_all_of_them(customers):
    repeated = sum(row[2] in row[9] or row[3] in row[9] or row[6] in row[9] for row in customers[1])
    assert 1_000 < repeated < 6_000
