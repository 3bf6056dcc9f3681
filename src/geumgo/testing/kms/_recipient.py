"""Recipient: verify the attestation document, encrypt the answer to the key in it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import load_der_public_key

from geumgo.attestation import TrustRoots, VerificationError, verify_document
from geumgo.codec import ber
from geumgo.keys import cms
from geumgo.testing.kms._errors import ServiceError

__all__ = ("AttestedRecipient", "encrypt_to", "verify_recipient")

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 4096
"""Sizes of a recipient's key: KMS documents 2048; above 4096 a call becomes a way to keep the emulator busy."""


@dataclass(frozen=True, slots=True)
class AttestedRecipient:
    """A key that a verified document vouches for, and what the document says about its enclave.

    Attributes:
        public_key_der: SubjectPublicKeyInfo.
        public_key: the same, parsed.
        conditions: ``kms:RecipientAttestation:*`` keys in lower case → lower-case hex.
    """

    public_key_der: bytes
    public_key: RSAPublicKey
    conditions: Mapping[str, str]


def verify_recipient(document: bytes, roots: TrustRoots, *, now_ms: int) -> AttestedRecipient:
    """Return the recipient that `document` attests.

    Raises:
        ServiceError: ``ValidationException``: the document does not verify or carries no usable RSA key.
    """
    try:
        verified = verify_document(document, roots, now_ms=now_ms).document
    except VerificationError as error:
        raise ServiceError(
            "ValidationException", f"The attestation document does not verify ({error.code}): {error}"
        ) from None
    der = verified.public_key or b""
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey) or not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise ServiceError(
            "ValidationException", "The attestation document carries no RSA public key of 2048 bits"
        )
    conditions = {
        f"kms:recipientattestation:pcr{index}": value.hex() for index, value in verified.pcrs.items()
    }
    if 0 in verified.pcrs:
        conditions["kms:recipientattestation:imagesha384"] = verified.pcrs[0].hex()
    return AttestedRecipient(der, key, conditions)


def encrypt_to(recipient: AttestedRecipient, plaintext: bytes) -> bytes:
    """Return `plaintext` as CiphertextForRecipient: CMS EnvelopedData in BER of indefinite length, as AWS sends it."""
    content_key, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(AES256(content_key), CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    oaep = OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    encrypted_key = recipient.public_key.encrypt(content_key, oaep)
    sha256 = ber.encode(ber.SEQUENCE, ber.encode_oid(cms.OID_SHA256), ber.encode(ber.NULL))
    mgf1 = ber.encode(ber.SEQUENCE, ber.encode_oid(cms.OID_MGF1), sha256)
    parameters = ber.encode(
        ber.SEQUENCE, ber.encode(ber.context(0), sha256), ber.encode(ber.context(1), mgf1)
    )
    info = ber.encode(
        ber.SEQUENCE,
        ber.encode(ber.INTEGER, b"\x02"),
        ber.encode(ber.context(0, constructed=False), hashlib.sha256(recipient.public_key_der).digest()),
        ber.encode(ber.SEQUENCE, ber.encode_oid(cms.OID_RSAES_OAEP), parameters),
        ber.encode(ber.OCTET_STRING, encrypted_key),
    )
    content = ber.encode_indefinite(
        ber.SEQUENCE,
        ber.encode_oid(cms.OID_DATA),
        ber.encode(ber.SEQUENCE, ber.encode_oid(cms.OID_AES256_CBC), ber.encode(ber.OCTET_STRING, iv)),
        ber.encode_indefinite(ber.context(0), ber.encode(ber.OCTET_STRING, ciphertext)),
    )
    enveloped = ber.encode_indefinite(
        ber.SEQUENCE, ber.encode(ber.INTEGER, b"\x02"), ber.encode(ber.SET, info), content
    )
    return ber.encode_indefinite(
        ber.SEQUENCE, ber.encode_oid(cms.OID_ENVELOPED_DATA), ber.encode_indefinite(ber.context(0), enveloped)
    )
