"""The attestation document of a Nitro enclave, as it stands in the bytes.

Source: aws-nitro-enclaves-nsm-api `docs/attestation_process.md`, syntactic validation. Whether the
document is authentic is decided elsewhere (`geumgo.attestation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from geumgo.codec import cbor, cose
from geumgo.nitro.errors import DocumentError
from geumgo.nitro.messages import MAX_PCRS

__all__ = (
    "DIGEST",
    "MAX_CABUNDLE",
    "MAX_CERTIFICATE",
    "MAX_DOCUMENT_SIZE",
    "MAX_NONCE",
    "MAX_NONCE_EMITTED",
    "MAX_PAYLOAD_SIZE",
    "MAX_PUBLIC_KEY",
    "MAX_USER_DATA",
    "MAX_USER_DATA_EMITTED",
    "AttestationDocument",
)

MAX_PAYLOAD_SIZE = 16384
"""Bytes of the payload, by the specification."""

MAX_DOCUMENT_SIZE = MAX_PAYLOAD_SIZE + 512
"""Bytes of the whole document: the payload, a signature of at most 132 bytes and what frames them."""

DIGEST = "SHA384"
"""The only digest that the specification allows for PCRs."""

MAX_CERTIFICATE = 1024
"""Bytes of one certificate."""

MAX_CABUNDLE = 8
"""Certificates above the leaf that are looked at; real documents carry four, and each costs a signature check."""

MAX_PUBLIC_KEY = 1024
"""Bytes of the public key."""

MAX_USER_DATA = MAX_NONCE = 1024
"""Bytes of user data and of the nonce that a reader accepts, the looser of two documented limits (nsm-api#52)."""

MAX_USER_DATA_EMITTED = MAX_NONCE_EMITTED = 512
"""Bytes of user data and of the nonce that we put into a document, the stricter of the two."""

_MAX_MODULE_ID = 256  # characters; real ones have 39
_MAX_TIMESTAMP_MS = (1 << 63) - 1  # the device counts in 64 bits
_PCR_SIZES = (32, 48, 64)
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class AttestationDocument:
    """An attestation document that is well formed. NOT verified.

    Attributes:
        module_id: `i-<instance>-enc<16 hex digits>`.
        digest: always "SHA384".
        timestamp_ms: when the NSM made it, milliseconds since 1970.
        pcrs: the locked registers by index; 32, 48 or 64 bytes each.
        certificate: DER of the certificate whose key signed the document.
        cabundle: DER of the certificates above it, root first.
        public_key: the three that the enclave chose, or None.
        user_data: see `public_key`.
        nonce: see `public_key`.
        cose: the signed message that all of this was read from.
    """

    module_id: str
    digest: str
    timestamp_ms: int
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    cose: cose.CoseSign1

    @classmethod
    def parse(cls, data: bytes) -> AttestationDocument:
        """Parse a document by the syntactic rules.

        Fields that a later NSM may add are ignored. The COSE message may be tagged or not.

        Raises:
            DocumentError: a rule is broken; the message says which.
        """
        try:
            message = cose.CoseSign1.parse(data, max_size=MAX_DOCUMENT_SIZE)
            payload = cbor.loads(message.payload, max_size=MAX_PAYLOAD_SIZE, max_depth=_MAX_DEPTH)
        except (cose.CoseError, cbor.CborError) as error:
            raise DocumentError(f"the attestation document is malformed: {error.what}") from None
        if not isinstance(payload, dict):
            raise DocumentError("the attestation document's payload is not a map")
        return cls(
            module_id=_module_id(payload.get("module_id")),
            digest=_digest(payload.get("digest")),
            timestamp_ms=_timestamp(payload.get("timestamp")),
            pcrs=_pcrs(payload.get("pcrs")),
            certificate=_sized(payload.get("certificate"), "certificate", 1, MAX_CERTIFICATE),
            cabundle=_cabundle(payload.get("cabundle")),
            public_key=_optional(payload, "public_key", 1, MAX_PUBLIC_KEY),
            user_data=_optional(payload, "user_data", 0, MAX_USER_DATA),
            nonce=_optional(payload, "nonce", 0, MAX_NONCE),
            cose=message,
        )


def _module_id(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_MODULE_ID:
        raise DocumentError(f"the document's module_id is not a text of 1 to {_MAX_MODULE_ID} characters")
    return value


def _digest(value: Any) -> str:
    if value != DIGEST:
        raise DocumentError(f"the document's digest is not {DIGEST}")
    return DIGEST


def _timestamp(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _MAX_TIMESTAMP_MS:
        raise DocumentError("the document's timestamp is not a positive number of milliseconds")
    return value


def _pcrs(value: Any) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_PCRS:
        raise DocumentError(f"the document's pcrs is not a map of 1 to {MAX_PCRS} registers")
    for index, data in value.items():
        if type(index) is not int or not 0 <= index < MAX_PCRS:
            raise DocumentError(f"the document's pcrs has an index that is not 0 to {MAX_PCRS - 1}")
        if not isinstance(data, bytes) or len(data) not in _PCR_SIZES:
            raise DocumentError(f"the document's PCR{index} is not 32, 48 or 64 bytes")
    return MappingProxyType(value)


def _cabundle(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_CABUNDLE:
        raise DocumentError(f"the document's cabundle is not a list of 1 to {MAX_CABUNDLE} certificates")
    return tuple(_sized(item, "cabundle's certificate", 1, MAX_CERTIFICATE) for item in value)


def _optional(payload: Mapping[Any, Any], name: str, least: int, most: int) -> bytes | None:
    value = payload.get(name)
    return None if value is None else _sized(value, name, least, most)


def _sized(value: Any, name: str, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise DocumentError(f"the document's {name} is not {least} to {most} bytes")
    return value
