"""The root of a software NSM's certificates: made at first use, kept in one directory."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import secrets
import stat
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from geumgo._base import Clock, GeumgoError, SystemClock
from geumgo.testing.nsm._certificates import Issued, issue_root

__all__ = ("AUTHORITY_FILE", "ROOT_FILE", "AuthorityError", "NsmAuthority")

AUTHORITY_FILE = "nsm-authority.pem"
"""The root's private key and certificate: one file, so that they can't be of two authorities."""

ROOT_FILE = "root.pem"
"""The root's certificate alone, which verifiers are given."""

_MAX_FILE = 16 << 10  # bytes; the file has under 2 KiB


class AuthorityError(GeumgoError):
    """Raised when the authority's files can't be made or used."""

    code = "bad_authority"


class NsmAuthority:
    """The root key and certificate of software NSMs. Not printable, on purpose.

    Attributes:
        certificate: the root.
        root_pem: the root as PEM text, to pass to `TrustRoots.from_pem(..., simulated=True)`.
    """

    def __init__(self, root: Issued) -> None:
        self._root = root
        self.certificate = root.certificate
        self.root_pem = root.certificate.public_bytes(Encoding.PEM).decode()

    @classmethod
    def generate(cls, *, clock: Clock | None = None) -> NsmAuthority:
        """Return a new authority that lives in memory only."""
        now = dt.datetime.fromtimestamp((clock or SystemClock()).now_ms() // 1000, dt.UTC)
        return cls(issue_root(now))

    @classmethod
    def open(cls, directory: Path, *, clock: Clock | None = None) -> NsmAuthority:
        """Return the authority of a directory; make both if they aren't there.

        The directory gets mode 0700 and the key 0600. Several processes may do this at once: one of them
        makes the authority, all get the same.

        Raises:
            AuthorityError: the files can't be written or read, others may read the key or write to the
                directory or own them, or the file's content is no authority.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(directory, 0o022, "others may write to the directory")
            path = directory / AUTHORITY_FILE
            if not path.exists():
                _create(path, cls.generate(clock=clock)._pem())
            _check_private(path, 0o077, "others may use the key")
            authority = cls._load(path)
            root = directory / ROOT_FILE
            if not root.exists() or root.read_text(errors="replace") != authority.root_pem:
                _replace(root, authority.root_pem.encode())
            return authority
        except OSError as error:
            raise AuthorityError(
                f"the software NSM's files can't be used: {error.strerror or type(error).__name__}",
                fix=f"Give a directory of your own that can be written: {directory} is not.",
            ) from None

    @classmethod
    def _load(cls, path: Path) -> NsmAuthority:
        with path.open("rb") as file:
            pem = file.read(_MAX_FILE)
        try:
            key = load_pem_private_key(pem, None)
            certificate = x509.load_pem_x509_certificate(pem)
            if (
                not isinstance(key, ec.EllipticCurvePrivateKey)
                or key.public_key() != certificate.public_key()
            ):
                raise ValueError
        except (ValueError, TypeError):
            raise AuthorityError(
                f"{path} is not a software NSM's authority",
                fix="Remove the file to have a new one made; evidence under the old root stops verifying.",
            ) from None
        return cls(Issued(certificate, key))

    @property
    def root(self) -> Issued:
        """The root with its private key, for software NSMs in this process."""
        return self._root

    def _pem(self) -> bytes:
        key = self._root.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.root_pem.encode()

    def __reduce__(self) -> str:
        """Refuse to be pickled: the key stays in this process and its file."""
        raise TypeError("an NsmAuthority can't be pickled")


def _create(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 that exists whole or not at all; whoever comes second leaves the first's."""
    temporary = _write_temporary(path, content, 0o600)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _replace(path: Path, content: bytes) -> None:
    _write_temporary(path, content, 0o644).replace(path)


def _write_temporary(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary


def _check_private(path: Path, forbidden: int, problem: str) -> None:
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise AuthorityError(
            f"{path} belongs to another user, who would know the key",
            fix="Give a directory of your own.",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        raise AuthorityError(
            f"{path} has mode {mode:04o}: {problem}", fix=f"Run: chmod go-rwx {path}", code="bad_authority"
        )
