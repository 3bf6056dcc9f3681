"""Certificates of a software NSM: names, lifetimes and extensions as measured on real documents.

Only the organisation differs, so that nobody takes them for Amazon's, and every one carries the
simulators' extension.
"""

from __future__ import annotations

import datetime as dt
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from geumgo.attestation import simulator_extension

__all__ = (
    "INSTANCE_LIFE",
    "LEAF_LIFE",
    "REGION_LIFE",
    "ZONE_LIFE",
    "Issued",
    "issue_instance",
    "issue_leaf",
    "issue_region",
    "issue_root",
    "issue_zone",
)

REGION_LIFE = dt.timedelta(days=20)
ZONE_LIFE = dt.timedelta(days=6) - dt.timedelta(seconds=1)
INSTANCE_LIFE = dt.timedelta(days=1)
LEAF_LIFE = dt.timedelta(hours=3)

_ROOT_LIFE = dt.timedelta(days=10958)  # thirty years with eight leap days
_BACKDATED = dt.timedelta(hours=1)
_LEAF_BACKDATED = dt.timedelta(seconds=3)
_Extensions = Sequence[tuple[x509.ExtensionType, bool]]


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and the key that it is for."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def issue_root(now: dt.datetime) -> Issued:
    """Return a new self-signed root, valid for thirty years from an hour ago."""
    key = _new_key()
    name = _name("aws.nitro-enclaves")
    extensions: _Extensions = (
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (_key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True), True),
    )
    return _issue(key, name, (key, name), (now - _BACKDATED, now + _ROOT_LIFE), extensions)


def issue_region(parent: Issued, region: str, now: dt.datetime) -> Issued:
    """Return a region's authority: twenty days and the hour before, two more below it."""
    name = _name(f"{secrets.token_hex(8)}.{region}.aws.nitro-enclaves")
    return _issue_authority(parent, name, 2, (now - _BACKDATED, now + REGION_LIFE))


def issue_zone(parent: Issued, region: str, now: dt.datetime) -> Issued:
    """Return a zone's authority: six days, one more below it."""
    name = _name(f"{secrets.token_hex(8)}.zonal.{region}.aws.nitro-enclaves", state="WA")
    return _issue_authority(parent, name, 1, _backdated(now, ZONE_LIFE))


def issue_instance(parent: Issued, instance_id: str, region: str, now: dt.datetime) -> Issued:
    """Return an instance's authority: a day, leaves only below it, and keyCertSign is all that it may."""
    name = _name(f"{instance_id}.{region}.aws.nitro-enclaves", state="Washington")
    extensions: _Extensions = (
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_key_usage(key_cert_sign=True), True),
    )
    issuer = (parent.key, parent.certificate.subject)
    return _issue(_new_key(), name, issuer, _backdated(now, INSTANCE_LIFE), extensions)


def issue_leaf(parent: Issued, module_id: str, region: str, now: dt.datetime) -> Issued:
    """Return the certificate that signs documents: three hours, dated back by three seconds."""
    name = _name(f"{module_id}.{region}.aws", state="Washington")
    # Real leaves are numbered by the enclave's id, zeros and the second of issue.
    serial = int(module_id.rpartition("-enc")[2] + "00000000" + f"{int(now.timestamp()):08x}", 16)
    extensions: _Extensions = (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True, content_commitment=True), False),
    )
    issuer = (parent.key, parent.certificate.subject)
    return _issue(_new_key(), name, issuer, (now - _LEAF_BACKDATED, now + LEAF_LIFE), extensions, serial)


def _issue_authority(
    parent: Issued, name: x509.Name, path_length: int, validity: tuple[dt.datetime, dt.datetime]
) -> Issued:
    key = _new_key()
    crl = f"http://crl.simulator.invalid/crl/{uuid.uuid4()}.crl"  # real ones name one; nobody should ask it
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(crl)], None, None, None)
    extensions: _Extensions = (
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key()), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (_key_usage(digital_signature=True, key_cert_sign=True, crl_sign=True), True),
        (x509.CRLDistributionPoints([point]), False),
    )
    return _issue(key, name, (parent.key, parent.certificate.subject), validity, extensions)


def _issue(
    key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    issuer: tuple[ec.EllipticCurvePrivateKey, x509.Name],
    validity: tuple[dt.datetime, dt.datetime],
    extensions: _Extensions,
    serial: int | None = None,
) -> Issued:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[1])
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(validity[0])
        .not_valid_after(validity[1])
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    builder = builder.add_extension(simulator_extension(), critical=False)
    return Issued(builder.sign(issuer[0], hashes.SHA384()), key)


def _backdated(now: dt.datetime, life: dt.timedelta) -> tuple[dt.datetime, dt.datetime]:
    # Real ones are hours old when they are seen; a verifier whose clock is a little behind must not notice
    # that these were issued with the leaf.
    return now - _BACKDATED, now - _BACKDATED + life


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def _name(common_name: str, *, state: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COUNTRY_NAME, "US")]
    if state is not None:
        attributes += [
            x509.NameAttribute(NameOID.STATE_OR_PROVINCE_NAME, state),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Seattle"),
        ]
    attributes += [
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Geumgo"),
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Simulator"),
        x509.NameAttribute(NameOID.COMMON_NAME, common_name),
    ]
    return x509.Name(attributes)


def _key_usage(
    *,
    digital_signature: bool = False,
    content_commitment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=content_commitment,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
