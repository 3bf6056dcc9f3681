"""COSE_Sign1 (RFC 9052 §4.2) with ECDSA (RFC 9053 §2.1): what Nitro signs documents and images with."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from geumgo._base import GeumgoError
from geumgo.codec import cbor

__all__ = ("MAX_SIZE", "TAG", "Algorithm", "CoseError", "CoseSign1", "CoseSignatureError")

TAG = 18
"""CBOR tag of a COSE_Sign1 (RFC 9052 table 1); the messages of Nitro do without."""

MAX_SIZE = 64 << 10
"""Bytes of a message unless the caller says otherwise: an EIF's signature section has at most 32 KiB."""

_MAX_DEPTH = 4
_ALG, _CRIT = 1, 2
_NO_HEADERS: Mapping[int | str, Any] = MappingProxyType({})


class CoseError(GeumgoError):
    """Raised when bytes are not a COSE_Sign1, or a key does not fit the algorithm.

    CoseError
      CoseSignatureError
    """

    code = "malformed"


class CoseSignatureError(CoseError):
    """Raised when a message is not signed by the key, or not with the algorithm that was asked for."""

    code = "bad_signature"


class Algorithm(enum.IntEnum):
    """ECDSA algorithms by their COSE number; each goes with one curve here, as in every Nitro format."""

    ES256 = -7
    ES384 = -35
    ES512 = -36

    @property
    def hash(self) -> hashes.HashAlgorithm:
        """The hash that is signed."""
        return _HASHES[self]()

    @property
    def curve(self) -> type[ec.EllipticCurve]:
        """The curve of the keys."""
        return _CURVES[self]

    @property
    def coordinate_size(self) -> int:
        """Bytes of r and of s: 32, 48 or 66."""
        return _COORDINATE_SIZES[self]

    @classmethod
    def of_key(cls, key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> Algorithm:
        """Return the algorithm that goes with the curve of `key`.

        Raises:
            CoseError: the curve is not P-256, P-384 or P-521.
        """
        for algorithm in cls:
            if isinstance(key.curve, algorithm.curve):
                return algorithm
        raise CoseError(f"COSE signatures need a P-256, P-384 or P-521 key, not {key.curve.name}")


_CURVES: Mapping[Algorithm, type[ec.EllipticCurve]] = {
    Algorithm.ES256: ec.SECP256R1,
    Algorithm.ES384: ec.SECP384R1,
    Algorithm.ES512: ec.SECP521R1,
}
_COORDINATE_SIZES: Mapping[Algorithm, int] = {Algorithm.ES256: 32, Algorithm.ES384: 48, Algorithm.ES512: 66}
_HASHES: Mapping[Algorithm, type[hashes.HashAlgorithm]] = {
    Algorithm.ES256: hashes.SHA256,
    Algorithm.ES384: hashes.SHA384,
    Algorithm.ES512: hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class CoseSign1:
    """A signed message as it stands in the bytes; only :meth:`verify` says that it is authentic.

    Attributes:
        protected: the protected header as it was signed.
        payload: what is signed.
        signature: r ‖ s, each as wide as the curve's field.
        algorithm: COSE number out of the protected header; any integer, also one that we do not know.
        unprotected: headers that nothing vouches for.
        tagged: whether tag 18 stands before the message.
    """

    protected: bytes
    payload: bytes
    signature: bytes
    algorithm: int
    unprotected: Mapping[int | str, Any] = field(default_factory=lambda: _NO_HEADERS, hash=False)
    tagged: bool = False

    @classmethod
    def parse(
        cls, data: bytes | memoryview, *, max_size: int = MAX_SIZE, allow_unprotected: bool = False
    ) -> CoseSign1:
        """Parse a message, tagged or not.

        Args:
            data: the whole message.
            max_size: bytes that it may have.
            allow_unprotected: accept unprotected headers; formats of Nitro have none.

        Raises:
            CoseError: not a COSE_Sign1; a detached payload; no algorithm in the protected header; critical
                headers, as we understand none; unprotected headers that aren't allowed.
        """
        try:
            value = cbor.loads(data, max_size=max_size, max_depth=_MAX_DEPTH + 1, tags=frozenset({TAG}))
        except cbor.CborError as error:
            raise CoseError(f"not a COSE_Sign1: {error.what}", code=error.code) from None
        tagged = isinstance(value, cbor.Tag)
        match value.value if tagged else value:
            case [bytes() as protected, dict() as unprotected, bytes() as payload, bytes() as signature]:
                pass
            case _:
                raise CoseError("not a COSE_Sign1: not an array of bytes, map, bytes, bytes")
        if unprotected and not allow_unprotected:
            raise CoseError("the COSE_Sign1 has unprotected headers, which this format does not allow")
        headers = _headers(protected)
        if not set(headers).isdisjoint(unprotected):
            raise CoseError("a COSE header is both protected and unprotected")  # RFC 9052 §3
        return cls(
            protected=protected,
            payload=payload,
            signature=signature,
            algorithm=headers[_ALG],
            unprotected=MappingProxyType(unprotected),
            tagged=tagged,
        )

    @classmethod
    def sign(
        cls,
        payload: bytes,
        key: ec.EllipticCurvePrivateKey,
        algorithm: Algorithm,
        *,
        external_aad: bytes = b"",
        tagged: bool = False,
    ) -> CoseSign1:
        """Sign `payload`; the protected header holds the algorithm and nothing else.

        Raises:
            CoseError: the key is not on the algorithm's curve.
        """
        _check_curve(key, algorithm)
        protected = cbor.dumps({_ALG: int(algorithm)})
        unsigned = cls(protected, payload, b"", int(algorithm), tagged=tagged)
        der = key.sign(unsigned.to_be_signed(external_aad), ec.ECDSA(algorithm.hash))
        r, s = decode_dss_signature(der)
        width = algorithm.coordinate_size
        return replace(unsigned, signature=r.to_bytes(width, "big") + s.to_bytes(width, "big"))

    def to_be_signed(self, external_aad: bytes = b"") -> bytes:
        """Return the bytes that a signature is over (RFC 9052 §4.4, Sig_structure)."""
        # cbor2 itself: all is bytes, so that its order and form are fixed.
        return cbor2.dumps(["Signature1", self.protected, external_aad, self.payload])

    def verify(
        self, key: ec.EllipticCurvePublicKey, algorithm: Algorithm, *, external_aad: bytes = b""
    ) -> bytes:
        """Return the payload, which `key` signed.

        Args:
            key: the signer's.
            algorithm: the only one to accept; what the message claims is not a choice that it has.
            external_aad: what was signed along without being in the message.

        Raises:
            CoseSignatureError: another algorithm, a signature of another length, or not signed by the key.
            CoseError: the key is not on the algorithm's curve.
        """
        if self.algorithm != algorithm:
            raise CoseSignatureError(
                f"the message claims algorithm {self.algorithm}, not {int(algorithm)} ({algorithm.name})",
                why="Emulators that do not sign at all put another number there; QEMU's puts -1.",
            )
        _check_curve(key, algorithm)
        width = algorithm.coordinate_size
        if len(self.signature) != 2 * width:
            raise CoseSignatureError(
                f"the signature has {len(self.signature)} bytes, {algorithm.name} has {2 * width}"
            )
        r, s = (int.from_bytes(half, "big") for half in (self.signature[:width], self.signature[width:]))
        try:
            key.verify(
                encode_dss_signature(r, s),
                self.to_be_signed(external_aad),
                ec.ECDSA(algorithm.hash),
            )
        except InvalidSignature:
            raise CoseSignatureError(
                "the COSE signature does not verify",
                why="The message was changed, or another key signed it.",
            ) from None
        return self.payload

    def encode(self) -> bytes:
        """Return the message's bytes, unprotected headers in their order."""
        value: Any = [self.protected, dict(self.unprotected), self.payload, self.signature]
        return cbor2.dumps(cbor.Tag(TAG, value) if self.tagged else value)


def _headers(protected: bytes) -> dict[Any, Any]:
    try:
        headers = cbor.loads(protected, max_depth=_MAX_DEPTH)
    except cbor.CborError as error:
        raise CoseError(f"the protected header of the COSE_Sign1 is malformed: {error.what}") from None
    if not isinstance(headers, dict) or type(headers.get(_ALG)) is not int:
        raise CoseError("the protected header of the COSE_Sign1 names no integer algorithm")
    if _CRIT in headers:
        raise CoseError("the COSE_Sign1 has critical headers that are not understood")
    return headers


def _check_curve(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey, algorithm: Algorithm) -> None:
    if not isinstance(key.curve, algorithm.curve):
        raise CoseError(f"{algorithm.name} needs a {algorithm.curve.name} key, not {key.curve.name}")
