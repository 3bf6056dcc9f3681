"""A folder of files by SHA-256, shared by builds: what is in it is checked each time it is used."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from geumgo._base import GeumgoError, user_folder
from geumgo.image._errors import BuildError
from geumgo.image._source import Data, FileSource, chunks

__all__ = ("Cache", "default_cache")

KEEP_UNUSED = 30 * 24 * 3600
"""Seconds that a built archive stays without being used; downloads stay for ever."""
_SCRATCH = "work-"


def default_cache(environment: Mapping[str, str]) -> Path:
    """Return `geumgo` in the user's cache folder.

    Raises:
        BuildError: there is none that can be written.
    """
    try:
        return user_folder(environment, "XDG_CACHE_HOME", ".cache") / "geumgo"
    except GeumgoError as error:
        raise BuildError("there is no folder for the cache", why=error.what, fix=error.fix) from None


class Cache:
    """Downloaded files, by their own hash, and built archives, by a key with the hash beside it.

    Args:
        folder: where; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def blob(self, sha256: str) -> Path | None:
        """Return the file with this hash; None (and it is removed) where it is absent or damaged."""
        path = self._folder / "blobs" / sha256
        return path if path.is_file() and _sound(path, sha256) else None

    def add_blob(self, path: Path) -> str:
        """Move a file into the cache and return its SHA-256."""
        sha256 = hash_file(path)
        target = self._folder / "blobs" / sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        return sha256

    def built(self, key: str) -> Path | None:
        """Return the archive that was built under `key`; None where it is absent or damaged."""
        path, note = self._built(key)
        try:
            sha256 = note.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
        if not path.is_file() or not _sound(path, sha256):
            return None
        with contextlib.suppress(OSError):
            os.utime(note)
        return path

    def add_built(self, key: str, data: Iterator[Data]) -> Path:
        """Write an archive under `key` and return its path."""
        path, note = self._built(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with self.scratch() as scratch:
            with (scratch / "data").open("wb") as file:
                for chunk in data:
                    digest.update(chunk)
                    file.write(chunk)
            (scratch / "note").write_text(digest.hexdigest() + "\n", encoding="ascii")
            (scratch / "data").replace(path)
            (scratch / "note").replace(note)
        self._forget_unused()
        return path

    def _forget_unused(self) -> None:
        """Remove archives that no build used for a month: each change of a rule or a file makes new ones."""
        oldest = time.time() - KEEP_UNUSED
        for path in (self._folder / "built").iterdir():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _built(self, key: str) -> tuple[Path, Path]:
        return self._folder / "built" / f"{key}.cpio", self._folder / "built" / f"{key}.sha256"

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Give an empty folder on the cache's file system, removed afterwards; by the next build if this is killed.

        Raises:
            BuildError: the cache folder can't be written.
        """
        try:
            made, lock = self._make_scratch()
        except OSError as error:
            raise BuildError(
                f"the cache folder {self._folder} can't be written: {error.strerror}",
                fix="Set XDG_CACHE_HOME to a folder that can.",
            ) from None
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
            os.close(lock)

    def _make_scratch(self) -> tuple[Path, int]:
        """Return a new folder and a descriptor that holds it; folders that nobody holds are removed."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole = _open_folder(self._folder)
        try:
            fcntl.flock(whole, fcntl.LOCK_EX)  # nobody looks between a folder's making and its holding
            for path in self._folder.glob(f"{_SCRATCH}*"):
                with contextlib.suppress(OSError):
                    lock = _open_folder(path)
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        shutil.rmtree(path, ignore_errors=True)
                    finally:
                        os.close(lock)
            made = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self._folder))
            lock = _open_folder(made)
            fcntl.flock(lock, fcntl.LOCK_EX)
            return made, lock
        finally:
            os.close(whole)


def _open_folder(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def hash_file(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    digest = hashlib.sha256()
    source = FileSource(path)
    for chunk in chunks(source):
        digest.update(chunk)
    source.close()
    return digest.hexdigest()


def _sound(path: Path, sha256: str) -> bool:
    if hash_file(path) == sha256:
        with contextlib.suppress(OSError):  # somebody else's cache that we may only read
            os.utime(path)
        return True
    path.unlink(missing_ok=True)
    return False
