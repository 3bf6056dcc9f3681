"""Signs documents under a chain that is renewed in time."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from geumgo.codec.cose import Algorithm, CoseSign1
from geumgo.testing.nsm import _certificates as certificates
from geumgo.testing.nsm._certificates import Issued
from geumgo.testing.nsm.authority import NsmAuthority

__all__ = ("LEAF_RENEWAL", "DocumentSigner")

LEAF_RENEWAL = dt.timedelta(hours=1)
"""Age at which a leaf is replaced: whoever gets a document has two hours to verify it."""


@dataclass(frozen=True, slots=True)
class _Chain:
    authorities: tuple[Issued, Issued, Issued]
    leaf: Issued
    since: dt.datetime


class DocumentSigner:
    """Keeps a chain root, region, zone, instance, leaf; every link outlives the one below it."""

    def __init__(self, authority: NsmAuthority, *, instance_id: str, module_id: str, region: str) -> None:
        self._authority = authority
        self._instance_id = instance_id
        self._module_id = module_id
        self._region = region
        self._chain: _Chain | None = None

    def chain(self, now: dt.datetime) -> tuple[bytes, list[bytes]]:
        """Return the leaf and the bundle above it, root first, in DER; valid at `now` and two hours on."""
        chain = self._current(now)
        bundle = (self._authority.certificate, *(a.certificate for a in chain.authorities))
        return _der(chain.leaf.certificate), [_der(certificate) for certificate in bundle]

    def sign(self, payload: bytes, now: dt.datetime) -> bytes:
        """Return the COSE_Sign1 of a payload by the leaf of this moment; untagged, as hardware does it."""
        return CoseSign1.sign(payload, self._current(now).leaf.key, Algorithm.ES384).encode()

    def _current(self, now: dt.datetime) -> _Chain:
        chain = self._chain
        if chain is None or not chain.since <= now < chain.since + LEAF_RENEWAL:
            chain = self._chain = self._renewed(now)
        return chain

    def _renewed(self, now: dt.datetime) -> _Chain:
        """Issue a leaf, and anew those authorities that would not outlive what is issued below them."""
        region, zone, instance = self._chain.authorities if self._chain else (None, None, None)
        ends = [
            now + life
            for life in (certificates.ZONE_LIFE, certificates.INSTANCE_LIFE, certificates.LEAF_LIFE)
        ]
        if region is None or not _covers(region, now, ends[0]):
            region, zone = certificates.issue_region(self._authority.root, self._region, now), None
        if zone is None or not _covers(zone, now, ends[1]):
            zone, instance = certificates.issue_zone(region, self._region, now), None
        if instance is None or not _covers(instance, now, ends[2]):
            instance = certificates.issue_instance(zone, self._instance_id, self._region, now)
        leaf = certificates.issue_leaf(instance, self._module_id, self._region, now)
        return _Chain((region, zone, instance), leaf, now)


def _covers(link: Issued, start: dt.datetime, end: dt.datetime) -> bool:
    certificate = link.certificate
    return certificate.not_valid_before_utc <= start and end <= certificate.not_valid_after_utc


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
