"""State folders that somebody else prepared: keys must not go where others read, write or point to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from geumgo._base import GeumgoError, SystemClock
from geumgo.attestation import TrustRoots
from geumgo.testing.kms import create_app
from geumgo.testing.kms._files import write_file
from geumgo.testing.kms._tls import prepare_tls

NO_ROOTS = TrustRoots(())


def start(folder: Path) -> None:
    create_app(folder, roots=NO_ROOTS).state.close()


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path, bits: int) -> None:
    folder = tmp_path / "kms"
    folder.mkdir()
    folder.chmod(bits)
    with pytest.raises(GeumgoError, match="others"):
        start(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "kms"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(GeumgoError, match="another user"):
        start(folder)


def test_a_folder_of_ones_own_is_used(tmp_path: Path) -> None:
    start(tmp_path / "kms")
    start(tmp_path / "kms")
    for path in (tmp_path / "kms").iterdir():
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path.name


@pytest.mark.parametrize("name", [".ca.key.new", "ca.key.new"])
def test_a_link_that_waits_for_a_temporary_file_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "kms"
    folder.mkdir(mode=0o700)
    (folder / name).symlink_to(victim)
    prepare_tls(folder, hosts=(), clock=SystemClock())
    assert victim.read_text() == "mine"
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "f", b"old", mode=0o600)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "f", b"new", mode=0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"
