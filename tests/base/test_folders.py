"""A user's folders: the XDG variable, the home folder, else a private one in the temporary folder."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from geumgo._base import GeumgoError, private_folder, user_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folder))
    return folder


def test_the_variable_goes_first(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert user_folder({**home, "XDG_STATE_HOME": "/s"}, "XDG_STATE_HOME", ".local/state") == Path("/s")
    for ignored in ("", "relative", "./x"):
        found = user_folder({**home, "XDG_STATE_HOME": ignored}, "XDG_STATE_HOME", ".local/state")
        assert found == tmp_path / ".local" / "state"


def test_a_home_that_cannot_be_written_is_none(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "file").touch()
    for home in (tmp_path / "file", tmp_path / "file" / "below"):
        found = user_folder({"HOME": str(home)}, "XDG_CACHE_HOME", ".cache")
        assert found == temporary / f"geumgo-{os.getuid()}" / ".cache"


def test_a_user_without_a_home_or_an_account(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for environment in ({}, {"HOME": ""}):
        found = user_folder(environment, "XDG_CACHE_HOME", ".cache")
        assert found == temporary / f"geumgo-{os.getuid()}" / ".cache"


def test_the_private_folder_is_private(temporary: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder()
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder() == folder
    folder.chmod(0o750)
    with pytest.raises(GeumgoError, match="not a private folder") as caught:
        private_folder()
    assert caught.value.code == "no_private_folder"
    folder.rmdir()
    folder.symlink_to(temporary)
    with pytest.raises(GeumgoError, match="not a private folder"):
        private_folder()
    folder.unlink()
    folder.touch()
    with pytest.raises(GeumgoError, match="can't be made"):
        private_folder()
