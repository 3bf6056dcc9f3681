"""The signature section (nitro.md §1.5) and its certificate, whose hash is PCR8: read, checked, encoded.

Data = CBOR array(1) of {"signing_certificate": PEM text, "signature": untagged COSE_Sign1}, both as arrays
of integers in files of AWS's tool and as byte strings in others'.
"""

from __future__ import annotations

import binascii
import hashlib
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import cbor2
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from geumgo.codec import cbor
from geumgo.codec.cose import Algorithm, CoseError, CoseSign1
from geumgo.image._errors import EifError
from geumgo.image._layout import MAX_SIGNATURE_SIZE
from geumgo.image._measure import extend

__all__ = (
    "Signature",
    "check_dates",
    "check_signature",
    "encode_signature",
    "parse_signature",
    "pcr_of_certificate",
    "pcr_of_der",
    "pem_to_der",
)

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signed image carries; parsed, not verified.

    Attributes:
        certificate: DER of the signing certificate; its hash is PCR8.
        cose: the COSE_Sign1 over PCR0, as its bytes.
    """

    certificate: bytes
    cose: bytes


def parse_signature(data: bytes) -> Signature:
    """Parse a signature section's data.

    Raises:
        EifError: more than 32768 bytes, or not the structure above. The first element alone is used, as
            AWS's reader does.
    """
    if len(data) > MAX_SIGNATURE_SIZE:
        raise EifError(f"a signature section has at most {MAX_SIGNATURE_SIZE} bytes, this one {len(data)}")
    try:
        value = cbor.loads(data, max_size=MAX_SIGNATURE_SIZE)
    except cbor.CborError as error:
        raise EifError(f"the signature section is {error.what}") from None
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        raise EifError("the signature section is not a list of maps")
    pem = _byte_string(value[0], "signing_certificate")
    return Signature(certificate=pem_to_der(pem), cose=_byte_string(value[0], "signature"))


def encode_signature(signature: Signature) -> bytes:
    """Return a signature section's data, byte for byte as AWS's tool writes it.

    The certificate alone is written, as PEM: what else the signer's file held stays out of the image.

    Raises:
        EifError: more than 32768 bytes (`too_large`).
    """
    pem = ssl.DER_cert_to_PEM_cert(signature.certificate).encode("ascii")
    # cbor2 itself: AWS's map is in the order of its fields, which is not that of deterministic CBOR.
    data = cbor2.dumps([{"signing_certificate": list(pem), "signature": list(signature.cose)}])
    if len(data) > MAX_SIGNATURE_SIZE:
        raise EifError(
            f"the signature section would have {len(data)} bytes; {MAX_SIGNATURE_SIZE} is the limit",
            why="The format spends two bytes on most bytes of the certificate.",
            fix=f"Use a smaller certificate; this one has {len(pem)} bytes as PEM.",
            code="too_large",
        )
    return data


def pem_to_der(pem: bytes) -> bytes:
    """Return the DER of the first certificate in `pem`; what stands before and after it is ignored.

    Raises:
        EifError: there is none.
    """
    match = _PEM.search(pem)
    if match is None:
        raise EifError("the signing certificate is not PEM")
    try:
        der = binascii.a2b_base64(b"".join(match[1].split()), strict_mode=True)
    except binascii.Error:
        raise EifError("the signing certificate is not PEM") from None
    if not der:
        raise EifError("the signing certificate is empty")
    return der


def _byte_string(entry: dict[Any, Any], key: str) -> bytes:
    value = entry.get(key)
    if isinstance(value, bytes):
        return value
    if isinstance(value, list) and all(type(item) is int and 0 <= item <= 255 for item in value):
        return bytes(value)
    raise EifError(f"the signature section has no bytes at {key!r}")


def check_signature(signature: Signature, pcr0: str) -> x509.Certificate:
    """Check that an image's signature is its certificate's over PCR0; return the certificate.

    Nothing is said about who the certificate belongs to or whether it is valid today: trust comes from
    comparing PCR8.

    Args:
        signature: as parsed.
        pcr0: the measured PCR0, hex.

    Raises:
        EifError: `bad_signature`.
    """
    try:
        certificate = x509.load_der_x509_certificate(signature.certificate)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise EifError(
                "the signing certificate's key is not on P-256, P-384 or P-521", code="bad_signature"
            )
        payload = CoseSign1.parse(signature.cose, max_size=MAX_SIGNATURE_SIZE).verify(
            key, Algorithm.of_key(key)
        )
        signed = cbor.loads(payload, max_size=MAX_SIGNATURE_SIZE)
    except (CoseError, cbor.CborError) as error:
        raise EifError(f"the image's signature does not hold: {error.what}", code="bad_signature") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EifError(
            f"the signing certificate can't be read ({type(error).__name__})", code="bad_signature"
        ) from None
    if not isinstance(signed, dict) or signed.get("register_index") != 0:
        raise EifError("the image's signature is not over PCR0", code="bad_signature")
    if _byte_string(signed, "register_value") != bytes.fromhex(pcr0):
        raise EifError("the image's signature is over another PCR0", code="bad_signature")
    return certificate


def check_dates(certificate: x509.Certificate, now_ms: int) -> None:
    """Check that a signing certificate is valid at a time; the hypervisor does so at every start.

    Args:
        certificate: the signer's.
        now_ms: the time, milliseconds since 1970.

    Raises:
        EifError: `certificate_expired`, also where it is not valid yet.
    """
    try:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError:
        raise EifError("the signing certificate's dates can't be read", code="bad_signature") from None
    if now_ms < start.timestamp() * 1000:
        wrong = f"is not valid before {start.isoformat()}"
    elif now_ms > end.timestamp() * 1000:
        wrong = f"expired at {end.isoformat()}"
    else:
        return
    raise EifError(
        f"the signing certificate {wrong}; the time is {_shown(now_ms)}",
        why="The Nitro hypervisor refuses to start an image whose signing certificate is not valid then.",
        fix="Sign with a certificate that is valid; where another time is meant, say so with --now.",
        code="certificate_expired",
    )


def _shown(now_ms: int) -> str:
    try:
        return datetime.fromtimestamp(now_ms // 1000, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return f"{now_ms} ms since 1970"


def pcr_of_certificate(pem: bytes) -> str:
    """Return PCR8 of images signed by a certificate (PEM), as lower-case hex.

    Raises:
        EifError: it is not PEM.
    """
    return pcr_of_der(pem_to_der(pem))


def pcr_of_der(der: bytes) -> str:
    """Return PCR8 of images signed by a certificate (DER), as lower-case hex."""
    return extend(hashlib.sha384(der).digest()).hex()
