"""Where answers go: whole, for their owner alone."""

from __future__ import annotations

import os
import stat

import pytest

from geumgo._base import GeumgoError
from geumgo.cli.call import _write


@pytest.fixture(params=[0o000, 0o022])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_plaintext_is_written_for_its_owner_alone(tmp_path, umask):
    _write(tmp_path / "answer", b"900101-1234568")
    assert (tmp_path / "answer").read_bytes() == b"900101-1234568"
    assert stat.S_IMODE((tmp_path / "answer").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["answer"]


def test_what_was_there_stays_where_the_new_can_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "answer").write_bytes(b"old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(GeumgoError) as caught:
        _write(tmp_path / "answer", b"new")
    assert caught.value.code == "cannot_write"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "answer").symlink_to(tmp_path / "elsewhere")
    _write(tmp_path / "answer", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert (tmp_path / "answer").read_bytes() == b"new"


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(GeumgoError, match="can't be written"):
        _write(tmp_path / "none" / "answer", b"x")
