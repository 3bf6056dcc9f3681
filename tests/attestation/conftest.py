"""Fixtures of the attestation tests: real documents, and chains that break one rule at a time."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from geumgo.attestation import Evidence, Statement, TrustRoots, Use
from geumgo.codec.cose import Algorithm, CoseSign1

NOW = dt.datetime(2026, 3, 1, 12, 0, 0, tzinfo=dt.UTC)
PCRS = {index: bytes([index + 1]) * 48 for index in range(16)}
KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(6)]


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The reference fixtures, which live beside the repository."""
    root = Path(os.environ.get("GEUMGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (root / "fixtures").is_dir():
        pytest.skip(f"no reference fixtures in {root}; set GEUMGO_SHARED to the folder that has them")
    return root / "fixtures"


@pytest.fixture(scope="session")
def real_document(fixtures: Path) -> bytes:
    return (fixtures / "aws_nitro_document.cbor").read_bytes()


@pytest.fixture
def now_ms() -> int:
    """The time of the documents that are made here."""
    return int(NOW.timestamp()) * 1000


@dataclass(frozen=True)
class Link:
    """One certificate to be issued; by default by the one above it."""

    name: str
    key: Any
    ca: bool | None = True
    path_length: int | None = None
    signs_certificates: bool = True
    signs: bool = False
    usage: bool = True
    before: dt.datetime = NOW - dt.timedelta(days=1)
    after: dt.datetime = NOW + dt.timedelta(days=1)
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    issuer_name: str | None = None
    issuer_key: Any = None

    def issue(self, issuer: Link) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(self.name))
            .issuer_name(_name(self.issuer_name or issuer.name))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.before)
            .not_valid_after(self.after)
        )
        if self.ca is not None:
            constraints = x509.BasicConstraints(ca=self.ca, path_length=self.path_length)
            builder = builder.add_extension(constraints, critical=True)
        if self.usage:
            usage = x509.KeyUsage(
                digital_signature=self.signs,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=not (self.signs or self.signs_certificates),
                key_cert_sign=self.signs_certificates,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=bool(self.ca))
        for extension, critical in self.more:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.issuer_key or issuer.key, hashes.SHA384()).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Platform:
    """Everything behind a document; change one thing by `with_`."""

    links: tuple[Link, ...]
    payload: dict[str, Any] = field(default_factory=dict)

    def with_(self, index: int, **changes: Any) -> Platform:
        """Return the platform with one link changed; the leaf is the last."""
        links = list(self.links)
        links[index] = replace(links[index], **changes)
        return replace(self, links=tuple(links))

    def saying(self, **payload: Any) -> Platform:
        """Return the platform with fields of the payload changed."""
        return replace(self, payload=self.payload | payload)

    def certificates(self) -> list[bytes]:
        return [
            link.issue(issuer) for issuer, link in zip((self.links[0], *self.links), self.links, strict=False)
        ]

    def document(self, *, signer: Any = None) -> bytes:
        *bundle, leaf = self.certificates()
        fields: dict[str, Any] = {
            "module_id": "i-1234567890abcdef0-enc0123456789abcdef",
            "digest": "SHA384",
            "timestamp": int(NOW.timestamp()) * 1000,
            "pcrs": PCRS,
            "certificate": leaf,
            "cabundle": bundle,
            "public_key": None,
            "user_data": None,
            "nonce": None,
        }
        key = signer or self.links[-1].key
        return CoseSign1.sign(cbor2.dumps(fields | self.payload), key, Algorithm.ES384).encode()

    def trusted(self, document: bytes, *, simulated: bool = False) -> TrustRoots:
        """Return roots that trust the root in a document of this platform."""
        root = x509.load_der_x509_certificate(cbor2.loads(cbor2.loads(document)[2])["cabundle"][0])
        return TrustRoots.from_pem(root.public_bytes(Encoding.PEM), simulated=simulated)


@pytest.fixture(scope="session")
def platform() -> Platform:
    """A root, region, zone, instance and leaf that keep every rule."""
    return Platform(
        (
            Link("root", KEYS[0]),
            Link("region", KEYS[1], path_length=2),
            Link("zone", KEYS[2], path_length=1),
            Link("instance", KEYS[3], path_length=0),
            Link("leaf", KEYS[4], ca=False, signs_certificates=False, signs=True),
        )
    )


@pytest.fixture(scope="session")
def other_key() -> ec.EllipticCurvePrivateKey:
    return KEYS[5]


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def statement() -> Statement:
    return Statement(
        use=Use.SEAL,
        suite="hpke-x25519-sha256-aes256gcm",
        key=bytes(range(32)),
        pool="demo",
        configuration=bytes(range(48)),
    )


Ask = Callable[..., tuple[Evidence, TrustRoots]]


@pytest.fixture
def ask(platform: Platform, statement: Statement) -> Ask:
    """Makes evidence of the statement as an enclave would; keywords change fields of the document."""

    def make(*, statement_bytes: bytes | None = None, **payload: Any) -> tuple[Evidence, TrustRoots]:
        fields = {
            "public_key": statement.key,
            "user_data": statement.digest(),
            "nonce": b"n" * 32,
        } | payload
        document = platform.saying(**fields).document()
        shown = statement.to_bytes() if statement_bytes is None else statement_bytes
        return Evidence("nitro", document, shown), platform.trusted(document)

    return make


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
