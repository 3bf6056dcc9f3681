"""Free text: what is found is replaced by its entity's technique, the rest is unchanged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.deid import detect

TEXT = {"technique": "text"}


def one(column, rule, value):
    (out,) = column(TEXT | rule, [value])
    return out


def test_entities_have_techniques_of_their_own_and_others_a_common_one(column):
    rule = {
        "entities": {
            "PHONE": {"technique": "mask", "keep_last": 4},
            "RRN": {"technique": "suppress"},
            "EMAIL": {"technique": "keep"},
            "CARD": {"technique": "replace", "with": "<{entity}>"},
        }
    }
    text = "전화 010-1234-5678, 주민 900101-1234568이고 a@example.com, 4111-1111-1111-1111, 여권 M123A4567."
    assert one(column, rule, text) == "전화 ***-****-5678, 주민 이고 a@example.com, <CARD>, 여권 [PASSPORT]."


def test_text_without_findings_is_the_same_object_s_text(column):
    for text in ("", " \n", "특이 사항 없음.", "３분 뒤 ｶﾀｶﾅ \u200b 끝"):
        assert one(column, {}, text) == text


def test_everything_else_can_be_kept(column):
    rule = {"entities": {"RRN": {"technique": "suppress"}}, "others": {"technique": "keep"}}
    assert one(column, rule, "010-1234-5678/900101-1234568") == "010-1234-5678/"


def test_min_score(column):
    text = "비고 1208147521"
    assert one(column, {}, text) == text
    assert one(column, {"min_score": "0.3"}, text) == "비고 [BRN]"


def test_tokens_in_text_are_those_of_the_column_with_the_same_scope(engine):
    token = {"technique": "token", "purpose": "p", "keep_first": 3}
    memo = TEXT | {
        "purpose": "p",
        "entities": {"PHONE": {"technique": "token", "keep_first": 3, "scope": "phone"}},
    }
    made = engine({"phone": token, "memo": memo})
    ((phone, text),) = made.deidentify(["phone", "memo"], [["010-1234-5678", "010-1234-5678로 전화"]]).rows
    assert text == f"{phone}로 전화"


def test_a_value_that_its_technique_can_not_take_is_named_instead(column):
    rule = {"purpose": "p", "entities": {"PHONE": {"technique": "token", "min_length": 10}}}
    assert one(column, rule, "전화 1588-1234") == "전화 [PHONE]"


def test_known_values_of_the_same_record(engine):
    made = engine(
        {
            "name": {"technique": "mask", "as": "name"},
            "company": {"technique": "suppress"},
            "memo": TEXT
            | {
                "known_values": {
                    "name": {"technique": "mask", "as": "name"},
                    "company": {"technique": "replace", "with": "[{entity}]"},
                }
            },
        }
    )
    rows = [
        ["홍길동", "금고 주식회사", "홍길동님, 금고 주식회사의 홍길동입니다. 010-1234-5678"],
        ["김", "", "김 한 장"],  # a single character is in every text
        [None, None, "홍길동"],  # known in another record only
    ]
    out = [row[2] for row in made.deidentify(["name", "company", "memo"], rows).rows]
    assert out == ["홍*동님, [company]의 홍*동입니다. [PHONE]", "김 한 장", "홍길동"]


def test_known_values_are_optional_columns(engine):
    made = engine(
        {"name": {"technique": "keep"}, "memo": TEXT | {"known_values": {"name": {"technique": "suppress"}}}}
    )
    assert made.deidentify(["memo"], [["홍길동"]]).rows == [["홍길동"]]


def test_a_known_value_that_overlaps_a_finding_covers_both(engine):
    made = engine(
        {
            "id": {"technique": "keep"},
            "memo": TEXT | {"known_values": {"id": {"technique": "replace", "with": "#"}}},
        }
    )
    assert made.deidentify(["id", "memo"], [["번 010-1234", "3번 010-1234-5678!"]]).rows[0][1] == "3#!"


@pytest.mark.parametrize("rule", [{"technique": "pseudonym"}, {"technique": "token"}])
def test_keyed_techniques_in_text_repeat(column, rule):
    text = "계좌 302-1234-5678-91 와 302-1234-5678-91"
    out = one(column, {"purpose": "p", "others": rule}, text)
    first, second = out.removeprefix("계좌 ").split(" 와 ")
    assert first == second != "302-1234-5678-91"


pieces = st.lists(
    st.one_of(
        st.text(st.characters(categories=["Lo", "Po", "Zs"]), max_size=10),
        st.sampled_from(
            ["010-1234-5678", "900101-1234568", "a@example.com", "4111 1111 1111 1111", "１２３"]
        ),
    ),
    max_size=8,
).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(pieces)
def test_text_outside_findings_is_unchanged(text):
    from geumgo.deid._free_text import FreeText
    from geumgo.deid._options import Options
    from geumgo.deid._policy import _read_text

    rule = _read_text(Options({"others": {"technique": "replace", "with": "\u2588"}}, ("fields", "x")))
    out = FreeText(rule, lambda one: lambda value: value).replace(text, {})
    rest, at = [], 0
    for finding in detect(text):
        rest.append(text[at : finding.start])
        at = finding.end
    rest.append(text[at:])
    assert out == "\u2588".join(rest)
