"""The emulator's certificate authority, made at first use, and its server certificate, made at every start."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from geumgo._base import Clock, GeumgoError
from geumgo.attestation import simulator_extension
from geumgo.testing.kms._files import write_file

__all__ = ("CA_FILE", "TlsError", "prepare_tls")

CA_FILE = "ca.pem"
_CA_KEY_FILE = "ca.key"
_SERVER_FILE = "server.pem"

CA_DAYS = 3650
"""The CA is in measured configurations, so it must outlive them."""

SERVER_DAYS = 365
"""A new one is made at every start."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class TlsError(GeumgoError):
    """Raised when the certificate authority's files can't be used."""

    code = "bad_ca_file"


def prepare_tls(directory: Path, *, hosts: Sequence[str], clock: Clock) -> Path:
    """Return the file with the server's key and chain, for localhost and `hosts`.

    Raises:
        TlsError: the authority's files in `directory` are damaged, or a host is not a name.
    """
    now = datetime.fromtimestamp(clock.now_ms() / 1000, UTC)
    certificate, key = _load_or_make_ca(directory, now)
    try:
        names = [_general_name(host) for host in dict.fromkeys((*LOCAL_NAMES, *hosts))]
    except ValueError:
        raise TlsError("a host name for the server certificate is not a name", code="bad_host") from None
    server_key = ec.generate_private_key(ec.SECP256R1())
    server = (
        _builder("Geumgo KMS emulator", certificate.subject, server_key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(certificate.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(key, SHA256())
    )
    path = directory / _SERVER_FILE
    chain = server.public_bytes(Encoding.PEM) + certificate.public_bytes(Encoding.PEM)
    write_file(path, _private_pem(server_key) + chain, mode=0o600)
    return path


def _load_or_make_ca(directory: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    ca, key_file = directory / CA_FILE, directory / _CA_KEY_FILE
    if not ca.exists():
        # The certificate is written last: it is there only if its key is.
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Geumgo KMS emulator CA")])
        made = (
            _builder("Geumgo KMS emulator CA", name, key.public_key(), now, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, SHA256())
        )
        write_file(key_file, _private_pem(key), mode=0o600)
        write_file(ca, made.public_bytes(Encoding.PEM), mode=0o644)
    try:
        certificate = x509.load_pem_x509_certificate(ca.read_bytes())
        loaded = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged(type(error).__name__) from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != certificate.public_key():
        raise _damaged("the key is another's")
    return certificate, loaded


def _damaged(why: str) -> TlsError:
    return TlsError(
        f"the emulator's certificate authority can't be loaded ({why})",
        fix=f"Remove {CA_FILE} from the state folder; images that were built with it must be built again.",
    )


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(simulator_extension(), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
