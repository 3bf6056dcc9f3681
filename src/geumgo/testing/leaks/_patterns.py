"""The byte strings by which a value may show itself: forms of the text, times encodings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from geumgo.testing.leaks._errors import LeakSearchError

__all__ = ("MIN_LENGTH", "Pattern", "patterns")

MIN_LENGTH = 10
"""Characters of the shortest form that is searched for. A memory of 100 MB holds many numbers: ten given
digits stand in it by chance once in some thousand searches for a thousand values, six in each of them."""

_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le")
"""Encodings of two and four bytes a character; the little-endian ones are CPython's own of a `str` too."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One way in which one value may stand somewhere.

    Attributes:
        value: the value's place in the list that was given.
        encoding: how it stands there: `utf-8`, `base64+1` and so on.
        data: the bytes.
    """

    value: int
    encoding: str
    data: bytes

    def __repr__(self) -> str:
        # The value itself stays out of test reports and logs.
        return f"Pattern(value={self.value}, encoding={self.encoding!r}, {len(self.data)} bytes)"


def patterns(values: Iterable[str | bytes], *, min_length: int = MIN_LENGTH) -> Iterator[Pattern]:
    """Yield every pattern of each value, without repetition.

    Text is looked for as it is, without its separators (everything but letters and digits) where enough
    is left then, and as JSON escapes it; each of these in UTF-8, UTF-16 of both byte orders, UTF-32, hex
    of both cases and base64 at its three alignments. Bytes (keys) are looked for as they are, in hex and
    base64. What is compressed or encrypted is not found.

    Args:
        values: what must not be found.
        min_length: characters of the shortest form.

    Raises:
        LeakSearchError: ``value_too_short``: it would be found by chance, or its absence says little.
    """
    for number, value in enumerate(values):
        if len(value) < min_length:
            raise LeakSearchError(
                f"value {number} has {len(value)} characters; at least {min_length} are needed",
                fix="Leave it out, or search for the longer text that it stands in.",
                code="value_too_short",
            )
        found: dict[bytes, str] = {}
        for encoding, data in _of_bytes(value) if isinstance(value, bytes) else _of_text(value, min_length):
            found.setdefault(data, encoding)
        for data, encoding in found.items():
            yield Pattern(number, encoding, data)


def _of_text(text: str, min_length: int) -> Iterator[tuple[str, bytes]]:
    compact = "".join(character for character in text if character.isalnum())
    forms = [text, json.dumps(text)[1:-1]]
    if len(compact) >= min_length:
        forms.append(compact)
    for form in dict.fromkeys(forms):
        yield "utf-8", form.encode()
        for wide in _WIDE:
            yield wide, form.encode(wide)
        yield from _encoded(form.encode())


def _of_bytes(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "bytes", data
    yield from _encoded(data)


def _encoded(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "hex", data.hex().encode()
    yield "hex", data.hex().upper().encode()
    for alignment in range(3):
        # What stands before and after is not known, so characters that hold bits of it are cut off.
        first, last = -(-alignment * 8 // 6), (alignment + len(data)) * 8 // 6
        padded = bytes(alignment) + data
        yield f"base64+{alignment}", base64.b64encode(padded)[first:last]
        yield f"base64+{alignment}", base64.urlsafe_b64encode(padded)[first:last]
