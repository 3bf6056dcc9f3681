"""Trust roots: who may issue evidence. They are arguments; no flag or environment variable adds one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from geumgo.attestation._aws_root import AWS_NITRO_ROOT_PEM, AWS_NITRO_ROOT_SHA256
from geumgo.attestation.errors import RootsInvalid

__all__ = ("MAX_ROOTS", "TrustRoot", "TrustRoots")

MAX_ROOTS = 32
"""Certificates in one PEM file of roots; a platform has one or two, a rotation doubles them."""

_MAX_PEM = 64 << 10  # bytes; a certificate's PEM has under 2 KiB


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """One root certificate.

    Attributes:
        der: the certificate.
        simulated: whether its evidence is a simulator's.
    """

    der: bytes
    simulated: bool

    @property
    def sha256(self) -> str:
        """Fingerprint in lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """The roots that a verifier accepts; `a | b` accepts those of both.

    Make one by :meth:`aws_nitro` or :meth:`from_pem`.
    """

    roots: tuple[TrustRoot, ...]

    @classmethod
    def aws_nitro(cls) -> TrustRoots:
        """Return AWS's root for Nitro Enclaves in the commercial partitions, pinned by SHA-256."""
        roots = cls.from_pem(AWS_NITRO_ROOT_PEM, simulated=False)
        if [root.sha256 for root in roots.roots] != [AWS_NITRO_ROOT_SHA256]:
            raise RootsInvalid(
                "the AWS root certificate of this installation is not the one that is pinned",
                fix="The installed package was changed; install it again.",
            )
        return roots

    @classmethod
    def from_pem(cls, pem: str | bytes, *, simulated: bool) -> TrustRoots:
        """Return the roots of a PEM text, one certificate or several.

        Args:
            pem: certificates.
            simulated: whether what they issue is a simulator's; `Claims.simulated` says so then. There is
                no default, so that nobody takes a simulator for hardware by leaving something out.

        Raises:
            RootsInvalid: no certificate, too many, or not PEM.
        """
        try:
            data = pem.encode() if isinstance(pem, str) else pem
            if len(data) > _MAX_PEM:
                raise ValueError
            certificates = x509.load_pem_x509_certificates(data)
        except (ValueError, Warning):  # warnings of malformed numbers, where warnings are errors
            raise RootsInvalid(
                "the trust roots are not PEM certificates",
                fix="Give the issuer's root certificate, a text that begins with -----BEGIN CERTIFICATE-----.",
            ) from None
        if not 0 < len(certificates) <= MAX_ROOTS:
            raise RootsInvalid(f"trust roots are 1 to {MAX_ROOTS} certificates, not {len(certificates)}")
        return cls(_joined(TrustRoot(c.public_bytes(Encoding.DER), simulated) for c in certificates))

    def __or__(self, other: TrustRoots) -> TrustRoots:
        """Accept the roots of both; one that either calls simulated is simulated."""
        return TrustRoots(_joined((*self.roots, *other.roots)))

    @property
    def simulated(self) -> bool:
        """Whether any of the roots is a simulator's."""
        return any(root.simulated for root in self.roots)

    def find(self, der: bytes) -> TrustRoot | None:
        """Return the root that is `der`, byte for byte."""
        return next((root for root in self.roots if root.der == der), None)


def _joined(roots: Iterable[TrustRoot]) -> tuple[TrustRoot, ...]:
    simulated: dict[bytes, bool] = {}
    for root in roots:
        simulated[root.der] = simulated.get(root.der, False) or root.simulated
    return tuple(TrustRoot(der, mark) for der, mark in simulated.items())
