"""Folding: one spelling for digits, dashes and spaces, and offsets that stay true."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geumgo.deid._fold import fold, fold_visible


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("０１２－３４", "012-34"),
        ("٣٤٥", "345"),
        ("a–b—c−dㅡe", "a-b-c-d-e"),
        ("a\u3000b\u00a0c\td", "a b c d"),
        ("ａＢ＠．（）／＋", "aB@.()/+"),
        ("가・나·다", "가.나.다"),
        ("한글 그대로 ½ ② 三", "한글 그대로 ½ ② 三"),
    ],
)
def test_fold(text, folded):
    assert fold(text) == folded


@given(st.text())
def test_a_fold_keeps_length_and_is_idempotent(text):
    folded = fold(text)
    assert len(folded) == len(text)
    assert fold(folded) == folded
    assert not any(unicodedata.category(c) == "Nd" and not c.isascii() for c in folded)


@given(
    st.lists(st.sampled_from(["가", "1", "９", "\u200b", "\ufeff", "\u00ad", "-", "–", "\t", "x"])).map(
        "".join
    )
)
def test_offsets_point_to_the_original(text):
    folded, offsets = fold_visible(text)
    if offsets is None:
        assert folded == fold(text)
        return
    assert len(offsets) == len(folded) + 1
    assert offsets[-1] == len(text)
    assert [fold(text[i]) for i in offsets[:-1]] == list(folded)
