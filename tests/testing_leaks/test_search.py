"""Planted values are found, whatever surrounds them and however many are looked for."""

from __future__ import annotations

import base64
import os
import random
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geumgo.testing.leaks import Finding, LeakSearchError, Search, patterns
from geumgo.testing.leaks._search import BLOCK, MAX_FINDINGS

VALUES = [f"010-{n:04}-{n * 7919 % 10000:04}" for n in range(500)]
OTHERS = ["380423-2303989", "9617-8998-7461-5363", b"\x00\x01\x02\x03key of sixteen"]


@pytest.fixture(scope="module")
def search():
    return Search([*VALUES, *OTHERS])


@given(data=st.data())
@settings(max_examples=150)
def test_every_pattern_is_found_where_it_stands(search, data):
    pattern = data.draw(st.sampled_from(list(patterns([*VALUES[:20], *OTHERS]))))
    before = data.draw(st.binary(max_size=40))
    haystack = before + pattern.data + data.draw(st.binary(max_size=40))
    found = search.find(haystack, "here")
    assert any(finding.offset == len(before) for finding in found)
    assert {finding.where for finding in found} == {"here"}


def test_nothing_is_found_in_what_only_looks_alike(search):
    numbers = random.Random(3)
    near = b" ".join(
        b"011-%04d-%04d" % (numbers.randrange(10000), numbers.randrange(10000)) for _ in range(9999)
    )
    assert search.find(near, "near") == []
    assert search.find(base64.b64encode(near), "near") == []
    assert search.find(os.urandom(1 << 20), "random") == []


def test_values_that_overlap_are_both_found():
    search = Search(["0123456789012", "3456789012345"])
    assert {f.value for f in search.find(b"x0123456789012345x", "")} == {0, 1}


@pytest.mark.parametrize("key", [b"\0" * 9 + b"key", b"k" + b"\0" * 11, b"\1" * 12])
def test_keys_with_zeros(key):
    assert Search([key]).find(b"before" + key + b"after", "")[0].offset == 6


@pytest.mark.parametrize("around", [0, 1, 5, 12, 13])
def test_across_blocks(search, around):
    data = bytearray(3 * BLOCK)
    data[BLOCK - around : BLOCK - around + 13] = VALUES[77].encode()
    assert search.find(data, "") == [Finding("", BLOCK - around, 77, "utf-8")]


def test_a_clean_block_is_searched_again_when_it_changes(search):
    data = bytearray(b"a" * (4 * BLOCK))
    assert search.find(data, "") == []
    data[-20:-7] = VALUES[3].encode()
    assert len(search.find(data, "")) == 1
    assert len(search.find(data, "")) == 1, "a block with a finding is never taken for a clean one"


def test_findings_are_bounded(search):
    assert len(search.find(VALUES[1].encode() * 1000, "")) == MAX_FINDINGS


def test_a_finding_names_no_value(search):
    (finding,) = search.find(VALUES[9].encode(), "a log")
    assert VALUES[9] not in repr(finding)
    assert (finding.where, finding.value) == ("a log", 9)


def test_files(search, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "log").write_text(f"x {VALUES[5]} y", encoding="utf-16")
    (tmp_path / f"{VALUES[6]}.part").write_bytes(b"")
    (tmp_path / "clean").write_bytes(b"nothing" * 10000)
    (tmp_path / "away").symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        found = search.files(tmp_path)
    assert {(5, "utf-16-le"), (6, "utf-8")} <= {(finding.value, finding.encoding) for finding in found}
    assert {finding.value for finding in found} == {5, 6}


def test_a_folder_that_cannot_be_read_is_no_clean_one(search, tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "secret").write_bytes(b"x")
    monkeypatch.setattr("pathlib.Path.read_bytes", refused)
    with pytest.raises(LeakSearchError) as caught:
        search.files(tmp_path)
    assert caught.value.code == "file_unreadable"


def test_streams(search):
    found = search.streams({"one": b"nothing", "two": bytearray(VALUES[0].encode())})
    assert [(finding.where, finding.value) for finding in found] == [("two", 0)]


def test_a_search_does_not_show_what_it_looks_for(search):
    assert "patterns" in repr(search)
    assert "010" not in repr(search)
