"""PCR0, PCR1, PCR2 and PCR8 of an EIF (nitro.md §1.4), fed section by section in file order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from geumgo.image._errors import EifError
from geumgo.image._layout import SectionType
from geumgo.image._source import Data

__all__ = ("Measurements", "Measurer", "extend", "pcr_of_text")

PCR_SIZE = 48
HASH_ALGORITHM = "Sha384 { ... }"
"""How nitro-cli names the algorithm in its JSON."""


def extend(data: bytes) -> bytes:
    """Return what a zero PCR holds after it is extended by `data`: SHA-384(0^48 ‖ data)."""
    return hashlib.sha384(bytes(PCR_SIZE) + data).digest()


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the hypervisor will measure, as lower-case hex of 48 bytes.

    Attributes:
        pcr0: the whole image.
        pcr1: kernel, command line and bootstrap ramdisk.
        pcr2: the application's ramdisks.
        pcr8: the signing certificate; None for an image that isn't signed.
    """

    pcr0: str
    pcr1: str
    pcr2: str
    pcr8: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return nitro-cli's `Measurements` object."""
        found = {"HashAlgorithm": HASH_ALGORITHM, "PCR0": self.pcr0, "PCR1": self.pcr1, "PCR2": self.pcr2}
        return found if self.pcr8 is None else {**found, "PCR8": self.pcr8}

    def pcrs(self) -> Mapping[int, bytes]:
        """Return the registers as an NSM holds them after boot."""
        found = {0: bytes.fromhex(self.pcr0), 1: bytes.fromhex(self.pcr1), 2: bytes.fromhex(self.pcr2)}
        return found if self.pcr8 is None else {**found, 8: bytes.fromhex(self.pcr8)}


class Measurer:
    """Hashes an image's sections as they go by; only data of kernel, command line and ramdisks counts."""

    def __init__(self) -> None:
        self._image = hashlib.sha384()
        self._bootstrap = hashlib.sha384()
        self._application = hashlib.sha384()
        self._ramdisks = 0
        self._into: tuple[hashlib._Hash, ...] = ()

    def section(self, kind: SectionType) -> None:
        """Say which section the bytes that follow belong to."""
        if kind is SectionType.RAMDISK:
            second = self._bootstrap if self._ramdisks == 0 else self._application
            self._into = (self._image, second)
            self._ramdisks += 1
        elif kind in (SectionType.KERNEL, SectionType.CMDLINE):
            self._into = (self._image, self._bootstrap)
        else:
            self._into = ()

    def update(self, data: Data) -> None:
        """Add bytes of the current section."""
        for hasher in self._into:
            hasher.update(data)

    def finish(self, certificate: bytes | None = None) -> Measurements:
        """Return the registers; `certificate` is the DER of the signing certificate."""
        if certificate == b"":
            raise EifError("the signing certificate is empty")
        return Measurements(
            pcr0=extend(self._image.digest()).hex(),
            pcr1=extend(self._bootstrap.digest()).hex(),
            pcr2=extend(self._application.digest()).hex(),
            pcr8=None if certificate is None else extend(hashlib.sha384(certificate).digest()).hex(),
        )


def pcr_of_text(text: str) -> str:
    """Return PCR3 of an IAM role's ARN, or PCR4 of an instance's id, as lower-case hex."""
    return extend(text.encode()).hex()
