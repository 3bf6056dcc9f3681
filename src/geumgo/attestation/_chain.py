"""The certificate chain of a Nitro document: root, region, zone, instance, leaf.

Source: aws-nitro-enclaves-nsm-api `docs/attestation_process.md`, "Certificates validation". The rules
that have an error of their own are checked here one by one; names, signatures and path lengths are left
to cryptography's path validation (RFC 5280 §6). There is no revocation check: AWS says to turn it off.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
)
from cryptography.x509.verification import (
    VerificationError as PathError,
)

from geumgo.attestation.errors import BadCertificate, ExpiredCertificate, MalformedEvidence, UntrustedRoot
from geumgo.attestation.roots import TrustRoot, TrustRoots
from geumgo.attestation.simulator import SIMULATOR_OID

__all__ = ("VerifiedChain", "verify_chain")

_UNDERSTOOD = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})
_PARSE_ERRORS = (
    Warning,  # cryptography warns of malformed numbers; where warnings are errors, they are this one too
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """A chain that keeps every rule.

    Attributes:
        root: where it starts.
        key: the leaf's, on P-384.
        simulated: whether a certificate carries the simulators' mark.
    """

    root: TrustRoot
    key: ec.EllipticCurvePublicKey
    simulated: bool


@dataclass(frozen=True, slots=True)
class _Certificate:
    """What the rules look at, read once, so that malformed extensions surface here."""

    parsed: x509.Certificate
    name: str
    not_before: dt.datetime
    not_after: dt.datetime
    ca: bool
    key_usage: x509.KeyUsage | None
    critical: frozenset[x509.ObjectIdentifier]
    simulated: bool


def verify_chain(
    certificate: bytes, cabundle: Sequence[bytes], roots: TrustRoots, *, now_ms: int
) -> VerifiedChain:
    """Check the chain at a time; numbers are those of the verification in `verify_document`."""
    # (3.1) Every certificate is one. The root's bytes are compared before anything is made of the rest.
    root = roots.find(cabundle[0])
    if root is None:
        # (3.2) cabundle[0] is a root that was passed in, byte for byte.
        raise UntrustedRoot(
            "the evidence starts at a root certificate that is not trusted",
            why="Another platform made it, or a simulator, whose root must be passed in explicitly.",
            fix="Pass the root of the platform that should have made it; see TrustRoots.",
        )
    authorities = [_read(der, f"cabundle[{i}]") for i, der in enumerate(cabundle)]
    leaf = _read(certificate, "certificate")

    # (3.3) Every certificate, the root too, is valid now. Both ends belong to the validity, to the second.
    for entry in (*authorities, leaf):
        _check_validity(entry, now_ms)

    # (3.4) Extensions: those above the leaf may sign certificates, the leaf may sign and is no authority.
    for entry in (*authorities, leaf):
        if not entry.critical <= _UNDERSTOOD:
            raise BadCertificate(f"{entry.name} has a critical extension that is not understood")
    for entry in authorities:
        if not entry.ca:
            raise BadCertificate(f"{entry.name} is not a certificate authority")
        if entry.key_usage is None or not entry.key_usage.key_cert_sign:
            raise BadCertificate(f"{entry.name} may not sign certificates (keyUsage)")
    if leaf.ca:
        raise BadCertificate(f"{leaf.name} is a certificate authority; a document's signer is none")
    if leaf.key_usage is None or not leaf.key_usage.digital_signature:
        raise BadCertificate(f"{leaf.name} may not sign (keyUsage)")

    # (3.5) Names, signatures and path lengths, along exactly this chain.
    _check_path(leaf, authorities, now_ms)

    return VerifiedChain(
        root=root,
        key=_p384(leaf),
        simulated=any(entry.simulated for entry in (*authorities, leaf)),
    )


def _check_validity(entry: _Certificate, now_ms: int) -> None:
    before, after = (round(t.timestamp()) * 1000 for t in (entry.not_before, entry.not_after))
    if before <= now_ms <= after:
        return
    state = "not valid yet" if now_ms < before else "expired"
    raise ExpiredCertificate(
        f"{entry.name} is {state}: it is valid from {_iso(entry.not_before)} to {_iso(entry.not_after)}",
        why="A Nitro document's own certificate lives three hours.",
        fix="Ask the enclave for new evidence, and check that this machine's clock is right; a stored "
        "document verifies at its own timestamp only.",
    )


def _check_path(leaf: _Certificate, authorities: Sequence[_Certificate], now_ms: int) -> None:
    # The default policies want what AWS's leaf and instance certificates lack (AKI, SAN).
    authority_policy = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.CRITICAL, None)
        .require_present(x509.KeyUsage, Criticality.CRITICAL, None)
    )
    leaf_policy = ExtensionPolicy.permit_all().require_present(x509.KeyUsage, Criticality.AGNOSTIC, None)
    root, *intermediates = (entry.parsed for entry in authorities)
    try:
        verified = (
            PolicyBuilder()
            .store(Store([root]))
            .time(dt.datetime.fromtimestamp(now_ms // 1000, dt.UTC))
            .max_chain_depth(len(intermediates))
            .extension_policies(ca_policy=authority_policy, ee_policy=leaf_policy)
            .build_client_verifier()
            .verify(leaf.parsed, intermediates)
        )
    except (PathError, *_PARSE_ERRORS):
        raise BadCertificate(
            "the certificate chain does not hold together",
            why="A certificate is not signed by the one above it, has another issuer's name, or is deeper "
            "than a path length allows.",
        ) from None
    if verified.chain != [leaf.parsed, *reversed(intermediates), root]:
        raise BadCertificate("the cabundle is not the chain from the root down to the document's signer")


def _p384(leaf: _Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = leaf.parsed.public_key()
    except _PARSE_ERRORS:
        raise MalformedEvidence(f"the public key of {leaf.name} can't be read") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BadCertificate(f"the key of {leaf.name} is not on P-384, which ES384 needs")
    return key


def _read(der: bytes, name: str) -> _Certificate:
    try:
        parsed = x509.load_der_x509_certificate(der)
        if parsed.serial_number <= 0:
            raise ValueError  # RFC 5280 §4.1.2.2
        if der[-len(parsed.signature) - 1] != 0:
            raise ValueError  # a BIT STRING that leaves out bits: ECDSA's is whole octets (RFC 5758 §3.2)
        extensions = {extension.oid: extension for extension in parsed.extensions}
        constraints: Any = extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
        usage: Any = extensions.get(ExtensionOID.KEY_USAGE)
        return _Certificate(
            parsed=parsed,
            name=name,
            not_before=parsed.not_valid_before_utc,
            not_after=parsed.not_valid_after_utc,
            ca=constraints is not None and constraints.value.ca,
            key_usage=None if usage is None else usage.value,
            critical=frozenset(oid for oid, extension in extensions.items() if extension.critical),
            simulated=SIMULATOR_OID in extensions,
        )
    except _PARSE_ERRORS:
        raise MalformedEvidence(f"the document's {name} is not a certificate") from None


def _iso(time: dt.datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
