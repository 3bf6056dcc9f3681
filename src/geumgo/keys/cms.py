"""The CMS EnvelopedData that KMS calls CiphertextForRecipient (RFC 5652 §6, with RSAES-OAEP of RFC 3560).

Only the one form that KMS sends is accepted: version 2, one KeyTransRecipientInfo named by the SHA-256 of
the recipient's public key, RSAES-OAEP with SHA-256, AES-256-CBC. The encrypted content comes in either of two
encodings, constructed or primitive.
"""

from __future__ import annotations

from dataclasses import dataclass

from geumgo.codec import ber

__all__ = ("MAX_CMS", "EnvelopedData")

MAX_CMS = 16 << 10
"""Bytes of a CMS; the plaintext of a KMS answer has 6 KiB at the most."""

OID_ENVELOPED_DATA = "1.2.840.113549.1.7.3"
OID_DATA = "1.2.840.113549.1.7.1"
OID_RSAES_OAEP = "1.2.840.113549.1.1.7"
OID_MGF1 = "1.2.840.113549.1.1.8"
OID_P_SPECIFIED = "1.2.840.113549.1.1.9"
OID_SHA256 = "2.16.840.1.101.3.4.2.1"
OID_AES256_CBC = "2.16.840.1.101.3.4.1.42"

_PRIMITIVE_0 = ber.context(0, constructed=False)


def _oid(dotted: str) -> bytes:
    return ber.encode_oid(dotted)[2:]


_ENVELOPED_DATA, _DATA = _oid(OID_ENVELOPED_DATA), _oid(OID_DATA)
_OAEP, _MGF1, _P_SPECIFIED = _oid(OID_RSAES_OAEP), _oid(OID_MGF1), _oid(OID_P_SPECIFIED)
_SHA256, _AES256_CBC = _oid(OID_SHA256), _oid(OID_AES256_CBC)


@dataclass(frozen=True, slots=True)
class EnvelopedData:
    """What a CiphertextForRecipient holds.

    Attributes:
        recipient: subject key identifier, SHA-256 of the recipient's SubjectPublicKeyInfo.
        encrypted_key: the content key under RSAES-OAEP.
        iv: 16 bytes.
        ciphertext: the content under AES-256-CBC, whole blocks, at least one.
    """

    recipient: bytes
    encrypted_key: bytes
    iv: bytes
    ciphertext: bytes

    @classmethod
    def parse(cls, data: bytes) -> EnvelopedData:
        """Return what `data` holds.

        Raises:
            BerError: not BER, or not this form of CMS.
        """
        # ContentInfo ::= SEQUENCE { contentType, [0] EXPLICIT content }
        content_type, content = ber.loads(data, max_size=MAX_CMS).items(ber.SEQUENCE, 2)
        _expect(content_type, _ENVELOPED_DATA, "enveloped data")
        (enveloped,) = content.items(ber.context(0), 1)
        version, recipients, encrypted = enveloped.items(ber.SEQUENCE, 3)
        _expect_version(version)
        (info,) = recipients.items(ber.SET, 1)
        recipient, encrypted_key = _parse_recipient(info)
        iv, ciphertext = _parse_content(encrypted)
        return cls(recipient, encrypted_key, iv, ciphertext)


def _parse_recipient(info: ber.Element) -> tuple[bytes, bytes]:
    # KeyTransRecipientInfo ::= SEQUENCE { version, rid, keyEncryptionAlgorithm, encryptedKey }
    version, rid, algorithm, encrypted_key = info.items(ber.SEQUENCE, 4)
    _expect_version(version)
    _check_oaep(algorithm)
    return rid.octets(_PRIMITIVE_0), encrypted_key.octets()


def _check_oaep(algorithm: ber.Element) -> None:
    """RSAES-OAEP-params (RFC 4055 §4.1): SHA-256, MGF1 with SHA-256, the default (empty) label."""
    name, params = algorithm.items(ber.SEQUENCE, 2)
    _expect(name, _OAEP, "RSAES-OAEP")
    parts = {part.tag: part for part in params.items(ber.SEQUENCE, 2, 3)}
    if len(parts) != len(params.children) or not parts.keys() <= {ber.context(n) for n in range(3)}:
        raise ber.BerError("RSAES-OAEP has parameters of its own kind")
    if not {ber.context(0), ber.context(1)} <= parts.keys():
        raise ber.BerError("RSAES-OAEP is not with SHA-256")
    (hashing,) = parts[ber.context(0)].items(ber.context(0), 1)
    _check_sha256(hashing)
    (masking,) = parts[ber.context(1)].items(ber.context(1), 1)
    mgf, mgf_hash = masking.items(ber.SEQUENCE, 2)
    _expect(mgf, _MGF1, "MGF1")
    _check_sha256(mgf_hash)
    if ber.context(2) in parts:
        (source,) = parts[ber.context(2)].items(ber.context(2), 1)
        specified, label = source.items(ber.SEQUENCE, 2)
        _expect(specified, _P_SPECIFIED, "a specified label")
        if label.octets():
            raise ber.BerError("RSAES-OAEP has a label")


def _check_sha256(algorithm: ber.Element) -> None:
    name, *null = algorithm.items(ber.SEQUENCE, 1, 2)
    _expect(name, _SHA256, "SHA-256")
    if null and null[0].primitive(ber.NULL):
        raise ber.BerError("SHA-256 has parameters")


def _parse_content(encrypted: ber.Element) -> tuple[bytes, bytes]:
    # EncryptedContentInfo ::= SEQUENCE { contentType, contentEncryptionAlgorithm, [0] IMPLICIT content }
    content_type, algorithm, content = encrypted.items(ber.SEQUENCE, 3)
    _expect(content_type, _DATA, "data")
    name, iv = algorithm.items(ber.SEQUENCE, 2)
    _expect(name, _AES256_CBC, "AES-256-CBC")
    ciphertext = content.octets(_PRIMITIVE_0)
    if len(iv.primitive(ber.OCTET_STRING)) != 16 or not ciphertext or len(ciphertext) % 16:
        raise ber.BerError("the encrypted content is not whole AES blocks")
    return iv.content, ciphertext


def _expect(element: ber.Element, oid: bytes, what: str) -> None:
    if element.primitive(ber.OID) != oid:
        raise ber.BerError(f"expected {what}")


def _expect_version(element: ber.Element) -> None:
    if element.integer() != 2:
        raise ber.BerError("expected version 2")
