"""The authority's files: private, whole, the same for everyone who opens them."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from geumgo.testing.nsm import AuthorityError, NsmAuthority
from geumgo.testing.nsm.authority import AUTHORITY_FILE, ROOT_FILE


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_at_first_use_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "nsm"
    made = NsmAuthority.open(directory)
    again = NsmAuthority.open(directory)
    assert made.root_pem == again.root_pem
    assert made.root.key.private_numbers() == again.root.key.private_numbers()
    assert sorted(path.name for path in directory.iterdir()) == [AUTHORITY_FILE, ROOT_FILE]
    assert (directory / ROOT_FILE).read_text() == made.root_pem


def test_the_root_is_a_root(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(NsmAuthority.open(tmp_path / "nsm").root_pem.encode())
    certificate.verify_directly_issued_by(certificate)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        NsmAuthority.open(tmp_path / "nsm")
    finally:
        os.umask(before)
    assert mode(tmp_path / "nsm") == 0o700
    assert mode(tmp_path / "nsm" / AUTHORITY_FILE) == 0o600


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_use_is_refused_with_the_command_that_helps(tmp_path: Path, bits: int) -> None:
    NsmAuthority.open(tmp_path / "nsm")
    key = tmp_path / "nsm" / AUTHORITY_FILE
    key.chmod(bits)
    with pytest.raises(AuthorityError) as caught:
        NsmAuthority.open(tmp_path / "nsm")
    assert f"chmod go-rwx {key}" in caught.value.fix


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777])
def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path, bits: int) -> None:
    directory = tmp_path / "nsm"
    directory.mkdir()
    directory.chmod(bits)
    with pytest.raises(AuthorityError, match="write"):
        NsmAuthority.open(directory)
    assert list(directory.iterdir()) == []


def _key_pem() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="no PEM"),
        pytest.param(_key_pem(), id="a key alone"),
        pytest.param(_key_pem() + NsmAuthority.generate().root_pem.encode(), id="another's certificate"),
        pytest.param(NsmAuthority.generate().root_pem.encode(), id="a certificate alone"),
        pytest.param(b"x" * (1 << 20), id="too long"),
    ],
)
def test_files_that_are_no_authority_are_left_alone_and_refused(tmp_path: Path, content: bytes) -> None:
    directory = tmp_path / "nsm"
    directory.mkdir(mode=0o700)
    path = directory / AUTHORITY_FILE
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(AuthorityError) as caught:
        NsmAuthority.open(directory)
    assert "Remove the file" in caught.value.fix
    assert path.read_bytes() == content


def test_a_lost_or_stale_root_file_is_written_again(tmp_path: Path) -> None:
    authority = NsmAuthority.open(tmp_path)
    for content in (None, b"stale", b"\xff"):
        (tmp_path / ROOT_FILE).unlink()
        if content is not None:
            (tmp_path / ROOT_FILE).write_bytes(content)
        assert NsmAuthority.open(tmp_path).root_pem == authority.root_pem
        assert (tmp_path / ROOT_FILE).read_text() == authority.root_pem


def test_a_place_that_can_not_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "nsm", Path("/proc/nsm")):
        with pytest.raises(AuthorityError):
            NsmAuthority.open(place)


def test_the_key_is_not_shown_and_not_pickled(tmp_path: Path) -> None:
    authority = NsmAuthority.open(tmp_path)
    secret = f"{authority.root.key.private_numbers().private_value}"
    for text in (repr(authority), str(authority), repr(vars(authority))):
        assert secret not in text
        assert "PRIVATE" not in text
    with pytest.raises(TypeError):
        pickle.dumps(authority)


_OPEN = """
import sys
from pathlib import Path
from geumgo.testing.nsm import NsmAuthority
print("ready", flush=True)
sys.stdin.readline()
print(NsmAuthority.open(Path(sys.argv[1])).root_pem)
"""


def test_launchers_that_start_at_once_get_the_same_authority(tmp_path: Path) -> None:
    directory = tmp_path / "nsm"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all of them stand before the same line
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = {process.communicate(timeout=30)[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(answers) == 1
    assert sorted(path.name for path in directory.iterdir()) == [AUTHORITY_FILE, ROOT_FILE]
    assert mode(directory / AUTHORITY_FILE) == 0o600


def test_a_half_written_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geumgo.testing.nsm.authority.os.fsync", fail)
    with pytest.raises(AuthorityError, match="No space"):
        NsmAuthority.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    NsmAuthority.open(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("whose", ["directory", "key"])
def test_an_authority_that_somebody_else_prepared_is_refused(tmp_path: Path, whose: str) -> None:
    directory = tmp_path / "nsm"
    NsmAuthority.open(directory)
    os.chown(directory if whose == "directory" else directory / AUTHORITY_FILE, 12345, 12345)
    with pytest.raises(AuthorityError, match="another user"):
        NsmAuthority.open(directory)
