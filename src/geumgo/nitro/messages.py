"""The messages of the Nitro Secure Module, both ways (aws-nitro-enclaves-nsm-api 0.5, `src/api`).

CBOR in the shape of Rust enums: a variant without fields is its name as text, one with fields is a map
of its name to a map of the fields. Decoding a request is as lenient as the device was observed to be;
decoding a response accepts fields that a later device may add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cbor2

from geumgo.codec import cbor
from geumgo.nitro.errors import ErrorCode, MessageError

__all__ = (
    "MAX_PCRS",
    "MAX_RANDOM",
    "MAX_REQUEST_SIZE",
    "MAX_RESPONSE_SIZE",
    "PCR_SIZE",
    "Attestation",
    "AttestationResponse",
    "DescribeNsm",
    "DescribeNsmResponse",
    "DescribePcr",
    "DescribePcrResponse",
    "ErrorResponse",
    "ExtendPcr",
    "ExtendPcrResponse",
    "GetRandom",
    "GetRandomResponse",
    "LockPcr",
    "LockPcrResponse",
    "LockPcrs",
    "LockPcrsResponse",
    "Request",
    "Response",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
)

MAX_REQUEST_SIZE = 0x1000
"""Bytes of a request that the device takes."""

MAX_RESPONSE_SIZE = 0x3000
"""Bytes of a response that the driver makes room for."""

MAX_PCRS = 32
"""Platform configuration registers that an NSM has."""

PCR_SIZE = 48
"""Bytes of a register: SHA-384."""

MAX_RANDOM = 256
"""Bytes of one answer to GetRandom."""

_MAX_U16 = 0xFFFF
_MAX_DEPTH = 8
_MAX_MODULE_ID = 256  # characters; real ones have 39


@dataclass(frozen=True, slots=True)
class DescribeNsm:
    """Asks what the module is."""


@dataclass(frozen=True, slots=True)
class GetRandom:
    """Asks for up to 256 random bytes."""


@dataclass(frozen=True, slots=True)
class DescribePcr:
    """Asks for a register's value and whether it is locked."""

    index: int


@dataclass(frozen=True, slots=True)
class ExtendPcr:
    """Asks to replace a register by SHA-384(register ‖ data)."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class LockPcr:
    """Asks to make a register read-only."""

    index: int


@dataclass(frozen=True, slots=True)
class LockPcrs:
    """Asks to make the registers 0 to `range` - 1 read-only."""

    range: int


@dataclass(frozen=True, slots=True)
class Attestation:
    """Asks for a signed document that carries these three."""

    user_data: bytes | None = None
    nonce: bytes | None = None
    public_key: bytes | None = None


Request = DescribeNsm | GetRandom | DescribePcr | ExtendPcr | LockPcr | LockPcrs | Attestation


@dataclass(frozen=True, slots=True)
class DescribeNsmResponse:
    """What the module is, and which registers are locked."""

    version_major: int
    version_minor: int
    version_patch: int
    module_id: str
    max_pcrs: int
    locked_pcrs: frozenset[int]
    digest: str


@dataclass(frozen=True, slots=True)
class GetRandomResponse:
    """Random bytes, 256 at most."""

    random: bytes


@dataclass(frozen=True, slots=True)
class DescribePcrResponse:
    """A register's state."""

    lock: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class ExtendPcrResponse:
    """A register's new value."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LockPcrResponse:
    """The register is locked."""


@dataclass(frozen=True, slots=True)
class LockPcrsResponse:
    """The registers are locked."""


@dataclass(frozen=True, slots=True)
class AttestationResponse:
    """A signed attestation document."""

    document: bytes


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """The module refused."""

    error: ErrorCode


Response = (
    DescribeNsmResponse
    | GetRandomResponse
    | DescribePcrResponse
    | ExtendPcrResponse
    | LockPcrResponse
    | LockPcrsResponse
    | AttestationResponse
    | ErrorResponse
)


def encode_request(request: Request) -> bytes:
    """Return the bytes of a request.

    Raises:
        MessageError: it would have more than :data:`MAX_REQUEST_SIZE` bytes, or a field of no CBOR type.
    """
    match request:
        case DescribeNsm():
            value: Any = "DescribeNSM"
        case GetRandom():
            value = "GetRandom"
        case DescribePcr(index):
            value = {"DescribePCR": {"index": index}}
        case ExtendPcr(index, data):
            value = {"ExtendPCR": {"index": index, "data": data}}
        case LockPcr(index):
            value = {"LockPCR": {"index": index}}
        case LockPcrs(range_):
            value = {"LockPCRs": {"range": range_}}
        case Attestation(user_data, nonce, public_key):
            value = {"Attestation": {"user_data": user_data, "nonce": nonce, "public_key": public_key}}
    try:
        encoded = cbor.dumps(value)
    except cbor.CborError as error:
        raise MessageError(f"the NSM request can't be encoded: {error.what}") from None
    if len(encoded) > MAX_REQUEST_SIZE:
        raise MessageError(
            f"the NSM request has {len(encoded)} bytes, the NSM takes {MAX_REQUEST_SIZE}",
            fix="Put a digest into the request in place of the data.",
            code="too_large",
        )
    return encoded


def decode_request(data: bytes) -> Request:
    """Return the request that `data` holds.

    As on the device, fields that it does not know are ignored, text is taken for its UTF-8 bytes where
    bytes belong, and an index may be any u16; whether the register exists is not syntax.

    Raises:
        MessageError: the device would answer InvalidOperation (or, over the size limit, InputTooLarge).
    """
    if len(data) > MAX_REQUEST_SIZE:
        raise MessageError(f"the NSM request has more than {MAX_REQUEST_SIZE} bytes", code="too_large")
    name, fields = _variant(data, "request", MAX_REQUEST_SIZE)
    if fields is None:
        unit = _UNIT_REQUESTS.get(name)
        if unit is None:
            raise MessageError("there is no such NSM request")
        return unit
    build = _REQUESTS.get(name)
    if build is None:
        raise MessageError("there is no such NSM request")
    return build(fields)


def encode_response(response: Response) -> bytes:
    """Return the bytes of a response, fields in the device's order."""
    match response:
        case DescribeNsmResponse():
            value: Any = {
                "DescribeNSM": {
                    "version_major": response.version_major,
                    "version_minor": response.version_minor,
                    "version_patch": response.version_patch,
                    "module_id": response.module_id,
                    "max_pcrs": response.max_pcrs,
                    "locked_pcrs": sorted(response.locked_pcrs),
                    "digest": response.digest,
                }
            }
        case GetRandomResponse(random):
            value = {"GetRandom": {"random": random}}
        case DescribePcrResponse(lock, data):
            value = {"DescribePCR": {"lock": lock, "data": data}}
        case ExtendPcrResponse(data):
            value = {"ExtendPCR": {"data": data}}
        case LockPcrResponse():
            value = "LockPCR"
        case LockPcrsResponse():
            value = "LockPCRs"
        case AttestationResponse(document):
            value = {"Attestation": {"document": document}}
        case ErrorResponse(error):
            value = {"Error": error.value}
    return cbor2.dumps(value)  # not `cbor.dumps`, which would sort the fields


def decode_response(data: bytes) -> Response:
    """Return the response that `data` holds.

    Raises:
        MessageError: not a response, or over :data:`MAX_RESPONSE_SIZE` bytes.
    """
    name, fields = _variant(data, "response", MAX_RESPONSE_SIZE, scalars=("Error",))
    if fields is None:
        unit = _UNIT_RESPONSES.get(name)
        if unit is None:
            raise MessageError("there is no such NSM response")
        return unit
    build = _RESPONSES.get(name)
    if build is None:
        raise MessageError("there is no such NSM response")
    return build(fields)


def _variant(
    data: bytes, what: str, limit: int, *, scalars: tuple[str, ...] = ()
) -> tuple[str, Mapping[Any, Any] | None]:
    try:
        value = cbor.loads(data, max_depth=_MAX_DEPTH, max_size=limit)
    except cbor.CborError as error:
        raise MessageError(f"the NSM {what} is malformed: {error.what}", code=error.code) from None
    if isinstance(value, str):
        return value, None
    if isinstance(value, dict) and len(value) == 1:
        ((name, fields),) = value.items()
        if isinstance(name, str) and isinstance(fields, dict):
            return name, fields
        if name in scalars:
            return name, {"": fields}
    raise MessageError(f"the NSM {what} is neither text nor a map of one name to its fields")


def _u16(fields: Mapping[Any, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= _MAX_U16:
        raise MessageError(f"the NSM message's {name} is not an integer of 16 bits")
    return value


def _binary(fields: Mapping[Any, Any], name: str) -> bytes:
    value = fields.get(name)
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise MessageError(f"the NSM message's {name} is not bytes")
    return value


def _optional(fields: Mapping[Any, Any], name: str) -> bytes | None:
    return None if fields.get(name) is None else _binary(fields, name)


def _bytes(fields: Mapping[Any, Any], name: str, least: int, most: int) -> bytes:
    value = fields.get(name)
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise MessageError(f"the NSM response's {name} is not {least} to {most} bytes")
    return value


def _text(fields: Mapping[Any, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_MODULE_ID:
        raise MessageError(f"the NSM response's {name} is not a short text")
    return value


def _description(fields: Mapping[Any, Any]) -> DescribeNsmResponse:
    locked = fields.get("locked_pcrs")
    if not isinstance(locked, list) or not all(type(i) is int and 0 <= i <= _MAX_U16 for i in locked):
        raise MessageError("the NSM response's locked_pcrs is not a list of indexes")
    return DescribeNsmResponse(
        version_major=_u16(fields, "version_major"),
        version_minor=_u16(fields, "version_minor"),
        version_patch=_u16(fields, "version_patch"),
        module_id=_text(fields, "module_id"),
        max_pcrs=_u16(fields, "max_pcrs"),
        locked_pcrs=frozenset(locked),
        digest=_text(fields, "digest"),
    )


def _register(fields: Mapping[Any, Any]) -> DescribePcrResponse:
    lock = fields.get("lock")
    if not isinstance(lock, bool):
        raise MessageError("the NSM response's lock is not a boolean")
    return DescribePcrResponse(lock, _bytes(fields, "data", PCR_SIZE, PCR_SIZE))


def _error(fields: Mapping[Any, Any]) -> ErrorResponse:
    try:
        return ErrorResponse(ErrorCode(fields.get("")))
    except ValueError:
        raise MessageError("the NSM answered with an error that is not known") from None


_UNIT_REQUESTS: Mapping[str, Request] = {"DescribeNSM": DescribeNsm(), "GetRandom": GetRandom()}
_REQUESTS: Mapping[str, Callable[[Mapping[Any, Any]], Request]] = {
    "DescribePCR": lambda fields: DescribePcr(_u16(fields, "index")),
    "ExtendPCR": lambda fields: ExtendPcr(_u16(fields, "index"), _binary(fields, "data")),
    "LockPCR": lambda fields: LockPcr(_u16(fields, "index")),
    "LockPCRs": lambda fields: LockPcrs(_u16(fields, "range")),
    "Attestation": lambda fields: Attestation(
        user_data=_optional(fields, "user_data"),
        nonce=_optional(fields, "nonce"),
        public_key=_optional(fields, "public_key"),
    ),
}
_UNIT_RESPONSES: Mapping[str, Response] = {"LockPCR": LockPcrResponse(), "LockPCRs": LockPcrsResponse()}
_RESPONSES: Mapping[str, Callable[[Mapping[Any, Any]], Response]] = {
    "DescribeNSM": _description,
    "GetRandom": lambda fields: GetRandomResponse(_bytes(fields, "random", 1, MAX_RANDOM)),
    "DescribePCR": _register,
    "ExtendPCR": lambda fields: ExtendPcrResponse(_bytes(fields, "data", PCR_SIZE, PCR_SIZE)),
    "Attestation": lambda fields: AttestationResponse(_bytes(fields, "document", 1, MAX_RESPONSE_SIZE)),
    "Error": _error,
}
