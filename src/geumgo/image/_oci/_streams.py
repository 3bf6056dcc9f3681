"""Bytes in order: a blob checked against its digest, unpacked a piece at a time, counted."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from geumgo.image._errors import BuildError
from geumgo.image._oci._limits import ZSTD_WINDOW_LOG
from geumgo.image._source import CHUNK, Data, Source

__all__ = ("ByteStream", "check_digest", "checked", "unpacked")

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def check_digest(text: object) -> str:
    """Return a digest that is well-formed (OCI image-spec, `descriptor.md`).

    Raises:
        BuildError: it is something else, or of an algorithm that isn't SHA-256 or SHA-512.
    """
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise BuildError("the image names a blob by something that is no SHA-256 or SHA-512 digest")
    return text


def checked(parts: Iterable[Data], digest: str, what: str) -> Iterator[Data]:
    """Pass bytes on; nothing that was made of them may be used before the end was reached.

    Raises:
        BuildError: at the end, if they have another digest.
    """
    algorithm, _, expected = digest.partition(":")
    hasher = hashlib.new(algorithm)
    for part in parts:
        hasher.update(part)
        yield part
    if hasher.hexdigest() != expected:
        raise BuildError(
            f"{what} does not have the digest {digest}",
            why="It was changed or damaged after the image was made.",
            code="digest_mismatch",
        )


def unpacked(source: Source, parts: Iterator[Data], what: str) -> Iterator[Data]:
    """Yield the bytes, decompressed if they begin as gzip or zstd does, at most `CHUNK` at a time.

    Raises:
        BuildError: the compressed data is damaged, or zstd can't be read here.
    """
    start = bytes(source.read_at(0, min(4, source.size)))
    if start.startswith(GZIP):
        return _gunzip(parts, what)
    if start == ZSTD or _ZSTD_SKIPPABLE.fullmatch(start):
        return _unzstd(parts, what)
    return parts


def _gunzip(parts: Iterator[Data], what: str) -> Iterator[Data]:
    engine = zlib.decompressobj(wbits=31)
    for part in parts:
        rest: Data = part
        while len(rest):
            if engine.eof:
                engine = zlib.decompressobj(wbits=31)
            try:
                found = engine.decompress(rest, CHUNK)
                while found:
                    yield found
                    # What did not fit is asked for without new input.
                    found = engine.decompress(engine.unconsumed_tail, CHUNK) if not engine.eof else b""
            except zlib.error:
                raise _damaged(what, "gzip") from None
            rest = engine.unused_data if engine.eof else b""
    if not engine.eof:
        raise _damaged(what, "gzip")


def _unzstd(parts: Iterator[Data], what: str) -> Iterator[Data]:
    zstd = _zstd(what)
    options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    engine = zstd.ZstdDecompressor(options=options)
    for part in parts:
        rest: Data = part
        while len(rest):
            if engine.eof:
                engine = zstd.ZstdDecompressor(options=options)
            try:
                found = engine.decompress(rest, CHUNK)
                while True:
                    if found:
                        yield found
                    if engine.eof or engine.needs_input:
                        break
                    found = engine.decompress(b"", CHUNK)
            except zstd.ZstdError:
                raise _damaged(what, "zstd") from None
            rest = engine.unused_data if engine.eof else b""
    if not engine.eof:
        raise _damaged(what, "zstd")


def _zstd(what: str) -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BuildError(
            f"{what} is compressed with zstd, which this Python can't read",
            fix="Install geumgo[oci], or compress the layers with gzip.",
            code="zstd_unavailable",
        ) from None


def _damaged(what: str, form: str) -> BuildError:
    return BuildError(f"{what} is damaged: it is not whole {form} data", code="bad_layer")


class ByteStream:
    """Bytes to be read in order, no more than `limit` of them, from parts of any size."""

    __slots__ = ("_at", "_limit", "_part", "_parts", "_what", "position")

    def __init__(self, parts: Iterator[Data], *, limit: int, what: str) -> None:
        self._parts = parts
        self._part: memoryview = memoryview(b"")
        self._at = 0
        self._limit = limit
        self._what = what
        self.position = 0

    def part(self, count: int) -> Data:
        """Return some bytes, at most `count`; none at the end only.

        Raises:
            BuildError: there are more than the limit.
        """
        while self._at == len(self._part):
            part = next(self._parts, None)
            if part is None:
                return b""
            self._part, self._at = memoryview(part), 0
        found = self._part[self._at : self._at + count]
        self._at += len(found)
        self.position += len(found)
        if self.position > self._limit:
            raise BuildError(f"{self._what} unpacks to more than {self._limit} bytes", code="too_large")
        return found

    def read(self, count: int) -> bytes:
        """Return `count` bytes, fewer only at the end; the caller has bounded `count`."""
        found = bytearray()
        while len(found) < count:
            part = self.part(count - len(found))
            if not part:
                break
            found += part
        return bytes(found)

    def skip(self, count: int) -> None:
        """Pass over bytes.

        Raises:
            BuildError: there are fewer.
        """
        while count:
            part = self.part(min(count, CHUNK))
            if not part:
                raise BuildError(f"{self._what} ends in the middle of an entry", code="bad_layer")
            count -= len(part)

    def drain(self) -> None:
        """Read to the end, so that what checks the bytes has seen all."""
        while self.part(CHUNK):
            pass
