"""Open what KMS encrypted to an attested key (nitro.md §5, KMS "CiphertextForRecipient")."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from geumgo.codec.ber import BerError
from geumgo.keys.cms import EnvelopedData
from geumgo.keys.errors import RecipientError

__all__ = ("generate_recipient_key", "open_ciphertext_for_recipient", "public_key_der")

RSA_BITS = 2048
"""Size of the recipient's key, what AWS's own SDK makes; it lives for one call or one process."""


def generate_recipient_key() -> rsa.RSAPrivateKey:
    """Return a new RSA key for one enclave's calls; takes tens of milliseconds."""
    return rsa.generate_private_key(65537, RSA_BITS)


def public_key_der(key: rsa.RSAPrivateKey) -> bytes:
    """Return the SubjectPublicKeyInfo that goes into the attestation document's ``public_key``."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def open_ciphertext_for_recipient(cms: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """Return the plaintext of a CiphertextForRecipient.

    The form has no integrity of its own: it is worth what the TLS connection is worth on which it came.

    Raises:
        RecipientError: it does not open; which step failed is not told, so that a padding oracle has no voice.
    """
    try:
        data = EnvelopedData.parse(cms)
        if data.recipient != hashlib.sha256(public_key_der(key)).digest():
            raise ValueError("another recipient")
        oaep = OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        content_key = key.decrypt(data.encrypted_key, oaep)
        decryptor = Cipher(AES256(content_key), CBC(data.iv)).decryptor()
        padded = decryptor.update(data.ciphertext) + decryptor.finalize()
        unpadder = padding.PKCS7(128).unpadder()
        return unpadder.update(padded) + unpadder.finalize()
    except (BerError, ValueError):
        raise RecipientError(
            "what the key service encrypted to this enclave does not open",
            fix="Ask again with a new attestation document; if it persists, something alters the answers.",
            retryable=True,
        ) from None
