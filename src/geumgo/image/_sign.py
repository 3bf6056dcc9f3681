"""Signing an image (nitro.md §1.5): with a key at hand, or in two steps with one that never leaves its device.

Both ways are one: the bytes to be signed are made from the image and the certificate, and whatever signature
comes back is checked with the certificate's key before an image with it takes its name. The two steps need
nothing in between: the second makes the bytes again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from geumgo._base import SystemClock
from geumgo.codec import cbor
from geumgo.codec.cose import Algorithm, CoseError, CoseSign1, CoseSignatureError
from geumgo.image._errors import EifError, SigningError
from geumgo.image._layout import SectionType
from geumgo.image._measure import Measurements
from geumgo.image._signature import (
    Signature,
    check_dates,
    check_signature,
    encode_signature,
    pcr_of_der,
    pem_to_der,
)
from geumgo.image.eif import Eif, Part, measure, read_eif, write_eif

__all__ = ("SigningRequest", "attach_signature", "sign_eif", "signing_request")

MAX_SIGNATURE = 1024
"""Bytes of a signature as handed in; a P-521 signature in DER has at most 141."""
SIGNATURE_VERSION = 3
"""The first version of the format with a signature section."""


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """What a signer is asked for.

    Attributes:
        algorithm: ES256, ES384 or ES512, as the certificate's curve has it.
        to_be_signed: the exact bytes (the Sig_structure of RFC 9052 §4.4).
        measurements: of the image once it is signed; PCR8 is the certificate's.
    """

    algorithm: Algorithm
    to_be_signed: bytes
    measurements: Measurements
    _message: CoseSign1 = field(repr=False)
    _certificate: x509.Certificate = field(repr=False)
    _der: bytes = field(repr=False)

    @property
    def hash_name(self) -> str:
        """Return the hash that the signer uses: SHA-256, SHA-384 or SHA-512."""
        return f"SHA-{self.algorithm.hash.digest_size * 8}"

    @property
    def digest(self) -> bytes:
        """Return the hash of `to_be_signed`, for signers that take a digest."""
        hasher = hashes.Hash(self.algorithm.hash)
        hasher.update(self.to_be_signed)
        return hasher.finalize()


def signing_request(
    image: Path | Eif, *, certificate_pem: bytes, now_ms: int | None = None
) -> SigningRequest:
    """Return the bytes that a signature of this image is over.

    Args:
        image: the file, signed already or not.
        certificate_pem: the signing certificate; the first one in it, if it holds several.
        now_ms: time at which the certificate must be valid, milliseconds since 1970; None for now.

    Raises:
        SigningError: the certificate is unreadable or not on P-256, P-384 or P-521.
        EifError: the certificate is not valid then (`certificate_expired`); the image is malformed, unusual
            (`unusual_eif`), or of a version without signatures (`unsupported_version`).
        ImageError: the image can't be read.
    """
    der, certificate, key = _certificate(certificate_pem, now_ms)
    return _request(_signable(image), der, certificate, key)


def sign_eif(
    path: Path, output: Path, *, certificate_pem: bytes, private_key_pem: bytes, now_ms: int | None = None
) -> Measurements:
    """Write a signed copy of an image; a signature that it has is replaced.

    The signature is deterministic (RFC 6979) where OpenSSL is 3.2 or newer, as in cryptography's wheels: the
    same image, certificate and key make the same bytes.

    Args:
        path: the image.
        output: where the signed one goes; may be `path`. It appears complete or not at all.
        certificate_pem: the signing certificate.
        private_key_pem: its key, not encrypted.
        now_ms: time at which the certificate must be valid, milliseconds since 1970; None for now.

    Returns:
        The signed image's measurements, PCR8 among them.

    Raises:
        SigningError: the key or the certificate is unreadable or of another kind, or they do not belong
            together (`key_mismatch`).
        EifError: as `signing_request`, or the section would be too large (`too_large`).
        ImageError: a file can't be read or written.
    """
    private = _private_key(private_key_pem)
    der, certificate, key = _certificate(certificate_pem, now_ms)
    if private.public_key() != key:
        raise SigningError(
            "the private key is not the signing certificate's",
            fix="Give the key that the certificate was made for.",
            code="key_mismatch",
        )
    eif = _signable(path)
    request = _request(eif, der, certificate, key)
    return _write(eif, output, request, _sign(private, request))


def attach_signature(
    path: Path, output: Path, *, certificate_pem: bytes, signature: bytes, now_ms: int | None = None
) -> Measurements:
    """Write a copy of an image with a signature that was made elsewhere over its `signing_request`.

    Args:
        path: the image that the request was made of.
        output: where the signed one goes; may be `path`. It appears complete or not at all.
        certificate_pem: the certificate that the request was made with.
        signature: ECDSA, as DER (OpenSSL, KMS services) or as r ‖ s (PKCS #11 devices).
        now_ms: time at which the certificate must be valid, milliseconds since 1970; None for now.

    Returns:
        The signed image's measurements, PCR8 among them.

    Raises:
        SigningError: the signature is neither, or does not verify (`bad_signature`); the certificate is
            unreadable or of another kind.
        EifError: as `sign_eif`.
        ImageError: a file can't be read or written.
    """
    der, certificate, key = _certificate(certificate_pem, now_ms)
    eif = _signable(path)
    return _write(eif, output, _request(eif, der, certificate, key), signature)


def _certificate(pem: bytes, now_ms: int | None) -> tuple[bytes, x509.Certificate, ec.EllipticCurvePublicKey]:
    try:
        der = pem_to_der(pem)
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
    except EifError as error:
        raise SigningError(error.what, fix="Give an X.509 certificate as PEM.") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(f"the signing certificate can't be read ({type(error).__name__})") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _fits(key):
        raise SigningError(
            "the signing certificate's key is not on P-256, P-384 or P-521",
            fix="Make one, for example: openssl ecparam -name secp384r1 -genkey -noout -out key.pem",
        )
    check_dates(certificate, SystemClock().now_ms() if now_ms is None else now_ms)
    return der, certificate, key


def _fits(key: ec.EllipticCurvePublicKey) -> bool:
    try:
        Algorithm.of_key(key)
    except CoseError:
        return False
    return True


def _private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise SigningError(
            "the private key is encrypted",
            fix="Decrypt it for the signing, or sign offline: geumgo image signing-request.",
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(
            f"the private key can't be read ({type(error).__name__})",
            fix="Give an EC private key as PEM; a key in a KMS or HSM signs offline, by signing-request.",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SigningError("the private key is not on P-256, P-384 or P-521")
    return key


def _sign(key: ec.EllipticCurvePrivateKey, request: SigningRequest) -> bytes:
    try:
        return key.sign(request.to_be_signed, ec.ECDSA(request.algorithm.hash, deterministic_signing=True))
    except UnsupportedAlgorithm:
        return key.sign(request.to_be_signed, ec.ECDSA(request.algorithm.hash))


def _signable(image: Path | Eif) -> Eif:
    """Return the image as if it were not signed."""
    eif = read_eif(image) if isinstance(image, Path) else image
    if eif.warnings:
        raise EifError(
            f"the image is unusual and will not be signed: {'; '.join(eif.warnings)}",
            why="Readers of this format disagree about such files.",
            fix="Build the image again.",
            code="unusual_eif",
        )
    if eif.header.version < SIGNATURE_VERSION:
        raise EifError(
            f"an image of EIF version {eif.header.version} can't be signed;"
            f" signatures came with version {SIGNATURE_VERSION}",
            fix="Build the image again.",
            code="unsupported_version",
        )
    return replace(
        eif, sections=tuple(section for section in eif.sections if section.kind is not SectionType.SIGNATURE)
    )


def _request(
    eif: Eif, der: bytes, certificate: x509.Certificate, key: ec.EllipticCurvePublicKey
) -> SigningRequest:
    measured = measure(eif)
    algorithm = Algorithm.of_key(key)
    # Integers in a list, not a byte string: what AWS's reader expects.
    payload = cbor.dumps({"register_index": 0, "register_value": list(bytes.fromhex(measured.pcr0))})
    message = CoseSign1(cbor.dumps({1: int(algorithm)}), payload, b"", int(algorithm))
    return SigningRequest(
        algorithm=algorithm,
        to_be_signed=message.to_be_signed(),
        measurements=replace(measured, pcr8=pcr_of_der(der)),
        _message=message,
        _certificate=certificate,
        _der=der,
    )


def _write(eif: Eif, output: Path, request: SigningRequest, signature: bytes) -> Measurements:
    cose = replace(request._message, signature=_checked(request, signature)).encode()
    made = Signature(certificate=request._der, cose=cose)
    check_signature(made, request.measurements.pcr0)
    parts = [Part(section.kind, eif.data(section)) for section in eif.sections]
    return write_eif(
        output,
        [*parts, Part(SectionType.SIGNATURE, encode_signature(made))],
        architecture=eif.header.architecture,
        default_memory=eif.header.default_memory,
        default_cpus=eif.header.default_cpus,
        version=eif.header.version,
        pcr0=request.measurements.pcr0,
    )


def _checked(request: SigningRequest, signature: bytes) -> bytes:
    """Return r ‖ s of a signature that verifies."""
    key = request._certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    width = request.algorithm.coordinate_size
    found = _readings(signature, width)
    for raw in found:
        try:
            replace(request._message, signature=raw).verify(key, request.algorithm)
        except CoseSignatureError:
            continue
        return raw
    if not found:
        raise SigningError(
            f"{len(signature)} bytes are not an {request.algorithm.name} signature",
            why=f"It is ECDSA as DER, or r and s of {width} bytes each.",
            fix="Give the signature's bytes, not their base64 or hexadecimal text.",
            code="bad_signature",
        )
    raise SigningError(
        "the signature is not the certificate's over this image",
        why=_why(request, key, found),
        fix=f"Sign the bytes of the signing request with {request.algorithm.name} ({request.hash_name}).",
        code="bad_signature",
    )


def _readings(signature: bytes, width: int) -> list[bytes]:
    """Return what a signature may mean as r ‖ s; both, where DER happens to have the length of the other."""
    found = [bytes(signature)] if len(signature) == 2 * width else []
    if len(signature) <= MAX_SIGNATURE:
        try:
            r, s = decode_dss_signature(signature)
            found.append(r.to_bytes(width, "big") + s.to_bytes(width, "big"))
        except (ValueError, OverflowError):
            pass
    return found


def _why(request: SigningRequest, key: ec.EllipticCurvePublicKey, readings: list[bytes]) -> str:
    width = request.algorithm.coordinate_size
    for raw in readings:
        r, s = (int.from_bytes(half, "big") for half in (raw[:width], raw[width:]))
        try:
            key.verify(encode_dss_signature(r, s), request.digest, ec.ECDSA(request.algorithm.hash))
        except InvalidSignature:
            continue
        return "The signer hashed the digest once more: give it the bytes, or tell it that it gets a digest."
    return "The image, the certificate or the key is another than when the request was made."
